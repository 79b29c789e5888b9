"""An installed model: its manifest, and what its blobs say, read when asked for."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from appliance.bundle import KV_TYPES, RECIPES, TARGETS
from appliance.core import Capability, Message, ModelDetails, ModelFacts, ModelSummary
from appliance.errors import ApplianceError, BlobNotFound, CorruptManifest, UnsupportedModel
from appliance.families import PARSERS
from appliance.store import capabilities, details
from appliance.store.blobs import Blobs, hex_of
from appliance.store.gguf_header import ModelHeader
from appliance.store.headers import HeaderCache, HeaderFacts, header_of
from appliance.store.manifests import Layer, Manifest
from appliance.store.names import ModelName
from appliance.store.parts import Parts, parts_of, unread

log = logging.getLogger(__name__)

GPT_OSS = ("gptoss", "gpt-oss")
TEMPLATES = ("a chat template in the model's file", "a TEMPLATE that mentions .Messages")
FORMATS = ("GGUF", "safetensors with config.json", "ONNX")


@dataclass(frozen=True, eq=False)
class StoredModel:
    """One installed model as its manifest was when it was read.

    `digest` is the hex SHA-256 of the manifest's bytes. Properties that read a blob raise CorruptManifest
    when it is missing or not what it should be.
    """

    name: ModelName
    manifest: Manifest
    digest: str
    modified_at: datetime
    blobs: Blobs
    headers: HeaderCache
    derived: Path
    go_template: bool | None = None  # whether TEMPLATE builds prompts; None leaves it to what the two can do

    @property
    def size(self) -> int:
        """Bytes of all its parts."""
        return sum(part.size for part in self.manifest.parts)

    def layers(self, kind: str) -> tuple[Layer, ...]:
        """Its layers of one kind."""
        return tuple(layer for layer in self.manifest.layers if layer.kind == kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its layers."""
        return tuple(layer.kind for layer in self.manifest.layers)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config blob's fields."""
        return self._json(self.manifest.config, dict) if self.manifest.config else {}

    @property
    def remote(self) -> bool:
        """Whether it only stands for a model in a cloud."""
        return bool(self.config.get("remote_host") or self.config.get("remote_model"))

    @cached_property
    def parts(self) -> Parts | None:
        """The layers that are its network, None where it has none that is known here."""
        return parts_of(self.manifest.layers)

    @property
    def model_digest(self) -> str:
        """What names its network, "" if it has none."""
        return self.parts.digest if self.parts else ""

    def source(self) -> Path:
        """What to convert; raises UnsupportedModel if it has no network, BlobNotFound if a part of that is gone."""
        return self._network().source(self.blobs, self.derived)

    def require_runnable(self) -> None:
        """Raise UnsupportedModel or CorruptManifest unless its parts are the whole network and its parser is known."""
        for kind in unread(self.manifest.layers):
            raise UnsupportedModel(f"'{self.name.short}' has a layer of the kind {kind}, which", ("model",))
        try:
            self._network().files(self.blobs)
            self._network().adapter_file(self.blobs)
        except BlobNotFound as error:
            raise self._incomplete(error) from error
        if self.parser and self.parser not in PARSERS:
            raise UnsupportedModel(f"the parser '{self.parser}' that '{self.name.short}' names", tuple(PARSERS))
        if self.chat_template or capabilities.shows_messages(self.template):
            return
        if self.renderer:
            raise UnsupportedModel(f"the renderer '{self.renderer}' that '{self.name.short}' names", TEMPLATES)
        if self.header and self.header.architecture in GPT_OSS and not self.template:
            raise UnsupportedModel(f"gpt-oss without a template, as '{self.name.short}' is,", TEMPLATES)

    def adapter(self) -> Path | None:
        """The adapter to merge into it, None without one; raises as `source` does."""
        return self._network().adapter_file(self.blobs)

    def _network(self) -> Parts:
        if not self.parts:
            raise UnsupportedModel(f"'{self.name.short}' has no GGUF layer, and its format", FORMATS)
        return self.parts

    def bundle_path(self, recipe: str, kv: str = "f32", target: str = "cpu") -> Path:
        """The folder of a bundle made of its parts, whether or not it exists."""
        return bundle_path(self.derived, self.model_digest, recipe, kv, target)

    @cached_property
    def template(self) -> str:
        """The Go template of its TEMPLATE layer, "" if it has none."""
        return self._text("template")

    @property
    def chat_template(self) -> str:
        """The Jinja template that comes with its network, "" if there is none."""
        return capabilities.chat_template(self.header.metadata) if self.header else ""

    @property
    def uses_go_template(self) -> bool:
        """Whether `template` builds its prompts, not `chat_template`, which also does what built-in renderers do."""
        if self.renderer and self.chat_template:
            return False
        return capabilities.uses_go_template(self.template, self.chat_template, self.go_template)

    @property
    def parser(self) -> str:
        """The parser of its output that its config names, "" if it names none."""
        return str(self.config.get("parser") or "")

    @property
    def renderer(self) -> str:
        """What its config names to build its prompts, "" if it names nothing."""
        return str(self.config.get("renderer") or "")

    @cached_property
    def system(self) -> str:
        """Its system prompt."""
        return self._text("system")

    @cached_property
    def licenses(self) -> tuple[str, ...]:
        """Its licence texts."""
        return tuple(self._read(layer).decode("utf-8", "replace") for layer in self.layers("license"))

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Its options."""
        found = self.layers("params")
        return self._json(found[-1], dict) if found else {}

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The conversation it starts with."""
        found = self.layers("messages")
        return tuple(_message(fields) for fields in self._json(found[-1], list)) if found else ()

    @cached_property
    def header(self) -> HeaderFacts | None:
        """The facts of its network, None if it has none; raises CorruptManifest, ModelFileError.

        Kept: a model that is loaded can be deleted, and is still listed as loaded.
        """
        try:
            return self.headers.facts(self.parts) if self.parts else None
        except BlobNotFound as error:
            raise self._incomplete(error) from error

    def full_header(self) -> ModelHeader | None:
        """The whole header of its network, parsed anew."""
        return header_of(self.parts, self.blobs) if self.parts else None

    def facts(self) -> ModelFacts:
        """Its `details`, the two lengths included."""
        return details.facts(self.config, self.header)

    def capabilities(self) -> tuple[Capability, ...]:
        """What it can do, in Ollama's order."""
        metadata = self.header.metadata if self.header else {}
        declared = details.texts(self.config, "capabilities")
        found = capabilities.capabilities(
            metadata, self.template, declared, self.kinds, self.parser, forced=self.go_template
        )
        return cast("tuple[Capability, ...]", found)

    def summary(self) -> ModelSummary:
        """Its row in the list of models. A network that cannot be read costs the row only what it would tell."""
        try:
            facts, found = self.facts(), self.capabilities()
        except (ApplianceError, OSError) as error:
            log.warning("the weights of %s cannot be read: %s", self.name.short, error)
            facts, found = details.facts(self.config, None), ()
        return ModelSummary(self.name.short, self.modified_at, self.size, self.digest, facts, found)

    def details(
        self, system: str = "", options: Mapping[str, Any] | None = None, verbose: bool = False
    ) -> ModelDetails:
        """Everything `show` tells; `system` and `options` override what is shown of the model's own."""
        return details.details(self, system or self.system, self.parameters | dict(options or {}), verbose)

    def _text(self, kind: str) -> str:
        found = self.layers(kind)
        return self._read(found[-1]).decode("utf-8", "replace") if found else ""

    def _json(self, layer: Layer, shape: type) -> Any:
        try:
            value = _writable(json.loads(self._read(layer)))
        except (ValueError, RecursionError) as error:
            raise self._corrupt(layer) from error
        if not isinstance(value, shape):
            raise self._corrupt(layer)
        return value

    def _read(self, layer: Layer) -> bytes:
        try:
            return self.blobs.read(layer.digest)
        except BlobNotFound as error:
            raise self._corrupt(layer) from error

    def _corrupt(self, layer: Layer) -> CorruptManifest:
        part = layer.kind or "config"
        what = f"the {part} of '{self.name.short}' is missing or damaged ({layer.digest})"
        return CorruptManifest(f"{what}; pull or create the model again")

    def _incomplete(self, error: BlobNotFound) -> CorruptManifest:
        return CorruptManifest(f"the weights of '{self.name.short}' are incomplete: {error}; pull or create it again")


