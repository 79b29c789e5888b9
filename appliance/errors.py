"""Every error the appliance raises on purpose.

    ApplianceError
    ├── InvalidRequest            the client's mistake
    │   ├── InvalidName
    │   ├── InvalidOption         an option of the wrong type
    │   ├── InvalidTemplate
    │   ├── Unsupported           the model lacks a capability
    │   ├── InvalidArchive        not what `appliance export` makes, or damaged
    │   ├── PromptTooLong         .needed, .limit
    │   └── NotEmbedded           what the runner says where no vector can be made
    │       ├── InputTooLong      .needed, .limit
    │       └── NoEmbeddings      the model is of another kind
    ├── Forbidden                 a cloud model, which this server never reaches
    ├── ModelNotFound
    ├── BlobNotFound
    ├── DigestMismatch            .expected, .actual
    ├── ModelFileError            a model file that cannot be used
    │   ├── NotGGUF
    │   ├── TruncatedGGUF         .needed, .actual
    │   ├── NotSafetensors
    │   ├── UnsupportedModel      architecture or tensor type; .supported
    │   └── NotQuantized          not to what is asked for
    ├── ConversionFailed          the converter ended without a bundle
    ├── CorruptManifest
    ├── InvalidModelfile          .line
    ├── InvalidSetting            config.toml or a flag
    ├── ServerBusy                .limit, .retry_after_s
    ├── NotEnoughMemory           .needed, .available (bytes)
    ├── NotEnoughDisk             .needed, .available, .floor (bytes)
    ├── RegistryError             a registry refused, misbehaved, or could not be reached
    ├── RequestCancelled
    ├── OutputError               the model's markup cannot be read
    └── EngineStopped             the engine thread died or was closed

`str(error)` is the text for the client. `api/errors.py` maps classes to HTTP statuses.
"""

from __future__ import annotations

from pathlib import Path


class ApplianceError(Exception):
    """Base of all. The message is fit for a client: no paths of this machine, no tracebacks."""


class InvalidRequest(ApplianceError):
    """The request cannot be carried out as it was sent."""


class InvalidName(InvalidRequest):
    """A model name that the grammar does not allow."""


class InvalidOption(InvalidRequest):
    """An option whose value has the wrong JSON type."""


class InvalidTemplate(InvalidRequest):
    """A template that does not parse, or that ran too long or grew too large."""


class Unsupported(InvalidRequest):
    """The model does not have the capability that the request needs."""


class InvalidArchive(InvalidRequest):
    """A file that is no archive of models, or a damaged one; `flaw` says what is wrong with it."""

    def __init__(self, flaw: str) -> None:
        super().__init__(f"the archive cannot be imported: {flaw}; make it with `appliance export`, and copy it whole")


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the context and may not be shortened."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(
            "the prompt is longer than the context length currently available to the model; shorten the prompt, "
            "adjust the context length in settings, or use a model with a longer context length "
            f"({needed} tokens exceed the limit of {limit})"
        )
        self.needed = needed
        self.limit = limit


class NotEmbedded(InvalidRequest):
    """No embedding can be made of the input, or not by this model."""


class InputTooLong(NotEmbedded):
    """A text to embed or to rank does not fit the context and may not be truncated."""

    def __init__(self, needed: int, limit: int) -> None:
        super().__init__(
            f"the input length exceeds the context length ({needed} tokens exceed the limit of {limit}; "
            "shorten the input, allow it to be truncated, or raise num_ctx)"
        )
        self.needed = needed
        self.limit = limit


class NoEmbeddings(NotEmbedded):
    """The model does not embed texts."""

    def __init__(self, model: str) -> None:
        super().__init__(f'This server does not support embeddings. "{model}" is not an embedding model')


class Forbidden(ApplianceError):
    """Something this server never does: reach a cloud."""


class ModelNotFound(ApplianceError):
    """No such model is installed."""


class BlobNotFound(ApplianceError):
    """No such blob is in the store."""


class DigestMismatch(ApplianceError):
    """Uploaded bytes do not have the digest they were announced with."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f'digest mismatch, expected "{expected}", got "{actual}"')
        self.expected = expected
        self.actual = actual


class ModelFileError(ApplianceError):
    """A model file that cannot be used."""


class NotGGUF(ModelFileError):
    """The file does not start as a GGUF of a version we read, or its header contradicts itself."""


class TruncatedGGUF(ModelFileError):
    """The file ends before the data its header announces."""

    def __init__(self, what: str, needed: int, actual: int) -> None:
        super().__init__(f"the file is cut short: {what} needs {needed:,} bytes, the file has {actual:,}")
        self.needed = needed
        self.actual = actual


class NotSafetensors(ModelFileError):
    """The file is no safetensors file, ends early, or its header contradicts itself."""


class UnsupportedModel(ModelFileError):
    """An architecture, tokenizer or tensor type that the converters do not read."""

    def __init__(self, what: str, supported: tuple[str, ...]) -> None:
        super().__init__(f"{what} is not supported; supported: {', '.join(supported)}")
        self.supported = supported


class NotQuantized(ModelFileError):
    """A model that cannot be quantised to what is asked for."""


class ConversionFailed(ApplianceError):
    """The converter ended without a bundle."""


class CorruptManifest(ApplianceError):
    """A manifest that is not the JSON it should be."""


class InvalidModelfile(ApplianceError):
    """A Modelfile that does not parse; `line` counts from 1, 0 when no line is to blame."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"(line {line}): {message}" if line else message)
        self.line = line


class InvalidSetting(ApplianceError):
    """A setting, from the config file or a flag, that is unknown or has a bad value."""


class ServerBusy(ApplianceError):
    """The queue is full. `retry_after_s` is when it should not be any more; a guess where nothing is known."""

    def __init__(self, limit: int, retry_after_s: int = 5) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")
        self.limit = limit
        self.retry_after_s = retry_after_s


class NotEnoughMemory(ApplianceError):
    """The model does not fit, even with every other model unloaded."""

    def __init__(self, needed: int, available: int, where: str = "system") -> None:
        super().__init__(
            f"model requires more {where} memory ({needed / 2**30:.1f} GiB) than is available "
            f"({available / 2**30:.1f} GiB)"
        )
        self.needed = needed
        self.available = available


class NotEnoughDisk(ApplianceError):
    """The file system has too little room for what is to be written."""

    def __init__(self, needed: int, available: int, floor: int = 0) -> None:
        kept = f" (besides {_size(floor)} that disk_floor_bytes keeps free)" if floor else ""
        super().__init__(f"not enough disk space: {_size(needed)} needed, {_size(available)} available{kept}")
        self.needed = needed
        self.available = available
        self.floor = floor


class RegistryError(ApplianceError):
    """A registry refused, misbehaved, or could not be reached."""


class RequestCancelled(ApplianceError):
    """The client went away, or the request was withdrawn."""

    def __init__(self) -> None:
        super().__init__("request canceled")


class OutputError(ApplianceError):
    """The model wrote a tool call, or other markup, that its parser cannot read."""


class EngineStopped(ApplianceError):
    """The engine ended under a request."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(
            "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
            "check the server's logs for details" + (f": {detail}" if detail else "")
        )


def first_line(error: BaseException | str, folder: Path | None = None) -> str:
    """What a library's error says, in a line of at most 300 characters and without the path of `folder`.

    An error without words is called by its type.
    """
    text = str(error).replace(str(folder), "") if folder else str(error)
    nothing = "unknown error" if isinstance(error, str) else type(error).__name__
    return next(iter(text.strip().splitlines()), nothing)[:300]


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
