"""Tokenizers of real models: all-MiniLM-L6-v2 and Gemma 3, from both kinds of files, against their originals."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from appliance.prompt.tokenizer import Tokenizer as RuntimeTokenizer
from appliance.store.gguf_header import read_header
from appliance.store.hugging_face import folder_files
from converters.bundle import convert
from converters.tokenizers import read_vocabulary
from tests.minilm import minilm_folder, minilm_gguf
from tests.prompt.test_tokenizer import bundle
from tests.real_model import GEMMA, model_path
from tests.tiny_vocabulary import ENGLISH, MULTILINGUAL, SAMPLES, transformers

pytestmark = pytest.mark.slow
TEXTS = [*SAMPLES, *ENGLISH.splitlines(), *MULTILINGUAL.splitlines(), "[CLS] in a text", "x" * 101]


@pytest.fixture(scope="module", params=["folder", "GGUF"])
def minilm(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "GGUF":
        return read_vocabulary(read_header(minilm_gguf()).metadata).tokenizer
    metadata = {"general.architecture": "bert", "bert.vocab_size": 30522}
    return read_vocabulary(metadata, folder_files(minilm_folder())).tokenizer


def test_minilms_tokens_are_those_of_transformers(minilm: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = transformers().AutoTokenizer.from_pretrained(str(minilm_folder()))
    for text in TEXTS:
        assert minilm.encode(text).ids == original.encode(text)
    for text, other in itertools.pairwise(SAMPLES[5:9]):
        pair, expected = minilm.encode(text, other), original(text, other)
        assert (pair.ids, pair.type_ids) == (expected["input_ids"], expected["token_type_ids"])


def test_minilms_folder_becomes_a_bundle_with_what_is_around_a_text(tmp_path: Path) -> None:
    made = convert(minilm_folder(), tmp_path / "bundle", "fp32")
    assert (made.kind, made.vocab_size) == ("encoder", 30522)
    tokenizer = RuntimeTokenizer.load(tmp_path / "bundle", made)
    assert tokenizer.encode_input("Hello world").ids == [101, 7592, 2088, 102]
    pair = tokenizer.encode_pair("hello", "world")
    assert (pair.ids, pair.type_ids) == ([101, 7592, 102, 2088, 102], [0, 0, 0, 1, 1])


@pytest.fixture(scope="module")
def gemma() -> dict[str, Any]:
    return read_header(model_path(GEMMA)).metadata


def test_gemmas_tokens_are_those_of_the_reference_engine(gemma: dict[str, Any]) -> None:
    data = Path(__file__).parent.parent / "data"
    expected = json.loads((data / "multilingual-tokens.json").read_text())["gemma3"]
    tokenizer = read_vocabulary(gemma).tokenizer
    # the reference took control tokens in the text as plain text, and what the file calls a user's token, </s>, for one
    tokenizer.encode_special_tokens = True
    parts = [tokenizer.encode(part, add_special_tokens=False).ids for part in MULTILINGUAL.split("</s>")]
    plain = [gemma["tokenizer.ggml.tokens"].index(token) for token in ("</", "s", ">")]
    assert parts[0] + [token for part in parts[1:] for token in [*plain, *part]] == expected


def test_gemmas_tokens_give_the_text_back(gemma: dict[str, Any]) -> None:
    vocabulary = read_vocabulary(gemma)
    assert (vocabulary.bos_token, vocabulary.add_bos, vocabulary.eos_tokens) == (2, True, (1, 106))
    tokenizer = RuntimeTokenizer(vocabulary.tokenizer, bundle(bos=2, add_bos=True))
    for text in [*SAMPLES, "<table>\n\n\n\t<tr>" + " " * 40 + "</tr>"]:
        ids = tokenizer.encode(text, add_bos=True)
        assert ids[0] == 2
        assert tokenizer.decode(ids) == text.replace("<end_of_turn>", "")  # a control token
