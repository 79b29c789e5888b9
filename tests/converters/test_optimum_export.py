"""An architecture that is not built natively, by way of optimum: GPT-2, against transformers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from appliance.bundle import MODEL
from appliance.engine.backend import Row
from appliance.engine.ort import open_backend
from appliance.errors import ModelFileError, UnsupportedModel
from converters.bundle import convert
from tests.foreign_model import write_gpt2

TOKENS = tuple(int(token) for token in np.random.default_rng(4).integers(0, 256, 50))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder, and the model of transformers in it."""
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    return folder, write_gpt2(folder)


def expected(model: Any, tokens: Sequence[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


@pytest.mark.parametrize(("recipe", "bound"), [("fp32", 1e-3), ("exact", 0.05), ("q4", 0.4)])
def test_logits_of_prompt_and_decoding_are_those_of_transformers(
    source: tuple[Path, Any], tmp_path: Path, recipe: str, bound: float
) -> None:
    """The bound is on the root mean square, of the logits' own; for fp32 on the largest difference."""
    folder, model = source
    bundle = convert(folder, tmp_path / "bundle", recipe)
    assert (bundle.graph, bundle.recipe, bundle.architecture) == ("past", recipe, "gpt2")
    backend = open_backend(tmp_path / "bundle", bundle, slots=2, setting="cpu", threads=1)
    assert backend.same_in_any_width == (recipe == "fp32")
    rows = [backend.run([Row(1, 0, TOKENS[:30], logits=30)])[0]]
    rows += [backend.run([Row(1, past, TOKENS[past : past + 1])])[0] for past in range(30, 50)]
    backend.close()
    difference, reference = np.concatenate(rows) - expected(model, TOKENS), expected(model, TOKENS)
    error = np.abs(difference).max() if recipe == "fp32" else np.sqrt((difference**2).mean() / (reference**2).mean())
    assert error <= bound
    if recipe != "fp32":
        assert error > 1e-6  # something was rounded
    kinds = {node.op_type for node in onnx.load(tmp_path / "bundle" / MODEL, load_external_data=False).graph.node}
    assert "SkipLayerNormalization" in kinds  # the optimiser's
    assert ("MatMulNBits" in kinds) == (recipe != "fp32")
    left = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert "exported" not in left


def test_greedy_tokens_are_those_of_transformers(source: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = source
    bundle = convert(folder, tmp_path / "bundle", "fp32")
    backend = open_backend(tmp_path / "bundle", bundle, slots=1, setting="cpu", threads=1)
    mine, theirs = list(TOKENS[:8]), list(TOKENS[:8])
    logits = backend.run([Row(0, 0, tuple(mine))])[0]
    for _ in range(30):
        mine.append(int(logits[-1].argmax()))
        theirs.append(int(expected(model, theirs)[-1].argmax()))
        logits = backend.run([Row(0, len(mine) - 1, (mine[-1],))])[0]
    backend.close()
    assert mine == theirs


@pytest.mark.parametrize("recipe", ["int8-rotated", "compact"])
def test_recipes_that_an_export_cannot_have_are_refused(source: tuple[Path, Any], tmp_path: Path, recipe: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"recipe {recipe}.*'gpt2'"):
        convert(source[0], tmp_path / "bundle", recipe)


def test_a_model_type_that_optimum_does_not_know_leaves_nothing(source: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "strange", "architectures": ["StrangeForCausalLM"]}')
    with pytest.raises(UnsupportedModel, match="'strange'"):
        convert(folder, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["strange"]


def test_without_the_extra_the_error_says_how_to_get_it(
    source: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(ModelFileError, match=r"pip install \"edge-appliance\[convert\]\"") as caught:
        convert(source[0], tmp_path / "bundle")
    assert "qwen3" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_converters_start_without_torch() -> None:
    code = "import sys, converters.__main__; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "[]\n"
