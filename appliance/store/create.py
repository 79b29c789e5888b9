"""Making a model: out of an installed one or of uploaded files, with new texts and parameters.

assemble() decides what the model consists of and changes nothing on disk; commit() writes it. In between the
caller converts `draft.network`, so a model that cannot run never replaces one that can.
"""

from __future__ import annotations

import base64
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.core import CreateRequest, Message, Progress
from appliance.errors import Forbidden, InvalidName, InvalidRequest, ModelNotFound, NotQuantized
from appliance.store.adapters import ONLY_ONE, gguf_adapter
from appliance.store.blobs import digest_of, hex_of
from appliance.store.capabilities import chat_template
from appliance.store.details import human_count
from appliance.store.gguf_header import MAGIC
from appliance.store.gojson import encode
from appliance.store.known_templates import known_template
from appliance.store.manifests import LAYER_TYPE, Layer
from appliance.store.names import ModelName, is_cloud, parse_name, parse_reference
from appliance.store.parameters import DEPRECATED, check_parameters
from appliance.store.parts import ONNX, SAFETENSORS, Parts, folder_layer, gguf_layer, is_relative, parts_of, unread
from appliance.store.split_gguf import name_in_split, read_split
from appliance.store.store import Store, StoredModel

QUANTIZATIONS: Mapping[str, str] = {
    "F32": "fp32", "F16": "exact", "BF16": "exact", "Q8_0": "exact", "Q4_K_S": "q4", "Q4_K_M": "q4", "Q4_K": "q4",
}  # fmt: skip
"""Ollama's names and the recipes they come to; F16 and BF16 are kept in 8 bits, as close as the recipe exact is."""
NO_DIGEST = "0000000000000000000"
_UNQUANTIZED = ("F32", "F16", "BF16")
_CONFIG_KEYS = (
    "model_format", "model_family", "model_families", "model_type", "file_type", "renderer", "parser",
    "requires", "capabilities", "context_length", "embedding_length", "base_name",
)  # fmt: skip
_ALWAYS_WRITTEN = frozenset(_CONFIG_KEYS[:5])
_INFO_TEXTS = {"model_family": "model_family", "base_name": "base_name", "quantization_level": "file_type",
               "parameter_size": "model_type"}  # fmt: skip
_INFO_COUNTS = ("context_length", "embedding_length")


@dataclass(frozen=True, slots=True)
class Part:
    """A layer of a draft; `content` is None for a blob that is in the store already."""

    layer: Layer
    content: bytes | None = None


@dataclass(eq=False)
class Draft:
    """A model that is not installed yet. While it lives, the store keeps the blobs it refers to."""

    name: ModelName
    parts: list[Part] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    quantizing: str = ""
    peft: Mapping[str, str] = field(default_factory=dict)  # files of an adapter that is still to be converted

    @property
    def network(self) -> Parts:
        """Those of its layers that are converted."""
        parts = parts_of(part.layer for part in self.parts)
        assert parts
        return parts

    @property
    def digests(self) -> set[str]:
        """Every blob it needs, and what names its bundles."""
        parts = parts_of(part.layer for part in self.parts)
        files = {f"sha256:{hex_of(digest)}" for digest in self.peft.values()}
        return {part.layer.digest for part in self.parts} | files | ({parts.digest} if parts else set())

    def conversion(self, progress: Progress) -> Progress:
        """The converter's progress as a stream tells it."""
        if not self.quantizing:
            return progress
        return replace(progress, status=self.quantizing, digest=NO_DIGEST if progress.total else "")

    def add(self, kind: str, content: bytes) -> None:
        """Append a new layer."""
        layer = Layer(LAYER_TYPE + kind, digest_of(content), len(content))
        self.parts.append(Part(layer, content))

    def replace(self, kind: str, content: bytes) -> None:
        """Append a new layer instead of those of its kind."""
        self.parts = [part for part in self.parts if part.layer.kind != kind]
        self.add(kind, content)


