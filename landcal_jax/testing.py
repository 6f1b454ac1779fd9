"""Verification that users run on their own model: are the derivatives exact all over the prior, does a twin work?

`check(problem, n)` does all of it and prints a table. The parts:

* `taylor_order`: if g is the gradient of J at z, the remainder |J(z + e d) - J(z) - e g'd| falls with the square of the
  step e: order 2. With a wrong gradient it falls with e: order 1. What is judged is 8 R(e / 2) - R(e), which is free
  of the cubic term, so that steps far above the rounding noise of a long run can be used.
* `adjoint_dot_test`: the tangent-linear and the adjoint of the residuals are transposes, <G v, w> = <v, G'w>.
* `scan`: J and its gradient are finite all over the prior box (apart, since it takes a thousand points).
* `twin`: replace the observations by those of a known truth, with noise drawn from R.
* `coverage`, which `check` does not run: over many twins, does a posterior say what it should?

A low Taylor order does not always mean a wrong derivative. It is also seen where

* J is not differentiable at z: a threshold that is met exactly (a pool at its capacity, a temperature at the melting
  point) or so closely that the smallest steps cross it. Order 1 there is right; order 2 at most other points shows it;
* all steps are too large: a J so curved that its fourth derivative matters at the smallest step above rounding;
* J is noisy beyond rounding: an iteration inside the model that stops at a loose tolerance, float32;
* the run is chaotic or unstable, so that neighbouring runs part within the record.

And a good order can hide a wrong derivative where the error is invisible: at a stationary point or along a direction
with g'd near 0, in an entry of the gradient that the direction hardly sees, or in a branch that the run did not take.
So several random points and directions are tried, and the dot test beside it. The dot test says that the tangent-linear
and the adjoint agree, not that they are right: both may be wrong in the same way.

Reference: Farrell, Ham, Funke and Rognes (2013), SIAM Journal on Scientific Computing 35, C369-C393.
"""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.problem import Problem, evaluate
from landcal_jax.testing_coverage import coverage as coverage
from landcal_jax.testing_coverage import verdict as verdict
from landcal_jax.twins import Twin as Twin
from landcal_jax.twins import checked_vector
from landcal_jax.twins import draw_errors as draw_errors
from landcal_jax.twins import twin as twin

STEPS = 0.25 * 2.0 ** -np.arange(27)
"""Step sizes of the Taylor test in units of the prior standard deviation: 0.25 down to 4e-9."""
PROBES = 1e-6 * np.arange(21)
"""Small steps that measure the rounding noise of J. Much smaller ones would repeat the same rounding errors."""
SAFETY = 50.0
"""A remainder counts when it is this many times its rounding noise: the order is then good to 0.05."""
WINDOW = 4
"""The order is the median over this many of the smallest steps whose remainder counts."""
LEAST_ORDER = 1.9
NEGLIGIBLE = 1e-11
"""Relative error of g'd below which a gradient is exact: its own rounding."""


def taylor_order(problem: Problem, z: ArrayLike, direction: ArrayLike | None = None, *, key: Array | int = 0) -> float:
    """Observed order of the Taylor remainder of J at `z` (n,) along `direction` (n,), a random one without it.

    2 (or more) for a right gradient, 1 for a wrong one; compare with 1.9. The median order is taken over the
    smallest steps whose remainder stands above the rounding noise of J, which is measured. `inf` means that no
    remainder is above the noise though the linear term is: J is linear along the direction, and its derivative right.
    NaN means that the test decides nothing: J or its gradient is not finite at z, or J is flat within its noise.

    Raises TypeError for a forward map without derivatives, ValueError for shapes that are not (n,).
    """
    problem.require_gradient("a Taylor test")
    z = checked_vector(problem, z, "z")
    if direction is None:
        direction = jax.random.normal(key_of(key), z.shape)
    direction = checked_vector(problem, direction, "direction")
    size = float(jnp.linalg.norm(direction))
    if not size > 0:
        raise ValueError(complain("a direction other than zero", f"{direction}", "leave it out for a random one"))
    direction = direction / size
    value, gradient, _ = evaluate(problem, z)
    along = np.asarray(_costs_along(problem, z, direction, jnp.asarray(np.concatenate([PROBES, STEPS]), z.dtype)))
    terms = np.asarray(gradient * direction)
    return _order(along[: len(PROBES)], along[len(PROBES) :], float(np.sum(terms)), float(np.sum(np.abs(terms))))


