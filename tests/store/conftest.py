"""A store in a temporary folder, tiny GGUF files, and models made of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from appliance.core import CreateRequest, Progress
from appliance.store.blobs import digest_of
from appliance.store.create import assemble, commit
from appliance.store.store import Store

JINJA = "{% for message in messages %}{{ message.content }}{% endfor %}"


def add_file(store: Store, path: Path) -> str:
    """Put a file into the store, as an upload would; returns its digest."""
    data = path.read_bytes()
    store.blobs.add(data)
    return digest_of(data)


def write_gguf(
    path: Path, architecture: str = "llama", template: str = JINJA, file_type: int = 1, **metadata: Any
) -> Path:
    """A GGUF with two small tensors, 8 x 4 and 4 weights, and more metadata: dots are written as `__`."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_file_type(file_type)
    writer.add_context_length(256)
    writer.add_embedding_length(4)
    if template:
        writer.add_chat_template(template)
    for key, value in metadata.items():
        name = key.replace("__", ".")
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    writer.add_tensor("token_embd.weight", np.ones((8, 4), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def run_create(store: Store, request: CreateRequest) -> list[str]:
    """Create a model without converting it; the statuses of the stream."""
    statuses = []

    def note(progress: Progress) -> None:
        statuses.append(progress.status)

    assembling = assemble(store, request)
    while True:
        try:
            note(next(assembling))
        except StopIteration as end:
            draft = end.value
            break
    for progress in commit(store, draft):
        note(progress)
    return statuses


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def make_gguf(tmp_path: Path) -> Callable[..., Path]:
    count = iter(range(1000))
    return lambda **metadata: write_gguf(tmp_path / f"tiny-{next(count)}.gguf", **metadata)


@pytest.fixture
def create(store: Store, make_gguf: Callable[..., Path]) -> Callable[..., list[str]]:
    """Create a model from `source`, or from a GGUF with the metadata given by `gguf_with`."""

    def run(model: str, gguf_with: dict[str, Any] | None = None, **fields: Any) -> list[str]:
        if not fields.get("source") and "files" not in fields:
            fields["files"] = {"m.gguf": add_file(store, make_gguf(**(gguf_with or {})))}
        return run_create(store, CreateRequest(model, **fields))

    return run


def age(path: Path, seconds: float) -> None:
    """Make the file so many seconds old."""
    then = time.time() - seconds
    os.utime(path, (then, then))