def lacks_source(store: Store, request: CreateRequest) -> bool:
    """Whether the model to start from has to be pulled first. Raises InvalidName, InvalidRequest, Forbidden."""
    parse_name(request.model)
    _check_files(request.adapters)
    if not request.source:
        return False
    try:
        _source(store, request.source)
    except ModelNotFound:
        return True
    return False


def assemble(store: Store, request: CreateRequest) -> Generator[Progress, None, Draft]:
    """Work out what the model consists of; returns the draft for commit().

    Raises InvalidRequest for what a client can mend, ModelNotFound if the source is not installed,
    BlobNotFound for files that were not uploaded, ModelFileError for files that cannot be used.
    """
    name = store.fold(parse_name(request.model))
    _check_files(request.files)
    _check_files(request.adapters)
    draft = Draft(name)
    store.protect(draft)
    inherited: Mapping[str, Any] = {}
    if request.source:
        inherited = _start_from_model(store, draft, request.source)
    elif request.files:
        yield from _start_from_files(store, draft, request.files)
        inherited = yield from _recognise_template(store, draft)
    else:
        raise InvalidRequest("neither 'from' or 'files' was specified")
    if request.adapters:
        yield Progress("parsing GGUF")
        _add_adapter(store, draft, request.adapters)
    _describe(store, draft, request)
    recipe = _quantize(draft, request.quantize.upper())
    for warning in sorted(DEPRECATED & request.parameters.keys()):
        yield Progress(f"warning: parameter {warning} is deprecated")
    _set_texts(draft, request, inherited, recipe)
    return draft


def commit(store: Store, draft: Draft) -> Generator[Progress, None, None]:
    """Install a draft, replacing what has its name and clearing away what only that used.

    The model appears when its manifest is in place, whole, or not at all. Raises BlobNotFound if a blob
    vanished meanwhile, NotEnoughDisk. Either way the draft's blobs are its own affair no more.
    """
    try:
        for part in draft.parts:
            created = part.content is not None and store.blobs.add(part.content)
            kind = "creating new" if created else "using existing"
            yield Progress(f"{kind} layer {part.layer.digest}")
        yield Progress("writing manifest")
        store.publish(draft.name, [part.layer for part in draft.parts], encode(_ordered(draft.config)))
    finally:
        store.release(draft)
    yield Progress("success")


def _check_files(files: Mapping[str, str]) -> None:
    for path, digest in files.items():
        if not is_relative(path):
            raise InvalidRequest("file path must be relative")
        hex_of(digest)


def _start_from_model(store: Store, draft: Draft, source: str) -> Mapping[str, Any]:
    """Take over the layers of an installed model, and of its config what a child inherits.

    Returns its parameters.
    """
    base = _source(store, source)
    _check_source(base)
    for layer in base.manifest.layers:
        taken = Layer(layer.media_type, layer.digest, layer.size, base.name.short, layer.name)
        draft.parts.append(Part(taken))
    inherited = ("model_format", "renderer", "parser", "requires", "capabilities")
    draft.config = {key: base.config[key] for key in inherited if base.config.get(key)}
    if "recipe" in base.parameters and base.config.get("file_type"):  # which may say more than the file does
        draft.config["file_type"] = base.config["file_type"]
    return base.parameters


def _source(store: Store, reference: str) -> StoredModel:
    if is_cloud(reference):
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    try:
        return store.model(store.fold(parse_reference(reference)))
    except InvalidName as error:
        raise InvalidName("invalid model name") from error


def _check_source(base: StoredModel) -> None:
    if base.remote:
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    for kind in unread(base.manifest.layers):
        raise InvalidRequest(f"models with {kind} layers are not supported yet")
    if not base.parts:
        raise InvalidRequest(f"'{base.name.short}' has neither a GGUF layer nor the files of a safetensors model")


