"""Which recipe a model gets: what its size is estimated at, and what is chosen by it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import WEIGHTS
from appliance.choice import Choice, automatic, bundle_facts, choose, fidelity_of, shortage
from appliance.config import Settings
from appliance.conversion_facts import Fidelity, Likeness
from appliance.errors import InvalidOption
from appliance.memory import OVERHEAD_BYTES, without_cache_bytes
from appliance.store.footprint import Footprint, footprint
from appliance.store.gguf_header import GGUFHeader, TensorInfo, read_header
from converters.bundle import convert
from tests.tiny_model import write_tiny_bundle, write_tiny_gguf

DIGEST = "sha256:" + "a" * 64
MB = 10**6
SIZES = {
    "int8": 900 * MB,
    "exact": 1000 * MB,
    "compact": 600 * MB,
    "q4": 600 * MB,
    "int8-rotated": 2000 * MB,
    "fp32": 4000 * MB,
}
QUANTISED = Footprint(quantised=True, weights=SIZES, kv_values=1000, context_tokens=8192)
FULL = replace(QUANTISED, quantised=False)


def room(recipe: str, cache: int = 0) -> int:
    """The budget that a recipe just fits."""
    return without_cache_bytes(SIZES[recipe]) + cache


@pytest.mark.parametrize(
    ("found", "budget", "made", "recipe"),
    [
        (QUANTISED, room("exact"), {}, "exact"),
        (QUANTISED, room("exact") - 1, {}, "compact"),
        (QUANTISED, room("compact") - 1, {}, "exact"),  # neither fits: the error names the better one's size
        (QUANTISED, room("exact"), {"compact": SIZES["compact"]}, "compact"),  # nothing is lost: keep it
        (QUANTISED, room("exact"), {"compact": 1, "exact": SIZES["exact"]}, "exact"),
        (QUANTISED, room("exact") - 1, {"exact": SIZES["exact"] - MB}, "exact"),  # the estimate was too high
        (QUANTISED, room("exact"), {"exact": SIZES["exact"] + MB}, "compact"),  # … or too low
        (QUANTISED, room("fp32"), {"fp32": 1, "int8-rotated": 1}, "exact"),  # what was made on purpose only
        (FULL, room("exact"), {}, "exact"),
        (FULL, room("exact") - 1, {}, "q4"),
        (FULL, room("exact"), {"q4": SIZES["q4"]}, "exact"),  # there is room for its quality now
    ],
)
def test_the_best_recipe_that_fits_is_chosen(
    found: Footprint, budget: int, made: Mapping[str, int], recipe: str
) -> None:
    assert automatic(found, 0, budget, made)[0] == recipe


def test_the_cache_counts_and_the_reason_has_the_figures() -> None:
    assert automatic(QUANTISED, 50 * MB, room("exact", 50 * MB), {})[0] == "exact"
    recipe, reason = automatic(QUANTISED, 51 * MB, room("exact", 50 * MB), {})
    assert recipe == "compact"
    overhead = OVERHEAD_BYTES / MB
    assert f"exact would take {1251 + overhead:,.0f} MB of {1250 + overhead:,.0f} MB" in reason


def test_a_recipe_that_is_no_smaller_is_no_way_out() -> None:
    same = replace(QUANTISED, weights={**SIZES, "compact": SIZES["exact"]})
    assert automatic(same, 0, room("exact") - 1, {})[0] == "exact"


def chosen(tmp_path: Path, parameters: Mapping[str, Any], **settings: Any) -> Choice:
    return choose(replace(Settings(models=tmp_path), **settings), DIGEST, parameters, QUANTISED, tmp_path)


def test_the_modelfile_comes_before_the_setting_and_that_before_auto(tmp_path: Path) -> None:
    budget = room("exact") + 100 * MB
    assert chosen(tmp_path, {}, memory_budget_bytes=budget).recipe == "exact"
    assert chosen(tmp_path, {}, memory_budget_bytes=budget, recipe="q4").recipe == "q4"
    assert (
        chosen(tmp_path, {"recipe": "int8-rotated"}, memory_budget_bytes=budget, recipe="q4").recipe == "int8-rotated"
    )
    assert chosen(tmp_path, {"recipe": "auto"}, memory_budget_bytes=budget, recipe="q4").recipe == "exact"
    assert chosen(tmp_path, {}).kv == "f32"
    assert chosen(tmp_path, {}, kv_cache_type="q8_0").kv == "q8_0"
    assert chosen(tmp_path, {"kv_cache_type": "f32"}, kv_cache_type="q8_0").kv == "f32"


ENCODER = replace(FULL, kv_values=0, encodes=True)


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    settings = replace(Settings(models=tmp_path), kv_cache_type="q8_0", memory_budget_bytes=room("exact"))
    choice = choose(settings, DIGEST, {"num_ctx": 10**6}, ENCODER, tmp_path)
    assert (choice.recipe, choice.kv, choice.folder.name) == ("int8", "f32", "int8")
    with pytest.raises(InvalidOption, match="has no KV cache"):
        choose(settings, DIGEST, {"kv_cache_type": "f32"}, ENCODER, tmp_path)


@pytest.mark.parametrize(
    ("found", "setting", "recipe"),
    [(ENCODER, "fp32", "fp32"), (ENCODER, "q4", "int8"), (FULL, "int8", "exact"), (FULL, "q4", "q4")],
)
def test_a_setting_is_for_models_of_its_kind(tmp_path: Path, found: Footprint, setting: str, recipe: str) -> None:
    settings = replace(Settings(models=tmp_path), recipe=setting)
    assert choose(settings, DIGEST, {}, found, tmp_path).recipe == recipe


@pytest.mark.parametrize(
    ("found", "recipe", "kind"), [(ENCODER, "q4", "embeds or ranks"), (FULL, "int8", "writes text")]
)
def test_a_parameter_is_for_this_model(tmp_path: Path, found: Footprint, recipe: str, kind: str) -> None:
    with pytest.raises(InvalidOption, match=rf"must be one of .*exact.* for a model that {kind}, not '{recipe}'"):
        choose(Settings(models=tmp_path), DIGEST, {"recipe": recipe}, found, tmp_path)


def test_every_combination_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert chosen(tmp_path, {"recipe": "exact"}).folder == tmp_path / ("a" * 64) / "exact"
    rotated = {"recipe": "int8-rotated", "kv_cache_type": "q8_0"}
    assert chosen(tmp_path, rotated).folder == tmp_path / ("a" * 64) / "int8-rotated-kv-q8_0"


@pytest.mark.parametrize(
    ("parameters", "settings", "tokens", "itemsize"),
    [
        ({}, {}, 4096, 4),
        ({}, {"context_length": 2000}, 2000, 4),
        ({"num_ctx": 1000}, {"context_length": 2000}, 1000, 4),
        ({"num_ctx": 100_000}, {}, 8192, 4),
        ({"kv_cache_type": "q8_0"}, {}, 4096, 1),
    ],
)
def test_auto_counts_the_cache_of_the_usual_context(
    tmp_path: Path, parameters: dict[str, Any], settings: dict[str, Any], tokens: int, itemsize: int
) -> None:
    budget = room("exact", tokens * 1000 * itemsize)
    assert chosen(tmp_path, parameters, memory_budget_bytes=budget, **settings).recipe == "exact"
    assert chosen(tmp_path, parameters, memory_budget_bytes=budget - 1, **settings).recipe == "compact"


def test_a_model_that_will_not_load_is_told_before_it_is_converted(tmp_path: Path) -> None:
    cache = 4 * 1000 * 4096
    enough = Settings(memory_budget_bytes=room("exact", cache))
    choice = choose(enough, DIGEST, {}, QUANTISED, tmp_path)
    assert shortage(enough, {}, QUANTISED, choice) == ""
    warning = shortage(enough, {"num_ctx": 8192}, QUANTISED, choice)
    assert warning.startswith(
        "warning: the model will not load: it needs 1,338 MB of memory, and models may take 1,321"
    )
    int8 = choose(enough, DIGEST, {"num_ctx": 8192, "kv_cache_type": "q8_0"}, QUANTISED, tmp_path)
    assert shortage(enough, {"num_ctx": 8192}, QUANTISED, int8) == ""


def test_auto_finds_the_bundles_that_were_made(tmp_path: Path) -> None:
    bundle = tmp_path / ("a" * 64) / "compact"
    bundle.mkdir(parents=True)
    (bundle / WEIGHTS).write_bytes(b"weights")
    assert chosen(tmp_path, {}, memory_budget_bytes=10**12).recipe == "compact"
    assert chosen(tmp_path, {"kv_cache_type": "q8_0"}, memory_budget_bytes=10**12).recipe == "exact"


@pytest.mark.parametrize("parameters", [{"recipe": "int3"}, {"recipe": ["exact"]}, {"kv_cache_type": "q4_0"}])
def test_a_recipe_that_there_is_not_is_named(tmp_path: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"must be one of .*, not"):
        chosen(tmp_path, parameters)


@pytest.mark.parametrize("recipe", ["exact", "compact", "int8-rotated", "q4", "fp32"])
@pytest.mark.parametrize(
    ("tensor_type", "tied"),
    [("F32", True), ("F16", False), ("Q8_0", True), ("Q4_0", False), ("Q4_1", True), ("Q4_1", False), ("Q5_1", True)],
)
def test_the_estimate_is_close_to_what_the_converters_make(
    tmp_path: Path, recipe: str, tensor_type: str, tied: bool
) -> None:
    source = write_tiny_gguf(
        tmp_path / "x.gguf", layers=1, hidden=512, intermediate=1024, tensor_type=tensor_type, tied=tied
    )
    found = footprint(read_header(source))
    assert found.quantised is (tensor_type not in ("F32", "F16"))
    bundle = convert(source, tmp_path / "bundle", recipe)
    assert found.weights[recipe] == pytest.approx((tmp_path / "bundle" / WEIGHTS).stat().st_size, rel=0.05)
    assert found.kv_values * 4 == bundle.kv_bytes_per_token


@pytest.mark.parametrize("recipe", ["exact", "compact", "int8-rotated"])
@pytest.mark.parametrize(("tensor_type", "tied"), [("Q8_0", True), ("Q8_0", False), ("Q4_1", True), ("Q4_1", False)])
def test_the_estimate_knows_large_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, tensor_type: str, tied: bool
) -> None:
    large = 1 << 16
    monkeypatch.setattr("appliance.store.footprint._HUGE", large)
    monkeypatch.setattr("converters.formats.WIDE_BLOCKS_FROM_WEIGHTS", large)
    monkeypatch.setattr("converters.recipes.shortlist.FROM_WEIGHTS", large)
    monkeypatch.setattr("converters.recipes.shortlist.SHORTLIST", 8)
    test_the_estimate_is_close_to_what_the_converters_make(tmp_path, recipe, tensor_type, tied)


def header(metadata: dict[str, Any], *tensors: TensorInfo) -> GGUFHeader:
    return GGUFHeader(3, metadata, tensors, 0, 0)


def test_heads_can_differ_by_layer_and_be_of_any_size() -> None:
    keys = {
        "general.architecture": "x",
        "x.block_count": 3,
        "x.attention.head_count": 8,
        "x.attention.head_count_kv": [2, 4, 2],
        "x.attention.key_length": 32,
        "x.attention.value_length": 16,
    }
    assert footprint(header(keys)).kv_values == 3 * 4 * (32 + 16)


def test_what_pools_has_no_cache() -> None:
    keys = {"general.architecture": "x", "x.block_count": 3, "x.attention.head_count": 8, "x.embedding_length": 64}
    assert not footprint(header(keys)).encodes
    found = footprint(header(keys | {"x.pooling_type": 1}))
    assert (found.encodes, found.kv_values) == (True, 0)


@pytest.mark.parametrize(
    "metadata", [{}, {"general.architecture": 7}, {"general.architecture": "x", "x.block_count": "2"}]
)
def test_a_header_that_says_nothing_counts_as_nothing(metadata: dict[str, Any]) -> None:
    found = footprint(header(metadata))
    assert (found.kv_values, found.quantised, found.weights["exact"]) == (0, False, 0)


def test_what_is_known_of_a_bundle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    choice = Choice("exact", "f32", tmp_path / "exact", "")
    assert bundle_facts(choice) is None
    write_tiny_bundle(choice.folder, "exact")
    facts = bundle_facts(choice)
    assert facts
    assert (facts.recipe, facts.kv_cache_type, facts.fidelity) == ("exact", "f32", None)
    assert facts.size == sum(path.stat().st_size for path in choice.folder.iterdir())
    description = json.loads((choice.folder / "bundle.json").read_text())
    description["report"]["fidelity"] = {"tokens": 9, "nll": 3.2, "source_nll": 3.1, "top1": 0.94}
    (choice.folder / "bundle.json").write_text(json.dumps(description))
    facts = bundle_facts(choice)
    assert facts
    assert facts.fidelity == Fidelity(9, 3.2, 3.1, 0.94)


def test_what_is_known_of_an_encoders_fidelity() -> None:
    assert fidelity_of({"texts": 27, "cosine": 0.997, "least_cosine": 0.994}) == Likeness(27, 0.997, 0.994)
    assert fidelity_of({"texts": 26, "score_error": 0.05}) == Likeness(26, score_error=0.05)
    for nothing in (None, {}, [], {"tokens": 9}, 7):
        assert fidelity_of(nothing) is None
