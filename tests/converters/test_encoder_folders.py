"""Encoders and rerankers from the folders that transformers writes: vectors and scores equal transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from appliance.engine.encoder import Encoder, open_encoder
from converters.bundle import convert
from tests.converters.test_encoders import BERT, XLM, close, made, modern, scores_close
from tests.tiny_encoder import VOCABULARY

MEAN = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
Open = Callable[[Any], Encoder]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Saves a model with a tokenizer of as many words, converts the folder and opens the bundle."""
    encoders: list[Encoder] = []

    def opened(model: Any) -> Encoder:
        folder = tmp_path / "hf"
        model.save_pretrained(folder)
        words = {"[UNK]": 0} | {f"w{index}": index for index in range(1, VOCABULARY)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.post_processor = processors.TemplateProcessing("w2 $A w3", "w2 $A w3 $B w3", [("w2", 2), ("w3", 3)])
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "modules.json").write_text(json.dumps(MEAN))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
        bundle = convert(folder, tmp_path / "bundle", "fp32")
        encoders.append(open_encoder(tmp_path / "bundle", bundle, setting="cpu", threads=1))
        return encoders[-1]

    yield opened
    for encoder in encoders:
        encoder.close()


def one_label(config: Any) -> Any:
    config.num_labels = 1
    return config


@pytest.mark.proves(source="safetensors", target="cpu", architecture="bert")
def test_bert(opened: Open) -> None:
    model = made(BertModel, BertConfig(**BERT))
    close(opened(model), "cpu", lambda ids: model(ids).last_hidden_state[0].mean(0))


@pytest.mark.proves(source="safetensors", target="cpu", architecture="bert")
def test_bert_reranker(opened: Open) -> None:
    model = made(BertForSequenceClassification, one_label(BertConfig(**BERT)))
    scores_close(opened(model), "cpu", lambda ids, types: model(ids, token_type_ids=types).logits)


@pytest.mark.proves(source="safetensors", target="cpu", architecture="bert")
def test_xlm_roberta_reranker(opened: Open) -> None:
    model = made(XLMRobertaForSequenceClassification, one_label(XLMRobertaConfig(**XLM)))
    scores_close(opened(model), "cpu", lambda ids, types: model(ids).logits)


@pytest.mark.proves(source="safetensors", target="cpu", architecture="modern-bert")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_reranker(opened: Open, pooling: str) -> None:
    model = modern("ModernBertForSequenceClassification", classifier_pooling=pooling)
    scores_close(opened(model), "cpu", lambda ids, types: model(ids).logits)