def bundle_path(derived: Path, digest: str, recipe: str, kv: str = "f32", target: str = "cpu") -> Path:
    """Where under `derived` the bundle of a network with this digest, recipe and KV cache type belongs."""
    if recipe not in RECIPES or kv not in KV_TYPES or target not in TARGETS:
        raise ValueError(f"{recipe!r} with {kv!r} for {target!r} is no recipe")
    return derived / hex_of(digest) / bundle_name(recipe, kv, target)


def bundle_name(recipe: str, kv: str, target: str = "cpu") -> str:
    """The name of a bundle's folder."""
    name = recipe if kv == "f32" else f"{recipe}-kv-{kv}"
    return name if target == "cpu" else f"{name}-{target}"


def _writable(value: Any) -> Any:
    """`value` of JSON, where half a surrogate pair, which no answer could carry, is U+FFFD as in Go."""
    text = json.dumps(value, ensure_ascii=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value if whole == text else json.loads(whole)


def _message(fields: Any) -> Message:
    """A message as its layer holds it; raises CorruptManifest."""
    try:
        images = tuple(base64.b64decode(image, validate=True) for image in fields.get("images") or ())
        tool_calls = tuple(_tool_call(call) for call in fields.get("tool_calls") or ())
    except (AttributeError, TypeError, ValueError) as error:
        raise CorruptManifest("a message in a messages layer is damaged") from error
    return Message(
        role=str(fields.get("role") or ""),
        content=str(fields.get("content") or ""),
        thinking=str(fields.get("thinking") or ""),
        images=images,
        tool_calls=tool_calls,
        tool_name=str(fields.get("tool_name") or ""),
        tool_call_id=str(fields.get("tool_call_id") or ""),
    )


def _tool_call(fields: Any) -> dict[str, Any]:
    """A tool call with all its fields, of which older stores leave out some; raises TypeError, AttributeError."""
    function = fields.get("function") or {}
    index, arguments = function.get("index") or 0, function.get("arguments") or {}
    if type(index) is not int or not isinstance(arguments, dict):
        raise TypeError("a tool call's field has the wrong type")
    call = {"index": index, "name": str(function.get("name") or ""), "arguments": arguments}
    return {"id": str(fields.get("id") or ""), "function": call}
