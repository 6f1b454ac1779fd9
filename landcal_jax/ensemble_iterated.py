"""4DEnVar iterated to the minimum of the exact J, from runs alone: Gauss-Newton in the space of an ensemble.

References: Sakov, Oliver and Bertino (2012), Monthly Weather Review 140, 1988; Bocquet and Sakov (2014), Quarterly Journal
of the Royal Meteorological Society 140, 1521.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.ensemble_space import changed, given_members, near, reached_span, spanned, weights
from landcal_jax.errors import complain
from landcal_jax.members import cost_terms, draw_members, no_terms, whitened
from landcal_jax.solvers import AbstractEnsembleSolver, Counts, Progress, Status

TRIALS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3)  # fractions of a Gauss-Newton step that are run at once
NARROWEST = 1e-4  # width of a bundle, in standard deviations of the prior, where the model shows no noise
AGREE = 2.0  # variances of two linearisations that confirm each other are within this factor
NOISE_SHARE = 0.01  # of the information on a direction, what noise in its slopes may pretend


class IteratedState(eqx.Module):
    """Where the iterations are. `w` are weights of the `directions` (n, p) about `centre` (n,), z = centre + directions w.

    `spread` (p, p): where the members of the next bundle lie, in w. `kind`: 0 first bundle with its centre, 1 bundle, 2 trials,
    3 nothing. `step` (p,): the Gauss-Newton step, of which `TRIALS` are tried. `root` (p, p): of the covariance of w.
    `shrink`: what the trials are multiplied by after some without decrease; in the transform form, the spread. `floor`: the
    narrowest a bundle becomes; `noise`: what the last trials showed of it, in whitened residuals. `stalled`: whether the bundle was
    widened because no trial decreased J; `confirmed`: whether it then told the same as the narrower one. `left_out`: members of
    bundles that failed or blew up.
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
    floor: Array
    noise: Array
    stalled: Array
    confirmed: Array
    left_out: Array
    kind: Array
    status: Array


