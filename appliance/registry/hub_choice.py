"""Which files of a Hugging Face repository make up a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.errors import RegistryError
from appliance.registry.hub import HubFile
from appliance.store.create import QUANTIZATIONS
from appliance.store.hugging_face import COMPANIONS, MODEL_WEIGHTS
from appliance.store.names import DEFAULT_TAG
from appliance.store.split_gguf import NAME as SPLIT

QUANT = re.compile(r"(?:^|[-._/])((?:UD-)?(?:I?Q|TQ)\d\w*|MXFP4\w*|BF16|FP?16|FP?32)$", re.IGNORECASE)
NO_MODELS = re.compile(r"mmproj|imatrix", re.IGNORECASE)  # GGUF files beside the model
PREFERRED = ("Q4_K_M", "Q4_K_S", "Q4_K", "Q4_0", "Q4_1", "Q5_K_M", "Q5_K_S", "Q5_0", "Q6_K", "Q8_0", "F16", "BF16")
"""What is taken where nothing is asked for: the first that is there."""
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Selection:
    """The files to fetch, and how the model is to be quantised, "" for as it is."""

    files: tuple[HubFile, ...]
    quantize: str = ""


def choose(files: Sequence[HubFile], tag: str, shown: str) -> Selection:
    """The files that `tag` means: a quantisation, a GGUF file's name, or "latest" for what suits most.

    A checkpoint in safetensors is quantised as `tag` says. Raises RegistryError, which calls the repository `shown`,
    where nothing fits or more than one does.
    """
    if models := _gguf_models(files):
        return Selection(_whole(_gguf(models, tag, shown), shown))
    if weights := _matching(files, MODEL_WEIGHTS):
        quantize = "" if tag == DEFAULT_TAG else tag.upper()
        if quantize and quantize not in QUANTIZATIONS:
            known = ", ".join(QUANTIZATIONS)
            raise RegistryError(f"{shown} has safetensors files, which can be quantised to {known}, not to {tag}")
        return Selection((*_matching(files, COMPANIONS), *weights), quantize)
    names = ", ".join(file.path for file in files[:SHOWN]) or "nothing"
    raise RegistryError(f"{shown} has neither GGUF files nor model*.safetensors; it has {names}")


def quantisation(path: str) -> str:
    """What a GGUF file's name says that its weights are, in capitals; "" for nothing known."""
    found = QUANT.search(_stem(path))
    return found[1].upper() if found else ""


def _stem(path: str) -> str:
    """A GGUF file's path without its ending and its number among the parts of a model."""
    split = SPLIT.fullmatch(path)
    return split[1].removesuffix("-") if split else path[: -len(".gguf")]


def _gguf_models(files: Iterable[HubFile]) -> dict[str, list[HubFile]]:
    """The GGUF files by what is the same in the names of a model's parts."""
    models: dict[str, list[HubFile]] = {}
    for file in files:
        if file.path.lower().endswith(".gguf") and not NO_MODELS.search(file.path):
            models.setdefault(_stem(file.path), []).append(file)
    return models


def _gguf(models: Mapping[str, list[HubFile]], tag: str, shown: str) -> list[HubFile]:
    if tag == DEFAULT_TAG and len(models) == 1:
        return next(iter(models.values()))
    by_kind: dict[str, list[str]] = {}
    for stem in models:
        by_kind.setdefault(quantisation(f"{stem}.gguf") or PurePosixPath(stem).name.upper(), []).append(stem)
    wanted = tag.upper().removesuffix(".GGUF")
    if tag == DEFAULT_TAG:
        wanted = next((kind for kind in PREFERRED if len(by_kind.get(kind, ())) == 1), wanted)
    named = [stem for stem in models if PurePosixPath(stem).name.upper() == wanted]
    found = named or by_kind.get(wanted, [])
    if len(found) == 1:
        return models[found[0]]
    if found:
        names = ", ".join(f"{PurePosixPath(stem).name}.gguf" for stem in found[:SHOWN])
        raise RegistryError(f"{shown} has several files of {tag}: name one of them after the colon: {names}")
    kinds = ", ".join(sorted(by_kind)[: 2 * SHOWN])
    what = "no tag was given" if tag == DEFAULT_TAG else f"there is no {tag}"
    raise RegistryError(f"{shown}: {what}; after the colon can stand: {kinds}")


def _whole(model: list[HubFile], shown: str) -> tuple[HubFile, ...]:
    """All parts of a model. Raises RegistryError if some are missing."""
    split = SPLIT.fullmatch(model[0].path)
    if split and len(model) != int(split[3]):
        raise RegistryError(f"{shown} has {len(model)} of the {int(split[3])} parts of {_stem(model[0].path)}")
    return tuple(sorted(model, key=lambda file: file.path))


def _matching(files: Iterable[HubFile], patterns: Iterable[str]) -> tuple[HubFile, ...]:
    return tuple(file for file in files if any(_matches(PurePosixPath(file.path), pattern) for pattern in patterns))


def _matches(path: PurePosixPath, pattern: str) -> bool:
    return path.match(pattern) and len(path.parts) == pattern.count("/") + 1
