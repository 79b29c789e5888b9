"""The weights file is filled by several threads, into the same bytes as by one."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import WEIGHTS
from converters import weights
from converters.weights import Region, WeightsFile


def test_jobs_run_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two jobs waits for the other in the middle of its region."""
    monkeypatch.setattr(weights, "threads", lambda: 2)
    file, meeting = WeightsFile(), threading.Barrier(2, timeout=60)
    arrays = [np.arange(start, start + 50, dtype=np.int16) for start in (0, 1000)]

    def job(region: Region, array: np.ndarray) -> None:
        for half in (array[:25], array[25:]):
            file.append(region, half)
            meeting.wait()

    regions = [file.reserve(array.nbytes) for array in arrays]
    for region, array in zip(regions, arrays, strict=True):
        file.later(lambda region=region, array=array: job(region, array))  # type: ignore[misc]
    file.write(tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    assert len(data) == file.size
    for region, array in zip(regions, arrays, strict=True):
        assert data[region.offset : region.offset + region.size] == array.tobytes()


def test_the_first_failure_ends_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "threads", lambda: 1)
    file, ran = WeightsFile(), []
    region = file.reserve(4)

    def too_much() -> None:
        file.append(region, np.zeros(2, np.float32))

    for job in (lambda: ran.append(1), too_much, lambda: ran.append(2)):
        file.later(job)
    with pytest.raises(ValueError, match="more data than was planned"):
        file.write(tmp_path)
    assert ran in ([1], [1, 2])  # the last one may have begun


def test_a_conversion_does_without_sympy() -> None:
    """It would be half of what starting the converters takes."""
    asked = "import converters.__main__, sys; print([name for name in sys.modules if name.startswith('sympy.')])"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True, text=True).stdout == "[]\n"