class IterativeFourDEnVar(AbstractEnsembleSolver):
    """4DEnVar iterated to the minimum of the exact J: Gauss-Newton in the space of the ensemble, with a step control.

    Each iteration runs a bundle of members about the analysis so far, from which the derivative along the ensemble follows, and
    then seven fractions of the Gauss-Newton step at once; the one with the lowest J is taken if it decreases J, and otherwise
    the fractions become smaller (in the transform form, the bundle). The first guess z0 of `solve` (any other result, for a
    hybrid) is brought into the span of the ensemble.

    `scaling`: width of the first bundle relative to the prior, for one run a direction (as many as parameters, at most
    members - 1). Later ones are as narrow as the noise of the model allows, that of outputs printed with few digits for instance, which
    neighbouring trials show: from 1e-4, where the minimum is that of J to first order in it, up to the posterior spread.
    Where no trial decreases J, or a bundle leaves all observed values as they were along a direction, it is widened tenfold, up to
    one, before an end is said; the end is said at once if the wider bundle confirms the narrower. None is the
    transform form: as many runs as members, drawn together by the posterior spread of the iteration before, which
    smooths a rough J and is not its exact minimum. `members` (member, n) in z: the prior ensemble, whose mean and covariance are then
    the prior; without it `size` draws of second order exactly, so that the prior of the problem is kept if they outnumber the parameters:
    by default 50, or as many as it takes. Fewer search their span alone, and say so (`Status.SUBSPACE`).
    `tolerance`: stop when the expected further decrease of J is below it (relative to J above 1), or below what noise does to J.

    `details`: `analysis`, and at the end `posterior_z` (member, n), `posterior_covariance` in z: N(analysis, (I + G'G)^-1) in the span,
    which `from_ensemble` draws from, but for the transform form, whose members are its posterior ensemble; `left_out`, members of
    bundles that failed or blew up; `width` (direction,), that of the last bundle in standard deviations of the prior (transform form: one
    number, relative to the posterior); `span`, which directions the members reach, in words.
    An iteration of `solve` is one batch of runs.
    """

    members: Array | None = None
    size: int | None = eqx.field(static=True, default=None)
    scaling: float | None = eqx.field(static=True, default=1e-2)
    tolerance: float = eqx.field(static=True, default=1e-8)
    default_max_steps: int = eqx.field(static=True, default=200)
    resumable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.scaling is not None and not 0 < self.scaling <= 1:
            raise ValueError(complain("a scaling above 0 and up to 1, or None", f"{self.scaling:g}", "1e-2, or more for a rough model"))

    def init(self, problem, z0, key):
        if self.members is None:
            members = draw_members(problem, key, self._size(problem.space.size))
        else:
            members = given_members(problem, self.members)
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
        number = len(w)
        return IteratedState(*map(jnp.asarray, (centre, directions, w)), residual, no_terms(problem), jnp.asarray(spread), jnp.eye(number),
                             jnp.zeros(number), *map(jnp.asarray, (1.0, min(self.scaling or 1.0, NARROWEST), 0.0, False, False, 0, 0,
                                                                   int(Status.RUNNING))))

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
        bundle = np.asarray(state.spread).T
        if int(state.kind) == 0:
            if not ran.finished[0]:
                return changed(state, status=int(Status.RUN_FAILED), kind=3)
            asked, state = state.w, changed(state, w=self._moved(state, state.w[None], ran.z[:1])[0])
            bundle = bundle + np.asarray(asked - state.w)
            state = changed(state, residual={name: values[0] for name, values in residuals.items()},
                            terms=cost_terms(self._z(state, state.w), residuals))
            if not np.isfinite(sum(state.terms.values())):
                return changed(state, status=int(Status.NOT_FINITE), kind=3)
            residuals = {name: values[1:] for name, values in residuals.items()}
            ran = ran._replace(z=ran.z[1:], finished=ran.finished[1:])
        away = self._moved(state, state.w + bundle, ran.z) - np.asarray(state.w)
        return self._linearised(state, away.T, ran.finished, residuals)

    def progress(self, state):
        return Progress(self._z(state, state.w), state.terms, state.status, Counts.of())

    def details(self, state):
        if int(state.status) < 0 or int(state.kind) == 0:
            return {}
        analysis = np.asarray(self._z(state, state.w))
        width = np.asarray(state.shrink) if self.scaling is None else _lengths(state.spread)
        out = {"method": np.array("iterated 4DEnVar"), "analysis": analysis, "left_out": np.asarray(state.left_out), "width": width,
               "span": np.array(reached_span(self._number(state), self._rank(state), len(analysis)))}
        if int(state.status) == Status.RUNNING:
            return out | {"no_posterior": np.array("stopped before its end, where the curvature is not that at a minimum")}
        root = np.asarray(state.directions @ state.root)
        number = root.shape[1]
        if self.scaling is None:
            posterior = analysis + np.sqrt(number - 1) * root.T
        else:
            # Members whose mean is the analysis: p directions need one more member.
            simplex = np.linalg.svd(np.eye(number + 1) - 1 / (number + 1))[0][:, :number]
            posterior = analysis + np.sqrt(number) * simplex @ root.T
        # The transform form has an ensemble; what the other one leaves are as few members as have this mean and covariance.
        return out | {"posterior_z": posterior, "posterior_covariance": root @ root.T,
                      "posterior_gaussian": np.array(self.scaling is not None)}

    def _size(self, parameters):
        return max(50, parameters + 1) if self.size is None else self.size

    def _number(self, state):
        """Members of the ensemble."""
        return self._size(state.centre.size) if self.members is None else len(self.members)

    def _rank(self, state):
        """Directions that the ensemble spans."""
        return spanned(np.asarray(state.directions).T)

    def _trials(self, state):
        """Weights (trial, p) that are tried."""
        factor = 1.0 if self.scaling is None else float(state.shrink)
        return np.asarray(state.w) + factor * np.array(TRIALS)[:, None] * np.asarray(state.step)

    def _z(self, state, w):
        return state.centre + w @ state.directions.T

    def _moved(self, state, W, Z):
        """Weights (member, p) where members ran: those of the rule "pull in" are not where they were asked for, W."""
        W, moved = np.array(W), np.asarray(jnp.any(Z != self._z(state, jnp.asarray(W)), axis=1))
        W[moved] = np.linalg.lstsq(np.asarray(state.directions), np.asarray(Z - state.centre)[moved].T, rcond=None)[0].T
        return W

    def _linearised(self, state, away, finished, residuals):
        """The Gauss-Newton step, from the runs of a bundle that lies at `away` (p, member) from w."""
        # By name: the dictionary of a state comes back from JAX in the order of the alphabet.
        d, D = np.concatenate([np.asarray(state.residual[name]) for name in residuals]), np.concatenate(list(residuals.values()), axis=1)
        kept = near(D, finished)
        Y = (d - D[kept]).T @ np.linalg.pinv(away[:, kept])  # what a failed member would have told is taken for zero
        w = np.asarray(state.w)
        # The quadratic about w: its minimum is w + step.
        found = weights(Y, d + Y @ w)
        step, decrease = found.w - w, 0.5 * np.sum(np.linalg.solve(found.root, found.w - w) ** 2)
        cost = 0.5 * w @ w + 0.5 * d @ d
        done = decrease <= self.tolerance * max(cost, 1.0)
        state = changed(state, left_out=int(state.left_out) + int((~kept).sum()))
        if self.scaling is None:
            # A bundle that was drawn together below rounding has no slopes: it gives a step, but no posterior.
            root = found.root if float(state.shrink) == 1.0 else np.asarray(state.root)
            state = changed(state, root=root, spread=float(state.shrink) * np.sqrt(len(w) - 1) * root)
        else:
            mute = kept & (d == D).all(axis=1) & (_lengths(state.spread) < 1.0)
            if mute.all() or done and mute.any():
                return self._widened(state, mute)
            apart = np.linalg.svd(np.linalg.solve(found.root, np.asarray(state.root)), compute_uv=False) ** 2
            confirmed = bool(state.stalled) and bool(((apart > 1 / AGREE) & (apart < AGREE)).all())
            state = changed(state, shrink=1.0, confirmed=confirmed, root=state.root if confirmed else found.root)
        return changed(state, step=step, kind=3 if done else 2, status=int(self._end(state) if done else Status.RUNNING))

    def _end(self, state):
        return Status.CONVERGED if self._rank(state) == state.centre.size else Status.SUBSPACE

    def _tried(self, state, ran, residuals):
        """The lowest of the trials if it is lower than what is there; shorter trials or a wider bundle otherwise."""
        W = self._trials(state)
        with np.errstate(over="ignore"):
            costs = 0.5 * np.sum(W**2, axis=1) + sum(0.5 * np.sum(values**2, axis=1) for values in residuals.values())
        costs = np.where(ran.finished & np.isfinite(costs), costs, np.inf)
        here = np.concatenate([np.asarray(state.residual[name]) for name in residuals])
        before, best = 0.5 * np.sum(state.w**2) + 0.5 * here @ here, int(np.argmin(costs))
        noise = self._noise(state, here, costs, residuals)
        state = changed(state, noise=max(noise, 0.1 * float(state.noise)))
        buried = max(self._expected(state), before - costs[best]) <= self._by_noise(state, here, noise)
        if costs[best] < before:
            state = self._next_width(state)
            state = changed(state, w=W[best], residual={name: values[best] for name, values in residuals.items()},
                            terms=cost_terms(self._z(state, jnp.asarray(W[best])), residuals, best), kind=1, stalled=False)
        elif not buried:
            return self._stuck(state)
        return changed(state, kind=3, status=int(self._end(state))) if buried else state

    def _stuck(self, state):
        """No trial decreases J: shorter ones, then slopes from farther away; in the transform form, from nearer."""
        if self.scaling is None:
            if float(state.shrink) < 1e-5:
                return changed(state, kind=3, status=int(Status.NO_DECREASE))
            # Members so far apart tell of another slope than that where the analysis is.
            return changed(state, shrink=0.1 * state.shrink, spread=0.1 * state.spread, kind=1)
        if float(state.shrink) == 1.0 and not bool(state.stalled):
            return changed(state, shrink=1e-3)
        narrow = _lengths(state.spread) < 1.0
        if bool(state.confirmed) or not narrow.any():
            return changed(state, kind=3, status=int(Status.NO_DECREASE))
        return changed(self._widened(state, narrow), stalled=True)

    def _widened(self, state, which):
        """A new bundle about the same point, ten times as wide along the directions `which` (p,)."""
        length = _lengths(state.spread)
        return changed(state, spread=state.spread * np.where(which, np.minimum(10.0, 1.0 / length), 1.0), kind=1)

    def _noise(self, state, here, costs, residuals):
        """Standard deviation of the noise of whitened residuals: what two short trials leave of a straight line.

        The shortest two that move them: outputs of few digits stay as they are at first. Where none does, as it was.
        """
        values = np.concatenate(list(residuals.values()), axis=1)
        most = (values[0] != here).sum()
        for n in range(len(TRIALS) - 1, 0, -1):
            near, nearest = values[n - 1], values[n]
            if np.isfinite(costs[[0, n - 1, n]]).all() and most > 0 and 2 * (near != here).sum() >= most:
                ratio = TRIALS[n] / TRIALS[n - 1]
                left = nearest - here - ratio * (near - here)
                return np.sqrt(np.mean(left**2) / (1 + ratio**2 + (1 - ratio) ** 2))
        return float(state.noise)

    def _expected(self, state):
        """What J is expected to decrease by, with the whole step."""
        return 0.5 * np.sum(np.linalg.solve(state.root, state.step) ** 2)

    def _by_noise(self, state, here, noise):
        """The decrease of J that noise of the residuals feigns: that of J itself, and that expected with the noise of the slopes.

        Zero where these know little else: then a wider bundle has to tell.
        """
        slopes, length = noise * np.linalg.svd(np.linalg.solve(state.spread, state.root), compute_uv=False), np.linalg.norm(here)
        if len(here) * slopes[0] ** 2 > 10 * NOISE_SHARE:
            return 0.0
        return noise * length + 0.5 * length**2 * np.sum(slopes**2)

    def _next_width(self, state):
        """The next bundle: as narrow as the noise allows; in the transform form, out again towards the posterior spread."""
        if self.scaling is None:
            shrink = min(10 * float(state.shrink), 1.0)
            return changed(state, shrink=shrink, spread=shrink / float(state.shrink) * state.spread)
        floor = float(state.floor)
        if bool(state.stalled) and not bool(state.confirmed):
            floor = float(_lengths(state.spread).min())
        # Noise in m slopes along the axes of the posterior, a times its standard deviations apart, adds m (noise / a)^2 to the
        # information of one on each; a bundle wider than the posterior would tell of other places.
        number = sum(len(values) for values in state.residual.values())
        apart = min(float(state.noise) * np.sqrt(number / NOISE_SHARE), 1.0)
        sd, axes = np.linalg.eigh(np.asarray(state.root))
        return changed(state, spread=axes * np.clip(apart * sd, floor, 1.0), floor=floor)


def _lengths(spread):
    """How far apart the members of a bundle lie, from its spread (p, p)."""
    return np.linalg.norm(np.asarray(spread), axis=0)
