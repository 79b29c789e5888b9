"""The sampler's functions against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import SamplingParams
from appliance.engine.sampling import (
    Sampler,
    above_min,
    candidates,
    draw,
    log_probabilities,
    nucleus,
    penalise,
    softmax,
    typical,
)
from appliance.errors import ModelFileError

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], np.float32))


def sampler(**params: float) -> Sampler:
    return Sampler(SamplingParams(**params), num_ctx=100)  # type: ignore[arg-type]


def test_temperature_zero_is_greedy() -> None:
    assert sampler(temperature=0.0).sample(LOGITS[::-1], []) == 4


def test_draws_follow_the_distribution() -> None:
    one = sampler(temperature=1.0, top_k=0, top_p=1.0, seed=5)
    counts = np.bincount([one.sample(LOGITS, []) for _ in range(20_000)], minlength=5)
    assert np.allclose(counts / 20_000, np.exp(LOGITS), atol=0.015)


def test_the_same_seed_draws_the_same_tokens() -> None:
    flat = np.zeros(1000, np.float32)
    first, second, other = (sampler(seed=seed) for seed in (7, 7, 8))
    run = [one.sample(flat, []) for one in (first,) for _ in range(20)]
    assert run == [second.sample(flat, []) for _ in range(20)]
    assert run != [other.sample(flat, []) for _ in range(20)]


def test_without_a_seed_every_request_differs() -> None:
    flat = np.zeros(100_000, np.float32)
    assert sampler(top_k=0).sample(flat, []) != sampler(top_k=0).sample(flat, [])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.integers(-1, 50))
def test_candidates_are_the_stable_sort(values: list[int], top_k: int) -> None:
    logits = np.array(values, np.float32)
    ids, kept = candidates(logits, top_k)
    expected = np.argsort(-logits, kind="stable")[: top_k if top_k > 0 else None]
    assert ids.tolist() == expected.tolist()
    assert kept.tolist() == logits[expected].tolist()


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 6000), st.sampled_from([3, 1000, 10**6]))
def test_candidates_of_large_vocabularies_are_the_stable_sort(
    seed: int, top_k: int, forbidden: int, values: int
) -> None:
    """Of 6,100 tokens in 23 blocks and a rest, some of them forbidden, with many ties or few."""
    dice = np.random.default_rng(seed)
    logits = dice.integers(0, values, 6100).astype(np.float32)
    logits[dice.permutation(6100)[:forbidden]] = -np.inf
    ids, kept = candidates(logits, top_k)
    expected = np.argsort(-logits, kind="stable")[:top_k]
    assert ids.tolist() == expected.tolist()
    assert kept.tolist() == logits[expected].tolist()


@pytest.mark.parametrize(("p", "count"), [(0.4, 1), (0.6, 2), (0.8, 3), (1e-9, 1)])
def test_nucleus_takes_the_fewest_that_reach_p(p: float, count: int) -> None:
    assert nucleus(LOGITS, p) == count


@pytest.mark.parametrize(("p", "count"), [(0.4, 2), (0.2, 3), (0.1, 5), (2.0, 1)])
def test_min_p_is_relative_to_the_likeliest(p: float, count: int) -> None:
    assert above_min(LOGITS, p) == count


def test_typical_drops_what_is_too_likely_or_too_unlikely() -> None:
    logits = np.log(np.array([0.6, 0.2, 0.1, 0.05, 0.05], np.float32))
    mask = typical(logits, 0.3)
    surprise = -np.log(softmax(logits))
    entropy = (softmax(logits) * surprise).sum()
    assert mask[np.abs(surprise - entropy).argmin()]
    assert mask.sum() < 5


def test_penalties_act_on_recent_tokens_only() -> None:
    logits = np.array([2.0, -2.0, 1.0], np.float32)
    params = SamplingParams(repeat_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    assert penalise(logits, [0, 0, 1], params).tolist() == [1.0 - 0.5 - 0.5, -4.0 - 0.25 - 0.5, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0], "the model's logits are left alone"


def test_repeat_last_n_limits_the_window() -> None:
    logits = np.array([2.0, 1.9, *[-9.0] * 5], np.float32)
    near = Sampler(SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=2), 100)
    assert near.sample(logits, [0, 5, 6]) == 0
    assert near.sample(logits, [5, 0, 6]) == 1
    off = Sampler(SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=0), 100)
    assert off.sample(logits, [0, 0]) == 0
    whole = Sampler(SamplingParams(temperature=0, repeat_penalty=1.5, repeat_last_n=-1), 100)
    assert whole.sample(logits, [0, *[5] * 90]) == 1


@given(st.floats(0, 1, exclude_max=True))
def test_draw_stays_in_range(uniform: float) -> None:
    assert 0 <= draw(np.array([0.1, 0.0, 0.9], np.float32), uniform) <= 2
    assert draw(np.array([0.0, 1.0, 0.0], np.float32), uniform) == 1


def test_log_probabilities_are_those_of_the_softmax() -> None:
    own, best = log_probabilities(LOGITS * 1.0 + 3.0, 1, 2)
    assert own == pytest.approx(np.log(0.25), abs=1e-5)
    assert [token for token, _ in best] == [0, 1]
    assert best[0][1] == pytest.approx(np.log(0.5), abs=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_an_error(bad: float) -> None:
    with pytest.raises(ModelFileError):
        sampler().sample(np.array([0.0, bad], np.float32), [])
