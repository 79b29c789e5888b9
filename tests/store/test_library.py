"""What other machines may read of a store."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from appliance.errors import BlobNotFound, ModelNotFound
from appliance.store.blobs import digest_of
from appliance.store.library import Library
from appliance.store.store import Store


@pytest.fixture
def library(store: Store, create: Callable[..., list[str]]) -> Library:
    create("m:v1", system="one")
    create("hf.co/someone/n:q4", source="m:v1", system="two")
    store.copy("hf.co/someone/n:q4", "elsewhere:5000/library/m:v1")
    store.copy("hf.co/someone/n:q4", "elsewhere:5000/library/m:v2")
    return Library(store)


def test_repositories_have_the_models_of_every_host(library: Library, store: Store) -> None:
    assert library.tags("library", "m") == ["v1", "v2"]
    assert library.tags("Someone", "N") == ["q4"]
    first = library.manifest("library", "m", "v1")
    assert first.digest == f"sha256:{store.model('m:v1').digest}" == digest_of(first.raw)
    assert first.media_type == json.loads(first.raw)["mediaType"]
    other = store.model("hf.co/someone/n:q4").digest
    assert library.manifest("library", "m", "v2").digest == f"sha256:{other}"
    assert library.manifest("library", "m", f"sha256:{other}").digest == f"sha256:{other}"
    for missing in (("library", "m", "v3"), ("library", "n", "q4"), ("library", "m", f"sha256:{'0' * 64}")):
        with pytest.raises(ModelNotFound):
            library.manifest(*missing)
    with pytest.raises(ModelNotFound):
        library.tags("library", "n")


def test_only_blobs_of_the_repository_are_read(library: Library, store: Store) -> None:
    store.blobs.add(b"of no model")
    assert library.blob("library", "m", digest_of(b"one")) == store.blobs.path(digest_of(b"one"))
    for digest in (digest_of(b"of no model"), f"sha256:{'0' * 64}"):
        with pytest.raises(BlobNotFound):
            library.blob("library", "m", digest)
    with pytest.raises(BlobNotFound):
        library.blob("someone", "n", digest_of(b"one"))


def test_only_whole_models_are_read(library: Library, store: Store) -> None:
    blob = store.blobs.path(store.model("m:v1").model_digest)
    data = blob.read_bytes()
    blob.write_bytes(data[:-1])
    with pytest.raises(ModelNotFound, match="not whole"):
        library.manifest("library", "m", "v1")
    blob.unlink()
    with pytest.raises(ModelNotFound, match="not whole"):
        library.manifest("library", "m", "v1")
    blob.write_bytes(data)
    store.manifests.path(store.model("m:v1").name).write_bytes(b"{")
    assert library.tags("library", "m") == ["v1", "v2"]
    assert library.manifest("library", "m", "v1").digest == f"sha256:{store.model('hf.co/someone/n:q4').digest}"