def adjoint_dot_test(problem: Problem, z: ArrayLike, key: Array | int = 0) -> float:
    """Relative error of <G v, w> = <v, G'w> for the residuals at `z` (n,) and random v (n,), w (m,).

    About 1e-15 in float64; compare with 1e-12. NaN where a product is not finite.
    """
    problem.require_gradient("a dot-product test")
    z = checked_vector(problem, z, "z")
    forward, backward = (float(product) for product in _dot_products(problem, z, key_of(key)))
    scale = max(abs(forward), abs(backward))
    return abs(forward - backward) / scale if scale else 0.0


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found, one row a point. Print it for the table."""

    labels: tuple[str, ...]
    """Labels of the entries of z."""
    kind: tuple[str, ...]
    """Where each point lies: "default", "prior" (a random draw) or "corner"."""
    z: np.ndarray
    """The points (point, n)."""
    cost: np.ndarray
    """J (point,)."""
    not_finite: tuple[tuple[str, ...], ...]
    """By point, what is NaN or infinite: terms of J by name, and entries of the gradient as "d/d label"."""
    order: np.ndarray
    """Taylor order (point,)."""
    suspects: tuple[tuple[str, ...], ...]
    """By point, the parameters along which alone the order is too low; sought at the first such point only."""
    dot_error: np.ndarray
    """Relative error of the dot-product test (point,)."""
    dot_tolerance: float
    """What `dot_error` has to be below: 1e-12 in float64."""

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each point that fails; empty if all is well."""
        return tuple(sentence for index in range(len(self.kind)) if (sentence := self._fault(index)))

    @property
    def passed(self) -> bool:
        """Whether J and its gradient are finite, and the derivatives exact, at every point."""
        return not self.problems

    def _fault(self, index: int) -> str:
        if self.not_finite[index]:
            faults = [f"not finite: {', '.join(self.not_finite[index])}"]
        else:
            order, dot = self.order[index], self.dot_error[index]
            along = f" along {', '.join(self.suspects[index])}" if self.suspects[index] else ""
            faults = [text for text, wrong in (
                (f"Taylor order {order:.2f}{along}: a wrong derivative, or a kink of J there", order <= LEAST_ORDER),
                ("the Taylor test decides nothing: J is flat within its rounding noise", math.isnan(order)),
                (f"tangent-linear and adjoint differ by {dot:.1e}", not dot < self.dot_tolerance)) if wrong]
        return f"point {index} ({self.kind[index]}): {'; '.join(faults)}" if faults else ""

    def __str__(self) -> str:
        lines = [f"{'point':>5}  {'where':<8} {'J':>12} {'Taylor order':>13} {'dot error':>10}  "]
        for index, kind in enumerate(self.kind):
            mark = "FAILS" if self._fault(index) else "good"
            lines.append(f"{index:>5}  {kind:<8} {self.cost[index]:>12.5g} {self.order[index]:>13.2f} "
                         f"{self.dot_error[index]:>10.1e}  {mark}")
        failed = len(self.problems)
        verdict = (f"{failed} of {len(self.kind)} points fail:" if failed else
                   f"All {len(self.kind)} points are good: finite, order above {LEAST_ORDER}, "
                   f"dot error below {self.dot_tolerance:.0e}.")
        return "\n".join([*lines, verdict, *(f"  {sentence}" for sentence in self.problems)])


