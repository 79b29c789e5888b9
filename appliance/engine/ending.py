"""A short way to the end of a JSON text that a grammar is in the middle of.

What is open is closed as soon as the grammar lets it: strings by their quote, objects and arrays without anything that
they need not have. Where there is a choice, the value that is over soonest is taken. That need not be the shortest way,
but it is one, and its length is known. Where a string has to match a pattern, none may be found.
"""

from __future__ import annotations

import llguidance
import numpy as np
import numpy.typing as npt

MOST_TOKENS = 512
LAST = 99
OUTSIDE = (b"}", b"]", b",", b":", b"0123456789tfn-", b'"', b"[", b"{")
"""What outside a string brings the end nearer, the best first, by a token's first byte."""


class Quotes:
    """Tells whether a text has come to the inside of a string of JSON."""

    def __init__(self, text: bytes = b"") -> None:
        self.inside = self._escaped = False
        self.push(text)

    def push(self, text: bytes) -> None:
        """Go on with `text`."""
        for byte in text:
            if self._escaped:
                self._escaped = False
            elif byte == 0x5C and self.inside:
                self._escaped = True
            elif byte == 0x22:
                self.inside = not self.inside

    def copy(self) -> Quotes:
        """One in the same state."""
        other = Quotes()
        other.inside, other._escaped = self.inside, self._escaped
        return other


class Endings:
    """Ways to the end for one model's vocabulary. May be used from several threads."""

    def __init__(self, tokenizer: llguidance.LLTokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._lengths = np.empty(vocab_size, np.uint16)
        self._outside, self._inside = (np.empty(vocab_size, np.uint8) for _ in range(2))
        order = {byte: rank for rank, first in enumerate(OUTSIDE) for byte in first}
        for token in range(vocab_size):
            text = tokenizer.decode_bytes([token])
            self._lengths[token] = min(len(text), 2**16 - 1)
            self._outside[token] = LAST if not text or text.isspace() else order.get(text[0], LAST)
            plain = text.isascii() and b"\\" not in text and b'"' not in text
            self._inside[token] = 0 if text.startswith(b'"') else 1 if plain else 2

    def tokens(self, matcher: llguidance.LLMatcher, quotes: Quotes) -> list[int] | None:
        """The tokens from where a grammar and its text are to where the text may end; None where none was found."""
        matcher, quotes = matcher.deep_copy(), quotes.copy()
        size = len(self._lengths)
        bits = np.zeros((size + 31) // 32, np.int32)
        found: list[int] = []
        while not (matcher.is_stopped() or matcher.is_accepting()):
            matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")[:size])
            if not len(allowed) or len(found) == MOST_TOKENS or matcher.is_error():
                return None
            token = self._nearest(allowed, quotes)
            matcher.consume_token(token)
            quotes.push(self._tokenizer.decode_bytes([token]))
            found.append(token)
        return found

    def _nearest(self, allowed: npt.NDArray[np.intp], quotes: Quotes) -> int:
        """Of the tokens that may come next, the one that brings the end nearest."""
        ranks = (self._inside if quotes.inside else self._outside)[allowed]
        best = allowed[ranks == ranks.min()]
        lengths = self._lengths[best]
        longest = quotes.inside and ranks.min() > 0  # what has to be said in a string is said in few tokens
        return int(best[lengths.argmax() if longest else lengths.argmin()])
