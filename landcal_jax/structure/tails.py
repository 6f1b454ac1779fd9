"""Logarithms of small p-values, right where the p-values themselves underflow.

Chi-square tails beyond the range of floating point are those of the incomplete gamma function, by its continued fraction and its series
(Abramowitz and Stegun 1964, 6.5.31 and 6.5.29). Sums of chi-squares with weights are taken by their saddlepoint (Kuonen 1999,
Biometrika 86:929), which holds in both tails; what can only be drawn has the tail of its draws, carried on.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr
from scipy.stats import chi2

UNDERFLOW = -600.0
"""Logarithm below which the tails of SciPy lose digits, and then are -inf."""
MOST = 10_000  # terms; far in a tail a few dozen are enough


def above(statistic: float, degrees: float) -> float:
    """Log of the chance that a chi-square of these degrees of freedom is above `statistic`."""
    known = float(chi2.logsf(statistic, degrees))
    if known > UNDERFLOW or not np.isfinite(statistic):
        return known
    a, x = 0.5 * degrees, 0.5 * statistic
    # Lentz's evaluation of the continued fraction of Gamma(a, x).
    b = x + 1 - a
    c, d = 1e300, 1 / b
    fraction = d
    for n in range(1, MOST):
        b += 2
        numerator = -n * (n - a)
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return float(-x + a * np.log(x) - gammaln(a) + np.log(fraction))


def below(statistic: float, degrees: float) -> float:
    """Log of the chance that a chi-square of these degrees of freedom is below `statistic`."""
    known = float(chi2.logcdf(statistic, degrees))
    if known > UNDERFLOW or not statistic > 0:
        return known
    a, x = 0.5 * degrees, 0.5 * statistic
    term = total = 1.0
    for n in range(1, MOST):
        term *= x / (a + n)
        total += term
        if term < 1e-13 * total:
            break
    return float(-x + a * np.log(x) - gammaln(a + 1) + np.log(total))


def simulated(found: float, drawn: np.ndarray) -> float:
    """Log of the chance of a statistic above `found`, from draws of it (draw,).

    In the upper tenth by the generalised Pareto distribution of their mean and variance there (Hosking and Wallis 1987, Technometrics
    29:339), or by the exponential one where that ends sooner: no draw has seen an end. Where a tenth of the draws are equal nothing is
    known of their tail, and one more draw is taken to be beyond.
    """
    start = float(np.quantile(drawn, 0.9))
    if found <= start:
        return float(np.log(np.mean(drawn >= found)))
    excess = drawn[drawn > start] - start
    if not len(excess):
        return float(-np.log(len(drawn) + 1))
    ratio = float(np.mean(excess) ** 2 / max(np.var(excess), 1e-300))
    shape, scale = 0.5 * (1 - ratio), 0.5 * float(np.mean(excess)) * (1 + ratio)
    if shape < 0.01:
        return float(np.log(0.1) - (found - start) / np.mean(excess))
    return float(np.log(0.1) - np.log1p(shape * (found - start) / scale) / shape)


def two_sided(t: float) -> float:
    """Log of the two-sided p-value of a standard normal."""
    return float(np.log(2) + log_ndtr(-abs(t)))


def of_sum(total: float, weights: np.ndarray, degrees: np.ndarray) -> tuple[float, float]:
    """Logs of the chances that a sum of chi-squares of `degrees` (k,), each times its weight (k,) above zero, is below and above `total`.

    Exact where the weights are equal; of others the saddlepoint is right to some per cent of the chance itself.
    """
    if np.ptp(weights) < 1e-9 * weights.max():
        return below(total / weights[0], degrees.sum()), above(total / weights[0], degrees.sum())
    if not total > 0:
        return -np.inf, 0.0

    def slope(t):
        return float(np.sum(degrees * weights / (1 - 2 * weights * t)))

    # Both ends follow from bounds of the slope: w / (1 - 2 w t) < 1 / (-2 t), and the sum is above each of its terms.
    low, top = -degrees.sum() / (2 * total), int(np.argmax(weights))
    high = (1 - degrees[top] * weights[top] / total) / (2 * weights[top])
    t = high if slope(high) <= total else brentq(lambda t: slope(t) - total, low, high, xtol=1e-300, rtol=1e-14)
    cumulant = -0.5 * float(np.sum(degrees * np.log1p(-2 * weights * t)))
    second = float(np.sum(2 * degrees * (weights / (1 - 2 * weights * t)) ** 2))
    w = np.sign(t) * np.sqrt(max(2 * (t * total - cumulant), 0.0))
    if abs(w) < 1e-3:
        moments = [float(np.sum(degrees * weights**k)) for k in (2, 3)]
        r = w + 8 * moments[1] / (6 * (2 * moments[0]) ** 1.5)
    else:
        r = w + np.log(t * np.sqrt(second) / w) / w
    return float(log_ndtr(r)), float(log_ndtr(-r))
