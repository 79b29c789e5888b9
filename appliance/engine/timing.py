"""How long a run will take, learned from the runs so far."""

from __future__ import annotations

import math

MEMORY = 0.9
"""Weight of the past against one more run; the machine is shared and its speed drifts."""

EXTRA_TOKEN_COST = 0.3
"""What a further token of one row adds to a run of one token, before it is known for a model and machine.
SmolLM2-135M, two threads: 0.16 to 0.25."""


class Fit:
    """y = a·u + b·v with a, b ≥ 0 by least squares over the recent past."""

    def __init__(self) -> None:
        self._uu = self._uv = self._vv = self._uy = self._vy = 0.0

    def add(self, u: float, v: float, y: float) -> None:
        """Learn from one observation."""
        self._uu = MEMORY * self._uu + u * u
        self._uv = MEMORY * self._uv + u * v
        self._vv = MEMORY * self._vv + v * v
        self._uy = MEMORY * self._uy + u * y
        self._vy = MEMORY * self._vy + v * y

    def coefficients(self) -> tuple[float, float]:
        """a and b; 0, 0 while nothing is known."""
        determinant = self._uu * self._vv - self._uv * self._uv
        if determinant > 1e-6 * self._uu * self._vv:
            a = (self._vv * self._uy - self._uv * self._vy) / determinant
            b = (self._uu * self._vy - self._uv * self._uy) / determinant
            if a >= 0 and b >= 0:
                return a, b
            if a < 0:
                return 0.0, self._vy / self._vv
        return (self._uy / self._uu if self._uu else 0.0), 0.0


class PrefillTime:
    """Seconds of a prompt chunk: each token costs its matrices and, growing with its position, its attention."""

    def __init__(self) -> None:
        self._fit = Fit()
        self.known = False

    def observe(self, tokens: int, past: int, seconds: float) -> None:
        """Learn from a chunk of `tokens` tokens after `past`."""
        self._fit.add(tokens, tokens * (past + tokens / 2), seconds)
        self.known = True

    def tokens_in(self, seconds: float, past: int) -> int:
        """How many tokens after `past` run in `seconds`. Only when `known`."""
        a, b = self._fit.coefficients()
        first = a + b * past  # a chunk of n takes n·first + n²·b/2
        return int(2 * seconds / (first + math.sqrt(first * first + 2 * b * seconds)))


class DecodeTime:
    """Seconds of a run of one row of few tokens. One token is a case of its own: it has kernels of its own."""

    def __init__(self) -> None:
        self._one: float | None = None
        self._fit = Fit()

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self._one is not None

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a run of `tokens` tokens."""
        if tokens > 1:
            self._fit.add(1, tokens, seconds)
        elif self._one is None:
            self._one = seconds
            for guess in (2, 8):
                self._fit.add(1, guess, seconds * (1 + EXTRA_TOKEN_COST * (guess - 1)))
        else:
            self._one = MEMORY * self._one + (1 - MEMORY) * seconds

    def seconds(self, tokens: int) -> float:
        """How long a run of `tokens` tokens will take. Only when `known`."""
        assert self._one is not None
        if tokens == 1:
            return self._one
        a, b = self._fit.coefficients()
        return max(a + b * tokens, self._one)
