"""The ONNX Runtime backend on a tiny model: however rows are cut and grouped, the logits are the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import BATCH, MODEL, WEIGHTS, read_description
from appliance.engine import providers
from appliance.engine.backend import Logits, Row
from appliance.engine.binding import Bindings
from appliance.engine.ort import OrtBackend, open_backend
from appliance.errors import ApplianceError, ModelFileError
from converters.bundle import convert
from tests.tiny_model import write_tiny_bundle, write_tiny_gguf

TOKENS = tuple(int(token) for token in np.random.default_rng(2).integers(0, 256, 40))
CLOSE = 2e-5


@pytest.fixture(scope="module", params=["fp32", "exact"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_tiny_bundle(folder, request.param)
    return folder


@pytest.fixture
def backend(bundle: Path) -> Iterator[OrtBackend]:
    backend = OrtBackend(bundle, read_description(bundle), slots=4, provider=providers.CPU, threads=1)
    yield backend
    backend.close()


def prefill(backend: OrtBackend, slot: int, tokens: tuple[int, ...], chunks: tuple[int, ...]) -> np.ndarray:
    """Logits of the last token, run in chunks of the given sizes."""
    past = 0
    for size in chunks:
        logits = backend.run([Row(slot, past, tokens[past : past + size])])[0][0].copy()
        past += size
    assert past == len(tokens)
    return logits


@pytest.mark.parametrize("chunks", [(20, 20), (13, 25, 2), (2,) * 20, (8,) * 5])
def test_chunked_prefill_gives_the_same_logits(backend: OrtBackend, chunks: tuple[int, ...]) -> None:
    whole = prefill(backend, 0, TOKENS, (40,))
    assert np.abs(prefill(backend, 1, TOKENS, chunks) - whole).max() <= CLOSE


def test_rows_of_different_length_do_not_meet(backend: OrtBackend) -> None:
    alone = [prefill(backend, 0, TOKENS[:length], (length,)) for length in (7, 19, 30)]
    rows = [Row(slot, 0, TOKENS[:length]) for slot, length in zip((0, 1, 3), (7, 19, 30), strict=True)]
    together = backend.run(rows)
    for mine, theirs in zip(alone, together, strict=True):
        assert np.abs(mine - theirs).max() <= CLOSE


def test_a_slot_that_sits_a_run_out_keeps_its_cache(backend: OrtBackend) -> None:
    expected = prefill(backend, 1, TOKENS, (30, 10))
    prefill(backend, 1, TOKENS[:30], (30,))
    for past in range(5):  # rows 0 and 2 run, row 1 between them is bound but idle
        backend.run([Row(0, past, TOKENS[past : past + 1]), Row(2, past, TOKENS[past : past + 1])])
    logits = backend.run([Row(1, 30, TOKENS[30:])])[0][0]
    assert np.abs(logits - expected).max() <= CLOSE


def test_a_smaller_past_forgets(backend: OrtBackend) -> None:
    expected = prefill(backend, 0, TOKENS[:20], (20,))
    prefill(backend, 0, TOKENS, (40,))
    again = backend.run([Row(0, 10, TOKENS[10:20])])[0][0]
    assert np.abs(again - expected).max() <= CLOSE


def test_every_row_gets_the_logits_it_wants(backend: OrtBackend) -> None:
    expected = np.concatenate([prefill(backend, 0, TOKENS[:length], (length,))[None] for length in range(11, 15)])
    backend.run([Row(1, 0, TOKENS[:9], logits=0)])
    rows = [Row(0, 0, TOKENS[:11]), Row(1, 9, TOKENS[9:14], logits=3), Row(3, 0, TOKENS[:5], logits=0)]
    one, three, none = backend.run(rows)
    assert (len(one), len(three), len(none)) == (1, 3, 0)
    assert np.abs(one - expected[:1]).max() <= CLOSE
    assert np.abs(three - expected[1:]).max() <= CLOSE
    assert np.abs(backend.run([Row(0, 10, TOKENS[10:14], logits=4)])[0] - expected).max() <= CLOSE
    assert np.abs(backend.run([Row(0, 10, TOKENS[10:12])])[0] - expected[1]).max() <= CLOSE


def test_decoding_is_prefill_one_by_one(backend: OrtBackend, bundle: Path) -> None:
    whole = prefill(backend, 0, TOKENS, (40,))
    steps = prefill(backend, 1, TOKENS, (1,) * 40)
    loose = CLOSE if read_description(bundle).recipe == "fp32" else 0.5  # one row takes another integer kernel
    assert np.abs(whole - steps).max() <= loose


def test_a_damaged_graph_is_an_error_without_paths(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    bundle = write_tiny_bundle(folder)
    (folder / MODEL).write_bytes(b"not a graph")
    with pytest.raises(ModelFileError) as caught:
        OrtBackend(folder, bundle, slots=1, provider=providers.CPU, threads=1)
    assert str(tmp_path) not in str(caught.value)


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    bundle = write_tiny_bundle(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelFileError, match="missing"):
        OrtBackend(folder, bundle, slots=1, provider=providers.CPU, threads=1)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with two graphs."""
    folder = tmp_path_factory.mktemp("rotated") / "tiny"
    write_tiny_bundle(folder, "int8-rotated")
    return folder


def opened(folder: Path, slots: int = 8) -> OrtBackend:
    return OrtBackend(folder, read_description(folder), slots=slots, provider=providers.CPU, threads=1)


