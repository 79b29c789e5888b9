"""The command: what it prints, what it refuses and when, and what it leaves on disk whatever happens."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle import read_description
from converters.__main__ import main
from converters.architectures import ARCHITECTURES
from converters.bundle import convert
from converters.gguf_source import READABLE
from converters.weights import WeightsFile
from tests.tiny_model import CHAT_TEMPLATE, write_tiny_gguf

FILES = {"model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja", "bundle.json", "SHA256SUMS"}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command on a tiny model with some changes: (status, lines of JSON)."""

    def run(*arguments: str, source: Path | None = None, **overrides: Any) -> tuple[int, list[dict[str, Any]]]:
        path = source or write_tiny_gguf(tmp_path / "tiny.gguf", **overrides)
        status = main([str(path), "--out", str(tmp_path / "out" / "bundle"), "--json", *arguments])
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_conversion(run, tmp_path: Path) -> None:
    status, lines = run()
    assert status == 0
    *progress, last = lines
    assert progress
    assert all(line["status"] == "converting model" for line in progress)
    completed = [line["completed"] for line in progress]
    assert completed == sorted(completed)
    assert completed[-1] == progress[-1]["total"]
    folder = tmp_path / "out" / "bundle"
    assert {path.name for path in folder.iterdir()} == FILES
    assert last["done"] is True
    assert last["bundle"] == json.loads((folder / "bundle.json").read_text())
    assert os.listdir(tmp_path / "out") == ["bundle"]
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_the_digest_of_a_blob_is_its_name(tmp_path: Path) -> None:
    plain = write_tiny_gguf(tmp_path / "tiny.gguf")
    bundle = convert(plain, tmp_path / "a", "fp32")
    blob = tmp_path / f"sha256-{'0' * 64}"
    plain.rename(blob)
    assert convert(blob, tmp_path / "b", "fp32").source_digest == f"sha256:{'0' * 64}"
    assert bundle.source_digest.startswith("sha256:")
    assert bundle.source_digest != f"sha256:{'0' * 64}"


def test_no_template_no_file(run, tmp_path: Path) -> None:
    run(metadata={"tokenizer.chat_template": None})
    assert not (tmp_path / "out" / "bundle" / "chat_template.jinja").exists()


MATRIX = np.zeros((64, 64), np.float32)
REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"metadata": {"general.type": "adapter"}}, "UnsupportedModel", "a file of type 'adapter'"),
    ({"metadata": {"split.count": 3}}, "UnsupportedModel", "one file of a model that is split"),
    ({"metadata": {"llama.block_count": None}}, "NotGGUF", "llama.block_count is missing"),
    ({"metadata": {"llama.block_count": 3}}, "NotGGUF", "blk.2.attn_norm.weight is missing"),
    ({"metadata": {"llama.block_count": 2**23}}, "NotGGUF", "8388608 layers, but only"),
    ({"metadata": {"llama.block_count": 0}}, "NotGGUF", "llama.block_count is 0"),
    ({"metadata": {"llama.attention.head_count": "many"}}, "NotGGUF", "head_count is many"),
    ({"metadata": {"llama.attention.head_count": 3}}, "NotGGUF", "heads share 2 key heads"),
    ({"metadata": {"llama.attention.head_count_kv": [2, 1]}}, "UnsupportedModel", "differs by layer"),
    ({"metadata": {"llama.attention.layer_norm_rms_epsilon": 0.0}}, "NotGGUF", "layer_norm_rms_epsilon is 0.0"),
    ({"metadata": {"llama.attention.clamp_kqv": 8.0}}, "UnsupportedModel", "attention.clamp_kqv = 8.0"),
    ({"metadata": {"llama.expert_count": 8}}, "UnsupportedModel", "llama.expert_count = 8"),
    ({"metadata": {"llama.rope.scaling.type": "longrope"}}, "UnsupportedModel", "llama.rope.scaling.type = longrope"),
    ({"metadata": {"llama.rope.scaling.type": "yarn"}}, "NotGGUF", "scaling.original_context_length is missing"),
    ({"metadata": {"llama.rope.dimension_count": 8}}, "UnsupportedModel", "rope.dimension_count"),
    ({"metadata": {"llama.logit_scale": 2.0}}, "UnsupportedModel", "llama.logit_scale = 2.0"),
    ({"metadata": {"llama.new_trick": 1}}, "UnsupportedModel", "llama.new_trick is not supported"),
    ({"metadata": {"llama." + "x" * 100_000: 1}}, "UnsupportedModel", "llama.x{74} is not supported"),
    ({"metadata": {"tokenizer.ggml.pre": "klingon"}}, "UnsupportedModel", "pre-tokenizer 'klingon'"),
    ({"metadata": {"tokenizer.ggml.pre": ["a", "b"]}}, "UnsupportedModel", "pre-tokenizer"),
    ({"metadata": {"tokenizer.chat_template": 5}}, "NotGGUF", "chat_template is not text"),
    ({"heads": 8}, "UnsupportedModel", "a head size of 8"),
    ({"hidden": 48, "heads": 3, "kv_heads": 1}, "UnsupportedModel", "an embedding of 48 columns"),
    ({"tensors": {"blk.1.ffn_up.weight": None}}, "NotGGUF", "tensor blk.1.ffn_up.weight is missing"),
    ({"tensors": {"blk.0.attn_q.weight": MATRIX[:32]}}, "NotGGUF", r"blk.0.attn_q.weight has shape \(32, 64\), not"),
    ({"tensors": {"blk.0.attn_q.bias": MATRIX[0, :5]}}, "NotGGUF", "blk.0.attn_q.bias has shape"),
    ({"tensors": {"blk.0.attn_q_norm.weight": MATRIX[0]}}, "UnsupportedModel", "tensor blk.0.attn_q_norm.weight"),
    ({"tensors": {"blk.0.ffn_gate_inp.weight": MATRIX}}, "UnsupportedModel", "tensor blk.0.ffn_gate_inp.weight"),
    ({"tensors": {"x" * 100_000: MATRIX}}, "UnsupportedModel", "tensor x{80} in a llama model"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "kind", "reason"), REFUSALS, ids=[reason for _, _, reason in REFUSALS])
