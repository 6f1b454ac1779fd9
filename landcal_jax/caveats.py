"""What a reader of a calibration must know before using its numbers, in sentences."""

from collections.abc import Iterator

import numpy as np

from landcal_jax.diagnostics import diagnose
from landcal_jax.importance import FEWEST
from landcal_jax.observations import Stream
from landcal_jax.plot_parameters import near_bound
from landcal_jax.problem import evaluate
from landcal_jax.solvers import Status

NOTABLE = 1.3  # chi-square, or one over it, below which the difference is of no account however many values there are
REMEMBERED = 0.5  # correlation from step to step: the posterior is then too narrow by a factor of up to 1.7
FEW_MEMBERS = 50  # the 5 % quantile of fewer is the second or third member


def caveats(experiment, result, posterior, runs, predictive) -> list[str]:
    """All of them, for a finished calibration: `runs` has its predictions at the "map", `predictive` the bands of its posterior."""
    problem = experiment.problem
    return [*experiment.cautions, *_of_solve(problem, result), *_of_draws(problem, posterior), *_of_gaussian(problem, result, posterior),
            *_of_bounds(problem, result), *_of_streams(experiment, runs, predictive)]


def _of_solve(problem, result) -> Iterator[str]:
    observed = sum(int(stream.count) for _, stream in problem.observations.items() if stream.time is not None)
    if observed < problem.space.size:
        yield f"{observed} observed values constrain {problem.space.size} parameters: most of the posterior is the prior."
    if result.status not in (Status.CONVERGED, Status.NO_DECREASE, Status.ANALYSIS):
        yield f"The solver has not reached the minimum ({result.status.sentence}): solve on from this point."
    span = str(result.details.get("span", ""))
    if span and result.status in (Status.SUBSPACE, Status.OUT_OF_SPAN):
        yield f"Of the ensemble: {span}."
    yield from lonely_minimum(result)
    lost = int(result.details.get("failed_runs", 0))
    if lost:
        yield (f"{lost} of {result.counts['forward']} runs failed and were left out, or moved and run again: the result knows "
               "nothing of that part of the prior.")
    beyond = int(result.details.get("left_out", 0))
    if beyond:
        yield f"{beyond} members failed, or ran to results beyond all measure, and have no part in the analysis."


def _of_draws(problem, posterior) -> Iterator[str]:
    if "warning" in posterior.details:
        yield f"Of the posterior: {posterior.details['warning']}"
    if posterior.chains > 1:
        diagnosis = diagnose(posterior)
        if not diagnosis.passed:
            yield from (f"Of the chains: {sentence}" for sentence in diagnosis.sentences)
    if len(posterior.z) < FEW_MEMBERS:
        yield f"The posterior has {len(posterior.z)} members: its quantiles are rough, and its intervals too narrow."


def _of_gaussian(problem, result, posterior) -> Iterator[str]:
    """What speaks against a Gaussian at this point; draws of chains need neither."""
    if not posterior.gaussian:
        return
    if problem.differentiable:
        # A model without derivatives cannot say whether its J is stationary.
        gradient = np.asarray(evaluate(problem, result.z)[1])
        shift = np.asarray(posterior.covariance) @ gradient
        if 0.5 * gradient @ shift > 0.1:
            far = np.max(np.abs(shift) / np.sqrt(np.diag(posterior.covariance)))
            yield (f"The end of the solver is not stationary: a Newton step would still move parameters by up to {far:.1f} posterior "
                   f"standard deviations and lower J by {0.5 * gradient @ shift:.2g}. More starts may end at a lower J.")
    excess = posterior.excess_cost()
    if excess > 2:
        sampler = "nuts" if problem.differentiable and problem.forward.traceable else "smc"
        yield (f"The posterior is not Gaussian: its draws raise J {excess:.0f} times as much as they should. Intervals of single "
               "parameters and the bands (propagated by the tangent-linear model) are approximate, and a draw is no credible "
               f'set of parameters; the posterior "{sampler}" samples it.')
        return
    # Of an external model as many runs again would take too long; draws of a singular covariance have no density.
    full = np.linalg.matrix_rank(np.asarray(posterior.covariance)) == len(posterior.centre)
    if problem.forward.traceable and len(posterior.z) >= 4 * FEWEST and full:
        importance = posterior.importance()
        if not importance.passed:
            yield f"The posterior is not quite Gaussian. {importance.sentence}"


