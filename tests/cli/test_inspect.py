"""`inspect` says whether a model would run here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config import load_settings
from appliance.conversion_facts import Inspection, RecipeCost
from appliance.inspection import judge
from tests.tiny_model import write_tiny_gguf

from .conftest import Outcome

Run = Callable[..., Outcome]
MB = 10**6


def test_text(appliance: Run, tmp_path: Path) -> None:
    outcome = appliance("inspect", str(write_tiny_gguf(tmp_path / "m.gguf")))
    assert outcome.code == 0, outcome.err
    assert "    architecture      llama" in outcome.out
    assert "    supported         yes" in outcome.out
    assert "exact *" in outcome.out


def test_json(appliance: Run, tmp_path: Path) -> None:
    outcome = appliance("inspect", str(write_tiny_gguf(tmp_path / "m.gguf")), "--json")
    facts = json.loads(outcome.out)
    assert (facts["fits_here"], facts["recipe"]) == (True, "exact")
    assert facts["inspection"]["recipes"]["exact"]["disk_bytes"] > 0
    assert facts["fits"]["exact"]["contexts"]["1"] == 512


def test_a_model_that_is_refused(appliance: Run, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "m.gguf", metadata={"general.architecture": "unheard-of"})
    outcome = appliance("inspect", str(source))
    assert outcome.code == 1
    assert "supported       no: architecture 'unheard-of' is not supported; supported: " in outcome.out


def test_what_is_neither_a_file_nor_installed(appliance: Run) -> None:
    outcome = appliance("inspect", "no-such-model")
    assert outcome.code == 1
    assert outcome.err == "Error: model 'no-such-model' not found\n"


@pytest.fixture
def large() -> Inspection:
    """A model whose tokens take 40 kB each in float32."""
    costs = {"exact": RecipeCost(1000 * MB), "compact": RecipeCost(500 * MB), "q4": RecipeCost(refused="no")}
    return Inspection("llama", "decoder", 10**9, 8192, 10_000, True, "", costs)


@pytest.mark.parametrize(
    ("budget", "recipe", "fits", "one", "four"),
    [
        (4000 * MB, "exact", True, 8192, 8192),
        (1600 * MB, "exact", True, 7378, 1844),
        (1000 * MB, "compact", True, 7378, 1844),
        (100 * MB, "exact", False, 0, 0),
    ],
)
def test_what_fits(large: Inspection, budget: int, recipe: str, fits: bool, one: int, four: int) -> None:
    verdict = judge(load_settings({"memory_budget_bytes": str(budget)}, {}), large)
    assert (verdict.recipe, verdict.fits_here) == (recipe, fits)
    assert "q4" not in verdict.fits
    assert verdict.fits[recipe].contexts == {1: one, 4: four}


def test_an_encoder_gets_the_recipe_that_loading_it_would_choose() -> None:
    refused = RecipeCost(refused="no")
    costs = {"exact": RecipeCost(30 * MB), "int8": RecipeCost(25 * MB), "compact": refused, "q4": refused}
    found = Inspection("bert", "encoder", 10**7, 512, 0, False, "", costs)
    assert judge(load_settings({}, {}), found).recipe == "int8"
    assert judge(load_settings({"recipe": "exact"}, {}), found).recipe == "exact"
    assert judge(load_settings({"recipe": "compact"}, {}), found).recipe == "int8"


def test_a_cache_in_int8_holds_four_times_as_much(large: Inspection) -> None:
    settings = load_settings({"memory_budget_bytes": str(1000 * MB), "kv_cache_type": "q8_0", "num_parallel": "8"}, {})
    assert judge(settings, large).fits["compact"].contexts == {1: 8192, 8: 3689}
