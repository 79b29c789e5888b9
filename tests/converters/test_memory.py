"""Memory stays bounded whatever the size of the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from tests.converters.test_formats import random_blocks
from tests.tiny_model import add_key, tiny_keys, tiny_shapes, tiny_tokens

pytestmark = pytest.mark.slow

LAYERS, HIDDEN, INTERMEDIATE = 18, 2048, 4096


def write_large_gguf(path: Path) -> None:
    """Several hundred megabytes of Q4_K."""
    writer = GGUFWriter(path, "llama")
    for key, value in tiny_keys(LAYERS, HIDDEN, 16, 16, INTERMEDIATE, 512).items():
        add_key(writer, key, value)
    blocks: dict[tuple[int, ...], np.ndarray] = {}
    for name, shape in tiny_shapes(LAYERS, HIDDEN, 16, 16, INTERMEDIATE, len(tiny_tokens()), tied=True).items():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            raw = blocks.setdefault(shape, random_blocks("Q4_K", *shape))
            writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("recipe", ["exact", "fp32"])
def test_peak_memory(tmp_path: Path, recipe: str) -> None:
    source, folder = tmp_path / "large.gguf", tmp_path / "bundle"
    try:
        write_large_gguf(source)
        bound = 2 * 4 * HIDDEN * INTERMEDIATE + 300 * 10**6
        assert source.stat().st_size > bound
        command = [sys.executable, "-m", "converters", str(source), "--out", str(folder), "--recipe", recipe, "--json"]
        output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        peak = json.loads(output.splitlines()[-1])["bundle"]["report"]["peak_bytes"]
        assert peak < bound
    finally:
        for path in [source, *folder.glob("*")]:
            path.unlink()
