"""The store: opening what Ollama left, listing, copying, deleting, pruning."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import CorruptManifest, InvalidName, ModelNotFound
from appliance.store.manifests import Layer, Manifest, encode_manifest, parse_manifest
from appliance.store.names import parse_name
from appliance.store.store import Store
from tests.store.conftest import age, write_gguf

IMAGE = "application/vnd.ollama.image."
Create = Callable[..., list[str]]


def put_blob(root: Path, data: bytes, separator: str = "-") -> dict[str, object]:
    """A blob as another program wrote it, and the fields of its layer."""
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    (root / "blobs" / f"sha256{separator}{digest}").write_bytes(data)
    return {"digest": f"sha256:{digest}", "size": len(data)}


def put_manifest(root: Path, path: str, manifest: object) -> bytes:
    file = root / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest, indent=1).encode()
    file.write_bytes(raw)
    return raw


def ollama_store(root: Path) -> bytes:
    """A model as an older Ollama pulled it; returns its manifest."""
    gguf = write_gguf(root.parent / "source.gguf", template="")
    config = {
        "model_format": "gguf", "model_family": "llama", "model_families": None, "model_type": "7B",
        "file_type": "Q4_0", "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1", "sha256:2"]},
    }  # fmt: skip
    layers = [
        (IMAGE + "model", gguf.read_bytes()),
        (IMAGE + "license", b"LICENSE ONE"),
        (IMAGE + "license", b"LICENSE TWO"),
        (IMAGE + "prompt", b"{{ .System }} {{ .Prompt }}"),
        (IMAGE + "system", b"Be kind."),
        (IMAGE + "params", b'{"stop":["[INST]","[/INST]"],"num_ctx":4096}'),
        (IMAGE + "messages", b'[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]'),
        (IMAGE + "embed", b"obsolete"),
    ]
    return put_manifest(
        root,
        "registry.ollama.ai/library/llama2/7b",
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                **put_blob(root, json.dumps(config).encode(), ":"),
            },
            "layers": [{"mediaType": kind, **put_blob(root, data, ":")} for kind, data in layers],
        },
    )


def blob_names(store: Store) -> set[str]:
    return {entry.name for entry in store.blobs.folder.iterdir()}


def names(store: Store) -> list[str]:
    return [model.name.short for model in store.list()]


def test_an_ollama_store_opens_as_it_is(tmp_path: Path) -> None:
    raw = ollama_store(tmp_path / "models")
    store = Store(tmp_path / "models")
    assert all(name.startswith("sha256-") for name in blob_names(store))
    assert len(blob_names(store)) == 9

    (model,) = store.list()
    assert model.name.short == "llama2:7b"
    assert model.digest == hashlib.sha256(raw).hexdigest()
    assert store.manifests.read(model.name) == raw
    assert model.size == sum(entry.stat().st_size for entry in store.blobs.folder.iterdir())
    assert model.template == "{{ .System }} {{ .Prompt }}"
    assert model.system == "Be kind."
    assert model.licenses == ("LICENSE ONE", "LICENSE TWO")
    assert model.parameters == {"stop": ["[INST]", "[/INST]"], "num_ctx": 4096}
    assert [(message.role, message.content) for message in model.messages] == [("user", "hi"), ("assistant", "ho")]
    assert model.uses_go_template
    facts = model.facts()
    assert (facts.format, facts.family, facts.families) == ("gguf", "llama", ("llama",))
    assert (facts.parameter_size, facts.quantization_level) == ("7B", "Q4_0")
    assert (facts.context_length, facts.embedding_length) == (256, 4)
    assert model.capabilities() == ("completion",)


def test_an_empty_store(store: Store) -> None:
    assert list(store.summaries()) == []
    with pytest.raises(ModelNotFound, match=r"^model 'nope' not found$"):
        store.model("nope")
    with pytest.raises(InvalidName, match=r"^invalid model name$"):
        store.model("no such name")


@pytest.mark.spec(69)
def test_the_list_is_newest_first_and_short(store: Store, create: Create) -> None:
    for days, name in enumerate(["mistral:7b-instruct-q4_0", "apple/OpenELM", "myhost/mynamespace/lips:code"]):
        create(name)
        age(store.manifests.path(parse_name(name)), 86400 * days)
    rows = store.summaries()
    assert [row.name for row in rows] == [
        "mistral:7b-instruct-q4_0", "apple/OpenELM:latest", "myhost/mynamespace/lips:code",
    ]  # fmt: skip
    assert rows[0].modified_at > rows[1].modified_at > rows[2].modified_at
    assert rows[0].modified_at.tzinfo is not None
    assert rows[0].facts.parameter_size == "36"
    assert rows[0].capabilities == ("completion",)


@pytest.mark.spec(5, 14)
def test_names_are_found_in_any_case(store: Store, create: Create) -> None:
    create("Test")
    digest = store.model("tEST:LATEST").digest
    create("TEST", source="test", system="new")
    assert names(store) == ["Test:latest"]
    assert store.model("Test").digest != digest
    store.copy("test", "Other")
    store.copy("TEST", "OTHER")
    assert sorted(names(store)) == ["Other:latest", "Test:latest"]
    store.delete("tesT")
    assert names(store) == ["Other:latest"]
    assert sorted(entry.name for entry in (store.manifests.folder / "registry.ollama.ai/library").iterdir()) == [
        "Other"
    ]


def test_a_local_suffix_is_not_part_of_the_name(store: Store, create: Create) -> None:
    create("m:8b")
    assert store.model("m:8b:local").name == parse_name("m:8b")
    with pytest.raises(InvalidName, match=r"use either :local or :cloud"):
        store.model("m:cloud:local")


@pytest.mark.spec(9)
def test_copy(store: Store, create: Create) -> None:
    create("one", system="one")
    store.copy("one", "beefsteak")
    assert store.model("beefsteak").digest == store.model("one").digest
    before = store.manifests.read(parse_name("one"))
    store.copy("one", "ONE")
    assert store.manifests.read(parse_name("one")) == before
    create("two", system="two")
    two = store.model("two").layers("system")[0].digest
    store.copy("one", "two")
    assert not store.blobs.has(two)


@pytest.mark.parametrize(
    ("source", "destination", "kind", "message"),
    [
        ("", "b", InvalidName, 'source "" is invalid'),
        ("a b", "b", InvalidName, 'source "a b" is invalid'),
        ("one", "../b", InvalidName, 'destination "../b" is invalid'),
        ("Nope", "b", ModelNotFound, 'model "Nope" not found'),
    ],
)
def test_copy_errors(
    store: Store, create: Create, source: str, destination: str, kind: type[Exception], message: str
) -> None:
    create("one")
    with pytest.raises(kind) as caught:
        store.copy(source, destination)
    assert str(caught.value) == message


@pytest.mark.spec(6, 70)
def test_delete_removes_what_only_it_used(store: Store, create: Create) -> None:
    create("one", system="shared")
    create("two", source="one", template="{{ .Prompt }}")
    one, two = store.model("one"), store.model("two")
    store.delete("one")
    assert blob_names(store) == {digest.replace(":", "-") for digest in two.manifest.digests}
    assert one.manifest.digests & two.manifest.digests
    store.delete("two")
    assert blob_names(store) == set()
    assert list(store.manifests.folder.iterdir()) == []
    with pytest.raises(ModelNotFound, match=r"^model 'two' not found$"):
        store.delete("two")
    with pytest.raises(InvalidName, match=r'^name "t/w/o/" is invalid$'):
        store.delete("t/w/o/")


@pytest.mark.spec(70)
def test_delete_of_a_cloud_stub_and_of_a_doubled_layer(tmp_path: Path) -> None:
    root = tmp_path / "models"
    layer = {"mediaType": IMAGE + "license", **put_blob(root, b"text")}
    config = {"mediaType": "c", **put_blob(root, b'{"remote_host":"https://x","remote_model":"gpt-oss:20b"}')}
    put_manifest(root, "registry.ollama.ai/library/gpt-oss/20b-cloud", {"config": config, "layers": [layer, layer]})
    store = Store(root)
    assert store.model("gpt-oss:20b:cloud").remote
    assert store.summaries()[0].capabilities == ()
    store.delete("gpt-oss:20b:cloud")
    assert blob_names(store) == set()


def test_bundles_go_with_their_model(store: Store, create: Create) -> None:
    create("one")
    create("two", source="one", system="x")
    bundle = store.model("one").bundle_path("exact")
    digest = store.model("one").model_digest
    assert bundle == store.root / "onnx" / digest.removeprefix("sha256:") / "exact"
    bundle.mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(b"graph")
    store.model("one").bundle_path("int8-rotated", "q8_0").mkdir()
    assert (bundle.parent / "int8-rotated-kv-q8_0").is_dir()
    store.delete("one")
    assert bundle.exists()
    store.delete("two")
    assert list((store.root / "onnx").iterdir()) == []
    with pytest.raises(ValueError):
        Store(store.root).model(_create_again(create)).bundle_path("../..")
    with pytest.raises(ValueError):
        store.model("again").bundle_path("exact", "../..")


def _create_again(create: Create) -> str:
    create("again")
    return "again"


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b'{"layers":[{}]}', b'{"layers":{"a":1}}', b'{"config":3}',
        b'{"layers":[{"mediaType":"x","digest":"sha256:../../../etc/passwd","size":1}]}',
        b'{"layers":[{"mediaType":"x","digest":"sha256:' + b"0" * 64 + b'","size":-1}]}',
        b'{"layers":[{"mediaType":"x","digest":"sha256:' + b"0" * 64 + b'","size":"1"}]}',
        b'{"layers":[{"mediaType":1,"digest":"sha256:' + b"0" * 64 + b'","size":1}]}',
        b" " * (5 << 20),
    ],
    ids=range(14),
)  # fmt: skip
def test_a_corrupt_manifest(store: Store, create: Create, caplog: pytest.LogCaptureFixture, raw: bytes) -> None:
    create("good", system="mine")
    put_manifest(store.root, "registry.ollama.ai/library/bad/latest", raw)
    orphan = store.root / "blobs" / f"sha256-{'1' * 64}"
    orphan.write_bytes(b"perhaps of the corrupt one")
    with caplog.at_level(logging.WARNING):
        again = Store(store.root)
        assert names(again) == ["good:latest"]
    assert "'bad:latest' is damaged" in caplog.text
    with pytest.raises(CorruptManifest, match=r"'bad:latest' is damaged"):
        again.model("bad")
    with pytest.raises(CorruptManifest):
        again.copy("bad", "worse")
    assert orphan.exists()  # nobody knows what the corrupt manifest needs

    again.delete("good")
    assert len(blob_names(again)) == 4
    again.delete("bad")
    assert names(again) == []
    assert blob_names(Store(store.root)) == set()


def test_a_missing_config_or_text(store: Store, create: Create, caplog: pytest.LogCaptureFixture) -> None:
    create("m", system="x")
    model = store.model("m")
    store.blobs.remove(model.layers("system")[0].digest)
    with pytest.raises(CorruptManifest, match=r"the system of 'm:latest' is missing or damaged"):
        _ = store.model("m").system
    assert model.manifest.config
    store.blobs.path(model.manifest.config.digest).write_bytes(b"[1]")
    with caplog.at_level(logging.WARNING):
        assert names(store) == []
    assert "the config of 'm:latest' is missing or damaged" in caplog.text


def test_a_model_without_its_weights_is_still_listed(store: Store, create: Create) -> None:
    create("m")
    store.blobs.path(store.model("m").model_digest).write_bytes(b"GGUFxxxx")
    (row,) = Store(store.root).summaries()
    assert (row.name, row.facts.family, row.capabilities) == ("m:latest", "llama", ())


def test_a_host_that_no_folder_can_be_named_after(store: Store, create: Create) -> None:
    create(f"{'h' * 255}/a/b")
    for action in (store.model, store.delete, lambda name: store.copy(f"{'h' * 255}/a/b", name)):
        with pytest.raises(InvalidName):
            action(f"{'h' * 256}/a/b")


def test_links_are_not_followed(store: Store, create: Create, tmp_path: Path) -> None:
    create("good")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "latest").write_bytes(store.manifests.read(parse_name("good")))
    library = store.manifests.folder / "registry.ollama.ai/library"
    (library / "linked").symlink_to(outside)
    (library / "good/other").symlink_to(outside / "latest")
    assert names(store) == ["good:latest"]
    for name in ("linked", "good:other"):
        with pytest.raises(CorruptManifest, match=r"is a link"):
            store.model(name)
    orphan = store.root / "blobs" / f"sha256-{'1' * 64}"
    orphan.write_bytes(b"perhaps of a linked manifest")
    Store(store.root)
    assert orphan.exists()
    store.delete("good:other")
    for change in (lambda: store.delete("linked"), lambda: store.copy("good", "linked:new")):
        with pytest.raises(CorruptManifest, match=r"is a link"):
            change()
    assert [entry.name for entry in outside.iterdir()] == ["latest"]


def test_odd_entries_are_left_alone(store: Store, create: Create) -> None:
    create("good")
    library = store.manifests.folder / "registry.ollama.ai/library"
    (library / "file").write_bytes(b"x")
    (library / "deep/er/than").mkdir(parents=True)
    (library / "deep/er/than/that").write_bytes(b"x")
    (store.manifests.folder / "good").write_bytes(b"x")
    (store.root / "blobs/README").write_bytes(b"x")
    (store.root / "onnx").mkdir()
    (store.root / "onnx/notes").write_bytes(b"x")
    again = Store(store.root)
    assert names(again) == ["good:latest"]
    with pytest.raises(ModelNotFound):
        again.model("file:latest")
    with pytest.raises(CorruptManifest, match=r"is a folder"):
        again.model("deep:er")
    assert (store.root / "blobs/README").exists()
    assert (store.root / "onnx/notes").exists()


def test_manifests_are_written_as_go_writes_them() -> None:
    manifest = Manifest(
        Layer("application/vnd.docker.container.image.v1+json", f"sha256:{'c' * 64}", 485),
        (
            Layer(IMAGE + "model", f"sha256:{'a' * 64}", 10),
            Layer(IMAGE + "tensor", f"sha256:{'b' * 64}", 20, source="a<b>:latest", name="x&y"),
        ),
    )
    raw = encode_manifest(manifest)
    assert (
        raw
        == (
            '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
            '"config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
            f'"digest":"sha256:{"c" * 64}","size":485}},'
            f'"layers":[{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{"a" * 64}","size":10}},'
            f'{{"mediaType":"application/vnd.ollama.image.tensor","digest":"sha256:{"b" * 64}","size":20,'
            '"from":"a\\u003cb\\u003e:latest","name":"x\\u0026y"}]}\n'
        ).encode()
    )
    assert parse_manifest(raw, "m") == manifest


def test_many_threads(store: Store, create: Create) -> None:
    create("base", system="shared")
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                store.copy("base", f"copy{number}")
                assert store.model(f"copy{number}").system == "shared"
                store.list()
                store.delete(f"copy{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(store) == ["base:latest"]
    assert store.model("base").system == "shared"
