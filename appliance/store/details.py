"""What `show` and the list of models tell about one model, in Ollama's formats."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from appliance.core import ModelDetails, ModelFacts
from appliance.store.gguf_header import ModelHeader
from appliance.store.gojson import go_syntax
from appliance.store.headers import HeaderFacts, parameter_count
from appliance.store.modelfile import Modelfile, format_modelfile

if TYPE_CHECKING:
    from appliance.store.model import StoredModel

DEFAULT_TEMPLATE = "{{ .Prompt }}"
MAX_SHOWN_VALUES = 1024  # longer arrays are null unless all is asked for
_HIDDEN = ("general.name", "tokenizer.chat_template")


def human_count(count: int) -> str:
    """A number of parameters: 8B, 3.2B, 134.52M, 500K."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count // unit}{letter}" if count % unit == 0 else f"{count / unit:.{digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def facts(config: Mapping[str, Any], header: HeaderFacts | None) -> ModelFacts:
    """A model's `details`: what its config says, and where that is silent its header.

    A config comes from anyone: a field of the wrong type says nothing.
    """

    def text(key: str, otherwise: str) -> str:
        value = config.get(key)
        return value if value and isinstance(value, str) else otherwise

    def count(key: str, otherwise: int) -> int:
        value = config.get(key)
        return value if type(value) is int and value > 0 else otherwise

    return ModelFacts(
        format=text("model_format", "gguf" if header else ""),
        family=text("model_family", header.architecture if header else ""),
        families=texts(config, "model_families") or ((header.architecture,) if header else ()),
        parameter_size=text("model_type", human_count(header.parameters) if header else ""),
        quantization_level=text("file_type", header.file_type if header else ""),
        context_length=count("context_length", header.context_length if header else 0),
        embedding_length=count("embedding_length", header.embedding_length if header else 0),
    )


def texts(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The strings in a config's list."""
    values = config.get(key)
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def details(model: StoredModel, system: str, parameters: Mapping[str, Any], verbose: bool) -> ModelDetails:
    """All of it. `details` of show has no lengths; the license texts are joined by newlines."""
    header = model.full_header()
    known = facts(model.config, model.header)
    return ModelDetails(
        facts=ModelFacts(known.format, known.family, known.families, known.parameter_size, known.quantization_level),
        capabilities=model.capabilities(),
        modified_at=model.modified_at,
        modelfile=modelfile_text(model, system, parameters),
        template=shown_template(model),
        system=system,
        parameters=parameters_text(parameters),
        license="\n".join(model.licenses),
        messages=model.messages,
        model_info=model_info(header, verbose) if header else {},
        tensors=tensors(header) if header else (),
        requires=str(model.config.get("requires") or ""),
    )


def shown_template(model: StoredModel) -> str:
    """The template that builds the model's prompts."""
    used = model.template if model.uses_go_template else model.chat_template
    return used or DEFAULT_TEMPLATE


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """One line a value, the name in 30 columns, the value as Go's `%#v`; a list takes a line an element."""
    lines = []
    for name, value in sorted(parameters.items()):
        values = value if isinstance(value, list | tuple) else [value]
        lines += [f"{name:<30} {go_syntax(item)}" for item in values]
    return "\n".join(lines)


def modelfile_text(model: StoredModel, system: str, parameters: Mapping[str, Any]) -> str:
    """A Modelfile that makes the model again."""

    def paths(kind: str) -> list[str]:
        return [str(model.blobs.path(layer.digest)) for layer in model.layers(kind)]

    adapters, drafts = paths("adapter"), paths("draft")
    text = format_modelfile(
        Modelfile(
            sources=(*(paths("model") or [model.name.short]), *paths("projector")),
            adapter=adapters[-1] if adapters else "",
            draft=drafts[-1] if drafts else "",
            # A model that lives on its GGUF's own template must not be given another by its Modelfile.
            template=model.template if model.uses_go_template else "",
            system=system,
            renderer=model.renderer,
            parser=model.parser,
            parameters=dict(sorted(parameters.items())),
            licenses=model.licenses,
            messages=model.messages,
        )
    )
    return (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {model.name.short}\n\n{text}"
    )


def model_info(header: ModelHeader, verbose: bool) -> dict[str, Any]:
    """The header's keys and values, JSON-ready; without `verbose` long arrays are None."""
    shown = {key: _shown(value, verbose) for key, value in header.metadata.items() if key not in _HIDDEN}
    return shown | {"general.parameter_count": parameter_count(header)}


def _shown(value: Any, verbose: bool) -> Any:
    if isinstance(value, float):
        return _shortest(value)
    if not isinstance(value, list):
        return value
    if len(value) > MAX_SHOWN_VALUES and not verbose:
        return None
    return [_shown(item, verbose) for item in value]


def _shortest(value: float) -> float | None:
    """The shortest decimal that is the same 32-bit float: 1e-05, not 9.999999747378752e-06."""
    if not math.isfinite(value):
        return None
    if abs(value) > 3.4e38 or struct.unpack("<f", single := struct.pack("<f", value))[0] != value:
        return value
    rounded = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next((short for short in rounded if abs(short) < 3.4e38 and struct.pack("<f", short) == single), value)


def tensors(header: ModelHeader) -> tuple[dict[str, Any], ...]:
    """Name, type and shape of each tensor, the shape as GGUF writes it: the fastest dimension first."""
    return tuple(
        {"name": tensor.name, "type": tensor.type_name, "shape": list(tensor.shape[::-1])} for tensor in header.tensors
    )
