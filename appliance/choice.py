"""Which recipe and which type of KV cache a model gets.

What its Modelfile says comes first, then the settings. "auto" decides by the memory of the machine, not by what is
free at the moment, so the same machine decides alike every time:

    a quantised file          exact; compact if only that fits
    F32, F16 or BF16          exact (8 bits); q4 if only that fits
    a model that embeds       int8, whatever the settings say of models that write
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.bundle import DECODER_RECIPES, ENCODER_RECIPES, read_description
from appliance.config import AUTO, Settings
from appliance.conversion_facts import BundleFacts, Fidelity, Likeness
from appliance.errors import InvalidOption, ModelFileError
from appliance.memory import total_budget_bytes, without_cache_bytes
from appliance.options import DEFAULT_CONTEXT_TOKENS, context_tokens
from appliance.store.footprint import Footprint
from appliance.store.model import StoredModel, bundle_name, bundle_path
from appliance.store.parameters import MODEL_PARAMETERS, check_choice

log = logging.getLogger(__name__)

FOR_QUANTISED = ("exact", "compact")  # what "auto" chooses from, the preferred one first
FOR_FULL_PRECISION = ("exact", "q4")
FOR_ENCODERS = "int8"
ROUNDS = frozenset({"q4"})  # recipes that give quality up for memory
AS_IT_IS = Settings(recipe="exact", kv_cache_type="f32", origin={"recipe": "its graph, which is taken as it is"})
SAID_BY_MODEL = (*MODEL_PARAMETERS, "num_ctx")  # the parameters that count here
IN_FLOAT16 = {"int8-rotated": "exact", "int8": "fp32"}  # instead of recipes that accelerators do not have
NO_CACHE = "f32"  # what the bundle of an encoder goes under
KV_BYTES = {"f32": 4, "q8_0": 1}  # of a number in the cache


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is converted, and why."""

    recipe: str
    kv: str
    folder: Path  # of its bundle, whether or not that exists
    reason: str
    target: str = "cpu"

    def on(self, target: str) -> Choice:
        """The same for another execution provider; accelerators have no recipe in int8 and no int8 KV cache."""
        accelerated = target != "cpu"
        recipe = IN_FLOAT16.get(self.recipe, self.recipe) if accelerated else self.recipe
        kv = "f32" if accelerated else self.kv
        folder = self.folder.with_name(bundle_name(recipe, kv, target))
        return Choice(recipe, kv, folder, self.reason, target)


class Choices:
    """Remembers what was chosen: a model keeps its recipe while the server runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[tuple[str, str], Choice] = {}

    def of(self, model: StoredModel) -> Choice:
        """The choice for an installed model with a GGUF. Raises InvalidOption, BlobNotFound, NotGGUF, TruncatedGGUF."""
        if known := self.made(model):
            return known
        assert model.header
        assert model.parts
        settings = AS_IT_IS if model.parts.format == "onnx" else self._settings
        choice = choose(settings, model.model_digest, model.parameters, model.header.footprint, model.derived)
        log.info("%s: recipe %s, KV cache %s: %s", model.name.short, choice.recipe, choice.kv, choice.reason)
        self._known[_key(model)] = choice
        return choice

    def made(self, model: StoredModel) -> Choice | None:
        """The choice that was made for a model, if there was one since the server began."""
        return self._known.get(_key(model))


def bundle_facts(choice: Choice) -> BundleFacts | None:
    """What is known of the bundle that was chosen; None when it is not there, or of an older format."""
    try:
        bundle = read_description(choice.folder)
        size = _size(choice.folder)
    except (ModelFileError, OSError):
        return None
    cache = choice.kv if bundle.kind == "decoder" else ""
    return BundleFacts(choice.recipe, cache, size, fidelity_of(bundle.report.get("fidelity")))


def fidelity_of(found: Any) -> Fidelity | Likeness | None:
    """What a bundle's report says of its fidelity; None when it says nothing."""
    try:
        if "texts" in found:
            return Likeness(found["texts"], found.get("cosine"), found.get("least_cosine"), found.get("score_error"))
        return Fidelity(found["tokens"], found["nll"], found.get("source_nll"), found.get("top1"))
    except (KeyError, TypeError, AttributeError):
        return None


def _key(model: StoredModel) -> tuple[str, str]:
    """All that a choice depends on while the server runs."""
    said = {name: model.parameters[name] for name in SAID_BY_MODEL if name in model.parameters}
    return model.model_digest, repr(said)


