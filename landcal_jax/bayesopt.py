"""Bayesian optimisation: the lowest value of an expensive and perhaps noisy objective, in as few runs as possible.

    found = bayesopt(problem, runs=60, key=0)                          # J of a Problem, of an external model too
    found = bayesopt(function, space, runs=60, batch=4, key=0)         # function(theta) -> number

    search = BayesianSearch(space, key=0, checkpoint="search.npz")     # where the runs are made elsewhere
    Z = search.ask(4)                                                  # theta = space.physical(Z)
    search.tell(Z, values)
    found = search.result()

A first design fills the space. After it, each batch is where the log of the noisy expected improvement is largest
(`landcal_jax.acquisition`), under Gaussian processes (`landcal_jax.gp`) fitted to all runs so far in u = Phi(z), the quantiles of the
prior: where priors are uniform, the fraction of the range. Every other place is sought in the whole prior, those between in a trust
region about the best, which widens with success and narrows without (Eriksson et al. 2019, NeurIPS 32, TuRBO): of many parameters
far corners are always the least known places. J of a Problem is made of processes of its residuals, whether metrics or series
(`landcal_jax.bayesian_model`). Where it is not known whether an objective has noise, the best place of the design is run again: equal
values mean none, others how much there is at most. What is reported is the run with the lowest posterior mean, not the luckiest of noisy
values; without noise that is the lowest value.

Whether a library should do it: BoTorch is the best kept, and needs PyTorch beside JAX, a second automatic differentiation of
hundreds of megabytes; Ax, NUBO and HEBO stand on PyTorch too. scikit-optimize was archived in 2024, and has neither the logarithm of
the improvement, nor noise in it, nor constraints. bayesian-optimization is light and kept, but has no batches and no exact gradients,
and takes the luckiest value for the best. Those in JAX (boax, bayex) call themselves an early alpha, and minimal. With the processes
at hand what is left to do is small, so it is here; `benchmarks/bayesopt.py` compares.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from landcal_jax import progress as progress_line
from landcal_jax.bayesian_optimum import Optimum as Optimum
from landcal_jax.bayesian_search import BayesianSearch as BayesianSearch
from landcal_jax.errors import complain
from landcal_jax.members import whitened
from landcal_jax.model import Theta
from landcal_jax.model_identity import identity_of
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem

OBJECTIVE = "objective"
Predicted = dict[str, np.ndarray]
Score = Callable[[Predicted], ArrayLike]


def bayesopt(
    objective: Problem | Callable[[Theta], float | Mapping[str, float]],
    space: ParameterSpace | None = None,
    *,
    runs: int,
    batch: int = 1,
    score: Score | None = None,
    constraints: Mapping[str, Score] | Sequence[str] = (),
    noise: float | Literal["fitted"] | None = None,
    logarithm: bool = False,
    design: int | None = None,
    z0: ArrayLike | None = None,
    key: Array | int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Optimum:
    """Search for the lowest value of an expensive objective in `runs` runs, failed ones included.

    `objective`: a Problem, whose J is minimised; or with `score`, a function {stream: (member, site, n_obs)} -> (member,), that of what
    its runs predict, such as a scorecard; then `constraints` are more such functions by name, whose values have to be zero or less.
    Or a function of theta with its `space`, that gives a number; with `constraints`, names, it gives a mapping with "objective" and
    these. A run that fails is NaN; an exception of the function ends the search, and the checkpoint keeps what was run.

    `batch`: so many runs at once, those of the design all at once; members of a Problem run together, in processes if its forward map
    says so. `noise`: a standard deviation; "fitted" for an objective that differs from run to run at one place; None takes that for a
    function, and 0 for a Problem, whose runs are taken to repeat themselves. In J it is that of the whitened residuals. `logarithm`,
    `design`, `z0`, `key`, `checkpoint`: see `BayesianSearch`; a finished search goes on from its file with more `runs`.

    Raises ValueError for fewer than three runs and arguments that do not go together, TypeError for a Problem whose R depends on z,
    RuntimeError where fewer than three runs have finished.
    """
    squares = isinstance(objective, Problem) and score is None
    if noise is None and isinstance(objective, Problem):
        noise = 0.0
    evaluate, space, names, about = _objective(objective, space, score, constraints)
    if runs < 3 or batch < 1:
        raise ValueError(complain("three runs or more, in batches of one or more", f"runs={runs}, batch={batch}", "bayesopt(..., runs=60)"))
    search = BayesianSearch(space, constraints=names, noise=None if noise == "fitted" else noise, least_squares=squares,
                            logarithm=logarithm, design=design, z0=z0, key=key, checkpoint=checkpoint, about=about)
    with progress_line.display(progress, "optimising", "run", "") as show:
        while search.done < runs:
            number = max(search.design - search.done, batch)
            Z = search.pending if len(search.pending) else search.ask(min(number, runs - search.done))
            begin = time.perf_counter()
            values = evaluate(Z)
            search.tell(Z, values.pop(OBJECTIVE), constraints=values, seconds=time.perf_counter() - begin)
            show(search.done, runs, {"lowest": search.lowest})
    return search.result()


def _objective(objective, space, score, constraints):
    """A function Z (run, n) -> values by name, the space, the names of constraints, and what a checkpoint belongs to besides."""
    if isinstance(objective, Problem):
        if space is not None or not isinstance(constraints, Mapping) and len(constraints):
            raise ValueError(complain("a Problem without space=, and constraints as functions of what it predicts", "something else",
                                      'constraints={"name": function of {stream: (member, site, n_obs)}}'))
        objective.require_least_squares("bayesopt, which makes J of what runs predict")
        functions = {OBJECTIVE: score} | dict(constraints)
        about = (objective, *(identity_of(each).text for each in functions.values() if each is not None))
        return lambda Z: _of_problem(objective, functions, Z), objective.space, tuple(functions)[1:], about
    if space is None or score is not None or isinstance(constraints, str | Mapping):
        raise ValueError(complain("a function of theta with its space and names of constraints, or a Problem", f"{objective!r}"[:80],
                                  "bayesopt(function, space, runs=60)"))
    names = tuple(constraints)
    return lambda Z: _of_function(objective, space, names, Z), space, names, identity_of(objective).text


def _of_problem(problem: Problem, functions: Mapping[str, Score | None], Z: np.ndarray) -> dict[str, np.ndarray]:
    predicted = problem.ensemble(jnp.asarray(Z))
    values = {}
    for name, function in functions.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if function is None:
                values[name] = np.concatenate(list(whitened(problem, predicted).values()), axis=1)
                continue
            values[name] = np.asarray(function(dict(predicted)), float)
        if values[name].shape != (len(Z),):
            raise ValueError(complain(f"a {name} of shape ({len(Z)},), one number a member", f"shape {values[name].shape}",
                                      "reduce site and observation, not the member, which comes first"))
    return values


def _of_function(function, space: ParameterSpace, names: tuple[str, ...], Z: np.ndarray) -> dict[str, np.ndarray]:
    rows = []
    for z in Z:
        given = function(space.physical(jnp.asarray(z)))
        given = given if isinstance(given, Mapping) else {OBJECTIVE: given}
        if set(given) != {OBJECTIVE, *names}:
            raise ValueError(complain(f"a number, or a mapping with {', '.join((OBJECTIVE, *names))}", f"{', '.join(map(str, given))}",
                                      "constraints=[...] are the names that it gives besides the objective"))
        rows.append({name: float(value) for name, value in given.items()})
    return {name: np.array([row[name] for row in rows]) for name in (OBJECTIVE, *names)}