def _start_from_files(store: Store, draft: Draft, files: Mapping[str, str]) -> Generator[Progress, None, None]:
    """Make the layers of the network: one GGUF file or the parts of one, or the files of a Hugging Face folder."""
    heads = {}
    for path, digest in files.items():
        with store.blobs.existing(digest).open("rb") as file:
            heads[path] = file.read(len(MAGIC))
    if any(path.endswith(".gguf") or head == MAGIC for path, head in heads.items()):
        yield from _start_from_gguf(store, draft, files, heads)
    elif any(path.endswith(SAFETENSORS) for path in files):
        _start_from_folder(store, draft, files, "safetensors")
    elif any(path.endswith(ONNX) for path in files):
        _start_from_folder(store, draft, files, "onnx")
    else:
        raise InvalidRequest("unknown type")


def _start_from_gguf(
    store: Store, draft: Draft, files: Mapping[str, str], heads: Mapping[str, bytes]
) -> Generator[Progress, None, None]:
    layers: dict[str, Layer] = {}
    for path, digest in sorted(files.items()):
        yield Progress("parsing GGUF")
        if heads[path] != MAGIC:
            raise InvalidRequest("supplied file was not in GGUF format")
        layer = gguf_layer(f"sha256:{hex_of(digest)}", store.blobs.existing(digest).stat().st_size)
        metadata = store.headers.facts(Parts("gguf", (layer,))).metadata
        _check_kind(metadata)
        layers[layer.digest] = replace(layer, name=name_in_split(metadata))
    ordered = sorted(layers.values(), key=lambda layer: layer.name)
    draft.parts = [Part(layer) for layer in ordered]
    if ordered[-1].name:
        read_split(store.blobs.existing(layer.digest) for layer in ordered)
    elif len(ordered) > 1:
        raise InvalidRequest("only one model file is currently supported")
    draft.config = {"model_format": "gguf"}


def _recognise_template(store: Store, draft: Draft) -> Generator[Progress, None, Mapping[str, Any]]:
    """Add the stop strings of a network whose chat template is a known one; returns its parameters."""
    known = known_template(chat_template(store.headers.facts(draft.network).metadata))
    if not known:
        return {}
    parameters = {"stop": list(known.stops)}
    draft.add("params", encode(parameters))
    yield Progress(f"using autodetected template {known.name}")
    return parameters


def _start_from_folder(store: Store, draft: Draft, files: Mapping[str, str], form: str) -> None:
    for path, digest in sorted(files.items()):
        size = store.blobs.existing(digest).stat().st_size
        draft.parts.append(Part(folder_layer(path, f"sha256:{hex_of(digest)}", size)))
    draft.config = {"model_format": form}


def _add_adapter(store: Store, draft: Draft, files: Mapping[str, str]) -> None:
    if draft.network.adapter:
        raise InvalidRequest(ONLY_ONE)
    if layer := gguf_adapter(store, files):
        draft.parts.append(Part(layer))
    else:
        draft.peft = dict(files)


def _check_kind(metadata: Mapping[str, Any]) -> None:
    """Raise for GGUF files that are not a whole model by themselves."""
    kind, architecture = metadata.get("general.type"), metadata.get("general.architecture")
    if kind == "adapter":
        raise InvalidRequest("the file is an adapter, which needs a model: give it as one of the adapters")
    if architecture == "clip" or kind in ("mmproj", "projector"):
        raise InvalidRequest("projectors are not supported yet")


