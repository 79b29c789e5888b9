"""What the headers of a model say about converting it: its matrices are not read, and nothing is written.

Every recipe's graph is laid out in memory, as for a conversion, so a refusal and the size on disk are those of the
conversion itself. Memory and time are estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from appliance.bundle import RECIPES
from appliance.conversion_facts import Inspection, RecipeCost
from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.footprint import FULL_PRECISION
from converters.bundle import CHECK_FACTOR, NOT_EXACT, ROTATED, Plan, describe, make_plan
from converters.fidelity import STEP_TOKENS
from converters.peft import open_model
from converters.source import Source

# Rough: memory was held against conversions of SmolLM2-135M alone, times are guesses for two idle cores.
PROCESS_BYTES = 180 << 20  # libraries, a vocabulary, pieces of matrices
ROTATED_MATRICES = 4  # float32 copies of a layer's largest matrix, which a rotation needs whole
MEASURED_LOGITS = 6  # arrays of float32 [STEP_TOKENS, vocabulary] while a graph is measured
START_S = 2.0
SECONDS_PER_BILLION = {"exact": 15.0, "compact": 30.0, "int8-rotated": 60.0, "q4": 90.0, "int8": 30.0, "fp32": 10.0}


def inspect(path: Path, adapter: Path | None = None) -> Inspection:
    """Inspect the model at `path`, with an adapter merged into it if one is given.

    A model that the converters refuse is described as far as it can be read. Raises ModelFileError for a file that is
    no model at all, OSError.
    """
    try:
        with open_model(path, adapter) as source:
            return _inspected(source)
    except UnsupportedModel as error:
        return Inspection(refused=str(error))


def _inspected(source: Source) -> Inspection:
    tensors = source.tensors.values()
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    found = Inspection(
        architecture=str(source.metadata.get("general.architecture", ""))[:40],
        parameters=sum(prod(tensor.shape) for tensor in tensors),
        quantised=any(tensor.type_name not in FULL_PRECISION for tensor in matrices),
    )
    try:
        plans = _plans(source)
    except ModelFileError as error:
        return replace(found, refused=str(error))
    recipe, plan = next((name, plan) for name, plan in plans.items() if isinstance(plan, Plan))
    bundle = describe(plan, source, recipe, "")
    sizes = [4 * prod(tensor.shape) for tensor in matrices if tensor.name.startswith("blk.")]
    return replace(
        found,
        kind=bundle.kind,
        context_tokens=bundle.context_length,
        kv_values=bundle.kv_bytes_per_token // 4,
        recipes={name: _cost(name, plans, max(sizes, default=0), found.parameters) for name in plans},
    )


def _plans(source: Source) -> dict[str, Plan | str]:
    """The plan of a conversion with each recipe, or why there is none; raises ModelFileError if no recipe has one."""
    plans: dict[str, Plan | str] = {}
    vocabulary, refusal = None, None
    for recipe in RECIPES:
        try:
            plan = make_plan(source, recipe, "f32", lambda size: None, vocabulary=vocabulary)
            plans[recipe], vocabulary = plan, plan.vocabulary
        except UnsupportedModel as error:
            plans[recipe], refusal = str(error), refusal or error
    if refusal and not vocabulary:
        raise refusal
    return plans


def _cost(recipe: str, plans: Mapping[str, Plan | str], largest: int, parameters: int) -> RecipeCost:
    plan, exact = plans[recipe], plans.get("exact")
    if isinstance(plan, str):
        return RecipeCost(refused=plan)
    memory = PROCESS_BYTES
    measuring = 4 * MEASURED_LOGITS * STEP_TOKENS * plan.vocabulary.size
    if recipe == ROTATED:
        memory += ROTATED_MATRICES * largest + int(CHECK_FACTOR * plan.weights.size) + measuring
    elif recipe in NOT_EXACT and isinstance(exact, Plan):  # measured against a bundle of its own
        memory += int(CHECK_FACTOR * (plan.weights.size + exact.weights.size)) + measuring
    return RecipeCost(plan.size, memory, START_S + SECONDS_PER_BILLION[recipe] * parameters / 1e9)
