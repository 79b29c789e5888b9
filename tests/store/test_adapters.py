"""Models with an adapter in the store: the layer, what names their bundles, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core import CreateRequest
from appliance.errors import ApplianceError, InvalidRequest
from appliance.store.adapters import add_converted, peft_folder
from appliance.store.parts import adapted_digest
from appliance.store.store import Store
from tests.store.conftest import add_file, run_create
from tests.store.creating import draft_of
from tests.tiny_adapter import write_gguf_adapter, write_peft

Create = Callable[..., list[str]]


@pytest.fixture
def adapter(store: Store, tmp_path: Path) -> dict[str, str]:
    return {"a.gguf": add_file(store, write_gguf_adapter(tmp_path / "a.gguf"))}


@pytest.fixture
def peft(store: Store, tmp_path: Path) -> dict[str, str]:
    return {path.name: add_file(store, path) for path in write_peft(tmp_path / "peft").iterdir()}


def test_an_adapter_is_a_layer_of_its_own(store: Store, create: Create, adapter: dict[str, str]) -> None:
    create("base")
    base = store.model("base")
    statuses = create("m", source="base", adapters=adapter)
    assert statuses[0] == "parsing GGUF"
    model = store.model("m")
    (layer,) = model.layers("adapter")
    assert layer.media_type == "application/vnd.ollama.image.adapter"
    assert (layer.digest, model.adapter()) == (adapter["a.gguf"], store.blobs.path(adapter["a.gguf"]))
    model.require_runnable()
    assert model.model_digest == adapted_digest(base.model_digest, layer.digest) != base.model_digest
    assert model.source() == base.source()
    assert f"ADAPTER {store.blobs.path(layer.digest)}" in model.details().modelfile


def test_children_inherit_it(store: Store, create: Create, adapter: dict[str, str]) -> None:
    create("m", adapters=adapter)
    create("child", source="m", system="s")
    assert store.model("child").model_digest == store.model("m").model_digest
    with pytest.raises(InvalidRequest, match=r"^only one adapter is currently supported$"):
        create("grandchild", source="child", adapters=adapter)


def test_bundles_go_with_the_last_model_that_has_the_adapter(
    store: Store, create: Create, adapter: dict[str, str]
) -> None:
    create("base")
    create("m", source="base", adapters=adapter)
    bundles = [store.model(name).bundle_path("exact") for name in ("base", "m")]
    for bundle in bundles:
        bundle.mkdir(parents=True)
    store.prune()
    assert all(bundle.exists() for bundle in bundles)
    store.delete("m")
    assert [bundle.exists() for bundle in bundles] == [True, False]
    assert not store.blobs.has(adapter["a.gguf"])


def test_what_an_adapter_changes_takes_more_room(store: Store, tmp_path: Path, adapter: dict[str, str]) -> None:
    from tests.tiny_model import write_tiny_gguf

    files = {"m.gguf": add_file(store, write_tiny_gguf(tmp_path / "m.gguf", tensor_type="Q4_0"))}
    run_create(store, CreateRequest("plain", files=files))
    run_create(store, CreateRequest("adapted", files=files, adapters=adapter))
    plain, adapted = (store.model(name).header for name in ("plain", "adapted"))
    assert plain
    assert adapted
    assert adapted.footprint.weights["compact"] > plain.footprint.weights["compact"]
    assert adapted.footprint.weights["fp32"] == plain.footprint.weights["fp32"]


def test_files_of_peft_are_kept_until_they_are_converted(
    store: Store, create: Create, peft: dict[str, str], tmp_path: Path
) -> None:
    create("base")
    draft = draft_of(store, CreateRequest("m", source="base", adapters=peft))
    store.prune()
    with peft_folder(store, draft.peft) as folder:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in (tmp_path / "peft").iterdir()
        }
    assert not folder.exists()
    layer = add_converted(store, write_gguf_adapter(tmp_path / "made.gguf"))
    assert store.blobs.path(layer.digest).stat().st_size == layer.size


@pytest.mark.parametrize(
    ("names", "content", "message"),
    [
        (("a.bin",), b"XXXX", "unknown type"),
        (("a.gguf",), b"XXXXXXXX", "supplied file was not in GGUF format"),
        (("a.safetensors", "b.safetensors"), b"XXXX", "only one adapter is currently supported"),
    ],
)
def test_files_that_are_no_adapter(
    store: Store, create: Create, tmp_path: Path, names: tuple[str, ...], content: bytes, message: str
) -> None:
    (tmp_path / "a").write_bytes(content)
    digest = add_file(store, tmp_path / "a")
    with pytest.raises(ApplianceError, match=f"^{message}$"):
        create("m", adapters=dict.fromkeys(names, digest))


def test_one_adapter_only(store: Store, create: Create, tmp_path: Path, adapter: dict[str, str]) -> None:
    other = add_file(store, write_gguf_adapter(tmp_path / "b.gguf", seed=1))
    with pytest.raises(InvalidRequest, match=r"^only one adapter is currently supported$"):
        create("m", adapters={**adapter, "b.gguf": other})


def test_a_model_is_no_adapter_and_an_adapter_no_model(
    store: Store, create: Create, make_gguf: Callable[..., Path], adapter: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest, match="given as an adapter is not one"):
        create("m", adapters={"a.gguf": add_file(store, make_gguf())})
    with pytest.raises(InvalidRequest, match="is an adapter, which needs a model"):
        run_create(store, CreateRequest("m", files=adapter))