def check(problem: Problem, n: int = 8, key: Array | int = 0) -> Report:
    """Verify value and derivatives of `problem` at its default, `n` random points of the prior and up to `n` corners.

    A corner has every parameter far out in its prior, at a random side: z = +-6 (2e-9 of the mass from the bound)
    where the prior is bounded on both sides, z = +-3 elsewhere. All low and all high come first.
    """
    problem.require_gradient("a check of derivatives")
    if n < 1:
        raise ValueError(complain("at least one point", f"n={n}", "give for example n=8"))
    of_points, of_corners, of_tests = jax.random.split(key_of(key), 3)
    drawn = np.asarray(problem.space.sample(of_points, n))
    corners = _corners(problem, n, of_corners)
    kind = ("default",) + ("prior",) * len(drawn) + ("corner",) * len(corners)
    points = np.concatenate([np.asarray(problem.space.default_z)[None], drawn, corners])
    cost, order, dot = np.empty(len(points)), np.full(len(points), np.nan), np.full(len(points), np.nan)
    not_finite, suspects = [], []
    for index, z in enumerate(points):
        value, gradient, terms = evaluate(problem, jnp.asarray(z))
        cost[index] = value
        bad = [name for name, term in terms.items() if not jnp.isfinite(term)]
        bad += [f"d/d {label}" for label, entry in zip(problem.space.labels, gradient, strict=True)
                if not jnp.isfinite(entry)]
        not_finite.append(tuple(bad))
        if not bad:
            of_direction, of_products = jax.random.split(jax.random.fold_in(of_tests, index))
            order[index] = taylor_order(problem, z, key=of_direction)
            dot[index] = adjoint_dot_test(problem, z, of_products)
        suspects.append(_suspects(problem, z) if order[index] <= LEAST_ORDER and not any(suspects) else ())
    double = jnp.result_type(float) == jnp.float64
    return Report(problem.space.labels, kind, points, cost, tuple(not_finite), order, tuple(suspects), dot,
                  1e-12 if double else 1e-4)


def _suspects(problem: Problem, z: ArrayLike) -> tuple[str, ...]:
    axes = jnp.eye(problem.space.size)
    return tuple(label for label, axis in zip(problem.space.labels, axes, strict=True)
                 if taylor_order(problem, z, axis) <= LEAST_ORDER)


