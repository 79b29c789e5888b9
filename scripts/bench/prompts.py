"""Prompts of a wanted length that no cache has seen."""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.bench.dialects import Message, user

TEXT = """
water light house small river people night music paper world garden letter winter summer window table stone island
forest bridge market doctor farmer horse bread sugar silver copper engine signal number color school picture story
animal mountain street morning evening coffee orange yellow green black white machine simple quick quiet strong heavy
early later north south east west spring field corner circle square value build carry follow gather listen measure
notice offer paint reach share travel visit write answer begin
"""
WORDS = TEXT.split()
TASK = " Write a very long story in which all of these words appear, and describe every place in full sentences."
ENOUGH = 0.03
"""A prompt's length may be off by this share."""


class Prompts:
    """Random words. Of two prompts of one instance not even the beginnings agree for more than a word or two."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._words: dict[int, int] = {}

    def words(self, count: int) -> str:
        """So many words."""
        return " ".join(self._random.choices(WORDS, k=max(1, count)))

    def of(self, tokens: int) -> str:
        """A prompt of about that many tokens, chat template included. `calibrate` comes first."""
        return self.words(self._words[tokens]) + TASK

    def knows(self, tokens: int) -> bool:
        """Whether `of` can make a prompt of that length."""
        return tokens in self._words

    def calibrate(self, tokens: int, count: Callable[[Message], int]) -> None:
        """Find out how many words make `tokens` tokens; `count` asks a server what a message comes to.

        Raises RuntimeError when no number of words comes close.
        """
        if self.knows(tokens):
            return
        words = tokens
        found = 0
        for _ in range(5):
            found = count(user(self.words(words) + TASK))
            if abs(found - tokens) <= ENOUGH * tokens:
                self._words[tokens] = words
                return
            words = max(1, words + tokens - found)
        raise RuntimeError(f"no prompt of {tokens} tokens: {words} words come to {found}")
