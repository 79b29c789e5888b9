"""Pre-tokenizers, each against the patterns of llama.cpp's src/llama-vocab.cpp run by another engine."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.tokenizers import read_vocabulary
from converters.tokenizers.pretokenizers import PRE_TOKENIZERS
from tests.tiny_model import byte_tokens
from tests.tiny_vocabulary import ALPHABET, SAMPLES, byte_level, encode

CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTION}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTION}?|\p{{N}}{{1,3}}|{CASED_REST}"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
# llama.cpp groups digits by hand
FROM_THE_RIGHT = r"(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))|\p{N}{3}(?=(?:\p{N}{3})*(?!\p{N}))"
LLAMA_CPP: dict[tuple[str, ...], list[str]] = {
    ("default",): [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    ("gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "gigachat", "mellum", "trillion"): [GPT2],
    ("modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "a.x-4.0", "granite-docling"): [GPT2],
    ("roberta-bpe", "jina-v1-en", "jina-v2-code"): [GPT2],
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): [r"\p{N}", GPT2],
    ("falcon",): [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0", "jina-v5-nano"): [
        rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1,3}}|{REST}"
    ],
    ("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"): [rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1,3}}|{REST}"],
    ("qwen2", "deepseek-r1-qwen", "megrez", "f2llmv2"): [rf"{CONTRACTION}|{WORDS}|\p{{N}}|{REST}"],
    ("stablelm2", "hunyuan", "kormo", "grok-2", "solar-open"): [rf"{CONTRACTION}|{WORDS}|\p{{N}}|{REST}"],
    ("qwen35",): [
        rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    ("seed-coder",): [rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    ("tekken",): [rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}|{CASED_REST}"],
    ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"): [GPT4O],
    ("deepseek-coder",): [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
    ("deepseek-llm",): [
        # the letters are a list there, of those that have a case
        r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
        "[一-龥ࠀ-一가-퟿]+", r"\p{N}+",
    ],
    ("spark2_5",): [
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
        r"\p{N}",
    ],
    ("youtu",): [
        "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
        rf"{LEAD}{UPPER}*{LOWER}+{CONTRACTION}?|{LEAD}{UPPER}+{LOWER}*{CONTRACTION}?|\p{{N}}|{CASED_REST}",
    ],
    ("bloom", "gpt3-finnish", "poro-chat"): [BLOOM],
    ("viking",): [BLOOM, r"\p{N}"],
    # \b as in Oniguruma, which runs the model's own tokenizer: ½ belongs to words there, ① does not
    ("tiny_aya", "cohere2moe"): [r"\d{1,3}(?=(?:\d{3})*(?![\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}²³¹¼½¾]))", GPT4O],
    ("afmoe",): [
        FROM_THE_RIGHT,
        "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
        DEEPSEEK3,
    ],
    ("superbpe",): [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    ("bailingmoe", "bailingmoe2", "llada-moe"): [
        rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{WORDS}|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    ("ufakzeka",): [rf"{WORDS}|\p{{N}}|{REST}"],
    ("laguna",): [r"[^\n]+|[\n]+", rf"{CONTRACTION}|{WORDS}|\p{{N}}|{REST}"],
    ("minicpm5",): [r"\p{N}{1,3}", rf"{CONTRACTION}|{WORDS}|\p{{N}}+|{REST}"],
    ("exaone-moe",): [
        rf"{CONTRACTION}|{LEAD}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    ],
    ("jais-2",): [
        rf"{CONTRACTION}|{WORDS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|"
        + "|".join(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
        + r"|\s{1,2}(?!\S)|\s{1}"
    ],
    ("chameleon",): [
        "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", GPT2,
    ],
}  # fmt: skip
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
    assert set(PATTERNS) == {name for name, cut in PRE_TOKENIZERS.items() if not cut.spaces}


@pytest.mark.parametrize("name", PATTERNS)
def test_pre_tokenizer(name: str) -> None:
    metadata = {**byte_level(), "tokenizer.ggml.pre": name, "tokenizer.ggml.add_sep_token": False}
    vocabulary = read_vocabulary(metadata)
    cut = PRE_TOKENIZERS[name]
    vocabulary.tokenizer.encode_special_tokens = True
    for text in [*SAMPLES, "<sentinel:12> IMGIMGABZ", "          ten spaces" + " " * 40]:
        if cut.nfc:
            text = unicodedata.normalize("NFC", text)
        ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == slow_encode(text, metadata, PATTERNS[name], cut.whole_words)
        assert vocabulary.tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def cutters() -> dict[str, Any]:
    """Every pre-tokenizer that cuts."""
    metadata = {**byte_level(), "tokenizer.ggml.add_sep_token": False}
    return {
        name: read_vocabulary({**metadata, "tokenizer.ggml.pre": name}).tokenizer.pre_tokenizer for name in PATTERNS
    }


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=ALPHABET + "'Dd123Ll\r…。ا۔あア가ㄅ٣½Ⅷ😀\u200d\u0e40", max_size=30))
def test_any_text_is_cut_alike(cutters: dict[str, Any], text: str) -> None:
    for name, cutter in cutters.items():
        assert cut(cutter, text) == pieces(text, PATTERNS[name]), name


def test_whole_words_are_taken_before_merging() -> None:
    """A token that no merge leads to is found by the families that look for whole words, and by no other."""
    trained = byte_level()
    tokens = [*trained["tokenizer.ggml.tokens"], "Ġxqzj"]
    metadata = {
        **trained,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*trained["tokenizer.ggml.token_type"], 1],
    }
    assert encode({**metadata, "tokenizer.ggml.pre": "llama-bpe"}, " xqzj") == [len(tokens) - 1]
    assert len(encode({**metadata, "tokenizer.ggml.pre": "dbrx"}, " xqzj")) > 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("llama-bpe", "I'LL pay 12345 now", ["I", "'LL", " pay", " ", "123", "45", " now"]),
        ("qwen2", "in 2024\n\n  x", ["in", " ", "2", "0", "2", "4", "\n\n", " ", " x"]),
        ("tekken", "camelCaseX", ["camel", "Case", "X"]),
        ("gpt-2", "don't  stop", ["don", "'t", " ", " stop"]),
        ("deepseek-v3", "你好abc,def", ["你好", "abc", ",def"]),
        ("tiny_aya", "1234567 1234a", ["1", "234", "567", " ", "123", "4", "a"]),
        ("afmoe", "1234567 1234a", ["1", "234", "567", " ", "1", "234", "a"]),
        ("smollm", "a12", ["a", "1", "2"]),
        ("gpt-4o", "We're 👩‍👩‍👧!", ["We're", " 👩‍👩‍👧!"]),
    ],
)
def test_what_a_text_is_cut_into(name: str, text: str, expected: list[str]) -> None:
    cutter = read_vocabulary({**byte_level(), "tokenizer.ggml.pre": name}).tokenizer.pre_tokenizer
    assert cut(cutter, text) == expected


def cut(cutter: Any, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in cutter.pre_tokenize_str(text)]
