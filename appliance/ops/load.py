"""How busy other processes keep this machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import psutil

BACKGROUND_CORES = 0.5  # what a quiet machine may use for itself
SHORTEST_S = 0.05  # the system counts processor time in hundredths of a second


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    busy_s: float  # of all processors, by everyone
    own_s: float


def _sample() -> _Sample:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # part of user and nice already
    return _Sample(time.monotonic(), sum(times) - idle - guests, time.process_time())


@dataclass(frozen=True, slots=True)
class Others:
    """The processor time of other processes, counted from here on."""

    _begin: _Sample = field(default_factory=_sample)

    def cores(self) -> float:
        """How many processors they kept busy so far, on average; 0 when it is too early to tell."""
        now = _sample()
        elapsed = now.at_s - self._begin.at_s
        if elapsed < SHORTEST_S:
            return 0.0
        used = now.busy_s - self._begin.busy_s - (now.own_s - self._begin.own_s)
        return max(0.0, used / elapsed)


def contended(threads: int, others_cores: float, load_average: float, processors: int) -> bool:
    """Whether `threads` busy threads would have to share processors with other processes.

    Both figures must say so: the one over the last moment does not know whether it lasts, and the load average over
    a minute has this process's own work in it.
    """
    return threads + min(others_cores, load_average) > processors + BACKGROUND_CORES


def load_average() -> float:
    """Processes that ran or wanted to, on average over the last minute; infinite where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return float("inf")