class Spy:
    """Which graph ran, in the order of the runs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.files: list[str] = []
        run = Bindings.run

        def watched(bindings: Bindings, rows: list[Row]) -> list[Logits]:
            self.files.append(Path(bindings._session._model_path).name)
            return run(bindings, rows)

        patch.setattr(Bindings, "run", watched)


@pytest.mark.parametrize(
    ("lengths", "graph"),
    [
        ([1], MODEL),
        ([31], MODEL),
        ([32], BATCH),
        ([33], BATCH),
        ([1, 1, 1], MODEL),
        ([5, 1, 9], MODEL),
        ([1] * 4, BATCH),
        ([1, 6, 1, 2, 1], BATCH),
        ([1] * 8, BATCH),
    ],
    ids=str,
)
def test_many_rows_or_tokens_run_in_the_batch_graph(
    rotated: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int], graph: str
) -> None:
    spy = Spy(monkeypatch)
    rows = [Row(slot, 0, TOKENS[:length]) for slot, length in enumerate(lengths)]
    for folder, expected in ((rotated, graph), (bundle, MODEL)):
        spy.files.clear()
        backend = opened(folder)
        backend.run(rows)
        backend.close()
        assert spy.files == [expected]


def test_both_graphs_give_every_row_the_logits_it_wants_from_one_cache(rotated: Path) -> None:
    backend = opened(rotated)
    whole = backend.run([Row(7, 0, TOKENS, logits=40)])[0].copy()  # by the batch graph
    wanted = {0: 1, 1: 0, 2: 4, 4: 2, 5: 1}
    for slot in wanted:
        backend.run([Row(slot, 0, TOKENS[:20], logits=0)])  # by the other graph
    many = backend.run([Row(slot, 20, TOKENS[20:25], logits=count) for slot, count in wanted.items()])
    many = [logits.copy() for logits in many]
    few = backend.run([Row(slot, 20, TOKENS[20:25], logits=count) for slot, count in [*wanted.items()][:3]])
    for results, counts in ((many, [1, 0, 4, 2, 1]), (few, [1, 0, 4])):
        assert [logits.shape for logits in results] == [(count, backend.vocab_size) for count in counts]
        for logits, count in zip(results, counts, strict=True):
            if count:
                expected = whole[25 - count : 25]
                assert np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean()) < 0.15
    backend.close()


def test_closing_lets_go_of_both_graphs(rotated: Path) -> None:
    backend = opened(rotated)
    backend.run([Row(0, 0, TOKENS[:3])])
    backend.run([Row(0, 0, TOKENS)])
    assert backend._batch is not None
    sessions = [weakref.ref(bindings._session) for bindings in (backend._graph, backend._batch)]
    backend.close()
    gc.collect()
    assert [session() for session in sessions] == [None, None]


def test_a_damaged_batch_graph_is_an_error_without_paths(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    write_tiny_bundle(folder, "int8-rotated")
    (folder / BATCH).write_bytes(b"not a graph")
    with pytest.raises(ModelFileError) as caught:
        opened(folder)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("recipe", ["fp32", "exact", "int8-rotated"])
def test_an_int8_cache_is_copied_saved_and_restored(tmp_path: Path, recipe: str) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    full, small = (convert(source, tmp_path / kv, recipe, kv=kv) for kv in ("f32", "q8_0"))
    backend = opened(tmp_path / "q8_0")
    assert backend.can_copy
    assert backend.kv_bytes_per_token == small.kv_bytes_per_token == full.kv_bytes_per_token // 4
    backend.run([Row(0, 0, TOKENS[:30])])
    saved = backend.save(0, 30)
    assert (saved.dtype, saved.nbytes) == (np.int8, 30 * backend.kv_bytes_per_token)
    assert saved.any()
    expected = backend.run([Row(0, 30, TOKENS[30:])])[0].copy()
    backend.copy(0, 5, 30)
    backend.run([Row(0, 0, TOKENS[::-1])])  # what is saved does not change with the slot
    backend.restore(2, saved, 30)
    for slot in (2, 5):
        np.testing.assert_array_equal(backend.run([Row(slot, 30, TOKENS[30:])])[0], expected)
    backend.restore(3, saved, 10)
    for mine, theirs in zip(backend.save(3, 10), saved, strict=True):
        np.testing.assert_array_equal(mine, theirs[:, :10])
    backend.close()


@pytest.mark.parametrize(
    ("setting", "available", "chosen"),
    [
        ("auto", ["CPUExecutionProvider"], ["CPU"]),
        ("auto", ["DmlExecutionProvider", "CPUExecutionProvider"], ["DirectML", "CPU"]),
        ("auto", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CUDA", "CPU"]),
        ("cpu", ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPU"]),
    ],
)
def test_the_best_provider_present_is_tried_first(setting: str, available: list[str], chosen: list[str]) -> None:
    assert [provider.label for provider in providers.candidates(setting, available)] == chosen


def test_a_provider_that_fails_is_passed_over_aloud(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.engine.ort.candidates", lambda setting: [providers.CUDA, providers.CPU])
    backend = open_backend(bundle, read_description(bundle), slots=1, setting="auto", threads=1)
    backend.close()
    assert backend.provider == "CPU"
    assert "CUDA cannot run this model" in caplog.text


def test_an_absent_or_unknown_provider_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(ApplianceError, match="present: cpu"):
        providers.candidates("cuda", ["CPUExecutionProvider"])
    with pytest.raises(ApplianceError, match="one of: auto, cuda, directml, cpu"):
        providers.candidates("tpu", ["CPUExecutionProvider"])
