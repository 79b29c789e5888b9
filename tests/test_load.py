"""How busy other processes keep the machine, and when that counts."""

from __future__ import annotations

import time
from typing import NamedTuple

import psutil
import pytest

from appliance.ops import load
from appliance.ops.load import Others, contended


class Times(NamedTuple):
    """Seconds of all processors together, as psutil tells them."""

    user: float
    idle: float
    iowait: float
    guest: float


class Clock:
    """A machine whose processor times the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = self.own = 100.0
        self.user = self.idle = self.iowait = 1000.0
        self.guest = 500.0
        monkeypatch.setattr(time, "monotonic", lambda: self.at)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        monkeypatch.setattr(psutil, "cpu_times", self.times)

    def times(self) -> Times:
        return Times(self.user, self.idle, self.iowait, self.guest)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_only_the_work_of_others_counts(clock: Clock) -> None:
    others = Others()
    clock.at += 2
    clock.user += 3
    clock.own += 1
    clock.idle += 1
    clock.iowait += 5
    assert others.cores() == 1


def test_the_time_of_guests_is_not_counted_twice(clock: Clock) -> None:
    others = Others()
    clock.at += 1
    clock.user += 1
    clock.guest += 1
    assert others.cores() == 1


def test_it_can_be_too_early_to_tell(clock: Clock) -> None:
    others = Others()
    clock.at += load.SHORTEST_S / 2
    clock.user += 1
    assert others.cores() == 0


def test_coarse_clocks_never_make_others_negative(clock: Clock) -> None:
    others = Others()
    clock.at += 1
    clock.own += 0.5
    assert others.cores() == 0


def test_the_real_machine_has_figures() -> None:
    others = Others()
    time.sleep(2 * load.SHORTEST_S)
    assert 0 <= others.cores() <= psutil.cpu_count() + 1
    assert load.load_average() >= 0


@pytest.mark.parametrize(
    ("threads", "others", "average", "processors", "expected"),
    [
        (2, 0.0, 0.0, 2, False),
        (2, 0.4, 0.4, 2, False),
        (2, 1.0, 1.0, 2, True),
        (2, 1.0, 0.1, 2, False),  # something short, just now
        (2, 0.1, 3.0, 2, False),  # our own work
        (2, 1.0, float("inf"), 2, True),
        (2, 1.0, 1.0, 4, False),
        (4, 1.0, 1.0, 4, True),
        (1, 1.0, 1.0, 2, False),
    ],
)
def test_threads_are_contended_when_processors_run_out(
    threads: int, others: float, average: float, processors: int, expected: bool
) -> None:
    assert contended(threads, others, average, processors) is expected
