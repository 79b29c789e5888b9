"""What tests of `create` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.core import CreateRequest
from appliance.store.create import Draft, assemble
from appliance.store.store import Store

Create = Callable[..., list[str]]
MakeGGUF = Callable[..., Path]
IMAGE = "application/vnd.ollama.image."


def kinds(store: Store, name: str) -> list[str]:
    return list(store.model(name).kinds)


def draft_of(store: Store, request: CreateRequest) -> Draft:
    assembling = assemble(store, request)
    while True:
        try:
            next(assembling)
        except StopIteration as end:
            draft: Draft = end.value
            return draft


def files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))
