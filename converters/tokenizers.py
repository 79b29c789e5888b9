"""GGUF metadata → tokenizer.json, special tokens, chat template.

Two vocabularies are read: byte-level BPE ("gpt2") with a named pre-tokenizer, and SentencePiece BPE ("llama")
whose merges follow from the scores. The beginning-of-sequence token is described, not built in: whoever encodes
adds it. Semantics after llama.cpp's src/llama-vocab.cpp; the SentencePiece form after transformers'
convert_slow_tokenizer.py, so that the result equals the model's original fast tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from appliance.errors import NotGGUF, UnsupportedModel
from converters.pretokenizers import PRE_TOKENIZERS, PreTokenizer

MODELS = ("gpt2", "llama")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
# Control tokens that end a reply whatever the file's eos is (llama.cpp keeps the same list).
END_OF_GENERATION = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
        "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
        "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer and what the engine must know about it. `chat_template` is "" when there is none."""

    tokenizer: Tokenizer
    size: int
    bos_token: int | None
    eos_tokens: tuple[int, ...]
    add_bos: bool
    chat_template: str


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Build the tokenizer that the metadata describes.

    Raises UnsupportedModel for a kind of tokenizer or pre-tokenizer not known here, NotGGUF for metadata that is
    missing or contradicts itself.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise NotGGUF("a damaged model: metadata tokenizer.ggml.model is missing")
    if kind not in MODELS:
        raise UnsupportedModel(f"tokenizer {str(kind)[:40]!r}", MODELS)
    for key in ("tokenizer.ggml.add_eos_token", "tokenizer.ggml.precompiled_charsmap"):
        if metadata.get(key):
            raise UnsupportedModel(f"a tokenizer with {key}", ("tokenizers without",))
    tokens = _tokens(metadata)
    types = _list(metadata, "token_type", len(tokens)) or [NORMAL] * len(tokens)
    bpe = kind == "gpt2"
    if bpe:
        cut = _pre_tokenizer(metadata)
        tokenizer, add_bos = _byte_level(metadata, tokens, cut), cut.add_bos
    else:
        tokenizer, add_bos = _sentencepiece(metadata, tokens, types), True
    tokenizer.add_tokens(list(_added(tokens, types)))
    bos = _token_id(metadata, "bos", len(tokens), None if bpe else 1)
    return Vocabulary(
        tokenizer=tokenizer,
        size=len(tokens),
        bos_token=bos,
        eos_tokens=_eos(metadata, tokens, types, None if bpe else 2),
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None,
        chat_template=_chat_template(metadata),
    )


def _byte_level(metadata: Mapping[str, Any], tokens: Sequence[str], cut: PreTokenizer) -> Tokenizer:
    merges = _list(metadata, "merges")
    if merges is None:
        raise NotGGUF("a damaged model: metadata tokenizer.ggml.merges is missing")
    pairs = [_pair(merge) for merge in merges]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(_bpe(vocab, pairs, ignore_merges=cut.whole_words))
    if cut.nfc:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cut.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")  # files older than the key; llama.cpp does the same
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise UnsupportedModel(f"pre-tokenizer {str(name)[:40]!r}", tuple(sorted(PRE_TOKENIZERS)))
    return PRE_TOKENIZERS[name]


def _sentencepiece(metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores = _list(metadata, "scores", len(tokens))
    if scores is None:
        raise NotGGUF("a damaged model: metadata tokenizer.ggml.scores is missing")
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    merges = merges_by_score(vocab, scores)
    tokenizer = Tokenizer(_bpe(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *spaces] if prefix else spaces)
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return tokenizer


def merges_by_score(vocab: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of tokens that join to a token, best score of the joined token first.

    Among equal scores the order is that of transformers' `generate_merges`.
    """
    ranked = []
    for token, index in vocab.items():
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in halves if pair[0] in vocab and pair[1] in vocab]
        pairs.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        ranked += [((scores[index], len(left), len(right)), (left, right)) for left, right in pairs]
    ranked.sort(key=lambda entry: entry[0], reverse=True)
    return [pair for _, pair in ranked]


def _bpe(vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:  # the library raises nothing more precise
        raise NotGGUF(f"a damaged model: the tokenizer's merges: {error}") from error


def _added(tokens: Sequence[str], types: Sequence[int]) -> Iterator[AddedToken]:
    """Tokens that are found in the text before anything else is done to it."""
    for token, kind in zip(tokens, types, strict=True):
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            yield AddedToken(token, special=kind != USER_DEFINED, normalized=False)


def _eos(
    metadata: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], default: int | None
) -> tuple[int, ...]:
    """Every token that ends a reply: those the file names first, then those known by their text."""
    named = [_token_id(metadata, "eos", len(tokens), default)]
    named += [_token_id(metadata, key, len(tokens), None) for key in ("eot", "eom")]
    known = {
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == CONTROL and token in END_OF_GENERATION
    }
    texts = {tokens[index] for index in known}
    if texts >= {"<|return|>", "<|call|>"} or texts >= {"<|calls|>", "<|flush|>"}:
        known = {index for index in known if tokens[index] != "<|end|>"}  # there it ends a message, not the reply
    return tuple(dict.fromkeys([index for index in named if index is not None] + sorted(known)))


def _chat_template(metadata: Mapping[str, Any]) -> str:
    template = metadata.get("tokenizer.chat_template", "")
    if not isinstance(template, str):
        raise NotGGUF("a damaged model: tokenizer.chat_template is not text")
    return template


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    tokens = _list(metadata, "tokens")
    if not tokens:
        raise NotGGUF("a damaged model: metadata tokenizer.ggml.tokens is missing")
    if not all(isinstance(token, str) for token in tokens):
        raise NotGGUF("a damaged model: tokenizer.ggml.tokens are not text")
    named = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    if len(set(named)) != len(named):
        raise NotGGUF("a damaged model: tokenizer.ggml.tokens has a token twice")
    return named


def _list(metadata: Mapping[str, Any], name: str, size: int | None = None) -> list[Any] | None:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return None
    if not isinstance(value, list) or (size is not None and len(value) != size):
        count = len(value) if isinstance(value, list) else "no"
        raise NotGGUF(f"a damaged model: tokenizer.ggml.{name} has {count} entries" + (f", not {size}" if size else ""))
    return value


def _pair(merge: Any) -> tuple[str, str]:
    left, _, right = merge.partition(" ") if isinstance(merge, str) else ("", "", "")
    if not left or not right or " " in right:
        raise NotGGUF(f"a damaged model: the merge {str(merge)[:40]!r} in tokenizer.ggml.merges")
    return left, right


def _token_id(metadata: Mapping[str, Any], name: str, size: int, default: int | None) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    if value is not None and (type(value) is not int or not 0 <= value < size):
        raise NotGGUF(f"a damaged model: tokenizer.ggml.{name}_token_id is {str(value)[:40]}")
    return value
