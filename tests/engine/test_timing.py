"""Run times learned from runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.timing import DecodeTime, Fit, PrefillTime

RATES = st.floats(1e-5, 1e-2)


@given(RATES, st.floats(0, 1e-5))
def test_a_fit_finds_what_made_the_observations(a: float, b: float) -> None:
    fit = Fit()
    for u, v in ((1, 10), (2, 500), (3, 70), (5, 2000)):
        fit.add(u, v, a * u + b * v)
    assert list(fit.coefficients()) == pytest.approx([a, b], rel=1e-3, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))))
def test_coefficients_are_never_negative(observations: list[tuple[float, float, float]]) -> None:
    fit = Fit()
    for u, v, y in observations:
        fit.add(u, v, y)
    assert min(fit.coefficients()) >= 0


@given(RATES, st.floats(0, 1e-6), st.integers(0, 8000), st.floats(0.05, 0.5))
def test_a_chunk_takes_the_time_it_was_sized_for(token_s: float, depth_s: float, past: int, wanted_s: float) -> None:
    times = PrefillTime()
    for tokens, before in ((64, 0), (200, 64), (180, 264), (100, 4000)):
        times.observe(tokens, before, tokens * (token_s + depth_s * (before + tokens / 2)))
    tokens = times.tokens_in(wanted_s, past)
    one_s = token_s + depth_s * (past + tokens)
    assert tokens * (token_s + depth_s * (past + tokens / 2)) == pytest.approx(wanted_s, rel=1e-2, abs=1.01 * one_s)


def test_a_run_of_one_token_is_a_case_of_its_own() -> None:
    times = DecodeTime()
    assert not times.known
    times.observe(1, 0.010)
    assert times.known
    assert times.seconds(1) == 0.010
    assert times.seconds(5) == pytest.approx(0.022)  # until it is known
    for _ in range(80):
        for tokens in (2, 5, 9):
            times.observe(tokens, 0.015 + 0.001 * tokens)
    assert times.seconds(1) == 0.010
    assert times.seconds(3) == pytest.approx(0.018, rel=1e-2)