def choose(
    settings: Settings, digest: str, parameters: Mapping[str, Any], footprint: Footprint, derived: Path
) -> Choice:
    """The choice for the GGUF `digest` of a model with these parameters; bundles lie under `derived`.

    Raises InvalidOption when a parameter names a recipe or a KV cache type that there is not, or that the model
    cannot have.
    """
    check_parameters(parameters, footprint.encodes)
    kv = NO_CACHE if footprint.encodes else parameters.get("kv_cache_type", settings.kv_cache_type)
    made = {name: size for name in footprint.weights if (size := _size(bundle_path(derived, digest, name, kv)))}
    recipe, reason = preferred(settings, parameters, footprint, _cache_bytes(settings, parameters, footprint, kv), made)
    return Choice(recipe, kv, bundle_path(derived, digest, recipe, kv), reason)


def preferred(
    settings: Settings, parameters: Mapping[str, Any], footprint: Footprint, cache: int, made: Mapping[str, int]
) -> tuple[str, str]:
    """The recipe of a model with these parameters and `cache` bytes of KV cache, and why; `made`: see `automatic`."""
    recipe = parameters.get("recipe", settings.recipe)
    if recipe in recipes_for(footprint.encodes):  # a setting for models of the other kind counts as auto
        source = "the model's parameter" if "recipe" in parameters else settings.origin_of("recipe")
        return recipe, f"chosen by {source}"
    if footprint.encodes:
        return FOR_ENCODERS, "whole texts are read: products of integers are the fastest"
    return automatic(footprint, cache, total_budget_bytes(settings), made)


def shortage(settings: Settings, parameters: Mapping[str, Any], footprint: Footprint, choice: Choice) -> str:
    """A warning that a model with this choice will not load on this machine; "" for one that will."""
    size = _size(choice.folder) or footprint.weights.get(choice.recipe, 0)
    needed = without_cache_bytes(size) + _cache_bytes(settings, parameters, footprint, choice.kv)
    budget = total_budget_bytes(settings)
    if needed <= budget:
        return ""
    return f"warning: the model will not load: it needs {_mb(needed)} of memory, and models may take {_mb(budget)}"


def _cache_bytes(settings: Settings, parameters: Mapping[str, Any], footprint: Footprint, kv: str) -> int:
    """What one context of the length that a request gets by default takes."""
    wanted = parameters.get("num_ctx")
    context = context_tokens(
        wanted if isinstance(wanted, int) else None,
        settings.context_length or DEFAULT_CONTEXT_TOKENS,
        footprint.context_tokens or DEFAULT_CONTEXT_TOKENS,
    )
    return footprint.kv_values * KV_BYTES[kv] * context


def recipes_for(encodes: bool) -> tuple[str, ...]:
    """The recipes of models that embed or rank, or of those that write text."""
    return ENCODER_RECIPES if encodes else DECODER_RECIPES


def check_parameters(parameters: Mapping[str, Any], encodes: bool) -> None:
    """Raise InvalidOption for a recipe or a KV cache type that there is not, or not for a model of this kind."""
    for name in MODEL_PARAMETERS.keys() & parameters.keys():
        check_choice(name, parameters[name])
    if encodes and "kv_cache_type" in parameters:
        raise InvalidOption('the parameter "kv_cache_type" is for models that write text: this one has no KV cache')
    recipe, known = parameters.get("recipe", AUTO), recipes_for(encodes)
    if recipe not in (AUTO, *known):
        kind = "embeds or ranks" if encodes else "writes text"
        raise InvalidOption(
            f'option "recipe" must be one of {", ".join(known)} for a model that {kind}, not {recipe!r}'
        )


def automatic(footprint: Footprint, cache: int, budget: int, made: Mapping[str, int]) -> tuple[str, str]:
    """The recipe for a KV cache of `cache` bytes within `budget` bytes, and the reason.

    `made` are the sizes of the bundles that exist: one that fits is kept rather than converted anew, unless it
    gave up quality that there is now room for.
    """
    best, smaller = FOR_QUANTISED if footprint.quantised else FOR_FULL_PRECISION
    sizes = {**footprint.weights, **made}
    needed = {name: without_cache_bytes(sizes[name]) + cache for name in (best, smaller)}
    if needed[smaller] <= budget < needed[best]:
        return smaller, f"{best} would take {_mb(needed[best])} of {_mb(budget)}, {smaller} {_mb(needed[smaller])}"
    if best not in made and smaller in made and smaller not in ROUNDS and needed[smaller] <= budget:
        return smaller, f"it was made before and takes {_mb(needed[smaller])} of {_mb(budget)}"
    if needed[best] > budget:
        return best, f"it takes {_mb(needed[best])}, and nothing fits {_mb(budget)}"
    return best, f"it takes {_mb(needed[best])} of {_mb(budget)}"


def _size(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):  # not made, or removed just now
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
