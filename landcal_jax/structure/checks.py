"""Tests of the residuals at the MAP: their size by stream and season, their memory, their seasonal cycle, their years.

All take the whitened residuals r, which are N(0, P) in a right model, P = I - G (G'G)^-1 G' (`score_tests`): what parameters have
taken up is accounted for.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import chi2

from landcal_jax.structure.findings import MONTHS, Finding, p_text, phase_of, season_of
from landcal_jax.structure.score_tests import Whitened
from landcal_jax.structure.signals import quantity_words

FEWEST = 20  # residuals for a test of a part of a stream
LAGS = 10  # steps over which memory is looked for


def size_of(whitened: Whitened, rows: np.ndarray) -> dict[str, float]:
    """Chi-square of some residuals: its sum, what to expect, effective degrees of freedom, ratio, log p (two-sided), Desroziers ratio.

    The sum of r'r over a part is a weighted sum of chi-squares, taken as scaled chi-square of the same mean and variance (Satterthwaite
    1946, Biometrics Bull. 2:110). Desroziers et al. (2005, QJRMS 131:3385, eq. 1): the mean of analysis residual times innovation is one
    if R is right; the innovation is that of the model linearised at the MAP.
    """
    r, Q = whitened.r[rows], whitened.root[rows]
    taken = float(np.sum(Q**2))
    mean, variance = len(rows) - taken, 2 * (len(rows) - 2 * taken + float(np.sum((Q.T @ Q) ** 2)))
    total, scale = float(r @ r), variance / (2 * mean)
    degrees = mean / scale
    log_p = np.log(2) + min(chi2.logsf(total / scale, degrees), chi2.logcdf(total / scale, degrees))
    innovation = r - whitened.G[rows] @ whitened.r[whitened.sites < 0]
    return {"sum": total, "expected": mean, "degrees": degrees, "ratio": total / mean, "log_p": min(float(log_p), 0.0),
            "desroziers": float(r @ innovation) / len(rows), "count": len(rows)}


def sizes(whitened: Whitened, sites: tuple[str, ...]) -> Iterator[Finding]:
    """Chi-square and Desroziers consistency of every stream, at every site and in every season."""
    for stream, rows in whitened.rows.items():
        seasons = season_of(whitened.times[rows])
        parts = {("", ""): rows} | {("", name): rows[seasons == name] for name in MONTHS}
        if len(sites) > 1:
            parts |= {(name, ""): rows[whitened.sites[rows] == n] for n, name in enumerate(sites)}
        for (site, season), chosen in parts.items():
            if len(chosen) < FEWEST:
                continue
            found = size_of(whitened, chosen)
            where = f" in {season}" * bool(season) + f" at {site}" * bool(site)
            what, off = f"{quantity_words(stream)}{where}", np.sqrt(found["ratio"])
            direction = "larger" if off > 1 else "smaller"
            sentence = (f"Residuals of {what} are {off:.2f} times as large as their errors say (chi-square {found['sum']:.0f} for "
                        f"{found['expected']:.0f} expected; Desroziers ratio {found['desroziers']:.2f}; {p_text(found['log_p'])}).")
            advice = ("A missing process, or errors that are stated too small: look at the causes above first, then estimate the errors."
                      if direction == "larger" else "Errors are stated too large: estimate them, or the posterior is too wide.")
            yield Finding("chi-square", sentence, advice, found["log_p"], figure="consistency", subject=stream,
                          numbers=found | {"stream": stream, "site": site, "season": season})


def memories(whitened: Whitened, sites: tuple[str, ...]) -> Iterator[Finding]:
    """Autocorrelation of the whitened residuals of every stream: Box and Pierce's statistic over `LAGS` steps, with gaps."""
    for stream, rows in whitened.rows.items():
        for n, site in enumerate(sites):
            chosen = rows[whitened.sites[rows] == n]
            found = autocorrelation(whitened.r[chosen], whitened.times[chosen])
            if found is None:
                continue
            lags, correlation, pairs = found
            statistic = float(np.sum(pairs * correlation**2))
            log_p = float(chi2.logsf(statistic, len(lags)))
            where = f" at {site}" if len(sites) > 1 else ""
            sentence = (f"Residuals of {quantity_words(stream)}{where} remember: their correlation over {lags[0]:g} days is "
                        f"{correlation[0]:.2f} after whitening (0 ± {1 / np.sqrt(pairs[0]):.2f} expected; {p_text(log_p)}).")
            yield Finding("autocorrelation", sentence,
                          "Give the model error a memory (ModelError(correlation_days=)), or the posterior is too narrow; memory in the "
                          "model error is also the mark of a missing process.", log_p, figure="memory", subject=stream,
                          numbers={"stream": stream, "site": site, "lag_days": lags, "correlation": correlation, "pairs": pairs})


