"""Importance weights of draws, smoothed in their tail, and whether they can be trusted.

Draws of an approximation q stand for a density p with weights p / q. Where q misses a part of p a few weights carry all,
and estimates hide it. The largest weights follow a generalised Pareto distribution, whose shape k-hat tells (Vehtari et al. 2024,
J. Mach. Learn. Res. 25(72)): up to 0.5 the weights have a variance, up to about 0.7 the smoothed ones can be used, above not.
"""

from typing import NamedTuple

import jax
import numpy as np
from arviz_stats.base import array_stats
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.keys import key_of

FEWEST = 25  # the tail of fewer draws has less than the five weights that the fit needs


class Importance(NamedTuple):
    """Whether draws of an approximation stand for the posterior.

    `k_hat`: shape of the tail of the weights, -inf where all are equal to rounding; `limit`: what it may be at most with so many draws,
    min(1 - 1 / log10(draws), 0.7) of the paper; `effective`: number of independent draws of the posterior that the weighted
    ones are worth; `weights` (draw,): smoothed, with the sum 1, zero for draws whose run failed; `failed`: their number.
    """

    k_hat: float
    limit: float
    effective: float
    weights: np.ndarray
    failed: int

    @property
    def passed(self) -> bool:
        """Whether the weights can be used."""
        return self.k_hat < self.limit

    @property
    def sentence(self) -> str:
        """What was found, and what to do."""
        lost = f" {self.failed} runs failed, and have no weight." if self.failed else ""
        found = f"Pareto k-hat of {len(self.weights)} draws is {self.k_hat:.2f}, "
        if not self.passed:
            return (f"{found}above {self.limit:.2f}: the approximation misses a part of the posterior, and no weights mend that. "
                    f"Sample it: nuts(problem, result, posterior=posterior), or smc(problem) where J has several minima.{lost}")
        share = self.effective / len(self.weights)
        enough = ("the draws can be used as they are" if self.k_hat < 0 or share > 0.9 else
                  "the approximation is near the posterior; reweighted() corrects what is left")
        return f"{found}below {self.limit:.2f}: {enough} ({self.effective:.0f} effective draws).{lost}"


def importance_of(log_ratio: np.ndarray) -> Importance:
    """Pareto-smoothed importance of draws with these log p / q (draw,), up to a constant; NaN where the run of a draw failed.

    Raises ValueError for fewer than 25 draws that ran.
    """
    ratio = np.asarray(log_ratio, float)
    good = np.isfinite(ratio)
    if good.sum() < FEWEST:
        raise ValueError(complain(f"{FEWEST} draws or more whose runs give a finite J", f"{good.sum()} of {len(ratio)}",
                                  "more draws; landcal_jax.testing.check(problem) where runs fail"))
    kept, number = ratio[good], int(good.sum())
    weights = np.zeros(len(ratio))
    if np.ptp(kept) < np.sqrt(np.finfo(float).eps):
        weights[good], k_hat = 1.0 / number, -np.inf
    else:
        smoothed, k_hat = array_stats.psislw(-kept)  # it takes the log of q / p
        weights[good] = np.exp(smoothed - smoothed.max())
        weights /= weights.sum()
    limit = min(1.0 - 1.0 / np.log10(number), 0.7)
    return Importance(float(k_hat), limit, float(1.0 / np.sum(weights**2)), weights, int((~good).sum()))


def resampled(weights: np.ndarray, number: int, key: Array | int) -> np.ndarray:
    """Places (number,) of draws chosen in proportion to their weights: systematic resampling, one random number for all.

    A draw of weight w is there number * w times, rounded up or down (Kitagawa 1996, J. Comput. Graph. Stat. 5, 1).
    """
    key = key_of(key)
    levels = np.cumsum(weights)
    at = (float(jax.random.uniform(key)) + np.arange(number)) / number
    # The levels end at 1 but for rounding, and the last place with weight is to get what is beyond.
    return np.minimum(np.searchsorted(levels / levels[-1], at, side="right"), np.flatnonzero(weights)[-1])
