"""Are ranks uniform? The statistics of simulation-based calibration, in NumPy alone.

If the truth is drawn from the prior and the observations from the truth, the truth and exact draws of the posterior are
exchangeable: the rank of the truth among them is uniform (Cook, Gelman and Rubin 2006, Journal of Computational and Graphical
Statistics 15, 675; Talts et al. 2018, arXiv:1804.06788). Here a rank is taken as a number in (0, 1): of r smaller ones among L draws
it is (r + U) / (L + 1) with U uniform, which is uniform itself whatever L is, so that twins with different numbers of draws can
be put into one histogram.
"""

import numpy as np
from scipy.special import ndtri

SIMULATED = 2000
"""Samples of uniform numbers from which the bands of an ECDF are found; their p-values are good to 1 / SIMULATED."""
POINTS = 50
"""Places in (0, 1) at which an ECDF is judged, fewer than that where there are fewer ranks."""


def normalised_ranks(draws: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks in (0, 1) of `truth` (quantity,) among `draws` (draw, quantity), uniform where both are of one distribution.

    Ties are broken at random.
    """
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    return (below + rng.random(truth.shape) * (equal + 1)) / (len(draws) + 1)


def effective_draws(draws: np.ndarray, chains: int) -> float:
    """Bulk effective sample size (Vehtari et al. 2021, Bayesian Analysis 16, 667), the smallest of all entries, at most the number.

    `draws` (draw, n), chain by chain. Entries that do not vary do not count. A single series whose neighbours are not correlated, such as
    an ensemble, counts in full: the estimate for few draws, the smallest of many, would be far too low.
    """
    from arviz_stats.base import array_stats  # here, because it takes seconds to import

    number = len(draws)
    if number // chains < 4 or (chains == 1 and not _remembers(draws)):
        return float(number)
    by_chain = draws.reshape(chains, number // chains, -1)
    sizes = array_stats.ess(by_chain, chain_axis=0, draw_axis=1)[np.ptp(draws, axis=0) > 0]
    return float(min(number, np.min(sizes, initial=np.inf)))


def _remembers(draws: np.ndarray) -> bool:
    """Whether neighbours in a series (draw, n) are correlated beyond four standard errors, in any entry."""
    centred = draws - draws.mean(axis=0)
    square = np.sum(centred**2, axis=0)
    lagged = np.sum(centred[1:] * centred[:-1], axis=0)
    return bool((np.abs(lagged) > 4 / np.sqrt(len(draws)) * square).any())


def thinned(number: int, effective: float, most: int) -> np.ndarray:
    """Indices of `effective` of `number` draws, `most` at most and one at least, as far apart as can be."""
    kept = int(np.clip(np.floor(effective), 1, min(most, number)))
    return np.floor((np.arange(kept) + 0.5) * number / kept).astype(int)


def chi_square_p(ranks: np.ndarray, bins: int) -> float:
    """p-value of the chi-square test that `ranks` (twin,) fill `bins` equal bins of (0, 1) alike; NaN without ranks."""
    from scipy.stats import chisquare  # here, because scipy.stats takes a second to import

    counts = np.histogram(ranks, bins, (0.0, 1.0))[0]
    return float(chisquare(counts).pvalue) if counts.sum() else float("nan")


def number_of_bins(twins: int) -> int:
    """Bins of a rank histogram: ten expected in each at least, 20 bins at most, four at least."""
    return int(np.clip(twins // 10, 4, 20))


class UniformBand:
    """Where the empirical distribution functions of `number` uniform ranks lie, all points at once.

    The two-sided binomial tail is taken at every point, and its minimum over the points is compared with that of simulated samples, so
    that the band holds a whole curve with the probability wanted (Saeilynoja, Buerkner and Vehtari 2022, Statistics and Computing
    32, 32, algorithm 1). `points` (point,): where it is judged. The simulated samples are the same in each call.
    """

    def __init__(self, number: int):
        from scipy.stats import binom  # here, because scipy.stats takes a second to import

        self.number = number
        self.points = np.arange(1, min(number, POINTS) + 1) / (min(number, POINTS) + 1)
        counts = np.arange(number + 1)[:, None]
        below, above = binom.cdf(counts, number, self.points), binom.sf(counts - 1, number, self.points)
        self._tail = np.minimum(1.0, 2.0 * np.minimum(below, above))
        rng = np.random.default_rng(0)
        self._least = np.sort([self._smallest(rng.random(number)) for _ in range(SIMULATED)])

    def limits(self, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limits (point,) of the ECDF that hold a whole curve with this probability."""
        level = np.quantile(self._least, 1.0 - probability)
        inside = self._tail >= level
        counts = np.arange(self.number + 1)
        return counts[np.argmax(inside, axis=0)] / self.number, counts[self.number - np.argmax(inside[::-1], axis=0)] / self.number

    def p_value(self, ranks: np.ndarray) -> float:
        """Share of uniform samples whose curve strays as far as that of `ranks` (number,)."""
        return float((1 + np.searchsorted(self._least, self._smallest(ranks), side="right")) / (1 + SIMULATED))

    def _smallest(self, ranks: np.ndarray) -> float:
        counts = np.searchsorted(np.sort(ranks), self.points, side="right")
        return float(self._tail[counts, np.arange(len(self.points))].min())


def proportion_interval(hits: np.ndarray, number: int, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of a proportion of which `hits` of `number` trials were seen (Wilson 1927, JASA 22, 209)."""
    if number == 0:
        return np.full(np.shape(hits), np.nan), np.full(np.shape(hits), np.nan)
    score = ndtri(0.5 + 0.5 * probability)
    share, square = np.asarray(hits) / number, score**2 / number
    centre, reach = share + square / 2, score * np.sqrt(share * (1 - share) / number + square / (4 * number))
    return (centre - reach) / (1 + square), (centre + reach) / (1 + square)


def shape_of(ranks: np.ndarray) -> str:
    """What is wrong with draws whose `ranks` (twin,) are not uniform, by the larger of two departures: of the mean, of the spread."""
    number = len(ranks)
    shift = (ranks.mean() - 0.5) * np.sqrt(12 * number)
    # The fourth moment of a uniform number about its mean is 1/80: the variance of its square is 1/80 - 1/144 = 1/180. About the
    # mean of the ranks, so that a heap at one end is no spread.
    spread = (ranks.var() - 1 / 12) * np.sqrt(180 * number)
    if abs(shift) > abs(spread):
        return f"draws too {'low' if shift > 0 else 'high'}: the truth is at a rank of {ranks.mean():.2f} on average"
    return f"draws too {'narrow' if spread > 0 else 'wide'}: the truth is {'among' if spread > 0 else 'rarely among'} the outermost of them"
