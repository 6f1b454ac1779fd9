"""Tests of the residuals at the MAP: their size by stream and season, their memory, their seasonal cycle, their years.

All take the residuals that J leaves, without its weights, and their covariance in a right model: what parameters have taken up is
accounted for, and so is a memory that the residuals have, in the tests of their size, seasons and years (`tested`).
What could not be tested is said by a sentence in the place of a `Finding`.
"""

from collections.abc import Iterator

import numpy as np

from landcal_jax.structure import tails
from landcal_jax.structure.findings import MONTHS, Finding, count_text, p_text, season_of
from landcal_jax.structure.lags import remembered
from landcal_jax.structure.signals import quantity_words
from landcal_jax.structure.tested import FEWEST, Tested

LEAST = 0.2
"""Expected sum of squares of residuals below which the parameters have taken up all of them."""


def size_of(tested: Tested, rows: np.ndarray, widened: float = 1.0, kept: float = 1.0) -> dict[str, float]:
    """Chi-square of some residuals: its sum, what to expect, effective degrees of freedom, ratio, log p (two-sided), Desroziers ratio.

    The sum of r'r over a part is a sum of chi-squares with the eigenvalues of the covariance as weights; the degrees of freedom are those
    of the scaled chi-square of the same mean and variance (Satterthwaite 1946, Biometrics Bull. 2:110). `widened`: by which memory
    multiplies its variance, `kept`: by which it multiplies its mean.
    Desroziers et al. (2005, QJRMS 131:3385, eq. 1): the mean of analysis residual times innovation is one if R is right; the innovation
    is that of the model linearised at the MAP. NaN where J has weights, with which this does not hold.
    """
    r = tested.r[rows]
    weights, degrees = tested.spectrum(rows)
    weights, degrees = weights * kept * widened, degrees / widened
    total, mean, variance = float(r @ r), float(weights @ degrees), 2 * float(weights**2 @ degrees)
    if mean < LEAST:
        return {"expected": mean, "count": len(rows)}
    log_p = np.log(2) + min(tails.of_sum(total, weights, degrees))
    innovation = r - tested.G[rows] @ tested.whitened.r[tested.sites < 0]
    desroziers = float(r @ innovation) / len(rows) if np.all(tested.weight == 1) else np.nan
    return {"sum": total, "expected": mean, "degrees": 2 * mean**2 / variance, "ratio": total / mean, "log_p": min(float(log_p), 0.0),
            "desroziers": desroziers, "count": len(rows)}


def sizes(tested: Tested, sites: tuple[str, ...]) -> Iterator[Finding | str]:
    """Chi-square and Desroziers consistency of every stream, at every site, and in every season that has values enough."""
    for stream, rows in tested.rows.items():
        seasons, words = season_of(tested.times[rows]), quantity_words(stream)
        parts = {("", ""): rows} | {("", name): rows[seasons == name] for name in MONTHS if (seasons == name).sum() >= FEWEST}
        if len(sites) > 1:
            parts |= {(name, ""): own for n, name in enumerate(sites) if len(own := rows[tested.sites[rows] == n])}
        if len(rows) < FEWEST:
            yield f"{words} has {len(rows)} values: their seasons, their memory and their extremes were not tested."
        elif not np.isfinite(tested.times[rows]).all():
            yield f"{words} has no times: its seasons and its memory were not tested."
        widened, kept = tested.memories[stream].squares, tested.kept(stream)
        for (site, season), chosen in parts.items():
            found = size_of(tested, chosen, widened, kept)
            where = f" in {season}" * bool(season) + f" at {site}" * bool(site)
            if "sum" not in found:
                yield (f"The parameters can make all of {words}{where} ({found['expected']:.2g} of {len(chosen)} values are left to "
                       "test): the size of its residuals was not tested.")
                continue
            yield _size(f"{words}{where}", found | {"stream": stream, "site": site, "season": season}, widened)


