"""The files on this disk that a Modelfile names: finding them, and sending them to the server as blobs."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from appliance.cli.client import Client
from appliance.cli.progress import Statuses
from appliance.errors import ApplianceError
from appliance.store.hugging_face import COMPANIONS, MODEL_WEIGHTS
from appliance.store.split_gguf import NAME as SPLIT_NAME
from appliance.store.split_gguf import siblings

CHUNK_BYTES = 2**20
WORKERS = 4

# A folder holds its weights in one of these forms, the first that matches. Torch's are zip files.
_WEIGHTS = (
    MODEL_WEIGHTS,
    ("adapter_model.safetensors",),
    ("consolidated*.safetensors",),
    ("pytorch_model*.bin",),
    ("consolidated*.pth",),
    ("*.gguf",),
    ("*.onnx", "*.onnx.data", "*.onnx_data*", "onnx/*.onnx", "onnx/*.onnx.data", "onnx/*.onnx_data*"),
    ("*.bin",),
)
_ZIPPED = ("pytorch_model*.bin", "consolidated*.pth")

# What starts like this is no model's name, nor is what ends like this and has no tag.
_PATHS = ("./", "../", "/", "~")
_FILES = (".gguf", ".safetensors", ".bin", ".onnx")


def existing(instruction: str, name: str, base: Path) -> Path | None:
    """The file or folder that an instruction of a Modelfile in the folder `base` names: relative to it, `~` expanded.

    None where nothing is there and the name can be a model's. Raises ApplianceError where it cannot.
    """
    try:
        path = base / Path(name).expanduser()
    except RuntimeError as error:
        raise ApplianceError(f"{instruction} {name}: {error}") from error
    if path.exists():
        return path
    if instruction == "FROM" and not name.startswith(_PATHS) and (":" in name or not name.lower().endswith(_FILES)):
        return None
    raise ApplianceError(f"{instruction} {name}: no such file or folder ({path})")


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
    found = [*weights, *(_matches(path, COMPANIONS) if weights[0].suffix != ".gguf" else ())]
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


def send(client: Client, files: Mapping[str, Path], statuses: Statuses) -> dict[str, str]:
    """Put files, by their names, into the server's store unless they are there; returns digests, "sha256:...", by name.

    A few at a time. Every file is read once for its digest, and once more if it has to be sent.
    """
    stop = Event()  # what goes wrong with one file, and Ctrl+C, ends the work on the others
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            found = pool.map(lambda name: _send(client, name, files[name], statuses, stop), files)
            return dict(zip(files, found, strict=True))
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _send(client: Client, name: str, file: Path, statuses: Statuses, stop: Event) -> str:
    size = file.stat().st_size
    hasher = hashlib.sha256()
    for chunk, done in _chunks(file, stop):
        hasher.update(chunk)
        if size > CHUNK_BYTES:  # anything smaller is done before it is read
            statuses.show(f"hashing {name}", done, size, in_bytes=True)
    digest = f"sha256:{hasher.hexdigest()}"
    if not client.has_blob(digest):
        client.upload(digest, _sent(file, size, f"copying file {digest}", statuses, stop), size)
    return digest


def _sent(file: Path, size: int, status: str, statuses: Statuses, stop: Event) -> Iterator[bytes]:
    statuses.show(status, 0, size, in_bytes=True)
    for chunk, done in _chunks(file, stop):
        yield chunk
        statuses.show(status, done, size, in_bytes=True)


def _chunks(file: Path, stop: Event) -> Iterator[tuple[bytes, int]]:
    """The file's bytes, and how many there are with them."""
    done = 0
    with file.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            if stop.is_set():
                raise ApplianceError("interrupted")
            done += len(chunk)
            yield chunk, done
