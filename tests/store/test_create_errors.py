"""Models that cannot be created, and what is said of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from appliance.core import CreateRequest
from appliance.errors import (
    ApplianceError,
    BlobNotFound,
    Forbidden,
    InvalidName,
    InvalidOption,
    InvalidRequest,
    ModelFileError,
    ModelNotFound,
    NotQuantized,
    TruncatedGGUF,
)
from appliance.store.manifests import Layer
from appliance.store.store import Store
from tests.store.conftest import add_file, run_create
from tests.store.creating import IMAGE, Create, MakeGGUF, draft_of, kinds


@pytest.mark.spec(65)
@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"model_family": 3}, 'info field "model_family" must be a string'),
        ({"parameter_size": None}, 'info field "parameter_size" must be a string'),
        ({"context_length": "x"}, 'info field "context_length" must be a number'),
        ({"context_length": True}, 'info field "context_length" must be a number'),
        ({"context_length": 1.5}, 'info field "context_length" must be a non-negative integer'),
        ({"embedding_length": -1}, 'info field "embedding_length" must be a non-negative integer'),
        ({"embedding_length": float("nan")}, 'info field "embedding_length" must be a non-negative integer'),
        ({"capabilities": "tools"}, 'info field "capabilities" must be an array of strings'),
        ({"colour": "red"}, 'info field "colour" is not known'),
    ],
)
def test_info_errors(create: Create, info: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create("m", info=info)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_ctx": "4096"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": ["x", 1]}, 'option "stop" must be of an array of strings'),
        ({"nope": 1}, "unknown parameter 'nope'"),
        (
            {"recipe": "best"},
            "option \"recipe\" must be one of auto, exact, compact, int8-rotated, q4, int8, fp32, not 'best'",
        ),
        ({"kv_cache_type": 8}, "option \"kv_cache_type\" must be one of f32, q8_0, not '8'"),
    ],
)
def test_parameter_errors(create: Create, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        create("m", parameters=parameters)
    assert str(caught.value) == message


@pytest.mark.spec(57)
@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model": ""}, InvalidName, "invalid model name"),
        ({"model": "../x"}, InvalidName, "invalid model name"),
        ({"files": {}}, InvalidRequest, "neither 'from' or 'files' was specified"),
        ({"source": "nope"}, ModelNotFound, "model 'nope:latest' not found"),
        ({"source": "n o"}, InvalidName, "invalid model name"),
        ({"source": "x:cloud"}, Forbidden, "ollama cloud is disabled: remote model is unavailable"),
        ({"files": {"a.gguf": ""}}, InvalidRequest, "invalid digest format"),
        ({"adapters": {"a.gguf": ""}}, InvalidRequest, "invalid digest format"),
        ({"files": {"a.gguf": "sha256:1"}}, InvalidRequest, "invalid digest format"),
        ({"files": {"a.gguf": f"sha256:{'0' * 64}"}}, BlobNotFound, f'blob "sha256:{"0" * 64}" not found'),
    ],
)
def test_request_errors(store: Store, fields: dict[str, Any], kind: type[ApplianceError], message: str) -> None:
    with pytest.raises(kind) as caught:
        draft_of(store, CreateRequest(**({"model": "m"} | fields)))
    assert str(caught.value) == message


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x.gguf", "a/../x.gguf", "./x.gguf", "a//x.gguf", "a/.", "."])
def test_file_paths_must_be_relative(store: Store, create: Create, make_gguf: MakeGGUF, path: str) -> None:
    digest = add_file(store, make_gguf())
    for request in (CreateRequest("m", files={path: digest}), CreateRequest("m", adapters={path: digest})):
        with pytest.raises(InvalidRequest, match=r"^file path must be relative$"):
            draft_of(store, request)


@pytest.mark.spec(68)
@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("m.bin", b"XXXX", "unknown type"),
        ("m.bin", b"", "unknown type"),
        ("m.gguf", b"XXXXXXXX", "supplied file was not in GGUF format"),
        ("m.gguf", b"GG", "supplied file was not in GGUF format"),
    ],
)
def test_files_that_are_no_gguf(store: Store, path: str, content: bytes, message: str) -> None:
    store.blobs.add(content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with pytest.raises(InvalidRequest) as caught:
        draft_of(store, CreateRequest("m", files={path: digest}))
    assert str(caught.value) == message


@pytest.mark.spec(68)
def test_the_magic_is_enough(store: Store, make_gguf: MakeGGUF) -> None:
    digest = add_file(store, make_gguf())
    run_create(store, CreateRequest("m", files={"folder/model": digest.replace(":", "-")}))
    assert store.model("m").model_digest == digest


def test_a_truncated_gguf(store: Store, make_gguf: MakeGGUF, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(make_gguf().read_bytes()[:-24])
    with pytest.raises(TruncatedGGUF):
        draft_of(store, CreateRequest("m", files={"cut.gguf": add_file(store, cut)}))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__type": "adapter"}, "the file is an adapter, which needs a model: give it as one of the adapters"),
        ({"general__type": "mmproj"}, "projectors are not supported yet"),
        ({"architecture": "clip"}, "projectors are not supported yet"),
    ],
)
def test_parts_of_models(create: Create, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        create("m", metadata)
    assert str(caught.value) == message


def test_two_models_at_once(store: Store, make_gguf: MakeGGUF) -> None:
    one, two = (add_file(store, make_gguf(llama__block_count=count)) for count in (1, 2))
    run_create(store, CreateRequest("same", files={"a.gguf": one, "b.gguf": one}))
    assert kinds(store, "same") == ["model"]
    with pytest.raises(InvalidRequest, match="only one model file is currently supported"):
        draft_of(store, CreateRequest("m", files={"a.gguf": one, "b.gguf": two}))


@pytest.mark.parametrize(
    ("file_type", "quantize", "kind", "message"),
    [
        (15, "Q8_0", NotQuantized, "quantization is only supported for F16, BF16 and F32 models"),
        (1, "q5_0", NotQuantized,
         "unsupported quantization type Q5_0 - supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"),
    ],
)  # fmt: skip
def test_quantizations_that_are_refused(
    store: Store, create: Create, file_type: int, quantize: str, kind: type[ApplianceError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        create("m", {"file_type": file_type}, quantize=quantize)
    assert str(caught.value) == message
    create("m", {"file_type": file_type}, quantize={1: "f16", 15: "q4_k_m"}[file_type])


def test_quantizing_twice(store: Store, create: Create) -> None:
    create("m", {"file_type": 0}, quantize="Q8_0")
    with pytest.raises(ModelFileError, match="only supported for F16, BF16 and F32 models"):
        run_create(store, CreateRequest("again", source="m", quantize="Q4_K_M"))


def test_quantizing_and_a_recipe(create: Create) -> None:
    create("m", {"file_type": 1}, quantize="Q4_K_M", parameters={"recipe": "q4"})
    with pytest.raises(InvalidRequest, match=r"^quantize Q4_K_M and the parameter recipe exact contradict each other"):
        create("m", {"file_type": 1}, quantize="Q4_K_M", parameters={"recipe": "exact"})


@pytest.mark.parametrize("kind", ["draft", "tensor", "json"])
def test_sources_with_parts_we_do_not_read(store: Store, create: Create, kind: str) -> None:
    create("base")
    base = store.model("base")
    store.publish(base.name, [*base.manifest.layers, Layer(IMAGE + kind, base.model_digest, 1)], b"{}\n")
    with pytest.raises(InvalidRequest, match=f"^models with {kind} layers are not supported yet$"):
        create("child", source="base")