def test_refused_from_the_header(run, tmp_path: Path, overrides: dict[str, Any], kind: str, reason: str) -> None:
    status, lines = run(**overrides)
    assert status == 1
    assert lines[-1]["kind"] == kind
    assert re.search(reason, lines[-1]["error"])
    assert str(tmp_path) not in lines[-1]["error"]
    assert not (tmp_path / "out").exists()


def test_other_architectures_are_refused_with_those_supported(run, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    raw = path.read_bytes()
    at = raw.index(b"general.architecture") + len("general.architecture") + 4 + 8
    path.write_bytes(raw[:at] + b"mamba" + raw[at + 5 :])
    status, lines = run(source=path)
    known = ", ".join(ARCHITECTURES)
    assert (status, lines) == (
        1,
        [{"error": f"architecture 'mamba' is not supported; supported: {known}", "kind": "UnsupportedModel"}],
    )


def test_unread_tensor_types_are_refused_with_those_supported(run, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tensor_type="F32")
    raw = path.read_bytes()
    at = raw.index(b"blk.1.ffn_up.weight") + len("blk.1.ffn_up.weight") + 4 + 16
    path.write_bytes(raw[:at] + (26).to_bytes(4, "little") + raw[at + 4 :])
    status, lines = run(source=path)
    assert status == 1
    assert lines[-1]["error"].startswith(
        "tensor type I32 of blk.1.ffn_up.weight is not supported; supported: F64, F32,"
    )
    assert all(name in lines[-1]["error"] for name in READABLE)


def test_other_files_are_refused(run, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model at all" * 10)
    assert run(source=path)[1][-1]["kind"] == "NotGGUF"
    path.write_bytes(write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()[:-1])
    status, lines = run(source=path)
    assert (status, lines[-1]["kind"]) == (1, "TruncatedGGUF")
    assert not (tmp_path / "out").exists()


def test_a_missing_file(run, tmp_path: Path) -> None:
    status, lines = run(source=tmp_path / "nowhere.gguf")
    assert (status, lines[-1]["kind"]) == (1, "ConversionFailed")
    assert "No such file" in lines[-1]["error"]


def test_an_existing_bundle_is_not_touched(run, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "bundle"
    folder.mkdir(parents=True)
    (folder / "mine").touch()
    status, lines = run()
    assert (status, lines[-1]["kind"]) == (1, "ConversionFailed")
    assert os.listdir(folder) == ["mine"]


def test_without_json_only_an_error_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bad.gguf"
    bad.write_bytes(b"x" * 100)
    assert main([str(good), "--out", str(tmp_path / "a")]) == 0
    assert tuple(capsys.readouterr()) == ("", "")
    assert main([str(bad), "--out", str(tmp_path / "b")]) == 1
    assert tuple(capsys.readouterr()) == ("", "Error: not a GGUF file: it does not start with GGUF\n")


def test_disk_space_is_checked_first(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    status, lines = run()
    assert (status, lines[-1]["kind"]) == (1, "NotEnoughDisk")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "full"), "NotEnoughDisk"),
        (OSError(errno.EIO, "broken"), "ConversionFailed"),
        (RuntimeError("bug"), "ConversionFailed"),
    ],
)
def test_a_failure_midway_leaves_nothing(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str
) -> None:
    write = WeightsFile.write

    def fail(self: WeightsFile, folder: Path) -> None:
        write(self, folder)
        raise error

    monkeypatch.setattr(WeightsFile, "write", fail)
    status, lines = run()
    assert (status, lines[-1]["kind"]) == (1, kind)
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path) -> None:
    """A file system of 300 kB that others fill after its free space was looked at."""
    source, out = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "out"
    out.mkdir()
    lie = (
        "import shutil, sys, types; from converters.__main__ import main\n"
        "shutil.disk_usage = lambda path: types.SimpleNamespace(free=10**9)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", lie, str(source), "--out", str(out / "bundle"), "--recipe", "fp32", "--json"]
    mount = 'mount -t tmpfs -o size=300k none "$0" && echo mine > "$0/other" || exit 99'
    script = f'{mount}; "$@"; status=$?; ls "$0"; exit $status'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script, str(out), *command], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        pytest.skip("a small file system cannot be mounted here")
    *_, last, left = done.stdout.splitlines()
    assert (done.returncode, json.loads(last)["kind"]) == (1, "NotEnoughDisk")
    assert left == "other"
    assert source.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_midway_the_bundle_never_appears(tmp_path: Path, number: int) -> None:
    source, folder = write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "out" / "bundle"
    stall = (
        "import sys, time, converters.weights as w; from converters.__main__ import main\n"
        "write = w.WeightsFile.write\n"
        "w.WeightsFile.write = lambda *given: (write(*given), print('written', flush=True), time.sleep(60))\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", stall, str(source), "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(number)
        process.wait()
    assert os.listdir(tmp_path / "out") == [f"bundle.partial-{process.pid}"]
    convert(source, folder, "fp32")
    assert os.listdir(tmp_path / "out") == ["bundle"]
    assert read_description(folder).recipe == "fp32"


def test_a_partial_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f"bundle.partial-{os.getppid()}"
    other.mkdir()
    convert(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bundle", "fp32")
    assert other.exists()


@pytest.mark.parametrize("pid", [os.getpid(), 10**20], ids=["own", "none"])
@pytest.mark.parametrize("name", ["bundle", "model[1].exact"])
def test_a_partial_of_a_dead_process_is_removed(tmp_path: Path, pid: int, name: str) -> None:
    """Also one of a process with our id: in a container ids start over."""
    (tmp_path / f"{name}.partial-{pid}").mkdir()
    convert(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / name, "fp32")
    assert sorted(os.listdir(tmp_path)) == [name, "tiny.gguf"]


@pytest.mark.parametrize("recipe", ["exact", "fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.1.ffn_up.bias"])
def test_weights_that_are_no_numbers_are_refused(run, tmp_path: Path, recipe: str, value: float, name: str) -> None:
    array = np.zeros((96, 64) if name.endswith("weight") else 96, np.float32)
    array[-1] = value
    status, lines = run("--recipe", recipe, tensors={name: array})
    assert (status, lines[-1]["kind"]) == (1, "NotGGUF")
    assert f"tensor {name} holds values that are not finite" in lines[-1]["error"]
    assert list(tmp_path.glob("out/*")) == []


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, "-m", "converters", str(source), "--out", str(tmp_path / "b"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["bundle"]["layers"] == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(["block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base",
        "rope.dimension_count"]),
    value=st.one_of(st.integers(0, 2**32 - 1), st.floats(width=32), st.text(max_size=5), st.booleans()),
)  # fmt: skip
def test_any_value_of_any_key_is_answered(tmp_path: Path, key: str, value: Any) -> None:
    """Absurd dimensions end in a message, not in an exception of ours or a machine out of memory."""
    path = write_tiny_gguf(tmp_path / "odd.gguf", metadata={f"llama.{key}": value})
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    if key == "context_length" and isinstance(value, int) and value > 100_000:
        return  # a valid model, though a large one
    assert main([str(path), "--out", str(folder)]) == int(not folder.exists())