def _quantize(draft: Draft, wanted: str) -> str:
    """Note in the draft what it is to be quantised to; returns the recipe, "" if it stays as it is."""
    present = draft.config["file_type"]
    if not wanted or wanted == present:
        return ""
    if wanted not in QUANTIZATIONS:
        raise NotQuantized(
            f"unsupported quantization type {wanted} - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        )
    if present not in _UNQUANTIZED:
        raise NotQuantized("quantization is only supported for F16, BF16 and F32 models")
    draft.config["file_type"] = wanted
    draft.quantizing = f"quantizing {present} model to {wanted}"
    return QUANTIZATIONS[wanted]


def _describe(store: Store, draft: Draft, request: CreateRequest) -> None:
    """Fill in the config: what is asked for, else inherited, else read from the network."""
    facts = store.headers.facts(draft.network)
    projectors = [Parts("gguf", (part.layer,)) for part in draft.parts if part.layer.kind == "projector"]
    config = draft.config
    config |= {
        key: value
        for key, value in (
            ("renderer", request.renderer), ("parser", request.parser), ("requires", request.requires)
        )
        if value
    }  # fmt: skip
    config |= _overrides(request.info)
    families = [config["model_family"]] if config.get("model_family") else []
    families += [facts.architecture, *(store.headers.facts(each).architecture for each in projectors)]
    config["model_families"] = list(dict.fromkeys(families))
    config.setdefault("model_format", "gguf")
    for key, value in (
        ("model_family", facts.architecture),
        ("model_type", human_count(facts.parameters)),
        ("file_type", facts.file_type),
    ):
        config[key] = config.get(key) or value


def _overrides(info: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields that a request's `info` sets; raises InvalidRequest for wrong types and names."""
    config: dict[str, Any] = {}
    for name, value in info.items():
        if name in _INFO_TEXTS:
            if not isinstance(value, str):
                raise InvalidRequest(f'info field "{name}" must be a string')
            config[_INFO_TEXTS[name]] = value
        elif name in _INFO_COUNTS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidRequest(f'info field "{name}" must be a number')
            if not 0 <= value < 2**63 or value != int(value):
                raise InvalidRequest(f'info field "{name}" must be a non-negative integer')
            config[name] = int(value)
        elif name == "capabilities":
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise InvalidRequest('info field "capabilities" must be an array of strings')
            config[name] = list(value)
        else:
            raise InvalidRequest(f'info field "{name}" is not known')
    return config


def _ordered(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config blob's fields in Ollama's order; optional ones only if they say something."""
    fields = {key: config.get(key, "") for key in _CONFIG_KEYS if key in _ALWAYS_WRITTEN or config.get(key)}
    return fields | {"architecture": "amd64", "os": "linux"}


def _set_texts(draft: Draft, request: CreateRequest, inherited: Mapping[str, Any], recipe: str) -> None:
    """Replace, append or merge the layers that a request gives.

    `inherited` are the source's parameters, `recipe` is that of its quantisation, kept as a parameter. Raises
    InvalidRequest where the request asks for another one.
    """
    if request.template:
        draft.replace("template", request.template.encode())
    if request.system:
        draft.replace("system", request.system.encode())
    for text in filter(None, request.licenses):
        draft.add("license", text.encode())
    parameters = dict(check_parameters(request.parameters))
    if recipe and parameters.setdefault("recipe", recipe) != recipe:
        asked = f"quantize {request.quantize.upper()} and the parameter recipe {parameters['recipe']}"
        raise InvalidRequest(f"{asked} contradict each other; leave one of them out")
    draft.parameters = {**inherited, **parameters}
    if parameters:
        draft.replace("params", encode(draft.parameters, sort_keys=True))
    if request.messages:
        draft.replace("messages", encode([_message_json(message) for message in request.messages]))


def _message_json(message: Message) -> dict[str, Any]:
    """A message in the order of Ollama's fields; empty ones after the content are left out."""
    extra: Iterable[tuple[str, Any]] = (
        ("thinking", message.thinking),
        ("images", [base64.b64encode(image).decode() for image in message.images]),
        ("tool_calls", list(message.tool_calls)),
        ("tool_name", message.tool_name),
        ("tool_call_id", message.tool_call_id),
    )
    return {"role": message.role, "content": message.content} | {key: value for key, value in extra if value}