def _size(what: str, found: dict, widened: float) -> Finding:
    off = np.sqrt(found["ratio"])
    memory = "; widened for their memory" if widened > 1.5 else ""
    ratio = f"; Desroziers ratio {found['desroziers']:.2f}" if np.isfinite(found["desroziers"]) else ""
    sentence = (f"Residuals of {what} are {off:.2f} times as large as their errors say (chi-square {count_text(found['sum'])} for "
                f"{count_text(found['expected'])} expected{ratio}; {p_text(found['log_p'])}{memory}).")
    advice = ("A missing process, or errors that are stated too small: look at the causes above first, then estimate the errors."
              if off > 1 else "Errors are stated too large: estimate them, or the posterior is too wide.")
    return Finding("chi-square", sentence, advice, found["log_p"], figure="consistency", subject=found["stream"], numbers=found)


def memories(tested: Tested, sites: tuple[str, ...]) -> Iterator[Finding | str]:
    """Autocorrelation of the residuals of every stream at every site, over `lags.LAGS` steps, with gaps and at any times."""
    for stream, rows in tested.rows.items():
        for n, site in enumerate(sites):
            chosen = rows[tested.sites[rows] == n]
            if len(chosen) < FEWEST or not np.isfinite(tested.times[chosen]).all():
                continue  # `sizes` says so, of the stream as a whole
            where = f" at {site}" if len(sites) > 1 else ""
            found = remembered(tested, chosen)
            if isinstance(found, str):
                yield f"The memory of residuals of {quantity_words(stream)}{where} was not tested: {found}."
                continue
            sentence = (f"Residuals of {quantity_words(stream)}{where} remember: their correlation over {found.days[0]:.3g} days is "
                        f"{found.correlation[0]:.2f} after whitening (0 ± {found.spread[0]:.2f} expected; {p_text(found.log_p)}).")
            yield Finding("autocorrelation", sentence,
                          "Give the model error a memory (ModelError(correlation_days=)), or the posterior is too narrow; memory in the "
                          "model error is also the mark of a missing process.", found.log_p, figure="memory", subject=stream,
                          numbers={"stream": stream, "site": site, "lag_days": found.days, "correlation": found.correlation,
                                   "spread": found.spread})


CYCLES = {
    "seasonality": ("have a seasonal cycle", "Compare it with the candidates above; a phenology or a seasonal error of a driver, or of the "
                    "observations, leaves it."),
    "years": ("differ from year to year", "Look for a change of the instrument or of the site, a disturbance, or a slow pool that is not "
              "in balance.")}


def seasons(tested: Tested) -> Iterator[Finding]:
    """A seasonal cycle (two harmonics) in the residuals of a stream, and differences between its years."""
    for stream, rows in tested.rows.items():
        for kind, columns in tested.patterns(stream).items():
            found = joint_test(tested, stream, columns)
            if found is None:
                continue
            statistic, degrees, log_p, pattern = found
            (words, advice), amplitude = CYCLES[kind], float(np.sqrt(2) * np.std(pattern[rows]))
            sentence = (f"Residuals of {quantity_words(stream)} {words}, by {amplitude:.2f} of their standard error (chi-square "
                        f"{count_text(statistic)} for {degrees} degrees of freedom; {p_text(log_p)}).")
            yield Finding(kind, sentence, advice, log_p, figure="seasons", subject=stream,
                          numbers={"stream": stream, "amplitude": amplitude, "statistic": statistic, "degrees": degrees})


def joint_test(tested: Tested, stream: str, columns: np.ndarray) -> tuple[float, int, float, np.ndarray] | None:
    """Score test of several columns (m, k) of a stream together, with its memory and the size that its errors have if that is above one.

    Statistic, degrees of freedom, log p, and the part of the residuals (m,) that they explain; None if parameters can do all of that.
    """
    seen, rows, memory = tested.taken_up(columns), tested.rows[stream], tested.memories[stream]
    values, vectors = np.linalg.eigh(seen.T @ seen)
    told = values > 1e-6 * np.sum(columns**2, axis=0).max()
    if not told.any():
        return None
    basis = seen @ (vectors[:, told] / np.sqrt(values[told]))
    score = (columns @ (vectors[:, told] / np.sqrt(values[told]))).T @ tested.r
    covariance = memory.covariance(basis[rows]) * max(1.0, 1 / float(memory.variance[0]))
    covariance += np.eye(told.sum()) - basis[rows].T @ basis[rows]
    statistic = float(score @ np.linalg.solve(covariance, score))
    return statistic, int(told.sum()), tails.above(statistic, int(told.sum())), basis @ score