def _of_bounds(problem, result) -> Iterator[str]:
    low, high = (np.asarray(bound) for bound in problem.space.bounds())
    values = np.asarray(problem.space.flatten(result.theta))
    at = [f"{label} = {value:.4g} ({which})"
          for label, value, lower, upper in zip(problem.space.labels, values, low, high, strict=True)
          if (which := near_bound(value, lower, upper))]
    if at:
        yield (f"The MAP lies within 1 % of the prior range from a bound for {', '.join(at)}: the data ask for more than "
               "the prior allows, or the model makes up for something that it lacks.")


def _of_streams(experiment, runs, predictive) -> Iterator[str]:
    for name, stream in experiment.problem.observations.items():
        if stream.time is None:
            continue
        chi_square = float(stream.chi_square(runs["map"][name]))
        low, high = expected_chi_square(int(stream.count), experiment.problem.space.size)
        if not experiment.estimate_model_error and not min(low, 1 / NOTABLE) <= chi_square <= max(high, NOTABLE):
            side = "smaller" if chi_square > 1 else "larger"
            yield f"Chi-square of {name} is {chi_square:.2f}: its errors R are {side} than the residuals."
        correlation, memory = residual_memory(stream, runs["map"][name])
        if stream.chain is None and correlation > REMEMBERED:
            yield (f"Residuals of {name} are correlated over about {memory:.0f} {'steps' if stream.time is None else 'days'}, but R takes "
                   f"errors as independent: the posterior is too narrow, by a factor of up to "
                   f"{np.sqrt(memory_inflation(correlation)):.1f} in standard deviation; errors=\"marginal\" estimates it.")
        failed = int(predictive[name].attrs.get("failed", 0))
        if failed:
            yield f"{failed} posterior runs of {name} failed and are not in its band."


def lonely_minimum(result) -> list[str]:
    """A sentence if, of several starts that went to the end, only one reached the lowest J."""
    if "end_cost" not in result.details:
        return []
    ends = np.sort(result.details["end_cost"][result.details["end_status"] != Status.LEFT])
    # Ends within one unit of J are as likely as each other, whether or not they are the same minimum.
    if len(ends) < 2 or ends[1] < ends[0] + 1:
        return []
    return [f"Only one of the {len(ends)} starts that went to the end reached the lowest J (the next is {ends[1] - ends[0]:.3g} higher): "
            "J has several minima, and another seed or more starts may find a lower one."]


def expected_chi_square(count: int, parameters: int) -> tuple[float, float]:
    """Between which chi-square of `count` values lies if R is right, three standard deviations of chance to either side.

    A fit takes up as many values as there are parameters at most, those that this stream alone determines being unknown here.
    """
    left = max(count - parameters, 0)
    return (left - 3 * np.sqrt(2 * left)) / count, 1 + 3 * np.sqrt(2 / count)


def residual_memory(stream: Stream, modelled) -> tuple[float, float]:
    """Correlation of whitened residuals between successive observed steps, and the e-folding time it means.

    In days, or in steps where the stream has no times. Both are zero for fewer than 30 pairs of steps, and for a correlation that is not
    three standard deviations above that of independent residuals.
    """
    residual, mask, time = np.asarray(stream.whitened(modelled)), np.asarray(stream.mask), stream.time
    pairs = mask[:, 1:] & mask[:, :-1]
    before, after = residual[:, :-1][pairs], residual[:, 1:][pairs]
    if pairs.sum() < 30 or before.std() == 0 or after.std() == 0:
        return 0.0, 0.0
    days = 1.0 if time is None else np.median((time[:, 1:] - time[:, :-1])[pairs] / np.timedelta64(1, "D"))
    correlation = float(np.corrcoef(before, after)[0, 1])
    if correlation < 3 / np.sqrt(pairs.sum()):
        return 0.0, 0.0
    return correlation, float(-days / np.log(min(correlation, 0.999)))


def memory_inflation(correlation: float) -> float:
    """Factor on the variance of a mean when errors with this correlation from step to step are taken as independent."""
    return (1 + correlation) / (1 - correlation)
