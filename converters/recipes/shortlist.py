"""Heads of large vocabularies: every row in 4 bits first, then the likeliest again in 8.

After the preview window of SVD-softmax (Shim et al., NIPS 2017), with fewer bits in place of fewer columns. A head of
2^26 weights is most of what a step of decoding reads, and nearly all of its products only say that a token is out of
the question. So MatMulNBits multiplies a copy in 4 bits, which takes half the time, and for the SHORTLIST likeliest
tokens the logit is replaced by that of the row in 8 bits, looked up in the table that the embedding is in too and
multiplied in float32. The others keep the logit of 4 bits; they matter where nothing is filtered before a draw, or
where a grammar leaves no likelier token.

Measured on Gemma 3 270M Q4_K_M, recipe exact, against its own values in float32 (1,020 tokens, on a Zen 4 with VNNI;
on a Zen 3, NLL is within 0.004 of this), bytes of the head once packed, and milliseconds a token of one sequence (two
threads, medians of nine alternating rounds, the range over two orders):

                                         NLL   first choice   divergence   MB            ms
    4 bits, blocks of 32, 512 rows   +0.0017         97.0 %       0.0091  126   9.6 … 9.8
    … of 64, 512 rows                +0.0040         97.0 %       0.0106  105   8.7 … 9.0
    … of 64, 1,024 rows              -0.0003         97.0 %       0.0076  105   9.1 … 9.3
    … of 128, 1,024 rows (this)      +0.0023         97.0 %       0.0095   94   8.6 … 9.2

A Zen 3 is no faster with the longer blocks; there 8 bits in blocks of 128 took 26 ms where 4 bits in blocks of 32 took
20. Steps of least squares, instead of a block's largest value, make the likelihood worse (+0.012 in blocks of 64): they
shrink the logits. The likeliest 512 of each half of the vocabulary are found in 0.1 ms less, but the divergence is then
0.012.
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
