"""4DEnVar: 4DVar without an adjoint, in the space of an ensemble of runs; single-loop, as published.

Control vectors are x = x_b + X'w: x_b the mean of the ensemble, X' its anomalies divided by sqrt(members - 1). With
Y' = h(members) - h(x_b), scaled in the same way and whitened, the cost is quadratic in w,

    J(w) = 1/2 w'w + 1/2 |d - Y'w|^2,      d = R^(-1/2) (y - h(x_b)),

and one set of runs gives its minimum and the posterior ensemble. That is exact if the model is linear and the ensemble
spans the space. `FourDEnVar` stops there, as it is published; `IterativeFourDEnVar` (`ensemble_iterated`)
goes on to the minimum of the exact J.

References: Liu, Xiao and Wang (2008), Monthly Weather Review 136, 3363; Pinnington et al. (2020), Geoscientific Model
Development 13, 55; Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361.
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
    reached_span,
    spanned,
    tapers_of,
    to_z,
    weights,
    where_they_ran,
)
from landcal_jax.errors import complain
from landcal_jax.members import cost_terms, draw_members, no_terms, whitened
from landcal_jax.solvers import AbstractEnsembleSolver, Counts, Progress, Status


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
    (member,): whether a posterior member is within the bounds, so that it has a z. `z`, `terms`: what is shown, the mean until the
    analysis has run at `target`. `mean_ran`: whether the mean did, where it was asked to. `measures`: see `FourDEnVar`.
    """

    members: Array
    kept: Array
    analysis: Array
    posterior: Array
    posterior_z: Array
    inside: Array
    covariance: Array
    z: Array
    target: Array
    terms: dict[str, Array]
    mean_ran: Array
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
    with another value than 1 there is no posterior. `inflation` multiplies the anomalies before the analysis.
    `localisation`: stream -> taper (n, site, n_obs) in 0 to 1, how much each observation may move each parameter (all
    where a stream is absent): each parameter then has its own analysis with R / taper (Hunt et al. 2007, Physica D 230, 112).

    Where the run of the mean fails, or is pulled in, the background is the mean of the members that ran, and the mean of their
    predictions stands for its own: the same if the model is linear, and said in `details["span"]`.

    `details`: `analysis`, `posterior` and `posterior_covariance` in the control space; `posterior_z`, the members inside the bounds,
    once the analysis has run, and with a damping of 1;
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
        every, nowhere, z = jnp.ones(len(members), bool), jnp.full((number, number), jnp.nan), to_z(problem, mean, self.space)
        return EnVarState(
            members, every, mean, members, members, every, nowhere, z, z, no_terms(problem), jnp.asarray(True),
            jnp.asarray(0), jnp.asarray(int(Status.RUNNING)), dict.fromkeys(MEASURES, jnp.asarray(jnp.nan)))

    def ask(self, problem, state):
        if int(state.phase) == 0:
            both = jnp.concatenate([state.members.mean(axis=0, keepdims=True), state.members])
            return to_z(problem, both, self.space)
        return state.target[None]

    def tries(self, state):
        return int(state.phase) > 0

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        if int(state.phase) == 0:
            return self._analyse(problem, state, ran, residuals)
        status = Status(int(state.status)) if ran.finished[0] else Status.RUN_FAILED
        if status is Status.RUNNING:
            reached = Status.ANALYSIS if self._rank(state) == state.members.shape[1] else Status.SUBSPACE
            status = Status.OUT_OF_SPAN if doubts(state.measures) else reached
        return changed(state, z=state.target, terms=cost_terms(state.target, residuals), status=int(status), phase=2)

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
               "posterior_covariance": np.asarray(state.covariance), "posterior_space": np.array(self.space),
               "posterior_outside": np.asarray((kept & ~inside).sum()), "left_out": np.asarray((~kept).sum()),
               "span": np.array("; ".join(doubts(state.measures) + self._notes(state)) or "the ensemble reaches the observations")}
        if self.damping != 1.0:
            out["no_posterior"] = np.array(f"a damping of {self.damping:g}, where that of the theory is 1")
        elif int(state.phase) < 2 or int(state.status) < 0:
            out["no_posterior"] = np.array("no run at its analysis")
        else:
            out["posterior_z"] = np.asarray(state.posterior_z)[inside]
        return out | measures

    def _rank(self, state):
        """Directions that the members which ran span."""
        members = np.asarray(state.members)[np.asarray(state.kept)]
        return spanned(members - members.mean(axis=0))

    def _notes(self, state):
        """What is no fault of the ensemble, one sentence each."""
        number, rank = state.members.shape[1], self._rank(state)
        notes = [reached_span(int(state.kept.sum()), rank, number)] if rank < number else []
        if not state.mean_ran:
            notes.append("the run of the mean of the members failed: the mean of their predictions stands for it, which is the same "
                         "where the model is linear")
        reached = sum(float(value) for name, value in state.terms.items() if name != "prior")
        predicted = float(state.measures["predicted_cost"])
        if int(state.phase) == 2 and reached > 2 * predicted + 0.5 * number:
            notes.append(f"the model is not linear over the ensemble: its misfit is {reached:.3g} where {predicted:.3g} was predicted, "
                         "IterativeFourDEnVar goes on")
        return notes

    def _analyse(self, problem, state, ran, residuals):
        """The analysis and its ensemble, from the runs of the mean and of the members."""
        D, asked = np.concatenate(list(residuals.values()), axis=1), self.ask(problem, state)
        kept = near(D[1:], ran.finished[1:])
        members = where_they_ran(problem, ran, asked, jnp.concatenate([state.analysis[None], state.members]), self.space)[1:]
        if ran.finished[0]:
            state = changed(state, z=ran.z[0], terms=cost_terms(ran.z[0], residuals))
        if kept.sum() < 2:
            return changed(state, status=int(Status.RUN_FAILED))
        mean, d = np.asarray(state.analysis), D[0]
        mean_ran = bool(ran.finished[0]) and not bool(jnp.any(ran.z[0] != asked[0]))
        if not mean_ran:
            mean, d = members[kept].mean(axis=0), D[1:][kept].mean(axis=0)
        scale = self.inflation / np.sqrt(kept.sum() - 1)
        X, Y = scale * (members[kept] - mean), scale * (d - D[1:][kept]).T
        analysis, anomalies, predicted = self._update(problem, X, Y, d)
        posterior = np.repeat((mean + analysis)[None], len(kept), axis=0)
        posterior[kept] += np.sqrt(kept.sum() - 1) * anomalies
        z, z_inside = nearest_z(problem, mean + analysis, self.space)
        posterior_z, inside = nearest_z(problem, posterior, self.space)
        measures = reach(problem, ran, kept, X, Y, d, analysis) | {"predicted_cost": predicted}
        return changed(
            state, members=members, kept=kept, analysis=mean + analysis, posterior=posterior, posterior_z=posterior_z, inside=inside,
            covariance=anomalies.T @ anomalies, target=z, mean_ran=mean_ran, phase=1, measures=measures,
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
