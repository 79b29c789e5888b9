"""What the store takes, what nothing uses, what is damaged: measured, listed and removed on real files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import Bundle, write_description
from appliance.caretaker import Caretaker, caretaker
from appliance.config import Settings
from appliance.core import CreateRequest, Progress
from appliance.store.blobs import digest_of
from appliance.store.create import assemble
from appliance.store.store import Store
from appliance.upkeep import Verified
from converters.partial import write_checksums
from tests.store.conftest import add_file, write_gguf

Create = Callable[..., list[str]]
ORPHAN = b"no model has it" * 100


@pytest.fixture
def care(store: Store) -> Caretaker:
    return caretaker(Settings(recipe="exact"), store)


def add_bundle(store: Store, model: str, recipe: str, content: bytes = b"graph") -> Path:
    """A bundle as the converters leave it."""
    folder = store.model(model).bundle_path(recipe)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    facts = dict.fromkeys(("parameters", "layers", "kv_heads", "head_dim", "hidden_size", "vocab_size"), 1)
    digest = store.model(model).model_digest
    write_description(folder, Bundle("llama", **facts, context_length=1, bos_token=None, eos_tokens=(0,),
                                     add_bos=False, recipe=recipe, source_digest=digest))  # fmt: skip
    write_checksums(folder)
    return folder


def pruned(care: Caretaker, dry_run: bool = False) -> dict[str, str]:
    return {each.name: each.reason for each in care.prune(dry_run).leftovers}


def verified(care: Caretaker, remove: bool = False, dry_run: bool = False) -> Verified:
    result: Verified = last(care.verify(remove=remove, dry_run=dry_run))
    return result


def last(steps: Generator[Progress, None, Any]) -> Any:
    """What the steps return."""
    while True:
        try:
            assert isinstance(next(steps), Progress)
        except StopIteration as end:
            return end.value


def test_disk_usage_counts_shared_blobs_once(store: Store, create: Create, care: Caretaker) -> None:
    create("a", system="one")
    create("b", source="a", system="another")
    weights = store.model("a").size - len("one") - len(store.blobs.read(store.model("a").manifest.config.digest))  # type: ignore[union-attr]
    bundle = add_bundle(store, "a", "exact", b"g" * 5000)
    (bundle / "prefixes").mkdir()
    (bundle / "prefixes" / "x.prefix").write_bytes(b"p" * 300)
    store.blobs.add(ORPHAN)
    (store.blobs.folder / f"sha256-{'0' * 64}-partial").write_bytes(b"d" * 700)
    usage = care.disk_usage()
    by_name = {model.name: model for model in usage.models}
    assert by_name.keys() == {"a:latest", "b:latest"}
    assert by_name["a:latest"].size == store.model("a").size
    assert by_name["b:latest"].alone == len("another")
    assert by_name["a:latest"].alone == len("one")
    assert by_name["a:latest"].bundles == by_name["b:latest"].bundles == usage.bundles >= 5000
    assert usage.blobs == store.model("a").size + len("another")
    assert usage.blobs > weights
    assert (usage.unused, usage.prefixes, usage.partial) == (len(ORPHAN), 300, 700)
    assert 0 < usage.free < usage.disk


def test_prune_lists_then_removes(store: Store, create: Create, care: Caretaker) -> None:
    create("m")
    exact, compact = add_bundle(store, "m", "exact"), add_bundle(store, "m", "compact")
    source = exact.parent / f"sha256-{'1' * 64}"
    source.mkdir()
    store.blobs.add(ORPHAN)
    orphan = store.blobs.path(digest_of(ORPHAN))
    (store.derived / ("2" * 64) / "exact").mkdir(parents=True)
    dead = store.blobs.folder / "upload-0.partial-999999999"
    dead.write_bytes(b"x")
    expected = {
        f"blobs/{orphan.name}": "no model uses it",
        f"onnx/{exact.parent.name}/compact": "no model is loaded from this bundle any more",
        f"onnx/{'2' * 64}": "bundles of what no model uses",
        f"blobs/{dead.name}": "it was left half made",
    }
    assert pruned(care, dry_run=True) == expected
    assert all((store.root / name).exists() for name in expected)
    assert pruned(care) == expected
    assert not any((store.root / name).exists() for name in expected)
    assert exact.exists()
    assert source.exists()
    assert compact.parent.exists()
    assert pruned(care) == {}


def test_bundles_of_another_converter_are_of_no_use(
    store: Store, create: Create, care: Caretaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    create("m")
    bundle = add_bundle(store, "m", "exact")
    assert pruned(care) == {}
    monkeypatch.setattr("appliance.caretaker.CONVERTER_VERSION", 10**6)
    assert list(pruned(care)) == [f"onnx/{bundle.parent.name}/exact"]


def test_what_is_loaded_or_in_the_making_stays(store: Store, create: Create, make_gguf: Callable[..., Path]) -> None:
    create("m")
    loaded, other = add_bundle(store, "m", "compact"), add_bundle(store, "m", "fp32")
    care = Caretaker(store, caretaker(Settings(recipe="exact"), store)._choose, lambda: {loaded})
    download = store.blobs.folder / f"sha256-{'3' * 64}-partial"
    download.write_bytes(b"x")
    new = make_gguf(llama__block_count=3)
    steps = assemble(store, CreateRequest("new", files={"m.gguf": add_file(store, new)}))
    draft = last(steps)
    assert list(pruned(care)) == [f"onnx/{other.parent.name}/fp32"]
    assert download.exists()
    os.utime(download, (time.time() - 700,) * 2)
    assert list(pruned(care)) == [f"blobs/{download.name}"]
    assert store.blobs.has(draft.network.digest)


def test_a_damaged_manifest_keeps_blobs_and_bundles(store: Store, create: Create, care: Caretaker) -> None:
    create("m")
    add_bundle(store, "m", "compact")
    store.blobs.add(ORPHAN)
    store.manifests.path(store.model("m").name).write_bytes(b"{")
    found = care.prune(dry_run=False)
    assert found.leftovers == ()
    assert "'m:latest' is damaged" in found.kept
    assert store.blobs.has(digest_of(ORPHAN))


def test_a_whole_store_verifies(store: Store, create: Create, care: Caretaker) -> None:
    create("m", system="s")
    add_bundle(store, "m", "exact")
    found = verified(care)
    assert (found.blobs, found.bundles, found.flaws) == (3, 1, ())
    assert found.size > store.model("m").size


def flip(path: Path) -> None:
    """Change one bit in the middle, as a failing memory card does."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_one_bit_is_found_and_removed_when_asked(store: Store, create: Create, care: Caretaker) -> None:
    create("m", system="s")
    create("n", source="m", system="t")
    digest = store.model("m").model_digest
    flip(store.blobs.path(digest))
    (flaw,) = verified(care).flaws
    assert flaw.name == f"blobs/{store.blobs.path(digest).name}"
    assert "its bytes have the digest sha256:" in flaw.problem
    assert sorted(flaw.models) == ["m:latest", "n:latest"]
    assert "pull it again" in flaw.mend
    assert not flaw.removed
    assert verified(care, remove=True, dry_run=True).flaws[0].removed
    assert store.blobs.has(digest)
    assert verified(care, remove=True).flaws[0].removed
    assert not store.blobs.has(digest)
    (missing,) = verified(care).flaws
    assert missing.problem == "it is missing"


