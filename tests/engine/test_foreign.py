"""Graphs that others made, through the Backend protocol: against transformers, and against our own graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.bundle import MODEL, Bundle, read_description
from appliance.engine import providers
from appliance.engine.backend import Row
from appliance.engine.foreign import ForeignBackend
from appliance.engine.ort import OrtBackend, open_backend
from appliance.errors import ModelFileError
from converters.bundle import convert
from tests.foreign_model import write_exported, write_genai_folder

TOKENS = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 60))
CLOSE = 1e-4


@dataclass(frozen=True)
class Model:
    """A bundle, and the logits [60,V] that its source gives for TOKENS."""

    folder: Path
    bundle: Bundle
    logits: np.ndarray


def exported(folder: Path) -> Model:
    import torch

    reference = write_exported(folder / "exported")
    with torch.no_grad():
        logits = reference(torch.tensor([TOKENS])).logits[0].numpy()
    return Model(folder / "bundle", convert(folder / "exported", folder / "bundle"), logits)


def genai(folder: Path) -> Model:
    write_genai_folder(folder / "genai", folder / "ours")
    ours = OrtBackend(folder / "ours", read_description(folder / "ours"), slots=1, provider=providers.CPU, threads=1)
    logits = ours.run([Row(0, 0, TOKENS, logits=60)])[0].copy()
    ours.close()
    return Model(folder / "bundle", convert(folder / "genai", folder / "bundle"), logits)


@pytest.fixture(scope="module", params=[exported, genai], ids=["past", "shared"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    make: Callable[[Path], Model] = request.param
    return make(tmp_path_factory.mktemp("foreign"))


@pytest.fixture
def backend(model: Model) -> Iterator[Any]:
    backend = open_backend(model.folder, model.bundle, slots=3, setting="cpu", threads=1)
    assert isinstance(backend, ForeignBackend)
    yield backend
    backend.close()


def near(mine: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.abs(mine - theirs).max() <= CLOSE)


def test_the_cache_is_what_the_graph_says(
    model: Model, backend: ForeignBackend, request: pytest.FixtureRequest
) -> None:
    assert model.bundle.graph == request.node.callspec.id
    assert (backend.slots, backend.capacity) == (3, model.bundle.context_length)
    assert backend.can_copy
    assert backend.vocab_size == model.logits.shape[1]
    assert backend.kv_bytes_per_token == 2 * 4 * model.bundle.layers * model.bundle.kv_heads * model.bundle.head_dim


def test_logits_are_those_of_the_source(model: Model, backend: ForeignBackend) -> None:
    assert near(backend.run([Row(0, 0, TOKENS, logits=60)])[0], model.logits)


@pytest.mark.parametrize("chunks", [(60,), (20, 20, 20), (7, 50, 3), (1,) * 60], ids=str)
def test_pieces_come_to_the_same(model: Model, backend: ForeignBackend, chunks: tuple[int, ...]) -> None:
    past = 0
    for size in chunks:
        logits = backend.run([Row(1, past, TOKENS[past : past + size])])[0]
        past += size
    assert near(logits[0], model.logits[-1])


def test_rows_of_a_run_do_not_meet(model: Model, backend: ForeignBackend) -> None:
    backend.run([Row(0, 0, TOKENS[:9], logits=0), Row(2, 0, TOKENS[:30], logits=0)])
    rows = [Row(0, 9, TOKENS[9:12], logits=2), Row(1, 0, TOKENS[:5]), Row(2, 30, TOKENS[30:31])]
    first, second, third = backend.run(rows)
    assert near(first, model.logits[10:12])
    assert near(second, model.logits[4:5])
    assert near(third, model.logits[30:31])


def test_a_smaller_past_forgets(model: Model, backend: ForeignBackend) -> None:
    backend.run([Row(0, 0, TOKENS[::-1])])
    backend.run([Row(0, 0, TOKENS[:20])])
    assert near(backend.run([Row(0, 10, TOKENS[10:20])])[0], model.logits[19:20])


def test_rows_are_copied_saved_and_restored(model: Model, backend: ForeignBackend) -> None:
    backend.run([Row(0, 0, TOKENS[:40])])
    saved = backend.save(0, 30)
    assert saved.nbytes == 30 * backend.kv_bytes_per_token
    backend.copy(0, 1, 35)
    backend.run([Row(0, 0, TOKENS[::-1])])  # neither copy changes with the slot
    backend.restore(2, saved, 25)
    one, two = backend.run([Row(1, 35, TOKENS[35:40]), Row(2, 25, TOKENS[25:40])])
    assert near(one, model.logits[39:40])
    assert near(two, model.logits[39:40])


def test_the_end_of_a_row_is_copied_and_restored_behind_its_beginning(model: Model, backend: ForeignBackend) -> None:
    backend.run([Row(0, 0, TOKENS[:40])])
    for slot in (1, 2):
        backend.run([Row(slot, 0, (*TOKENS[:20], *TOKENS[::-1][:15]))])
    backend.copy(0, 1, 38, start=20)
    saved = backend.save(0, 38, start=20)
    assert saved.nbytes == 18 * backend.kv_bytes_per_token
    backend.restore(2, saved, 36, start=20)
    one, two = backend.run([Row(1, 38, TOKENS[38:40]), Row(2, 36, TOKENS[36:40])])
    assert near(one, model.logits[39:40])
    assert near(two, model.logits[39:40])


def test_a_damaged_graph_is_an_error_without_paths(model: Model, tmp_path: Path) -> None:
    (tmp_path / MODEL).write_bytes(b"not a graph")
    with pytest.raises(ModelFileError) as caught:
        open_backend(tmp_path, model.bundle, slots=1, setting="cpu", threads=1)
    assert str(tmp_path) not in str(caught.value)


def test_a_graph_with_an_input_that_is_not_known_is_refused_by_name(tmp_path: Path, model: Model) -> None:
    write_genai_folder(tmp_path / "genai", tmp_path / "ours")  # our own graph has other inputs
    with pytest.raises(ModelFileError, match="seqlens_k"):
        ForeignBackend(tmp_path / "ours", model.bundle, slots=1, provider=providers.CPU, threads=1)
