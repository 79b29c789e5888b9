"""Text to tokens and back, over a bundle's `tokenizer.json`.

Detokenising works on bytes: every token stands for a few, control tokens for none, and a reply is their
concatenation read as UTF-8. So a stream and a whole decode agree byte for byte, and a character whose bytes
are spread over several tokens comes out when its last one has arrived.

What a model wants around a text is the post-processor of tokenizer.json. Encoders use it (`encode_input`,
`encode_pair`); a decoder's prompt is put together from several texts, so whoever encodes says where BOS goes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from appliance.bundle import TOKENIZER, Bundle
from appliance.errors import ModelFileError, PromptTooLong

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MARKER = re.compile("<.*>", re.DOTALL)
Piece = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """What an encoder reads: `ids` with the special tokens around the text, `type_ids` (1 for the second of a pair).

    `needed` is how many tokens there were before anything was cut off; len(ids) <= needed.
    """

    ids: list[int]
    type_ids: list[int]
    needed: int


class Tokenizer:
    """One model's tokenizer. Every method may be called from several threads at once."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, bundle: Bundle) -> None:
        """Raises ModelFileError when the tokenizer's decoder is of a kind that we don't know."""
        tokenizer.no_truncation()  # files of encoders often bring a length of their own
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._bos = bundle.bos_token if bundle.add_bos else None
        self._added = tokenizer.get_added_tokens_decoder()
        self._piece, self._strips_space = _read_decoder(_decoder(tokenizer))
        self._bytes: dict[int, bytes] = {}
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, folder: Path, bundle: Bundle) -> Tokenizer:
        """Read `folder`/tokenizer.json; raises ModelFileError when it is missing or damaged."""
        try:
            data = (folder / TOKENIZER).read_bytes()
        except OSError as error:
            raise ModelFileError(f"{TOKENIZER} cannot be read: {error.strerror}") from error
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises plain Exception for whatever it cannot parse
            raise ModelFileError(f"{TOKENIZER} is damaged: {error}") from error
        return cls(tokenizer, bundle)

    def encode(self, text: str, add_bos: bool) -> list[int]:
        """The tokens of `text`; special tokens written in it are parsed as such.

        With `add_bos` the model's BOS goes in front, if the model wants one and the text does not start with it.
        """
        ids: list[int] = self._encode(text, special=False).ids
        if add_bos and self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return ids

    def encode_input(self, text: str, limit: int | None = None) -> EncoderInput:
        """An encoder's input for `text`, with the special tokens that the model wants around it.

        Longer than `limit` tokens, the text loses its end, the special tokens stay. Raises PromptTooLong when
        they alone are more than `limit`.
        """
        return _cut(self._encode(text), limit)

    def encode_pair(self, text: str, other: str, limit: int | None = None) -> EncoderInput:
        """A reranker's input for a query and a document, as `encode_input`; the document is cut first."""
        return _cut(self._encode(text, other), limit)

    def special_tokens(self, pair: bool = False) -> int:
        """How many tokens `encode_input`, or `encode_pair`, puts around the text."""
        return int(self._tokenizer.num_special_tokens_to_add(pair))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` as a text of its own: control tokens are left out, invalid UTF-8 becomes U+FFFD."""
        stream = self.stream(())
        return "".join(map(stream.push, ids)) + stream.flush()

    def written(self, ids: Sequence[int]) -> str:
        """The text of `ids` as it was before it was encoded: as `decode`, but with control tokens spelled out."""
        shown = {token: str(self._added[token].content) for token in self._added.keys() & set(ids)}
        stream = self.stream((), shown)
        return "".join(map(stream.push, ids)) + stream.flush()

    def token_text(self, token: int) -> str:
        """What one token contributes inside a text, leading space included; a part of a character is U+FFFD."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes one token stands for: none for control tokens and for ids that the vocabulary lacks."""
        piece = self._bytes.get(token)
        if piece is None:
            piece = self._bytes[token] = self._read_bytes(token)
        return piece

    def vocabulary(self, size: int) -> tuple[list[bytes], list[int]]:
        """The bytes that each id below `size` stands for, and which ids are markers, here spelled out.

        Markers are control tokens, and added tokens like <table>: text between < and > is not meant to have them.
        """
        tokens = [self._read_bytes(token) for token in range(size)]
        spelled = {token: str(added.content) for token, added in self._added.items() if token < size}
        markers = [token for token, text in spelled.items() if self._added[token].special or MARKER.fullmatch(text)]
        for token in markers:
            tokens[token] = spelled[token].encode()
        return tokens, markers

    def spelling(self, token: int | None) -> str:
        """How the vocabulary spells a token, control tokens too: what templates know as bos_token and eos_token."""
        return "" if token is None else self._tokenizer.id_to_token(token) or ""

    def marks(self, markup: Iterable[str]) -> dict[int, str]:
        """The control tokens whose spelling is part of one of the `markup` texts, as they are spelled."""
        text = "\0".join(markup)
        return {
            token: str(added.content)
            for token, added in self._added.items()
            if added.special and str(added.content) in text
        }

    def stream(self, prompt_tokens: Sequence[int], shown: Mapping[int, str] = {}) -> TextStream:
        """A stream for the tokens that follow `prompt_tokens`; the control tokens `shown` are text in it.

        Tokenizers that put a space in front of a text take it off again in front of the first word; a prompt
        that holds any text has had its first word.
        """
        at_start = self._strips_space and not any(self.token_bytes(token) for token in prompt_tokens)
        return TextStream(self, at_start, shown)

    def _encode(self, text: str, other: str | None = None, special: bool = True) -> tokenizers.Encoding:
        """A batch of one: only in batches the library lets other threads run meanwhile."""
        parts = [text] if other is None else [text, other]
        try:
            return self._encode_parts(parts, special)
        except (TypeError, UnicodeEncodeError):  # lone surrogates, which JSON can smuggle in
            clean = [part.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for part in parts]
            return self._encode_parts(clean, special)

    def _encode_parts(self, parts: Sequence[str], special: bool) -> tokenizers.Encoding:
        batch = [parts[0] if len(parts) == 1 else tuple(parts)]
        return self._tokenizer.encode_batch_fast(batch, add_special_tokens=special)[0]

    def _read_bytes(self, token: int) -> bytes:
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special else str(added.content).encode()
        text = self._tokenizer.id_to_token(token)
        return b"" if text is None else self._piece(text)


class TextStream:
    """Tokens in, text out; a character comes out when its last byte has arrived. One thread at a time."""

    def __init__(self, tokenizer: Tokenizer, at_start: bool, shown: Mapping[int, str]) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._shown = shown
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = at_start

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is incomplete, and for control tokens not shown."""
        piece = self._shown[token].encode() if token in self._shown else self._token_bytes(token)
        if self._at_start and piece:
            self._at_start = False
            piece = piece.removeprefix(b" ")
        return self._characters.decode(piece)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that never completed, else ""."""
        return self._characters.decode(b"", final=True)


def _cut(encoding: tokenizers.Encoding, limit: int | None) -> EncoderInput:
    """Take tokens of the text off its end, those of a second text first, until `limit` are left."""
    ids, type_ids = encoding.ids, encoding.type_ids
    needed = len(ids)
    if limit is not None and needed > limit:
        text = [at for at, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
        if needed - len(text) > limit:
            raise PromptTooLong(needed - len(text), limit)
        gone = set(text[len(text) - (needed - limit) :])
        ids = [token for at, token in enumerate(ids) if at not in gone]
        type_ids = [kind for at, kind in enumerate(type_ids) if at not in gone]
    return EncoderInput(ids, type_ids, needed)


def _decoder(tokenizer: tokenizers.Tokenizer) -> dict[str, Any] | None:
    """The `decoder` of a tokenizer.json. The whole file again, as text and objects, would be 18 MB for SmolLM2."""
    decoder = tokenizer.decoder
    return json.loads(decoder.__getstate__()) if decoder else None


def _read_decoder(decoder: dict[str, Any] | None) -> tuple[Piece, bool]:
    """How a `tokenizer.json` turns a token's text into bytes, and whether it strips a text's first space."""
    steps = decoder.get("decoders", [decoder]) if decoder else []
    strips_space = False
    replacements: list[tuple[str, str]] = []
    kinds = {step["type"] for step in steps}
    if unknown := kinds - {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Strip", "Metaspace", "WordPiece"}:
        raise ModelFileError(f"the tokenizer's decoder {min(unknown)} is not supported")
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
                replacements.append((pattern, content))
            case {"type": "Replace"}:
                raise ModelFileError("the tokenizer's decoder replaces a regular expression, which is not supported")
            case {"type": "Strip", "content": " ", "start": start}:
                strips_space = start > 0
            case {"type": "Metaspace", "replacement": mark}:
                replacements.append((mark, " "))
                strips_space = step.get("prepend_scheme", "always") != "never"
            case {"type": "WordPiece", "prefix": prefix}:
                return (lambda text: _word_piece(text, prefix)), True
    if "ByteLevel" in kinds:
        return _byte_level_piece, False

    def piece(text: str) -> bytes:
        if "ByteFallback" in kinds and (byte := BYTE_TOKEN.fullmatch(text)):
            return bytes.fromhex(byte[1])
        for pattern, content in replacements:
            text = text.replace(pattern, content)
        return text.encode()

    return piece, strips_space


def _word_piece(text: str, prefix: str) -> bytes:
    return (text.removeprefix(prefix) if text.startswith(prefix) else " " + text).encode()


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters are their own bytes, the other bytes follow U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


def _byte_level_piece(text: str) -> bytes:
    try:
        return bytes([_BYTE_LEVEL[character] for character in text])
    except KeyError:  # a token added without the byte alphabet stands for itself
        return text.encode()