def test_mending_is_sending_the_file_again(
    store: Store, create: Create, care: Caretaker, make_gguf: Callable[..., Path]
) -> None:
    file = make_gguf()
    create("m", files={"m.gguf": add_file(store, file)})
    flip(store.blobs.path(store.model("m").model_digest))
    verified(care, remove=True)
    add_file(store, file)
    assert verified(care).flaws == ()
    assert store.model("m").details().model_info["general.architecture"] == "llama"


def test_damaged_bundles(store: Store, create: Create) -> None:
    create("m")
    loaded, flipped, cut = (add_bundle(store, "m", recipe) for recipe in ("exact", "compact", "fp32"))
    care = Caretaker(store, caretaker(Settings(recipe="exact"), store)._choose, lambda: {loaded})
    flip(loaded / "model.onnx")
    flip(flipped / "model.onnx")
    (cut / "model.onnx").unlink()
    found = {flaw.name.rpartition("/")[2]: flaw for flaw in verified(care, remove=True).flaws}
    assert found["compact"].problem == "model.onnx is not what was written"
    assert "cannot be read" in found["fp32"].problem
    assert "stop the model" in found["exact"].mend
    assert [found[name].removed for name in ("exact", "compact", "fp32")] == [False, True, True]
    assert [each.exists() for each in (loaded, flipped, cut)] == [True, False, False]
    assert all(flaw.models == ("m:latest",) for flaw in found.values())


def test_a_damaged_manifest_is_named(store: Store, create: Create, care: Caretaker) -> None:
    create("m")
    store.manifests.path(store.model("m").name).write_bytes(b"{")
    (flaw,) = verified(care).flaws
    assert flaw.models == ("m:latest",)
    assert "appliance rm m:latest" in flaw.mend


def test_a_blob_that_was_mended_meanwhile_stays(store: Store, tmp_path: Path, care: Caretaker) -> None:
    file = write_gguf(tmp_path / "m.gguf")
    digest = add_file(store, file)
    path = store.blobs.path(digest)
    whole = path.read_bytes()
    flip(path)
    steps = care.verify(remove=True)
    next(steps)
    other = tmp_path / "other"
    other.write_bytes(whole)
    os.replace(other, path)
    assert not last(steps).flaws[0].removed
    assert path.read_bytes() == whole