def autocorrelation(r: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Lags [d], correlations and numbers of pairs of a series with gaps; None where it is too short or has no time.

    Lags are multiples of the commonest step between observations.
    """
    if len(r) < FEWEST or not np.isfinite(times).all():
        return None
    step = float(np.median(np.diff(times)))
    place = np.round((times - times[0]) / step).astype(int)
    series = np.full(place[-1] + 1, np.nan)
    series[place] = r - r.mean()
    lags = np.arange(1, LAGS + 1)
    products = [series[lag:] * series[:-lag] for lag in lags if lag < len(series)]
    pairs = np.array([np.isfinite(each).sum() for each in products])
    kept = np.flatnonzero(pairs >= FEWEST)
    if not len(kept):
        return None
    correlation = np.array([np.nanmean(products[k]) for k in kept]) / np.mean((r - r.mean()) ** 2)
    return lags[kept] * step, correlation, pairs[kept]


def seasons(whitened: Whitened, sites: tuple[str, ...]) -> Iterator[Finding]:
    """A seasonal cycle (two harmonics) in the whitened residuals of a stream, and differences between its years."""
    for stream, rows in whitened.rows.items():
        times = whitened.times[rows]
        if not np.isfinite(times).all() or len(rows) < FEWEST:
            continue
        phase = phase_of(times)
        cycle = _columns(whitened, rows, [function(k * phase) for k in (1, 2) for function in (np.cos, np.sin)])
        year = times.astype("datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
        each = _columns(whitened, rows, [(year == one) - np.mean(year == one) for one in np.unique(year)])
        for kind, columns, words, advice in (
                ("seasonality", cycle, "have a seasonal cycle", "Compare it with the candidates above; a phenology or a seasonal error of "
                 "a driver, or of the observations, leaves it."),
                ("years", each, "differ from year to year", "Look for a change of the instrument or of the site, a disturbance, or a slow "
                 "pool that is not in balance.")):
            found = joint_test(whitened, columns)
            if found is None:
                continue
            statistic, degrees, log_p, fitted = found
            amplitude = float(np.sqrt(2) * np.std(fitted[rows]))
            sentence = (f"Residuals of {quantity_words(stream)} {words}, by {amplitude:.2f} of their standard error (chi-square "
                        f"{statistic:.0f} for {degrees} degrees of freedom; {p_text(log_p)}).")
            yield Finding(kind, sentence, advice, log_p, figure="seasons", subject=stream,
                          numbers={"stream": stream, "amplitude": amplitude, "statistic": statistic, "degrees": degrees})


def _columns(whitened: Whitened, rows: np.ndarray, patterns: list[np.ndarray]) -> np.ndarray:
    columns = np.zeros((len(whitened.r), len(patterns)))
    columns[rows] = np.stack(patterns, axis=1)
    return columns


def joint_test(whitened: Whitened, columns: np.ndarray) -> tuple[float, int, float, np.ndarray] | None:
    """Score test of several columns together: statistic, degrees of freedom, log p and the fitted residuals; None if none can be told."""
    left = whitened.project(columns)
    U, values, _ = np.linalg.svd(left, full_matrices=False)
    U = U[:, values > 1e-3 * np.linalg.norm(columns, axis=0).max()]
    if not U.shape[1]:
        return None
    score = U.T @ whitened.r
    statistic = float(score @ score)
    return statistic, U.shape[1], float(chi2.logsf(statistic, U.shape[1])), U @ score


def two_sided(t: float) -> float:
    """Log of the two-sided p-value of a standard normal."""
    return float(np.log(2) + log_ndtr(-abs(t)))
