"""SentencePiece's unigram model: of all ways to cut a text into tokens, the most likely one."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from appliance.errors import NotGGUF
from converters.tokenizers.bpe import SPACE
from converters.tokenizers.entries import BYTE, NORMAL, UNKNOWN, Entries, values

DEFAULT_UNKNOWN = 2


def unigram(entries: Entries) -> Tokenizer:
    """The tokenizer of a vocabulary with log probabilities as scores.

    Characters are first mapped by the file's table (`precompiled_charsmap`), if it has one; the library looks up
    whole graphemes there where SentencePiece takes the longest match, which differs for some rare sequences.
    """
    vocab, scores = entries.tokens, entries.scores()
    least = min((scores[index] for index in entries.of_type(NORMAL)), default=0.0)
    unknown = next(iter(entries.of_type(UNKNOWN)), entries.token_id("unknown", DEFAULT_UNKNOWN))
    if unknown is None:
        raise NotGGUF("a damaged model: tokenizer.ggml.unknown_token_id is missing")
    # how unlikely an unknown character is follows from the least score; filler tokens must not count
    pieces = [(token, max(score, least)) for token, score in zip(vocab, scores, strict=True)]
    tokenizer = Tokenizer(models.Unigram(pieces, unknown, byte_fallback=len(entries.of_type(BYTE)) == 256))
    prefix = entries.flag("add_space_prefix", False)
    steps = [*_charsmap(entries)]
    if entries.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if SPACE in vocab and not any(SPACE in token[1:] for token in vocab):
        # no token reaches over a space, so words are independent of each other, and most have been seen before
        tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    back = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return tokenizer


def _charsmap(entries: Entries) -> list[Any]:
    table = values(entries.metadata, "precompiled_charsmap")
    if not table:
        return []
    try:
        return [normalizers.Precompiled(bytes(value & 0xFF for value in table))]  # the array may be of signed bytes
    except Exception as error:  # the library raises nothing more precise
        raise NotGGUF(f"a damaged model: tokenizer.ggml.precompiled_charsmap: {error}") from error
