"""Requests on a scripted encoder: turns, the queue's end, withdrawal, failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from appliance.engine.desk import Desk, Job
from appliance.engine.encoder import Vectors
from appliance.errors import EngineStopped, InvalidRequest, RequestCancelled, ServerBusy

SOON_S = 20


class ScriptedEncoder:
    """Only closes; what runs on it, the tests bring."""

    provider = "CPU"
    memory_bytes = 0
    accelerated = False

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Gate:
    """Work that is held up until the gate opens, or its request is withdrawn."""

    def __init__(self, desk: Desk, tokens: int = 1) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.job: Job = desk.submit(tokens, self._work)

    def _work(self, withdrawn: Callable[[], bool]) -> Vectors:
        self.begun.set()
        deadline = time.monotonic() + SOON_S
        while not self.go_on.wait(0.005):
            assert time.monotonic() < deadline
            if withdrawn():
                raise RequestCancelled
        return np.ones(1, np.float32)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk(ScriptedEncoder(), slots=2, max_waiting=1)  # type: ignore[arg-type]
    yield desk
    desk.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_queue_ends(desk: Desk) -> None:
    running = [Gate(desk, tokens) for tokens in (5, 6)]
    for gate in running:
        assert gate.begun.wait(SOON_S)
    waiting = Gate(desk, 7)
    with pytest.raises(ServerBusy):
        Gate(desk)
    stats = desk.stats()
    assert (stats.slots, stats.busy_slots, stats.waiting, stats.queue) == (2, 2, 1, (7,))
    running[0].go_on.set()
    assert waiting.begun.wait(SOON_S)
    for gate in (running[1], waiting):
        gate.go_on.set()
        assert gate.job.future.result(SOON_S).tolist() == [1]
    until(lambda: desk.stats().busy_slots == 0)
    stats = desk.stats()
    assert (stats.prompt_tokens, stats.evaluated_tokens, stats.waiting) == (18, 18, 0)


def test_withdrawn_while_running_and_while_waiting(desk: Desk) -> None:
    running = [Gate(desk) for _ in range(2)]
    for gate in running:
        assert gate.begun.wait(SOON_S)
    waiting = Gate(desk)
    waiting.job.cancel()
    assert desk.stats().waiting == 0
    running[0].job.cancel()
    with pytest.raises(RequestCancelled):
        running[0].job.future.result(SOON_S)
    running[1].go_on.set()
    assert running[1].job.future.result(SOON_S).tolist() == [1]
    assert not waiting.begun.is_set()
    assert desk.stats().prompt_tokens == 2


def test_a_mistake_of_the_request_harms_nobody(desk: Desk) -> None:
    def work(_: Callable[[], bool]) -> Vectors:
        raise InvalidRequest("no tokens")

    with pytest.raises(InvalidRequest, match="no tokens"):
        desk.submit(1, work).future.result(SOON_S)
    assert desk.alive


def test_a_graph_that_fails_ends_the_desk(desk: Desk) -> None:
    def work(_: Callable[[], bool]) -> Vectors:
        raise EngineStopped("out of memory")

    with pytest.raises(EngineStopped, match="out of memory"):
        desk.submit(1, work).future.result(SOON_S)
    assert not desk.alive
    with pytest.raises(EngineStopped, match="out of memory"):
        desk.submit(1, work)


def test_closing_refuses_those_that_wait() -> None:
    encoder = ScriptedEncoder()
    desk = Desk(encoder, slots=1, max_waiting=9)  # type: ignore[arg-type]
    running = Gate(desk)
    assert running.begun.wait(SOON_S)
    waiting = Gate(desk)
    closing = threading.Thread(target=desk.close)
    closing.start()
    assert encoder.closed.wait(SOON_S)
    running.go_on.set()
    closing.join(SOON_S)
    with pytest.raises(EngineStopped, match="unloaded"):
        waiting.job.future.result(SOON_S)
    desk.close()
