"""Tools with random parameters, of the keywords that the API keeps of a tool's schema."""

from __future__ import annotations

import random
from typing import Any

WORDS = ("city", "unit", "count", "tags", "when", "limit", "user_id", "options", "note", "point")
ATOMS: tuple[dict[str, Any], ...] = (
    {"type": "string", "description": "any text"},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "string", "enum": ["celsius", "fahrenheit"]},
    {"enum": [1, 2, "three", None]},
    {"type": ["integer", "null"]},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["auto", "über \"all\""]}]},
)  # fmt: skip


def random_tool(seed: int) -> dict[str, Any]:
    """A tool named after `seed`, always the same."""
    dice = random.Random(seed)
    name = f"{dice.choice(['get', 'set', 'find'])}_{dice.choice(WORDS)}_{seed}"
    return {
        "type": "function",
        "function": {"name": name, "description": "does it", "parameters": _object(dice, depth=2)},
    }


def _object(dice: random.Random, depth: int) -> dict[str, Any]:
    names = dice.sample(WORDS, dice.randint(0 if depth == 2 else 1, 4))
    return {
        "type": "object",
        "properties": {name: _property(dice, depth - 1) for name in names},
        "required": [name for name in names if dice.random() < 0.7],
    }


def _property(dice: random.Random, depth: int) -> dict[str, Any]:
    if depth and dice.random() < 0.25:
        return _object(dice, depth)
    if depth and dice.random() < 0.2:
        return {"type": "array", "items": _property(dice, depth - 1)}
    return dict(dice.choice(ATOMS))
