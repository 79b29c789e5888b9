"""A full queue says when to come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from appliance.engine.engine import MOST_RETRY_AFTER_S, Engine
from appliance.errors import ServerBusy
from tests.engine.conftest import Client
from tests.engine.fakes import ScriptedBackend


@pytest.mark.parametrize(
    ("request_s", "expected"),
    [(None, 5), (0.01, 1), (10.0, 30), (1e6, MOST_RETRY_AFTER_S)],
)
def test_when_the_queue_of_now_has_had_its_turn(
    start: Callable[..., Engine], request_s: float | None, expected: int
) -> None:
    gate = threading.Semaphore(0)
    engine = start(ScriptedBackend(lambda cache: 66, slots=1, gate=gate), max_waiting=3)
    clients = [Client(engine, "A", num_predict=2)]
    while engine.free_slots:
        time.sleep(0.001)
    clients += [Client(engine, "A", num_predict=2) for _ in range(3)]
    engine._request_s = request_s
    with pytest.raises(ServerBusy) as caught:
        Client(engine, "A", num_predict=2)
    gate.release(100)
    assert (caught.value.limit, caught.value.retry_after_s) == (3, expected)
    assert [client.text() for client in clients] == ["BB"] * 4


def test_requests_that_end_are_what_it_learns_from(start: Callable[..., Engine]) -> None:
    engine = start(ScriptedBackend(lambda cache: 66))
    assert engine._request_s is None
    Client(engine, "A", num_predict=2).chunks()
    while engine.free_slots < 2:
        time.sleep(0.001)
    Client(engine, "A", num_predict=2).chunks()
    assert engine._request_s is not None
    assert 0 < engine._request_s < 30
