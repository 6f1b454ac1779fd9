"""4DEnVar: 4DVar without an adjoint, in the space of an ensemble of runs; single-loop as published, and iterated.

Control vectors are x = x_b + X'w: x_b the mean of the ensemble, X' its anomalies divided by sqrt(members - 1). With
Y' = h(members) - h(x_b), scaled in the same way and whitened, the cost is quadratic in w,

    J(w) = 1/2 w'w + 1/2 |d - Y'w|^2,      d = R^(-1/2) (y - h(x_b)),

and one set of runs gives its minimum and the posterior ensemble. That is exact if the model is linear and the ensemble
spans the space. `FourDEnVar` stops there, as it is published; `IterativeFourDEnVar` goes on to the minimum of the exact J.

References: Liu, Xiao and Wang (2008), Monthly Weather Review 136, 3363; Pinnington et al. (2020), Geoscientific Model
Development 13, 55; Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361; Bocquet and
Sakov (2014), Quarterly Journal of the Royal Meteorological Society 140, 1521, for the iterated form.
"""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from landcal_jax.ensemble_space import (
    MEASURES,
    changed,
    doubts,
    flat,
    given_members,
    near,
    nearest_z,
    reach,
    tapers_of,
    to_z,
    weights,
    where_they_ran,
)
from landcal_jax.errors import complain
from landcal_jax.members import cost_terms, draw_members, no_terms, whitened
from landcal_jax.solvers import AbstractEnsembleSolver, Counts, Progress, Status

TRIALS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3)  # fractions of a Gauss-Newton step that are run at once


def _descended(Y: np.ndarray, d: np.ndarray, damping: float) -> np.ndarray:
    """The same minimum by L-BFGS from w = 0, as published."""
    def cost(w):
        r = Y @ w - d
        return 0.5 * damping * w @ w + 0.5 * r @ r, damping * w + Y.T @ r

    options = {"gtol": 1e-16, "ftol": 0.0, "maxiter": 100_000, "maxfun": 1_000_000, "maxcor": 50}
    return minimize(cost, np.zeros(Y.shape[1]), jac=True, method="L-BFGS-B", options=options).x


class EnVarState(eqx.Module):
    """Members, and the analysis once they have run; control vectors are z or physical, as the solver is asked.

    `phase`: 0 before the members have run, 1 before the analysis has, 2 after. `kept` (member,) ran. `inside`
    (member,): whether a posterior member is within the bounds, so that it has a z. `measures`: see `FourDEnVar`.
    """

    members: Array
    kept: Array
    analysis: Array
    posterior: Array
    posterior_z: Array
    inside: Array
    covariance: Array
    z: Array
    terms: dict[str, Array]
    phase: Array
    status: Array
    measures: dict[str, Array]


