"""Polynomials through measured points: least squares by the normal equations.

Knows: linear algebra of a few unknowns. Does not know: what the points are. Plain Python: the core install
has no
numpy, and these systems have three unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from diptych.domain.errors import SpecError
from diptych.planning.closed.checks import not_negative


@dataclass(frozen=True, slots=True)
class Polynomial:
    """``coefficients[0] + coefficients[1]·x + coefficients[2]·x² + …``"""

    coefficients: tuple[float, ...]

    def at(self, x: float) -> float:
        """The value at ``x``."""
        value = 0.0
        for coefficient in reversed(self.coefficients):
            value = value * x + coefficient
        return value

    def scaled(self, factor: float) -> Polynomial:
        """The polynomial times ``factor``."""
        return Polynomial(tuple(factor * coefficient for coefficient in self.coefficients))

    def plus(self, other: Polynomial) -> Polynomial:
        """The sum of two polynomials."""
        size = max(len(self.coefficients), len(other.coefficients))
        mine, theirs = (
            [*poly.coefficients, *[0.0] * (size - len(poly.coefficients))] for poly in (self, other)
        )
        return Polynomial(tuple(a + b for a, b in zip(mine, theirs, strict=True)))


def fit_polynomial(points: Sequence[tuple[float, float]], degree: int = 2) -> Polynomial:
    """The polynomial with the least sum of squared errors at ``points``.

    Raises:
        SpecError: fewer distinct x than the polynomial has coefficients.
    """
    not_negative(degree=degree)
    distinct = len({x for x, _ in points})
    if distinct <= degree:
        raise SpecError(f"points: {distinct} distinct x cannot fix degree {degree}; give {degree + 1}")
    scale = max(abs(x) for x, _ in points) or 1.0
    size = degree + 1
    xs = [x / scale for x, _ in points]
    matrix = [[fsum(x ** (i + j) for x in xs) for j in range(size)] for i in range(size)]
    right = [fsum(y * x**i for x, (_, y) in zip(xs, points, strict=True)) for i in range(size)]
    solved = solve(matrix, right)
    return Polynomial(tuple(value / scale**i for i, value in enumerate(solved)))


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x of ``matrix · x = right`` by elimination with the largest pivot. Raises `SpecError` if singular."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if abs(rows[column][column]) < 1e-300:
            raise SpecError("points: they do not fix the coefficients; give points that differ more")
        for other in range(column + 1, size):
            factor = rows[other][column] / rows[column][column]
            for k in range(column, size + 1):
                rows[other][k] -= factor * rows[column][k]
    found = [0.0] * size
    for i in reversed(range(size)):
        known = fsum(rows[i][k] * found[k] for k in range(i + 1, size))
        found[i] = (rows[i][size] - known) / rows[i][i]
    return found
