"""How the calibration ended: whether the solve is at a minimum, whether chains agree, whether the Gaussian or the emulator can be trusted.

These findings have no p-value, and need none: a right model whose solve stopped half-way is found here. They are apart from
the tests of the model, which take for granted that z is the MAP and the posterior what it says.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.caveats import lonely_minimum
from landcal_jax.diagnostics import diagnose
from landcal_jax.importance import FEWEST
from landcal_jax.map_error import MapError, widened
from landcal_jax.observations import Observations
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem, costs, evaluate
from landcal_jax.solvers import Result
from landcal_jax.structure.findings import Finding
from landcal_jax.structure.score_tests import Whitened
from landcal_jax.structure.signals import quantity_words

KINDS = ("solver", "chains", "posterior", "emulator")
"""Kinds of findings that are about the calibration rather than the model."""
UNFINISHED = 1.0
"""Fall of J from which a solve is said to be unfinished: points within one unit of J are as likely as each other."""
HIDES = 0.1
"""Share of J by which it must fall to hide what is wrong with the model."""
STEPS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)  # of the Gauss-Newton step that are tried
DRAWS = 400  # of the posterior, for its importance weights
USELESS = 1.0
"""Pareto k-hat from which importance weights have no mean: the Gaussian says nothing of the posterior then."""
LONGER = "Run the chains longer, or from the other side of what separates them."
OF_CHAINS = {
    "did not move": "Start the sampler from another result, and look at its acceptance and its step.",
    "moved too little": "Run more draws, and plot them by chain.",
    "One chain": "Run four chains from different starts: nuts(problem, result, chains=4).",
    "Chains disagree": "Plot the draws by chain and compare with smc(problem), which visits all modes; chains that only drift need more "
    "draws.",
    "Few independent draws": "More draws, as many as the sentence says, or a longer warm-up.",
    "diverged": "target_accept=0.95 of nuts; if divergences stay, narrower priors where they are, or a smoothed kink of the model.",
    "deepest tree": "A larger max_tree_depth, or a longer warm-up (warmup=64)."}


def of_solve(problem: Problem, result: Result | Array, z: np.ndarray, whitened: Whitened) -> Iterator[Finding]:
    """Whether z is a minimum, by a Gauss-Newton step that is really made, and whether other starts found it."""
    gradient = whitened.G.T @ whitened.r
    if not problem.least_squares and problem.differentiable:
        gradient = np.asarray(evaluate(problem, jnp.asarray(z))[1])  # log det R is in J
    step = -np.linalg.solve(whitened.G.T @ whitened.G, gradient)
    further, fall = float(-0.5 * gradient @ step), 0.0
    solved = isinstance(result, Result)
    if further > UNFINISHED:
        tried = costs(problem, np.concatenate([z[None], z + np.array(STEPS)[:, None] * step]))
        fall = float(tried[0] - np.nanmin(tried))
    if (solved and result.status < 0) or further > UNFINISHED:
        ended = f" ({result.status.sentence})" if solved else ""
        found = (f"a step from there lowers J by {fall:.3g}, and the linearised model has {further:.3g}" if fall > UNFINISHED else
                 f"the linearised model has J fall by {further:.3g}, though no step along it does, as at a kink"
                 if further > UNFINISHED else "what follows is about where it stands")
        yield Finding("solver", f"{'The solve has not ended' if solved else 'The z that was given is not'} at a minimum: {found}{ended}.",
                      "Solve on from here (z0=result, more steps), or with Levenberg-Marquardt from several starts; all that follows is "
                      "about where it stands.", alarm=(solved and result.status < 0) or fall > UNFINISHED,
                      numbers={"further": further, "fall": fall})
    for sentence in lonely_minimum(result) if solved else ():
        ends = np.sort(result.details["end_cost"])
        yield Finding("solver", sentence, "A lower minimum may be left: more starts (MultiStart(number=)), or other seeds.",
                      figure="starts", numbers={"end_cost": ends[np.isfinite(ends)]})


def hides(found: Iterator[Finding], result: Result | Array, cost: float) -> bool:
    """Whether the solve ended so far from a minimum that nothing else can be told."""
    fall = max((each.numbers["fall"] for each in found if "fall" in each.numbers), default=0.0)
    return (isinstance(result, Result) and result.status < 0) or fall > HIDES * cost


def of_posterior(problem: Problem, posterior: Posterior | None, diagnosis: Any) -> Iterator[Finding | str]:
    """What chains, weights and the method itself say against the posterior. `diagnosis` takes the place of that of the chains."""
    if posterior is not None and diagnosis is None and posterior.chains > 1:
        try:
            diagnosis = diagnose(posterior)
        except ValueError as error:
            yield f"The chains were not diagnosed: {_line(error)}"
    if diagnosis is not None and not diagnosis.passed:
        for sentence in diagnosis.sentences:
            advice = next((words for part, words in OF_CHAINS.items() if part in str(sentence)), LONGER)
            yield Finding("chains", str(sentence), advice, alarm=True)
    if posterior is None:
        return
    if "warning" in posterior.details:
        yield Finding("posterior", f"Of the posterior: {posterior.details['warning']}", "Take another sampler, or more draws, and compare.",
                      alarm=True)
    if posterior.gaussian and problem.forward.traceable and len(posterior.z) >= 4 * FEWEST:
        try:
            found = posterior.importance(min(DRAWS, len(posterior.z)))
        except ValueError as error:  # a singular covariance, or runs that fail: the draws have no weights
            yield f"The Gaussian posterior was not compared with J: {_line(error)}"
            return
        if not found.passed:
            yield Finding("posterior", f"The posterior is not the Gaussian that stands for it: {found.sentence}",
                          "Intervals of single parameters may still hold; for sets of parameters, and for what follows from them, sample: "
                          "nuts(problem, result, posterior=posterior), or smc(problem).", alarm=found.k_hat > USELESS,
                          numbers={"k_hat": found.k_hat})


def _line(error: ValueError) -> str:
    """An error of several lines as one."""
    return "; ".join(" ".join(line.split()) for line in str(error).splitlines())


def of_emulator(problem: Problem, observations: Observations, z: np.ndarray) -> Iterator[Finding]:
    """Whether a forward map that knows its limits is within them at the optimum; `observations` are those of `problem` at z."""
    for sentence in problem.forward.caveats(problem.theta(jnp.asarray(z))):
        yield Finding("emulator", sentence, "Run the model itself there, add these runs to the design, and calibrate again.", alarm=True)
    for name, variance in errors_of_map(problem, z).items():
        stream, mask = observations[name], np.asarray(observations[name].mask)
        share = float(np.sqrt(np.mean(variance[mask]) / np.mean(np.asarray(stream.standard_deviation)[mask] ** 2)))
        if share > 1:
            yield Finding("emulator", f"At the optimum the error of {problem.forward.description} in {quantity_words(name)} is {share:.2f} "
                          "times that of the observations: what is left to learn is about the emulator.",
                          "Run the model itself there, add these runs to the design, and calibrate again.", alarm=True,
                          subject=name, numbers={"stream": name, "share": share})


def errors_of_map(problem: Problem, z: np.ndarray) -> dict[str, np.ndarray]:
    """Variance of the error of a forward map that knows its own, by stream (site, n_obs); empty of other maps."""
    return {name: np.asarray(_variance(error)) for name, error in problem.error_of_map(jnp.asarray(z)).items()}


def _variance(error: MapError) -> Array:
    return error.diagonal + jnp.einsum("k,kso->so", error.variances, error.basis**2)


def in_force(problem: Problem, z: np.ndarray | Array) -> Observations:
    """The observations with the errors that J has at z: those of theta, and of the forward map, whose values are taken to err alone."""
    observations = problem.observations_at(problem.theta(jnp.asarray(z)))
    found = {name: widened(observations[name], _variance(error)) for name, error in problem.error_of_map(jnp.asarray(z)).items()}
    return observations.with_streams(found) if found else observations
