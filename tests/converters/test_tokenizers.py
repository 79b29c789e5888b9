"""Tokenizers built from metadata, token by token against the models' original tokenizers."""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
import regex
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from appliance.errors import NotGGUF, UnsupportedModel
from converters.pretokenizers import PRE_TOKENIZERS
from converters.tokenizers import read_vocabulary
from tests.tiny_model import CONTROL, byte_tokens

DATA = Path(__file__).parent.parent / "data"
MULTILINGUAL = (DATA / "multilingual.txt").read_text(encoding="utf-8")
ENGLISH = (DATA / "english.txt").read_text(encoding="utf-8")
SAMPLES = [
    MULTILINGUAL,
    ENGLISH[:2000],
    "",
    " ",
    "   leading and trailing   ",
    "tabs\tand\r\nline ends\n\n\n  \n x\n",
    "I'm he'LL They'VE don't 'tis O'Neill's",
    "1 12 123 1234 12345678 3.14159 ½ ² Ⅷ 一二三 ١٢٣",
    "CamelCaseHTTPServer snake_case kebab-case C++ #include <x.h> a/b//c",
    "Ünïcödé e\u0301 ﬁ ẞ ñ Ω Привет мир 你好，世界 こんにちは 한국어 ไทย हिन्दी 🦙👩‍👩‍👧",
    "!!! ... ??? (((a))) [b] {c} $5 <= >= => ~~ `code` ^^ ||",
    "\u00a0non\u2003breaking\u3000spaces\u200b",
]


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """Metadata of a byte-level vocabulary trained on the test texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([ENGLISH, MULTILINGUAL * 3, " ".join(SAMPLES)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), *CONTROL]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.token_type": [1] * len(model["vocab"]) + [3] * len(CONTROL),
        "tokenizer.ggml.eos_token_id": len(tokens) - 1,
    }


def encode(metadata: dict[str, Any], text: str) -> list[int]:
    ids: list[int] = read_vocabulary(metadata).tokenizer.encode(text, add_special_tokens=False).ids
    return ids


# ---- pre-tokenizers, each against the patterns of llama.cpp's src/llama-vocab.cpp run by another engine

CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_CPP: dict[tuple[str, ...], list[str]] = {
    ("default",): [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "gigachat", "mellum", "trillion"): [GPT2],
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): [r"\p{N}", GPT2],
    ("falcon",): [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"): [
        rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1,3}}|{REST}"
    ],
    ("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"): [rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1,3}}|{REST}"],
    ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"): [rf"{CONTRACTION}|{WORDS}|\p{{N}}|{REST}"],
    ("qwen35",): [
        rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    ("seed-coder",): [rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    ("tekken",): [rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}|{CASED_REST}"],
    ("gpt-4o", "llama4", "kanana2"): [
        rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTION}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTION}?|\p{{N}}{{1,3}}|{CASED_REST}"
    ],
    ("deepseek-coder",): [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    ("deepseek-v3",): [
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
}
PATTERNS = {name: patterns for names, patterns in LLAMA_CPP.items() for name in names}


def pieces(text: str, patterns: list[str]) -> list[str]:
    """Split by each pattern in turn into matches and what lies between."""
    parts = [text]
    for pattern in patterns:
        cut = []
        for part in parts:
            at = 0
            for match in regex.finditer(pattern, part):
                cut += [part[at : match.start()], match.group()]
                at = match.end()
            cut.append(part[at:])
        parts = [part for part in cut if part]
    return parts


def slow_encode(text: str, metadata: dict[str, Any], patterns: list[str], whole_words: bool) -> list[int]:
    """Byte pair encoding as one would write it first."""
    ids = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
    names = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], byte_tokens(), strict=False))
    rest = [byte for byte in range(256) if byte not in names]
    names |= dict(zip(rest, byte_tokens()[len(names) :], strict=True))

    @functools.cache
    def merged(word: str) -> list[int]:
        parts = [names[byte] for byte in word.encode()]
        if whole_words and "".join(parts) in ids:
            return [ids["".join(parts)]]
        while True:
            pairs = [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
            if not pairs:
                return [ids[part] for part in parts]
            at = min(pairs)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

    return [token for piece in pieces(text, patterns) for token in merged(piece)]


def test_every_name_is_tested() -> None:
    assert set(PATTERNS) == set(PRE_TOKENIZERS)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizer(trained: dict[str, Any], name: str) -> None:
    metadata = {**trained, "tokenizer.ggml.pre": name}
    vocabulary = read_vocabulary(metadata)
    cut = PRE_TOKENIZERS[name]
    vocabulary.tokenizer.encode_special_tokens = True
    for text in SAMPLES:
        if cut.nfc:
            text = unicodedata.normalize("NFC", text)
        ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == slow_encode(text, metadata, PATTERNS[name], cut.whole_words)
        assert vocabulary.tokenizer.decode(ids) == text


def test_whole_words_are_taken_before_merging(trained: dict[str, Any]) -> None:
    """A token that no merge leads to is found by the families that look for whole words, and by no other."""
    tokens = [*trained["tokenizer.ggml.tokens"], "Ġxqzj"]
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], 1],
    }
    assert encode({**metadata, "tokenizer.ggml.pre": "llama-bpe"}, " xqzj") == [len(tokens) - 1]
    assert len(encode({**metadata, "tokenizer.ggml.pre": "dbrx"}, " xqzj")) > 1


# ---- the original classes of transformers


def byte_level_files(metadata: dict[str, Any], folder: Path) -> tuple[str, str]:

    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n" + "\n".join(metadata["tokenizer.ggml.merges"]) + "\n", encoding="utf-8")
    return str(vocab), str(merges)


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        ("gpt-2", "GPT2Tokenizer"),
        ("gpt-2", "GPT2TokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("qwen2", "Qwen2TokenizerFast"),
    ],
)
def test_original_byte_level_tokenizers(trained: dict[str, Any], tmp_path: Path, pre: str, name: str) -> None:
    original = getattr(transformers(), name)(*byte_level_files(trained, tmp_path), unk_token="<|endoftext|>")
    for text in SAMPLES:
        text = text.replace("<|", "< |")  # control tokens are another test's matter
        expected = original.encode(text, add_special_tokens=False)
        assert encode({**trained, "tokenizer.ggml.pre": pre}, text) == expected


def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        return transformers


# ---- SentencePiece


@pytest.fixture(scope="module")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text").write_text(ENGLISH + MULTILINGUAL, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "spm"),
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<tool>"],
        minloglevel=2,
    )
    return folder / "spm.model"


@pytest.fixture(scope="module")
def sentencepiece_metadata(sentencepiece_file: Path) -> dict[str, Any]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_file))
    ids = range(model.get_piece_size())

    def kind(index: int) -> int:
        checks = (model.is_unknown, model.is_control, model.is_unused, model.is_byte)
        found = [kind for kind, check in zip((2, 3, 5, 6), checks, strict=True) if check(index)]
        return 4 if model.id_to_piece(index) == "<tool>" else (found or [1])[0]

    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(index) for index in ids],
        "tokenizer.ggml.scores": [model.get_score(index) for index in ids],
        "tokenizer.ggml.token_type": [kind(index) for index in ids],
    }


CONTROL_IN_TEXT = ["a<s>b</s> c", "x<tool>y <tool> z<unk>", MULTILINGUAL]


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_original_llama_tokenizer(sentencepiece_file: Path, sentencepiece_metadata: dict[str, Any], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = getattr(transformers(), name)(str(sentencepiece_file), legacy=True, add_prefix_space=True)
        fast = name.endswith("Fast")  # the slow class drops spaces around control tokens
        for text in [*(text.replace("</", "< /") for text in SAMPLES), *(CONTROL_IN_TEXT if fast else [])]:
            assert encode(sentencepiece_metadata, text) == original.encode(text, add_special_tokens=False)


def test_sentencepiece_decodes_what_it_encoded(sentencepiece_metadata: dict[str, Any]) -> None:
    tokenizer = read_vocabulary(sentencepiece_metadata).tokenizer
    for text in SAMPLES:
        tokenizer.encode_special_tokens = True
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_sentencepiece_without_space_prefix(sentencepiece_file: Path, sentencepiece_metadata: dict[str, Any]) -> None:
    metadata = {**sentencepiece_metadata, "tokenizer.ggml.add_space_prefix": False}
    with_prefix, without = encode(sentencepiece_metadata, "the"), encode(metadata, "the")
    tokens = metadata["tokenizer.ggml.tokens"]
    assert "".join(tokens[index] for index in with_prefix) == "▁the"
    assert "".join(tokens[index] for index in without) == "the"
    assert read_vocabulary(metadata).tokenizer.decode(encode(metadata, " the")) == " the"


# ---- special tokens


def test_control_tokens_in_text_are_found(trained: dict[str, Any]) -> None:
    metadata = {**trained, "tokenizer.ggml.pre": "gpt-2"}
    first = len(metadata["tokenizer.ggml.tokens"]) - 3
    ids = encode(metadata, "<|im_start|>user\nhi<|im_end|>\n")
    assert (ids[0], ids[-2]) == (first + 1, first + 2)
    tokenizer = read_vocabulary(metadata).tokenizer
    assert tokenizer.decode(ids) == "user\nhi\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nhi<|im_end|>\n"


def test_user_defined_tokens_are_text(trained: dict[str, Any]) -> None:
    types = [*trained["tokenizer.ggml.token_type"][:-3], 4, 3, 3]
    metadata = {**trained, "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.token_type": types}
    ids = encode(metadata, "a<|endoftext|>b")
    assert len(types) - 3 in ids
    assert read_vocabulary(metadata).tokenizer.decode(ids) == "a<|endoftext|>b"


def test_no_token_is_added_by_encoding(sentencepiece_metadata: dict[str, Any]) -> None:
    vocabulary = read_vocabulary(sentencepiece_metadata)
    assert vocabulary.add_bos
    assert vocabulary.bos_token == 1
    both = [vocabulary.tokenizer.encode("the", add_special_tokens=flag).ids for flag in (True, False)]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("pre", "given", "expected"),
    [("gpt-2", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", True, True)],
)
def test_add_bos(trained: dict[str, Any], pre: str, given: bool | None, expected: bool) -> None:
    metadata = {**trained, "tokenizer.ggml.pre": pre, "tokenizer.ggml.bos_token_id": 3}
    if given is not None:
        metadata["tokenizer.ggml.add_bos_token"] = given
    assert read_vocabulary(metadata).add_bos is expected


def test_end_of_generation(trained: dict[str, Any]) -> None:
    first = len(trained["tokenizer.ggml.tokens"])
    extra = ["<|end|>", "<|eot_id|>", "<|eom_id|>", "<tool_call>", "</s>"]
    kinds = [3, 3, 3, 3, 1]  # the last is no control token, so it may be ordinary text
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": [*trained["tokenizer.ggml.tokens"], *extra],
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], *kinds],
        "tokenizer.ggml.eos_token_id": 7,
        "tokenizer.ggml.eot_token_id": 5,
    }
    endoftext, _, im_end = range(first - 3, first)
    assert read_vocabulary(metadata).eos_tokens == (7, 5, endoftext, im_end, first, first + 1, first + 2)


def test_end_may_end_only_a_message(trained: dict[str, Any]) -> None:
    first = len(trained["tokenizer.ggml.tokens"])
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": [*trained["tokenizer.ggml.tokens"], "<|end|>", "<|return|>", "<|call|>"],
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], 3, 3, 3],
    }
    eos = read_vocabulary(metadata).eos_tokens
    assert first not in eos
    assert {first + 1, first + 2} <= set(eos)


# ---- refusals


def test_unknown_pre_tokenizers_are_refused_with_the_known_ones(trained: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match=r"pre-tokenizer 'klingon' is not supported.*llama-bpe.*smollm") as error:
        read_vocabulary({**trained, "tokenizer.ggml.pre": "klingon"})
    assert error.value.supported == tuple(sorted(PRE_TOKENIZERS))


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"model": "bert"}, UnsupportedModel, "tokenizer 'bert'"),
        ({"model": None}, NotGGUF, "model is missing"),
        ({"tokens": None}, NotGGUF, "tokens is missing"),
        ({"tokens": ["a", "a"]}, NotGGUF, "a token twice"),
        ({"tokens": [1, 2]}, NotGGUF, "not text"),
        ({"merges": None}, NotGGUF, "merges is missing"),
        ({"merges": ["nospace"]}, NotGGUF, "the merge 'nospace'"),
        ({"merges": ["qq zz"]}, NotGGUF, "merges"),
        ({"merges": 5}, NotGGUF, "merges has no entries"),
        ({"token_type": [1]}, NotGGUF, "token_type has 1 entries"),
        ({"eos_token_id": 10**6}, NotGGUF, "eos_token_id is 1000000"),
        ({"bos_token_id": -1}, NotGGUF, "bos_token_id is -1"),
        ({"add_eos_token": True}, UnsupportedModel, "add_eos_token"),
        ({"model": "llama"}, NotGGUF, "scores is missing"),
        ({"model": "llama", "scores": [0.0]}, NotGGUF, "scores has 1 entries"),
    ],
)
def test_damaged_tokenizers_are_refused(
    trained: dict[str, Any], change: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    metadata = {**trained, **{f"tokenizer.ggml.{name}": value for name, value in change.items()}}
    with pytest.raises(kind, match=reason):
        read_vocabulary(metadata)
