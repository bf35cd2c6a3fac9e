"""The fit: robust least squares in log space with priors, and the error of groups that are left out.

Knows: residuals, losses, Gauss-Newton. Does not know: files, formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from diptych.planning.fit.priors import PCIE, Prior
from diptych.planning.fit.rows import Row
from diptych.planning.fit.vector import Table, predict, predict_split, predict_steps

Array: TypeAlias = Any
"""A numpy array of floats (or truth values); the formulas take it where they take a float."""

By = Literal["group", "architecture", "chip", "engine"]

LABELS: dict[By, Callable[[Row], str]] = {
    "group": lambda row: row.group,
    "architecture": lambda row: row.model.name,
    "chip": lambda row: row.chip.name,
    "engine": lambda row: row.engine,
}

TPOT_SCALE = 0.05
"""Log error beyond which a TPOT row loses weight."""

TTFT_SCALE, TTFT_WEIGHT = 0.2, 0.6
"""The same for TTFT, which counts for less: its scatter is threefold."""

SPLIT_SCALE = 0.1
"""The same for the TPOT of disaggregated rows, whose real batch nobody recorded."""

GROUP_POWER = 0.3
"""A group's rows weigh (rows of the group)^−0.3: many rows of one bench are not as many independent facts."""


@dataclass(frozen=True)
class Fit:
    """A result: parameters, and what the last step saw."""

    priors: tuple[Prior, ...]
    theta: Array
    jacobian: Array
    residuals: Array

    def value(self) -> Callable[[str], float]:
        """Constants by name."""
        return values(self.priors, self.theta)

    def with_fixed(self, prior: Prior) -> Fit:
        """The same with one more constant, which is not fitted."""
        import numpy as np

        theta = np.append(self.theta, np.log(prior.mean))
        return Fit((*self.priors, prior), theta, self.jacobian, self.residuals)


def values(priors: Sequence[Prior], theta: Array) -> Callable[[str], float]:
    """Constants by name: exp of the parameters, logistic for `overlap`."""
    import numpy as np

    known = {prior.name: float(np.exp(t)) for prior, t in zip(priors, theta, strict=True)}
    odds = known["overlap"]
    known["overlap"] = odds / (1.0 + odds)
    known.setdefault(PCIE.name, PCIE.mean)
    return lambda name: known.get(name, 1.0)


def start(priors: Sequence[Prior]) -> Array:
    """Parameters at the priors' means."""
    import numpy as np

    return np.array(
        [np.log(p.mean / (1 - p.mean)) if p.name == "overlap" else np.log(p.mean) for p in priors]
    )


class Data(NamedTuple):
    """Aggregated rows, and the two stages of disaggregated ones."""

    whole: Table
    prefill: Table
    decode: Table

    def take(self, whole: Array, split: Array) -> Data:
        """Rows where the two masks are true."""
        return Data(self.whole.take(whole), self.prefill.take(split), self.decode.take(split))

    def labels(self, by: By) -> tuple[Array, Array]:
        """Of every row: its group, or only its architecture, chip or engine."""
        import numpy as np

        return np.array([LABELS[by](row) for row in self.whole.rows], str), np.array(
            [LABELS[by](row) for row in self.decode.rows], str
        )


class Predicted(NamedTuple):
    """Arrays over the rows of `Data`."""

    tpot_s: Array
    ttft_s: Array
    split_tpot_s: Array
    split_step_s: Array
    """At T7's batch: all clients over the decode ranks, whatever prefill delivers."""


def fit(data: Data, priors: tuple[Prior, ...], theta: Array | None = None, steps: int = 30) -> Fit:
    """Fit ``data``; from ``theta`` or the priors."""
    from scipy.optimize import least_squares

    begin = start(priors) if theta is None else theta
    found: Any = least_squares(_residuals(data, priors), begin, max_nfev=steps)
    return Fit(priors, found.x, found.jac, found.fun)


def predicted(value: Callable[[str], float], data: Data) -> Predicted:
    """All rows under the constants ``value``."""
    loop: Any = predict(value, data.whole)
    split: Any = predict_split(value, data.prefill, data.decode)
    return Predicted(loop.tpot_s, loop.ttft_s, split.tpot_s, predict_steps(value, data.decode))


def left_out(data: Data, whole: Fit, steps: int = 6, by: By = "group") -> Predicted:
    """Every row, predicted by a fit that saw nothing of its group (or of its architecture, chip, engine).
    ``steps`` = 0: one Gauss-Newton step from
    the
    whole fit in place of a new one, 50 times faster, for trying things."""
    import numpy as np

    sizes = (len(data.whole.rows), len(data.whole.rows), len(data.decode.rows), len(data.decode.rows))
    found = Predicted(*(np.zeros(size) for size in sizes))
    first, second = data.labels(by)
    for name in sorted({*first, *second}):
        theta = _without(whole, first != name, second != name)
        if steps:
            theta = fit(data.take(first != name, second != name), whole.priors, theta, steps).theta
        part = predicted(values(whole.priors, theta), data.take(first == name, second == name))
        for target, labels, new in zip(found, (first, first, second, second), part, strict=True):
            target[labels == name] = new
    return found


def _without(whole: Fit, first: Array, second: Array) -> Array:
    """Parameters after one Gauss-Newton step with only these rows."""
    import numpy as np

    keep = np.r_[first, first, second, np.ones(len(whole.theta), bool)]
    j, r = whole.jacobian[keep], whole.residuals[keep]
    step = np.linalg.solve(j.T @ j + 1e-9 * np.eye(len(whole.theta)), -j.T @ r)
    return whole.theta + np.clip(step, -0.7, 0.7)


def _residuals(data: Data, priors: tuple[Prior, ...]) -> Callable[[Array], Array]:
    import numpy as np

    mean, spread = start(priors), np.array([prior.spread for prior in priors])
    weight = row_weights((*data.whole.rows, *data.decode.rows))
    first, second = np.split(weight, [len(data.whole.rows)])
    log_tpot, log_ttft = np.log(data.whole.tpot_s), np.log(data.whole.ttft_s)
    log_split = np.log(data.decode.tpot_s)

    def residuals(theta: Array) -> Array:
        seen = predicted(values(priors, theta), data)
        tpot = _cauchy((np.log(seen.tpot_s) - log_tpot) / TPOT_SCALE)
        ttft = TTFT_WEIGHT * _cauchy((np.log(seen.ttft_s) - log_ttft) / TTFT_SCALE)
        split = _cauchy((np.log(seen.split_tpot_s) - log_split) / SPLIT_SCALE)
        return np.r_[first * tpot, first * ttft, second * split, (theta - mean) / spread]

    return residuals


def row_weights(rows: Sequence[Row]) -> Array:
    """Square roots of the weights of rows, one on average."""
    import numpy as np

    names = [f"{row.group}|{row.engine}|{row.fields['mode']}" for row in rows]
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    weight = counts[index].astype(float) ** -GROUP_POWER
    return np.sqrt(weight / weight.mean())


def _cauchy(z: Array) -> Array:
    """Residual whose square is the Cauchy loss: rows far off (an engine in eager mode, speculation that
    nobody
    recorded) pull hardly at all."""
    import numpy as np

    return np.sign(z) * np.sqrt(np.log1p(z * z))
