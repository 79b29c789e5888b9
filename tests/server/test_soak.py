"""A short run of the soak test, and its own sums."""

from __future__ import annotations

import pytest

from scripts.soak import Sample, Tally, memory_growth, soak
from tests.real_model import model_path


@pytest.mark.spec(108)
@pytest.mark.slow
def test_a_short_mixed_load_loses_nothing() -> None:
    run, failures = soak(model_path(), 25.0, seed=1)
    assert [failure for failure in failures if "memory" not in failure] == [], run.tally.lost
    assert run.tally.started == sum(run.tally.ended.values())
    assert set(run.tally.ended) == {"done", "left", "refused"}


def samples(*sizes: int) -> list[Sample]:
    """Samples whose prefix cache comes and goes."""
    return [Sample(float(at), size + 50 * (at % 3), 50 * (at % 3)) for at, size in enumerate(sizes)]


def test_growth_is_the_last_quarter_over_the_second() -> None:
    flat = [100] * 40
    assert memory_growth(samples(*flat)) == 0
    assert memory_growth(samples(*[1] * 10, *[100] * 30)) == 0, "the warm-up does not count"
    assert memory_growth(samples(*range(1000, 1040))) == pytest.approx(20 / 1014.5)
    assert memory_growth(samples(*[100] * 39, 500)) == 0, "one outlier is none"
    assert memory_growth(samples(1, 2, 3)) is None


def test_a_request_without_an_end_does_not_add_up() -> None:
    tally = Tally(started=2)
    tally.ended["done"] = 1
    assert not tally.adds_up
    tally.ended["left"] = 1
    assert tally.adds_up
    tally.lost.append("ReadError")
    assert not tally.adds_up
