"""The files on this disk that a Modelfile names: finding them, and sending them to the server as blobs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from appliance.cli.client import Client
from appliance.errors import ApplianceError
from appliance.store.split_gguf import NAME as SPLIT_NAME
from appliance.store.split_gguf import siblings

CHUNK_BYTES = 2**20

# A folder holds its weights in one of these forms, the first that matches. Torch's are zip files.
_WEIGHTS = (
    ("model*.safetensors", "*/model*.safetensors"),
    ("adapter_model.safetensors",),
    ("consolidated*.safetensors",),
    ("pytorch_model*.bin",),
    ("consolidated*.pth",),
    ("*.gguf",),
    ("*.onnx", "*.onnx.data", "*.onnx_data*", "onnx/*.onnx", "onnx/*.onnx.data", "onnx/*.onnx_data*"),
    ("*.bin",),
)
_ZIPPED = ("pytorch_model*.bin", "consolidated*.pth")
_COMPANIONS = (
    "*.json", "*/*.json", "chat_template.jinja", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt",
)  # fmt: skip


def expand(name: str, base: Path) -> Path:
    """A path of a Modelfile that lies in `base`: `~` and `~user` expanded, relative to that folder."""
    try:
        return base / Path(name).expanduser()
    except RuntimeError as error:
        raise ApplianceError(f"{name}: {error}") from error


def model_files(path: Path) -> dict[str, Path]:
    """The files that make up the model at `path`, by the names to send them under.

    For a folder: its weights and what belongs to them; for one part of a split GGUF all that lie beside it. Raises
    ApplianceError when a folder has no weights, or when a link leads out of it.
    """
    if path.is_file():
        parts = siblings(path) if SPLIT_NAME.fullmatch(path.name) else [path]
        return {part.name: part for part in parts}
    weights = next(filter(None, (_matches(path, patterns) for patterns in _WEIGHTS)), [])
    if not weights:
        raise ApplianceError("no Modelfile or safetensors files found")
    found = [*weights, *(_matches(path, _COMPANIONS) if weights[0].suffix != ".gguf" else ())]
    for file in found:
        if not file.resolve().is_relative_to(path.resolve()):
            raise ApplianceError(f"insecure path: {file.relative_to(path)}")
    return {str(file.relative_to(path)): file for file in found}


def _matches(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [
        file
        for pattern in patterns
        for file in sorted(folder.glob(pattern))
        if file.is_file() and (pattern not in _ZIPPED or zipfile.is_zipfile(file))
    ]


def send(client: Client, file: Path, report: Callable[[str, int, int], None]) -> str:
    """Put a file into the server's store unless it is there; returns its digest, "sha256:...".

    Reads the file twice: for the digest, then for sending. `report(status, done_bytes, total_bytes)` is told of both.
    """
    size = file.stat().st_size
    status = f"hashing {file.name}"
    hasher = hashlib.sha256()
    for chunk in _chunks(file, lambda done: report(status, done, size)):
        hasher.update(chunk)
    digest = f"sha256:{hasher.hexdigest()}"
    if not client.has_blob(digest):
        status = f"copying file {digest}"
        client.upload(digest, _chunks(file, lambda done: report(status, done, size)), size)
    return digest


def _chunks(file: Path, tell: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
            done += len(chunk)
            tell(done)