@dataclasses.dataclass(frozen=True)
class Scan:
    """What `scan` found: `points` tried, the z (point, n) where J or its gradient is not finite, and which entries."""

    points: int
    z: np.ndarray
    entries: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether J and its gradient are finite at every point."""
        return len(self.z) == 0

    def __str__(self) -> str:
        if self.passed:
            return f"J and its gradient are finite at all {self.points} points of the prior box."
        return (f"J or its gradient is NaN or infinite at {len(self.z)} of {self.points} points of the prior box, in "
                f"{', '.join(self.entries)}; the first is z = {np.array2string(self.z[0], precision=3)}.")


def scan(problem: Problem, n: int = 1000, key: Array | int = 0, *, batch_size: int = 250) -> Scan:
    """Look for NaN and infinity in J and its gradient at `n` points of the whole prior box.

    Half of the points are draws of the prior; the others are spread to its edges and corners, each parameter up to
    z = +-6 where the prior is bounded (2e-9 of its mass from the bound) and +-3 where it is not.
    """
    problem.require_gradient("a scan of gradients")
    of_draws, of_edges = jax.random.split(key_of(key))
    reach = np.abs(_corners(problem, 1, of_edges)[0])
    edges = np.clip(np.asarray(jax.random.normal(of_edges, (n - n // 2, problem.space.size))) * reach, -reach, reach)
    Z = np.concatenate([np.asarray(problem.space.sample(of_draws, n // 2)), edges])
    labels = ("J", *(f"d/d {label}" for label in problem.space.labels))
    bad_points, bad_entries = [], np.zeros(len(labels), bool)
    for start in range(0, n, batch_size):
        batch = jnp.asarray(np.resize(Z[start : start + batch_size], (min(batch_size, n), Z.shape[1])))
        value, gradient = _many(problem, batch)
        wrong = ~np.isfinite(np.column_stack([value, gradient]))[: len(Z) - start]
        bad_points.append(Z[start : start + batch_size][wrong.any(axis=1)])
        bad_entries |= wrong.any(axis=0)
    return Scan(n, np.concatenate(bad_points), tuple(np.array(labels)[bad_entries]))


@eqx.filter_jit
def _many(problem: Problem, Z: Array) -> tuple[Array, Array]:
    return jax.vmap(jax.value_and_grad(problem.cost))(Z)


@eqx.filter_jit
def _costs_along(problem: Problem, z: Array, direction: Array, steps: Array) -> Array:
    # One after the other, not as a batch: a batch turns branches into selections, which is another computation.
    return jax.lax.map(lambda step: problem.cost(z + step * direction), steps)


@eqx.filter_jit
def _dot_products(problem: Problem, z: Array, key: Array) -> tuple[Array, Array]:
    of_v, of_w = jax.random.split(key)
    at = problem.linearise(z)
    v = jax.random.normal(of_v, z.shape, z.dtype)
    pushed = at.jvp(v)
    w = jax.random.normal(of_w, pushed.shape, pushed.dtype)
    # Half of w lies along G v: the products are then no small difference of large numbers.
    w = w / jnp.linalg.norm(w) + pushed / jnp.linalg.norm(pushed)
    return pushed @ w, v @ at.vjp(w)


def _order(probes: np.ndarray, values: np.ndarray, slope: float, slope_size: float) -> float:
    """Order of the remainders of J from its `values` at `STEPS` and at `PROBES` (the first of which is z)."""
    start = probes[0]
    if not (np.isfinite(probes).all() and math.isfinite(slope)):
        return math.nan
    # Third differences remove all of a smooth J but its noise, of which they hold sqrt(20) times as much. Their median
    # does not see the few that have a kink between their points.
    noise = np.median(np.abs(np.diff(probes, 3))) / (0.6745 * math.sqrt(20)) + np.finfo(values.dtype).eps * abs(start)
    with np.errstate(invalid="ignore", over="ignore"):
        each = values - start - STEPS * slope
        remainder = np.abs(8 * each[1:] - each[:-1])
    steps = STEPS[:-1]
    floor = 8 * (SAFETY * noise + NEGLIGIBLE * steps * slope_size)
    # Far steps may leave what the model can run; below the first remainder lost in noise nothing is told.
    first = int(np.argmax(np.isfinite(remainder))) if np.isfinite(remainder).any() else len(steps)
    lost = np.flatnonzero(~(remainder[first:] > floor[first:]))
    last = first + (lost[0] if lost.size else len(steps) - first)
    if last - first >= 2:
        counted = np.log2(remainder[max(first, last - WINDOW) : last])
        # The median, because the noise between far steps can be larger than the one measured near z, and tips one order.
        return float(np.median(counted[:-1] - counted[1:]))
    resolved = last < len(steps) and steps[last] * abs(slope) > 1e3 * floor[last]
    return math.inf if resolved else math.nan


def _corners(problem: Problem, n: int, key: Array) -> np.ndarray:
    low, high = (np.asarray(side) for side in problem.space.bounds())
    reach = np.where(np.isfinite(low) & np.isfinite(high), 6.0, 3.0)
    size = problem.space.size
    if 2**min(size, 30) <= n:
        signs = np.stack(np.meshgrid(*[(-1.0, 1.0)] * size, indexing="ij"), axis=-1).reshape(-1, size)
    else:
        drawn = np.asarray(jax.random.rademacher(key, (n, size), dtype=float))
        signs = np.concatenate([-np.ones((1, size)), np.ones((1, size)), drawn])[:n]
        # A corner that was drawn twice is checked once.
        signs = np.array(list(dict.fromkeys(map(tuple, signs))))
    corners = signs * reach
    if problem.space.factor is None:
        return corners
    # With a correlation, shrink each corner to where its farthest parameter is as far out as without.
    farthest = np.max(np.abs(corners @ np.asarray(problem.space.factor).T) / reach, axis=1, keepdims=True)
    return corners / farthest
