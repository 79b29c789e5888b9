"""How matrices enter the graph.

    exact    quantised, as close to the source as formats.py says, in the format that runs fastest
    compact  the same values, and what has 4 bits in the source has 4 bits in memory whatever it costs in speed
    q4       compact, and matrices of 8 bits and more are rounded to 4 where their inputs say that it hurts least
    int8     of encoders alone: integer products
    fp32     the source's values as float32: the reference

The recipe int8-rotated is compact with a second graph, that of rotated.py. Large heads are read twice, see
shortlist.py. Experts (../experts.py) have formats of their own, the same with all recipes but fp32; routers are never
quantised.

A recipe adds the nodes, reserves the bytes, and leaves a job that fills them from the source.
"""

from __future__ import annotations

from converters.recipes.base import Recipe
from converters.recipes.compact import Compact, FourBits
from converters.recipes.exact import Exact
from converters.recipes.full import Full
from converters.recipes.int8 import Int8

RECIPES: dict[str, type[Recipe]] = {
    "exact": Exact,
    "compact": Compact,
    "q4": FourBits,
    "int8": Int8,
    "fp32": Full,
}