class FourDEnVar(AbstractEnsembleSolver):
    """4DEnVar with one set of runs: `size` members, one at their mean, and one at the analysis for its J.

    `members` (member, n): the prior ensemble, z or physical vectors in the order of `space.labels`, as `space` says; without
    it, `size` draws of the prior (of second order exactly, see `draw_members`) with the key of `solve`. The background
    is the mean of the ensemble: the first guess z0 has no say.
    `space`: "z", where no analysis can leave the bounds, or "physical" as published. There an analysis outside the bounds
    ends with its own status, `Result.z` is the nearest point inside, and `details["analysis"]` what came out.
    `minimiser`: "closed form" or "L-BFGS", the same minimum. `root`: "symmetric" or "cholesky", the square root that makes
    the posterior ensemble; its covariance about the analysis is the same.
    `damping`: gamma of gamma/2 w'w, the ridge used at US-Ha1 (60 for JULES, 100 for ORCHIDEE) to stay within the bounds;
    with another value than 1 the posterior is no posterior. `inflation` multiplies the anomalies before the analysis.
    `localisation`: stream -> taper (n, site, n_obs) in 0 to 1, how much each observation may move each parameter (all
    where a stream is absent): each parameter then has its own analysis with R / taper (Hunt et al. 2007, Physica D 230, 112).

    `details`: `analysis`, `posterior` and `posterior_covariance` in the control space; `posterior_z`, the members inside the bounds;
    `posterior_outside`, how many are not; `left_out`, members that failed or blew up; and what the ensemble cannot reach:
    `outside_envelope`, fraction of the observed values more than two standard deviations beyond all members; `span_chi_square`, mean
    square of what no combination of the members explains, one if R is right; `distance`, that of the analysis from the mean, and
    `farthest_member`, both as mean square in standard deviations of the ensemble; `predicted_cost`, the sum of J's observation terms
    if the model were linear, against `Result.terms`; `span`: all this in a sentence.
    """

    members: Array | None = None
    size: int = eqx.field(static=True, default=50)
    space: Literal["z", "physical"] = eqx.field(static=True, default="z")
    minimiser: Literal["closed form", "L-BFGS"] = eqx.field(static=True, default="closed form")
    root: Literal["symmetric", "cholesky"] = eqx.field(static=True, default="symmetric")
    damping: float = eqx.field(static=True, default=1.0)
    inflation: float = eqx.field(static=True, default=1.0)
    localisation: Mapping[str, Array] | None = None
    exact: bool = eqx.field(static=True, default=True)
    default_max_steps: int = eqx.field(static=True, default=2)
    resumable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        choices = {"space": ("z", "physical"), "minimiser": ("closed form", "L-BFGS"), "root": ("symmetric", "cholesky")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(complain(f"{name} {' or '.join(map(repr, allowed))}", repr(getattr(self, name)), "one of the two"))
        if self.damping <= 0 or self.inflation <= 0:
            raise ValueError(complain("damping and inflation above zero", f"{self.damping:g} and {self.inflation:g}", "1 is none"))
        if self.localisation is not None and self.minimiser != "closed form":
            raise ValueError(complain('minimiser "closed form" with a localisation', repr(self.minimiser), "leave it out"))

    def init(self, problem, z0, key):
        given = given_members(problem, self.members) if self.members is not None else None
        members = draw_members(problem, key, self.size, self.exact) if given is None else given
        if given is None and self.space == "physical":
            members = flat(problem, members)
        # A taper of the wrong shape and members outside the bounds are said before anything is run.
        tapers_of(problem, self.localisation)
        to_z(problem, members, self.space)
        mean, number = members.mean(axis=0), members.shape[1]
        every, nowhere = jnp.ones(len(members), bool), jnp.full((number, number), jnp.nan)
        return EnVarState(
            members, every, mean, members, members, every, nowhere,
            to_z(problem, mean, self.space), no_terms(problem), jnp.asarray(0), jnp.asarray(int(Status.RUNNING)),
            dict.fromkeys(MEASURES, jnp.asarray(jnp.nan)))

    def ask(self, problem, state):
        if int(state.phase) == 0:
            both = jnp.concatenate([state.members.mean(axis=0, keepdims=True), state.members])
            return to_z(problem, both, self.space)
        return state.z[None]

    def tries(self, state):
        return int(state.phase) > 0

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        if int(state.phase) == 0:
            return self._analyse(problem, state, ran, residuals)
        status = Status(int(state.status)) if ran.finished[0] else Status.NOT_FINITE
        if status is Status.RUNNING:
            status = Status.OUT_OF_SPAN if doubts(state.measures) else Status.ANALYSIS
        return changed(state, terms=cost_terms(state.z, residuals), status=int(status), phase=2)

    def progress(self, state):
        # That the analysis is out of bounds is known before its run, and shown after it.
        running = (state.phase < 2) & (state.status >= 0)
        return Progress(state.z, state.terms, jnp.where(running, int(Status.RUNNING), state.status), Counts.of())

    def details(self, state):
        if int(state.phase) == 0:
            return {}
        kept, inside = np.asarray(state.kept), np.asarray(state.kept & state.inside)
        measures = {name: np.asarray(value) for name, value in state.measures.items()}
        out = {"method": np.array("4DEnVar"), "analysis": np.asarray(state.analysis), "posterior": np.asarray(state.posterior)[kept],
               "posterior_covariance": np.asarray(state.covariance), "posterior_z": np.asarray(state.posterior_z)[inside],
               "posterior_space": np.array(self.space), "posterior_outside": np.asarray((kept & ~inside).sum()),
               "left_out": np.asarray((~kept).sum()),
               "span": np.array("; ".join(doubts(state.measures) + self._notes(state)) or "the ensemble reaches the observations")}
        return out | measures

    def _notes(self, state):
        """What is no fault of the ensemble, one sentence each."""
        number, members = state.members.shape[1], int(state.kept.sum())
        notes = [f"{members} members span {members - 1} of {number} directions"] if members <= number else []
        reached = sum(float(value) for name, value in state.terms.items() if name != "prior")
        predicted = float(state.measures["predicted_cost"])
        if int(state.phase) == 2 and reached > 2 * predicted + 0.5 * number:
            notes.append(f"the model is not linear over the ensemble: its misfit is {reached:.3g} where {predicted:.3g} was predicted, "
                         "IterativeFourDEnVar goes on")
        return notes

    def _analyse(self, problem, state, ran, residuals):
        """The analysis and its ensemble, from the runs of the mean and of the members."""
        D = np.concatenate(list(residuals.values()), axis=1)
        kept = near(D[1:], ran.finished[1:])
        vectors = jnp.concatenate([state.analysis[None], state.members])
        members = where_they_ran(problem, ran, self.ask(problem, state), vectors, self.space)[1:]
        terms = cost_terms(to_z(problem, state.analysis, self.space), residuals)
        if not ran.finished[0] or kept.sum() < 2:
            return changed(state, terms=terms, status=int(Status.NOT_FINITE))
        mean = np.asarray(state.analysis)
        scale = self.inflation / np.sqrt(kept.sum() - 1)
        X, Y = scale * (members[kept] - mean), scale * (D[0] - D[1:][kept]).T
        analysis, anomalies, predicted = self._update(problem, X, Y, D[0])
        posterior = np.repeat((mean + analysis)[None], len(kept), axis=0)
        posterior[kept] += np.sqrt(kept.sum() - 1) * anomalies
        z, z_inside = nearest_z(problem, mean + analysis, self.space)
        posterior_z, inside = nearest_z(problem, posterior, self.space)
        measures = reach(problem, ran, kept, X, Y, D[0], analysis) | {"predicted_cost": predicted}
        return changed(
            state, members=members, kept=kept, analysis=mean + analysis, posterior=posterior, posterior_z=posterior_z, inside=inside,
            covariance=anomalies.T @ anomalies, z=z, terms=terms, phase=1, measures=measures,
            status=int(Status.RUNNING if z_inside else Status.OUT_OF_BOUNDS))

    def _update(self, problem, X, Y, d):
        """Increment (n,), posterior anomalies (member, n) with their scale left out, and J of the observations if linear."""
        if self.localisation is None:
            found = weights(Y, d, self.damping)
            w = found.w if self.minimiser == "closed form" else _descended(Y, d, self.damping)
            return X.T @ w, self._rooted(found.root).T @ X, 0.5 * np.sum((d - Y @ w) ** 2)
        tapers = tapers_of(problem, self.localisation)
        rows, which = np.unique(tapers, axis=0, return_inverse=True)
        analysis, anomalies, predicted = np.zeros(X.shape[1]), np.zeros_like(X), d.copy()
        for number, row in enumerate(rows):
            found, mine = weights(np.sqrt(row)[:, None] * Y, np.sqrt(row) * d, self.damping), which.ravel() == number
            analysis[mine] = X[:, mine].T @ found.w
            anomalies[:, mine] = self._rooted(found.root).T @ X[:, mine]
        # What the whole increment does to the observations: that of the members which make it up.
        predicted -= Y @ np.linalg.lstsq(X.T, analysis, rcond=None)[0]
        return analysis, anomalies, 0.5 * np.sum(predicted**2)

    def _rooted(self, root):
        return root if self.root == "symmetric" else np.linalg.cholesky(root @ root)


class IteratedState(eqx.Module):
    """Where the iterations are. `w` are weights of the `directions` (n, p) about `centre` (n,), z = centre + directions w.

    `spread` (p, p): where the members of the next bundle lie, in w. `kind`: 0 first bundle with its centre, 1 bundle, 2 trials,
    3 nothing. `step` (p,): the Gauss-Newton step, of which `TRIALS` are tried. `root` (p, p): of the covariance of w.
    `shrink`: what the trials are multiplied by after some without decrease; in the transform form, the spread. `left_out`: members
    of bundles that failed or blew up.
    """

    centre: Array
    directions: Array
    w: Array
    residual: dict[str, Array]
    terms: dict[str, Array]
    spread: Array
    root: Array
    step: Array
    shrink: Array
    left_out: Array
    kind: Array
    status: Array


class IterativeFourDEnVar(AbstractEnsembleSolver):
    """4DEnVar iterated to the minimum of the exact J: Gauss-Newton in the space of the ensemble, with a step control.

    Each iteration runs a bundle of members about the analysis so far, from which the derivative along the ensemble follows, and
    then seven fractions of the Gauss-Newton step at once; the one with the lowest J is taken if it decreases J, and otherwise
    the fractions become smaller (in the transform form, the bundle). The first guess z0 of `solve` (any other result, for a
    hybrid) is brought into the span of the ensemble.

    `scaling`: size of the bundle relative to the prior. A small number gives derivatives as by finite differences, for one run a
    direction (as many as parameters, at most members - 1), and the minimum is that of J to first order in it. None is the
    transform form: as many runs as members, drawn together by the posterior spread of the iteration before, which
    smooths a rough J and is not its exact minimum. `members` (member, n) in z: the prior ensemble, whose mean and covariance are then
    the prior; without it `size` draws of second order exactly, so that the prior of the problem is kept if they outnumber the parameters.
    `tolerance`: stop when the expected further decrease of J is below it (relative to J above 1).

    `details`: `analysis`, `posterior_z` (member, n), `posterior_covariance` in z: N(analysis, (I + G'G)^-1) in the span, which
    `from_ensemble` draws from, but for the transform form, whose members are its posterior ensemble; `left_out`, members of bundles
    that failed or blew up.
    An iteration of `solve` is one batch of runs. References: Sakov, Oliver and Bertino (2012), Monthly Weather Review 140, 1988;
    Bocquet and Sakov (2014), Quarterly Journal of the Royal Meteorological Society 140, 1521.
    """

    members: Array | None = None
    size: int = eqx.field(static=True, default=50)
    scaling: float | None = eqx.field(static=True, default=1e-4)
    tolerance: float = eqx.field(static=True, default=1e-8)
    default_max_steps: int = eqx.field(static=True, default=200)
    resumable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.scaling is not None and not 0 < self.scaling <= 1:
            raise ValueError(complain("a scaling above 0 and up to 1, or None", f"{self.scaling:g}", "1e-4, or 1e-2 for a rough model"))

    def init(self, problem, z0, key):
        members = draw_members(problem, key, self.size) if self.members is None else given_members(problem, self.members)
        centre = np.asarray(members.mean(axis=0))
        anomalies = (np.asarray(members) - centre).T / np.sqrt(len(members) - 1)
        if self.scaling is None:
            directions, spread = anomalies, np.sqrt(len(members) - 1) * np.eye(len(members))
        else:
            # The same space with as few directions as it has: w'w / 2 is the same prior.
            U, s, _ = np.linalg.svd(anomalies, full_matrices=False)
            directions = (U * s)[:, s > 1e-10 * s[0]]
            spread = self.scaling * np.eye(directions.shape[1])
        w = np.linalg.lstsq(directions, np.asarray(z0) - centre, rcond=None)[0]
        residual = {name: jnp.zeros(int(stream.count)) for name, stream in problem.observations.items()}
        return IteratedState(*map(jnp.asarray, (centre, directions, w)), residual, no_terms(problem), jnp.asarray(spread),
                             jnp.eye(len(w)), jnp.zeros(len(w)), *map(jnp.asarray, (1.0, 0, 0, int(Status.RUNNING))))

    def ask(self, problem, state):
        if int(state.kind) == 2:
            return self._z(state, jnp.asarray(self._trials(state)))
        bundle = state.w + state.spread.T
        return self._z(state, jnp.concatenate([state.w[None], bundle]) if int(state.kind) == 0 else bundle)

    def tries(self, state):
        return int(state.kind) == 2

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        if int(state.kind) == 2:
            return self._tried(state, ran, residuals)
        if int(state.kind) == 0:
            state = changed(state, residual={name: values[0] for name, values in residuals.items()},
                            terms=cost_terms(self._z(state, state.w), residuals))
            if not ran.finished[0] or not np.isfinite(sum(state.terms.values())):
                return changed(state, status=int(Status.NOT_FINITE), kind=3)
            residuals = {name: values[1:] for name, values in residuals.items()}
            ran = ran._replace(z=ran.z[1:], finished=ran.finished[1:])
        return self._linearised(state, ran, residuals)

    def progress(self, state):
        return Progress(self._z(state, state.w), state.terms, state.status, Counts.of())

    def details(self, state):
        if int(state.status) == Status.NOT_FINITE or int(state.kind) == 0:
            return {}
        root = np.asarray(state.directions @ state.root)
        analysis = np.asarray(self._z(state, state.w))
        number = root.shape[1]
        if self.scaling is None:
            posterior = analysis + np.sqrt(number - 1) * root.T
        else:
            # Members whose mean is the analysis: p directions need one more member.
            simplex = np.linalg.svd(np.eye(number + 1) - 1 / (number + 1))[0][:, :number]
            posterior = analysis + np.sqrt(number) * simplex @ root.T
        # The transform form has an ensemble; what the other one leaves are as few members as have this mean and covariance.
        return {"method": np.array("iterated 4DEnVar"), "analysis": analysis, "posterior_z": posterior,
                "posterior_covariance": root @ root.T, "posterior_gaussian": np.array(self.scaling is not None),
                "left_out": np.asarray(state.left_out)}

    def _trials(self, state):
        """Weights (trial, p) that are tried."""
        factor = 1.0 if self.scaling is None else float(state.shrink)
        return np.asarray(state.w) + factor * np.array(TRIALS)[:, None] * np.asarray(state.step)

    def _z(self, state, w):
        return state.centre + w @ state.directions.T

    def _linearised(self, state, ran, residuals):
        """The Gauss-Newton step, from the runs of a bundle."""
        # By name: the dictionary of a state comes back from JAX in the order of the alphabet.
        d, D = np.concatenate([np.asarray(state.residual[name]) for name in residuals]), np.concatenate(list(residuals.values()), axis=1)
        kept = near(D, ran.finished)
        away, moved = np.array(state.spread), np.asarray(jnp.any(ran.z != self._z(state, state.w + state.spread.T), axis=1))
        away[:, moved] = np.linalg.lstsq(np.asarray(state.directions), np.asarray(ran.z - self._z(state, state.w))[moved].T, rcond=None)[0]
        Y = (d - D[kept]).T @ np.linalg.pinv(away[:, kept])  # what a failed member would have told is taken for zero
        w = np.asarray(state.w)
        # The quadratic about w: its minimum is w + step.
        found = weights(Y, d + Y @ w)
        step, decrease = found.w - w, 0.5 * np.sum(np.linalg.solve(found.root, found.w - w) ** 2)
        cost = 0.5 * w @ w + 0.5 * d @ d
        done = decrease <= self.tolerance * max(cost, 1.0)
        state = changed(state, step=step, root=found.root, kind=3 if done else 2, left_out=int(state.left_out) + int((~kept).sum()),
                        status=int(Status.CONVERGED if done else Status.RUNNING))
        if self.scaling is None:
            return changed(state, spread=float(state.shrink) * np.sqrt(len(w) - 1) * found.root)
        return changed(state, shrink=1.0)

    def _tried(self, state, ran, residuals):
        """The lowest of the trials if it is lower than what is there; shorter trials otherwise."""
        W = self._trials(state)
        with np.errstate(over="ignore"):
            costs = 0.5 * np.sum(W**2, axis=1) + sum(0.5 * np.sum(values**2, axis=1) for values in residuals.values())
        costs = np.where(ran.finished & np.isfinite(costs), costs, np.inf)
        before = 0.5 * np.sum(state.w**2) + 0.5 * sum(np.sum(values**2) for values in state.residual.values())
        best = int(np.argmin(costs))
        if not costs[best] < before:
            if float(state.shrink) < 1e-5:
                return changed(state, kind=3, status=int(Status.NO_DECREASE))
            if self.scaling is None:
                # Members so far apart tell of another slope than that where the analysis is.
                return changed(state, shrink=0.1 * state.shrink, spread=0.1 * state.spread, kind=1)
            return changed(state, shrink=1e-3 * state.shrink)
        z = self._z(state, jnp.asarray(W[best]))
        return changed(state, w=W[best], residual={name: values[best] for name, values in residuals.items()},
                       terms=cost_terms(z, residuals, best), kind=1)


