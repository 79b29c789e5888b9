"""Models of the Hugging Face Hub: which files they are, and how they come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config import Settings
from appliance.core import TransferRequest
from appliance.errors import Forbidden, RegistryError
from appliance.registry.hub import HubFile
from appliance.registry.hub_choice import choose, quantisation
from appliance.service import Service
from appliance.store.store import Store
from tests.registry import hub as fake_hub
from tests.registry.fake import FakeRegistry, cut, digest_of
from tests.registry.hub import FakeHub
from tests.tiny_folder import write_tiny_folder
from tests.tiny_model import write_tiny_gguf


@pytest.fixture
def hub(storage: FakeRegistry) -> Iterator[FakeHub]:
    with fake_hub.serving(storage) as running:
        yield running


def pull(store: Store, hub: FakeHub, model: str, **settings: Any) -> list[str]:
    """The statuses of a pull, each once; what fails is raised."""

    async def run() -> list[str]:
        service = Service(Settings(models=store.root, hf_endpoint=hub.url, **settings), store)
        try:
            steps = [step async for step in service.pull(TransferRequest(model))]
            for step in steps:
                assert step.total == 0 or step.completed <= step.total
            return list(dict.fromkeys(step.status for step in steps))
        finally:
            await service.close()

    return asyncio.run(run())


def gguf(folder: Path, seed: str, tensor_type: str) -> bytes:
    return write_tiny_gguf(folder / f"{seed}.gguf", tensor_type=tensor_type).read_bytes()


def test_a_gguf_file_of_a_quantisation(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    q8, q4 = gguf(tmp_path, "a", "Q8_0"), gguf(tmp_path, "b", "Q4_1")
    hub.add("Org/Tiny-GGUF", {"README.md": b"#", "tiny.Q8_0.gguf": q8, "tiny.Q4_1.gguf": q4, "mmproj-F16.gguf": b"x"})
    hub.storage.faults = [cut(3000), cut(0)]
    statuses = pull(store, hub, "hf.co/Org/Tiny-GGUF:q8_0")
    assert statuses[:2] == ["pulling manifest", f"pulling {digest_of(q8)[7:19]}"]
    assert statuses[-2:] == ["writing manifest", "success"]
    (model,) = store.list()
    assert model.name.full == "hf.co/Org/Tiny-GGUF:q8_0"
    assert [layer.digest for layer in model.manifest.layers if layer.kind == "model"] == [digest_of(q8)]
    assert not store.blobs.has(digest_of(q4))
    pull(store, hub, "hf.co/Org/Tiny-GGUF")
    latest = store.model("hf.co/Org/Tiny-GGUF:latest")
    assert latest.manifest.layers[0].digest == digest_of(q4)  # what is preferred where nothing is asked for
    sent = len(hub.storage.ranges_sent)
    assert pull(store, hub, "hf.co/Org/Tiny-GGUF")[-1] == "success"
    assert len(hub.storage.ranges_sent) == sent


def test_a_checkpoint_in_safetensors(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "folder", shards=2)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"not wanted")
    hub.add_folder("org/tiny", folder)
    assert pull(store, hub, "huggingface.co/org/tiny")[-1] == "success"
    model = store.model("huggingface.co/org/tiny")
    wanted = {path.name for path in folder.iterdir() if path.is_file()}
    assert {layer.name for layer in model.manifest.layers if layer.name} == wanted
    assert model.config["file_type"] == "F32"
    assert pull(store, hub, "hf.co/org/tiny:Q8_0")[-1] == "success"
    assert store.model("hf.co/org/tiny:Q8_0").config["file_type"] == "Q8_0"


def test_the_token_is_for_the_hub_alone(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/gated", {"m.gguf": gguf(tmp_path, "a", "Q8_0")})
    hub.gated, hub.token = {"org/gated"}, "hf_secret"
    with pytest.raises(RegistryError, match=r"has no model org/gated, or it is private or gated: .* HF_TOKEN"):
        pull(store, hub, "hf.co/org/gated")
    with pytest.raises(RegistryError, match="or the token of HF_TOKEN may not read it") as caught:
        pull(store, hub, "hf.co/org/gated", hf_token="hf_wrong")
    assert "hf_wrong" not in str(caught.value)
    hub.asked.clear()
    hub.storage.asked.clear()
    assert pull(store, hub, "hf.co/org/gated", hf_token="hf_secret")[-1] == "success"
    assert {proof for _, proof in hub.asked} == {"Bearer hf_secret"}
    assert hub.storage.asked
    assert not any("authorization" in asked.headers for asked in hub.storage.asked)
    assert "hf_secret" not in repr(Settings(hf_token="hf_secret"))


def test_a_mirror_below_a_path(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    hub.add("org/tiny", {"m.gguf": gguf(tmp_path, "a", "Q8_0")})
    hub.url += "/mirror"
    assert pull(store, hub, "hf.co/org/tiny")[-1] == "success"
    assert all(path.startswith("/mirror/") for path, _ in hub.asked)


def test_what_arrives_damaged_is_not_installed(store: Store, hub: FakeHub, tmp_path: Path) -> None:
    hub.add_folder("org/tiny", write_tiny_folder(tmp_path / "folder"))
    listing = hub.listing("org/tiny")
    config = next(each for each in listing["siblings"] if each["rfilename"] == "config.json")
    config["blobId"] = "0" * 40
    hub.listing = lambda repository: listing  # type: ignore[method-assign]
    with pytest.raises(RegistryError, match=r"config\.json arrived damaged"):
        pull(store, hub, "hf.co/org/tiny")
    assert list(store.list()) == []


def test_offline_nothing_is_asked(store: Store, hub: FakeHub) -> None:
    with pytest.raises(Forbidden, match="this server is offline"):
        pull(store, hub, "hf.co/org/tiny", offline=True)
    assert hub.asked == []


def listed(*paths: str) -> list[HubFile]:
    return [HubFile(path, 10, "a" * 64, "") for path in paths]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("smollm2-135m-instruct.q8_0.gguf", "Q8_0"),
        ("UD-IQ2_XXS/Big-UD-IQ2_XXS-00001-of-00003.gguf", "UD-IQ2_XXS"),
        ("model-fp16.gguf", "FP16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("qwen2.gguf", ""),
    ],
)
def test_quantisations_are_read_from_names(path: str, kind: str) -> None:
    assert quantisation(path) == kind


@pytest.mark.parametrize(
    ("paths", "tag", "chosen"),
    [
        (("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf"), "latest", {"m-Q4_K_M.gguf"}),
        (("m-Q8_0.gguf", "m-Q6_K.gguf"), "latest", {"m-Q6_K.gguf"}),
        (("only.gguf", "mmproj-only.gguf"), "latest", {"only.gguf"}),
        (("m-Q8_0.gguf", "m-Q4_K_M.gguf"), "m-Q8_0.gguf", {"m-Q8_0.gguf"}),
        (
            ("q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf"),
            "Q8_0",
            {"q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf"},
        ),
        (("m-Q4_K_M.gguf", "model.safetensors"), "latest", {"m-Q4_K_M.gguf"}),
        (
            ("config.json", "model.safetensors", "original/model.safetensors.x", "consolidated.safetensors", "a.md"),
            "latest",
            {"config.json", "model.safetensors"},
        ),
    ],
)
def test_files_are_chosen(paths: tuple[str, ...], tag: str, chosen: set[str]) -> None:
    assert {file.path for file in choose(listed(*paths), tag, "hf.co/o/m").files} == chosen


@pytest.mark.parametrize(
    ("paths", "tag", "message"),
    [
        (("m-Q8_0.gguf", "m-Q2_K.gguf"), "Q4_K_M", "there is no Q4_K_M; after the colon can stand: Q2_K, Q8_0"),
        (("m-IQ2_M.gguf", "m-Q2_K.gguf"), "latest", "no tag was given; after the colon can stand: IQ2_M, Q2_K"),
        (("a-Q8_0.gguf", "b-Q8_0.gguf"), "Q8_0", "several files of Q8_0: .*: a-Q8_0.gguf, b-Q8_0.gguf"),
        (("m-Q8_0-00001-of-00002.gguf",), "Q8_0", "1 of the 2 parts of m-Q8_0"),
        (("model.safetensors",), "Q3_K", "can be quantised to .*, not to Q3_K"),
        (
            ("README.md", "pytorch_model.bin"),
            "latest",
            "neither GGUF files nor .*; it has README.md, pytorch_model.bin",
        ),
    ],
)
def test_files_that_cannot_be_chosen(paths: tuple[str, ...], tag: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        choose(listed(*paths), tag, "hf.co/o/m")
