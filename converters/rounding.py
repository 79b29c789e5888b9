"""Rounding full-precision weights to 16 values a block, so that the products lose least.

Each block of 32 becomes `step · q + low` with q in 0 … 15 and both numbers free, which Format(4, 32, sums=True) stores.
For several widths of the grid: round, then take the step and low of least squares for these q; keep the best, and
round once more. Errors are weighted by the mean square of the input that each column meets, taken from a short run
(after llama.cpp's importance matrix; the search after its make_qkx2_quants).

Measured on SmolLM2-135M (2,044 tokens of English against the fp32 weights, activations in float32, head and embedding
as they are). Its weights come from a Q4_1 file, on whose own grid any search with free minima loses nothing at all;
hence the columns were shuffled before rounding and shuffled back after it, each block thus of many grids, the marginal
distribution untouched. Bits are what a weight takes in memory once ONNX Runtime has packed it:

                                                   plain               weighted by inputs
    bits  block                                NLL       KL  top-1        NLL       KL  top-1
     6.0   32   symmetric, by the largest   +0.297    0.387  66.8 %
     6.0   32   … step searched             +0.264    0.281  71.0 %    +0.132    0.190  74.7 %
     6.0   32   whole zeros, min to max     +0.280    0.288  70.7 %
     6.0   32   … step, zero searched       +0.226    0.252  72.1 %    +0.114    0.146  78.4 %
     6.6   32   free minimum, min to max    +0.269    0.290  69.5 %
     6.6   32   … HQQ (zeros by ℓ0.7)       +0.247    0.259  71.1 %
     6.6   32   … step, minimum searched    +0.243    0.252  72.9 %    +0.052    0.080  84.1 %   <- this one
     6.6   32   … GPTQ on that grid                                    +0.063    0.068  85.2 %
     5.3   64   symmetric, by the largest   +0.372    0.488  63.8 %
     5.3   64   whole zeros, searched                                  +0.143    0.207  74.0 %
     5.6   64   free minimum, HQQ           +0.363    0.345  66.5 %
     5.6   64   … step, minimum searched    +0.314    0.341  68.0 %    +0.095    0.132  80.6 %

A rotation of the residual stream makes it worse (free minimum, searched, block 32: +0.319 plain, +0.277 weighted): it
spreads every important column over all of them. GPTQ, with whole matrices of second moments, gains a little
divergence for six times the work and no likelihood.

The whole recipe on the shuffled model in float16, run as it is, with activations in 8 bits: exact +0.006, plain
rounding from least to largest +0.314, searched +0.250, searched and weighted by 1,020 tokens of other text +0.075.
Converting runs at 26 million weights (65 MB of float16) a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

HIGHEST = np.float32(15)
WIDTHS = np.linspace(0.7, 1.05, 10, dtype=np.float32)  # of the grid, in the widths from least to largest value
PIECE_VALUES = 1 << 18  # so that the temporary arrays stay in the processor's cache
LEAST_IMPORTANCE = np.float32(1e-3)  # of the mean: columns that met nothing in the run still count


def grid(values: Floats, importance: Floats | None, block: int) -> tuple[Floats, Floats, Floats]:
    """Levels [N, blocks, block], steps and lows [N, blocks] for rows [N, K], where `block` divides K.

    `importance` [K] weighs the columns' squared errors; without it, all weigh the same.
    """
    rows, columns = values.shape
    weights = _weights(importance, columns).reshape(-1, 1, block)
    levels = np.empty((rows, columns // block, block), np.float32)
    steps, lows = (np.empty(levels.shape[:2], np.float32) for _ in range(2))
    for start in range(0, rows, max(1, PIECE_VALUES // columns)):
        part = slice(start, start + max(1, PIECE_VALUES // columns))
        # Blocks in the first axis' place: sums over it then run along whole vectors.
        blocks = np.ascontiguousarray(values[part].reshape(-1, columns // block, block).transpose(2, 1, 0))
        spread = np.broadcast_to(weights.transpose(2, 0, 1), blocks.shape)
        found, step, low = _search(blocks.reshape(block, -1), np.ascontiguousarray(spread).reshape(block, -1))
        levels[part] = found.reshape(blocks.shape).transpose(2, 1, 0)
        steps[part], lows[part] = (each.reshape(blocks.shape[1:]).T for each in (step, low))
    return levels, steps, lows


def _weights(importance: Floats | None, columns: int) -> Floats:
    """Weights [K] with a mean of about 1."""
    mean = 0 if importance is None else float(importance.mean())
    if importance is None or not mean > 0:
        return np.ones(columns, np.float32)
    return (importance / np.float32(mean) + LEAST_IMPORTANCE).astype(np.float32)


def _search(values: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Levels [block, M], steps and lows [M] for one block a column."""
    least, largest = values.min(axis=0), values.max(axis=0)
    middle, span = (least + largest) / 2, (largest - least) / HIGHEST
    fit = _Fit(values - middle, weights)
    best_step, best_low, best_error = fit.around(span * WIDTHS[0], -span * WIDTHS[0] * HIGHEST / 2)
    for width in WIDTHS[1:]:
        step, low, error = fit.around(span * width, -span * width * HIGHEST / 2)
        better = error < best_error
        for best, new in ((best_step, step), (best_low, low), (best_error, error)):
            best[better] = new[better]
    step, low, _ = fit.around(best_step, best_low)
    return fit.levels, step, low + middle


class _Fit:
    """Least squares of x [block, M] by grids, with all that does not depend on the grid."""

    def __init__(self, x: Floats, weights: Floats) -> None:
        self.x, self.weights = x, weights
        self.weighted = weights * x
        self.total = weights.sum(axis=0)
        self.sum_x = self.weighted.sum(axis=0)
        self.sum_xx = (self.weighted * x).sum(axis=0)
        self.levels = np.empty_like(x)
        self._product = np.empty_like(x)

    def around(self, step: Floats, low: Floats) -> tuple[Floats, Floats, Floats]:
        """Round to this grid, into `levels`; the best step and low [M] for these levels, and the error left."""
        inverse = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
        levels, product = self.levels, self._product
        np.subtract(self.x, low, out=levels)
        np.multiply(levels, inverse, out=levels)
        np.rint(levels, out=levels)
        np.clip(levels, 0, HIGHEST, out=levels)
        sum_qx = np.multiply(self.weighted, levels, out=product).sum(axis=0)
        sum_q = np.multiply(self.weights, levels, out=product).sum(axis=0)
        sum_qq = np.multiply(product, levels, out=product).sum(axis=0)
        spread = self.total * sum_qq - sum_q * sum_q
        covariance = self.total * sum_qx - sum_q * self.sum_x
        # A block whose levels are all the same has no step: its low is its mean.
        varied = spread > 1e-6 * self.total * sum_qq
        best = np.divide(covariance, spread, out=np.zeros_like(step), where=varied)
        offset = (self.sum_x - best * sum_q) / self.total
        return best, offset, self.sum_xx - best * sum_qx - offset * self.sum_x
