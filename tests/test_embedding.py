"""Texts to vectors and rankings: what is cut, what is refused, what clients get. The encoder is a scripted one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from appliance.bundle import Bundle
from appliance.core import EmbedRequest, Ranked, RerankRequest
from appliance.embedding import embed, embedder, finished, ranked, read_inputs, read_pairs, rerank, reranker
from appliance.engine.desk import Desk
from appliance.engine.encoder import Pair, Vectors
from appliance.errors import InputTooLong, InvalidRequest, NoEmbeddings, NotEmbedded, RequestCancelled, Unsupported
from appliance.prompt.tokenizer import Tokenizer
from appliance.runner import EncoderRunner, Runner

CLS, SEP, WHY, IS, THE, SKY = range(2, 8)
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP, "why": WHY, "is": IS, "the": THE, "sky": SKY}
BUNDLE = Bundle("bert", 0, 1, 0, 0, 2, 8, 512, None, (), False, "fp32", "", kind="encoder", embedding_length=2)


class ScriptedEncoder:
    """The embedding of a text is how many tokens it has and the first word's id; its score the last word's id."""

    provider = "CPU"
    memory_bytes = 0
    accelerated = False

    def __init__(self) -> None:
        self.hang = threading.Event()
        self.begun = threading.Event()
        self.saw_withdrawal = threading.Event()

    def encode(self, inputs: Sequence[Sequence[int]], cancelled: Callable[[], bool]) -> Vectors:
        self.begun.set()
        while self.hang.is_set():
            if cancelled():
                self.saw_withdrawal.set()
                raise RequestCancelled
            time.sleep(0.002)
        return np.array([(len(ids), ids[1]) for ids in inputs], np.float32)

    def score(self, pairs: Sequence[Pair], cancelled: Callable[[], bool]) -> Vectors:
        assert all(len(pair.tokens) == len(pair.types) for pair in pairs)
        return np.array([pair.tokens[-2] for pair in pairs], np.float32)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return Tokenizer(made, BUNDLE)


class Stand:
    """What of a runner these functions use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.encoder = ScriptedEncoder()
        self.desk = Desk(self.encoder, slots=1, max_waiting=1)  # type: ignore[arg-type]


def asked(*texts: str, **more: Any) -> EmbedRequest:
    return EmbedRequest("m", texts, **more)


def run(tokenizer: Tokenizer, act: Callable[[Any], Any]) -> Any:
    """What the coroutine of `act` returns, given a stand-in of a runner."""
    stand = Stand(tokenizer)
    try:
        return asyncio.run(asyncio.wait_for(act(stand), 30))
    finally:
        stand.desk.close()


@pytest.mark.parametrize(
    ("text", "limit", "ids"),
    [
        ("why is the sky", 6, [CLS, WHY, IS, THE, SKY, SEP]),
        ("why is the sky", 5, [CLS, WHY, IS, THE, SEP]),
        ("why is the sky", 3, [CLS, WHY, SEP]),
        ("", 3, [CLS, SEP]),
        ("", 2, [CLS, SEP]),
    ],
)
def test_texts_lose_their_end(
    tokenizer: Tokenizer, text: str, limit: int, ids: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    read = read_inputs(tokenizer, [text, ""], limit, truncate=True)
    assert [each.ids for each in read] == [ids, [CLS, SEP]]
    cut = read[0].needed > len(ids)
    assert (f"cut 1 of 2 texts to {limit} tokens" in caplog.text) is cut


@pytest.mark.parametrize("limit", [2, 1, 0, -5])
def test_nothing_would_be_left(tokenizer: Tokenizer, limit: int) -> None:
    with pytest.raises(InvalidRequest, match="input after truncation exceeds maximum context length"):
        read_inputs(tokenizer, ["why"], limit, truncate=True)


def test_what_may_not_be_truncated_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputTooLong, match="the input length exceeds the context length") as raised:
        read_inputs(tokenizer, ["why", "why is the sky"], 5, truncate=False)
    assert (raised.value.needed, raised.value.limit) == (6, 5)
    assert len(read_inputs(tokenizer, ["why", "why is the sky"], 6, truncate=False)) == 2


def test_a_batch(tokenizer: Tokenizer) -> None:
    made = run(tokenizer, lambda stand: embed(stand, asked("why is", "sky", ""), 512))
    assert made.prompt_tokens == 4 + 3 + 2
    expected = np.array([(4, WHY), (3, SKY), (2, SEP)], np.float32)
    np.testing.assert_allclose(made.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)


