"""Heads of large vocabularies: every row in 4 bits first, then the likeliest again in 8.

After the preview window of SVD-softmax (Shim et al., NIPS 2017), with fewer bits in place of fewer columns. A head of
2^26 weights is most of what a step of decoding reads, and nearly all of its products only say that a token is out of
the question. So MatMulNBits multiplies a copy in 4 bits, which takes half the time, and for the SHORTLIST likeliest
tokens the logit is replaced by that of the row in 8 bits, looked up in the table that the embedding is in too and
multiplied in float32. The others, a fortieth of the probability in all, keep the logit of 4 bits; they matter where
nothing is filtered before a draw, or where a grammar leaves no likelier token.

Measured on Gemma 3 270M Q4_K_M, recipe exact, against its own values in float32 (1,020 tokens), milliseconds a token of
one sequence and of four (two threads of a Zen 3, medians of nine alternating rounds), bytes of the head once packed:

                                         NLL   first choice   divergence        ms       MB
    8 bits, blocks of 128            +0.0003         94.3 %       0.0053   26   45      178
    4 bits, blocks of 128, 256 rows  +0.0077         95.9 %       0.0192   21   36       94
    … of 64, 512 rows                +0.0061         95.9 %       0.0105   20   44      105
    … of 32, 256 rows                +0.0071         95.9 %       0.0121   20   38      126
    … of 32, 512 rows (this)         +0.0035         95.9 %       0.0089   20   38      126
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from converters.formats import Format
from converters.graph import MICROSOFT, Graph

SHORTLIST = 1024
FROM_WEIGHTS = 1 << 26
PREVIEW = Format(4, 128)


def preview_format(form: Format, shape: tuple[int, ...]) -> Format | None:
    """How all of a head [N,K] that has the format `form` is read; None where that is `form` itself."""
    rows, columns = shape
    large = rows * columns >= FROM_WEIGHTS and columns % PREVIEW.block == 0
    return PREVIEW if large and form.bits > PREVIEW.bits else None


def with_shortlist(graph: Graph, logits: ir.Value, x: ir.Value, look_up: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """`logits` [B,R,V], the largest replaced by the products of x [B,R,K] with what `look_up` gives for their ids."""
    constant, node = graph.constant, graph.node
    _, ids = node("TopK", logits, constant("shortlist", np.array([SHORTLIST])), axis=-1, sorted=0, outputs=2)
    axis = constant("shortlist.axis", np.array([2]))
    (x,) = node("Unsqueeze", x, axis)
    (exact,) = node("FusedMatMul", x, look_up(ids), domain=MICROSOFT, transB=1)
    (exact,) = node("Squeeze", exact, axis)
    return node("ScatterElements", logits, ids, exact, axis=-1)[0]
