"""What a source says of its tokenizer → tokenizer.json, special tokens, chat template.

pretokenizers.py  how byte-level vocabularies cut a text before merging, by name
bpe.py            byte-level BPE ("gpt2") and SentencePiece's BPE ("llama")
unigram.py        SentencePiece's unigram model ("t5")
wordpiece.py      BERT's WordPiece ("bert")
hugging_face.py   tokenizer.json of a Hugging Face folder, as it is
older_folders.py  folders without one, in GGUF's keys
special.py        special tokens: found in a text, ending a reply, around a text
entries.py        checked reading of the metadata

What a model wants around a text is the post-processor of tokenizer.json, which encoders use. A decoder's prompt is
put together from several texts, so whoever encodes for one adds its beginning-of-sequence token. Semantics after
llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.hugging_face import Files
from converters.tokenizers import bpe, hugging_face, wordpiece
from converters.tokenizers.entries import Entries
from converters.tokenizers.older_folders import older_metadata
from converters.tokenizers.special import Frame, added_tokens, end_tokens, read_frame
from converters.tokenizers.unigram import unigram

NO_FILES: Files = MappingProxyType({})
MODELS = ("gpt2", "llama", "t5", "bert", "gemma4")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer and what the engine must know about it. `chat_template` is "" when there is none.

    `frame` is what the tokenizer's post-processor puts around a text; `add_bos` whether that begins with `bos_token`.
    """

    tokenizer: Tokenizer
    size: int
    bos_token: int | None
    eos_tokens: tuple[int, ...]
    frame: Frame
    chat_template: str

    @property
    def add_bos(self) -> bool:
        return self.bos_token is not None and self.frame.before[:1] == (self.bos_token,)

    def check_decoder(self) -> None:
        """Raise UnsupportedModel where a decoder's prompt would need more around it than its first token."""
        if self.frame.after or len(self.frame.before) > self.add_bos:
            raise UnsupportedModel(
                "a text model whose tokenizer puts special tokens around every text", ("one BOS token", "none")
            )


def read_vocabulary(metadata: Mapping[str, Any], files: Files = NO_FILES) -> Vocabulary:
    """Build the tokenizer that the metadata describes, or, where there are any, the `files` of a Hugging Face folder.

    Raises UnsupportedModel for a kind of tokenizer or pre-tokenizer not known here, ModelFileError for metadata and
    files that are missing, damaged or contradict each other.
    """
    return _in_folder(metadata, files) if files else _described(metadata)


def _in_folder(metadata: Mapping[str, Any], files: Files) -> Vocabulary:
    settings = hugging_face.Settings(files)
    vocab_size = metadata[f"{metadata['general.architecture']}.vocab_size"]
    if hugging_face.TOKENIZER not in files:
        return _described(older_metadata(settings, vocab_size) | dict(metadata))
    tokenizer = hugging_face.read_tokenizer(files, settings, vocab_size)
    frame = hugging_face.frame_of(tokenizer)
    bos, ends = hugging_face.special_ids(tokenizer, settings, frame, vocab_size)
    return Vocabulary(tokenizer, tokenizer.get_vocab_size(), bos, ends, frame, _chat_template(metadata))


def _described(metadata: Mapping[str, Any]) -> Vocabulary:
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise NotGGUF("a damaged model: metadata tokenizer.ggml.model is missing")
    if kind not in MODELS:
        raise UnsupportedModel(f"tokenizer {str(kind)[:40]!r}", MODELS)
    refused = ["suppress_tokens"] if kind == "t5" else ["suppress_tokens", "precompiled_charsmap"]
    for key in refused:
        if metadata.get(f"tokenizer.ggml.{key}"):
            raise UnsupportedModel(f"a tokenizer {kind!r} with tokenizer.ggml.{key}", ("tokenizers without",))
    entries = Entries.read(metadata)
    tokenizer, bos, eos, frame = _BUILD[kind](entries)
    tokenizer.add_tokens(list(added_tokens(entries)))
    post_processor = frame.post_processor(entries.tokens)
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return Vocabulary(tokenizer, entries.size, bos, end_tokens(entries, eos), frame, _chat_template(metadata))


Built = tuple[Tokenizer, int | None, int | None, Frame]  # the tokenizer, BOS, EOS, what is around a text


def _byte_level(entries: Entries) -> Built:
    cut = bpe.pre_tokenizer(entries.metadata)
    bos, eos = entries.token_id("bos"), entries.token_id("eos")
    return bpe.byte_level(entries, cut), bos, eos, read_frame(entries, bos, eos, cut.add_bos, False, cut.add_sep)


def _sentencepiece(entries: Entries) -> Built:
    bos, eos = entries.token_id("bos", 1), entries.token_id("eos", 2)
    return bpe.sentencepiece(entries), bos, eos, read_frame(entries, bos, eos, True, False, False)


def _unigram(entries: Entries) -> Built:
    bos, eos = entries.token_id("bos"), entries.token_id("eos", 1)
    return unigram(entries), bos, eos, read_frame(entries, bos, eos, False, True, False)


def _wordpiece(entries: Entries) -> Built:
    frame = wordpiece.frame(entries)
    return wordpiece.wordpiece(entries), frame.before[0], entries.token_id("eos"), frame


_BUILD = {
    "gpt2": _byte_level,
    "gemma4": _byte_level,
    "llama": _sentencepiece,
    "t5": _unigram,
    "bert": _wordpiece,
}


def _chat_template(metadata: Mapping[str, Any]) -> str:
    template = metadata.get("tokenizer.chat_template", "")
    if not isinstance(template, str):
        raise NotGGUF("a damaged model: tokenizer.chat_template is not text")
    return template