def test_the_old_way_and_truncation(tokenizer: Tokenizer) -> None:
    made = run(tokenizer, lambda stand: embed(stand, asked("why is the sky", normalize=False), 5))
    assert (made.vectors.tolist(), made.prompt_tokens) == ([[5, WHY]], 5)


def test_cancelling_withdraws(tokenizer: Tokenizer) -> None:
    async def scenario(stand: Stand) -> None:
        stand.encoder.hang.set()
        task = asyncio.create_task(embed(cast("EncoderRunner", stand), asked("why"), 512))
        await asyncio.to_thread(stand.encoder.begun.wait, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await asyncio.to_thread(stand.encoder.saw_withdrawal.wait, 20)

    run(tokenizer, scenario)


@pytest.mark.spec(17)
def test_vectors_have_length_one_and_zeros_stay() -> None:
    assert finished(np.array([[2.0]], np.float32), 0, True).tolist() == [[1]]
    assert finished(np.zeros((1, 3), np.float32), 0, True).tolist() == [[0, 0, 0]]
    large = finished(np.full((1, 4), 3e38, np.float32), 0, True)
    assert large.tolist() == [[0.5] * 4]


@pytest.mark.parametrize(("dimensions", "kept"), [(-1, 3), (0, 3), (1, 1), (2, 2), (3, 3), (4, 3)])
def test_dimensions(dimensions: int, kept: int) -> None:
    made = finished(np.array([[3.0, 4.0, 12.0]], np.float32), dimensions, True)
    assert made.shape == (1, kept)
    assert np.linalg.norm(made) == pytest.approx(1)
    assert made[0, 0] == pytest.approx(3 / np.linalg.norm([3.0, 4.0, 12.0][:kept]))


@pytest.mark.spec(17)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalize", [True, False])
def test_what_is_no_number(value: float, normalize: bool) -> None:
    with pytest.raises(NotEmbedded, match=r"^embedding contains NaN or Inf values$"):
        finished(np.array([[1, value]], np.float32), 1, normalize)


def asked_rank(**more: Any) -> RerankRequest:
    return RerankRequest("m", "why is", ("the", "sky the sky", "is"), **more)


def test_ranking(tokenizer: Tokenizer) -> None:
    made = run(tokenizer, lambda stand: rerank(stand, asked_rank(), 512))
    assert made.prompt_tokens == 6 + 8 + 6
    assert [each.index for each in made.results] == [1, 0, 2]
    assert made.results[0].relevance == pytest.approx(1 / (1 + np.exp(-SKY)))
    assert len(run(tokenizer, lambda stand: rerank(stand, asked_rank(top_n=2), 512)).results) == 2
    assert len(run(tokenizer, lambda stand: rerank(stand, asked_rank(top_n=9), 512)).results) == 3


def test_the_document_is_what_is_cut(tokenizer: Tokenizer) -> None:
    pairs = read_pairs(tokenizer, asked_rank(), 7)
    assert pairs[1].ids == [CLS, WHY, IS, SEP, SKY, THE, SEP]
    assert pairs[1].type_ids == [0, 0, 0, 0, 1, 1, 1]
    with pytest.raises(InputTooLong) as raised:
        read_pairs(tokenizer, asked_rank(truncate=False), 7)
    assert (raised.value.needed, raised.value.limit) == (8, 7)
    with pytest.raises(InputTooLong):
        read_pairs(tokenizer, asked_rank(), 5)


def test_scores_are_shares_and_equal_ones_stay_in_order() -> None:
    made = ranked(np.array([-200, 3, 200, 3], np.float32), None)
    assert [each.index for each in made] == [2, 1, 3, 0]
    assert (made[0], made[-1]) == (Ranked(2, 1.0), Ranked(0, 0.0))
    with pytest.raises(InvalidRequest, match="NaN"):
        ranked(np.array([np.nan], np.float32), None)


def test_models_of_another_kind_are_refused() -> None:
    decoder = cast("Runner", object())
    with pytest.raises(NoEmbeddings, match="This server does not support embeddings") as raised:
        embedder(decoder, "smol")
    assert '"smol"' in str(raised.value)
    with pytest.raises(Unsupported, match='"smol" does not support rerank'):
        reranker(decoder, "smol")
