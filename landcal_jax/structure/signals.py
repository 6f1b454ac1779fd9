"""Candidates for what is wrong with a model: how its predictions would change with a small expansion of it.

A candidate is one direction d = dH/dc of the predictions, by the tangent-linear of the run itself, so that what an error does to the pools
and to all streams is in it. The classes:

* `driver`: an offset, a factor, or a drift of each driver of the model;
* `process`: one parameter of the model that is no constant but varies with a driver, with the recent past of it, with dryness, the season
  or time, theta(t) = theta exp(c s(t)). A wrong or missing response of a process looks like that to first order (Reichert and Mieleitner
  2009, Water Resour. Res. 45, W10402, find structural errors by parameters that vary in time; here they vary with a cause);
* `observation`: an offset, a factor, or a drift of the observations of each stream;
* of several sites, such a bias of a driver or of observations at one of them alone (`local`);
* `user`: the caller's own.

The process of a parameter is the flux of the model that it moves most within one step, all states as they are. Composite fluxes, which
change their sign as NEE does, name none, and no more do outputs that are states and were not observed, such as leaf area: what they do
to the observations goes through fluxes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.io.quantities import FLUXES, METEOROLOGY
from landcal_jax.model import Theta, equilibrium, simulate
from landcal_jax.models.edc import EcologicalConstraints
from landcal_jax.problem import Problem
from landcal_jax.structure.drivers import Driver, Response, drivers_of, responses_of, series_of
from landcal_jax.structure.expansions import Expanded, Expansion
from landcal_jax.structure.local import at_site, local_candidates

CLASSES = ("driver", "process", "observation", "user")
WATER = ("water", "moisture")
"""What the names of states that hold water have in them."""
RATES = ("d-1", "s-1", "h-1", "yr-1", "W m-2")
"""What the units of fluxes have in them."""
PLAUSIBLE, PLAUSIBLE_RESPONSE = 0.25, 0.5
SECANT = 0.1  # of a plausible coefficient
REPRODUCED = 1e-6  # largest relative difference between a run with constant parameters and the run of the problem
BATCH = 128
USERS = "candidates={name: {stream: array (site, n_obs)}}"  # how the caller gives candidates


@dataclass(frozen=True)
class Candidate:
    """One candidate: `name`, its class, the group of candidates that are the same error in words, and these words.

    `group` is (what, responds to what): ("respiration", "temperature"), ("driver", "shortwave"), ("observation", "nee"), and of a
    bias at one of several sites, `site`, ("driver", "shortwave", "FR-Pue").
    `words`: what the group is, for a sentence; `detail`: what this candidate is. `unit` is that of its coefficient c, `size` what c may
    well be, the standard deviation of its prior: a quarter of the spread of a driver, of a stream (or its error, if that is more), half of
    a parameter for a response of one standard deviation.
    """

    name: str
    kind: str
    group: tuple[str, ...]
    words: str
    detail: str
    unit: str = "1"
    size: float = 1.0
    site: str = ""

    @property
    def family(self) -> str:
        """Among which candidates it is counted: those of its class, of one site apart from those of all."""
        return f"{self.kind} at a site" if self.site else self.kind


@dataclass(frozen=True)
class Signals:
    """Candidates with their directions: stream -> (candidate, site, n_obs) derivative of the prediction with respect to c.

    The last candidates are those of one site each, which need no directions of their own: `places` has the (candidate, site) of each.
    `slopes`, of the same shape: derivative of the directions of factors on drivers along z, (dd/dz) z; zero for the others. Such a factor
    does what parameters that multiply the driver do, and like theirs its effect depends on z (`score_tests.whitened_directions`).
    `expanded`: the problem that runs with any of them; `expansions`: what each is there. `notes`: sentences about candidates that could
    not be computed.
    """

    candidates: tuple[Candidate, ...]
    directions: dict[str, np.ndarray]
    expanded: Expanded
    expansions: tuple[Any, ...]
    slopes: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()
    places: tuple[tuple[int, int], ...] = ()

    def expansion(self, index: int) -> Expansion:
        """What c multiplies in the candidate of this index."""
        if index >= len(self.expansions):
            of, site = self.places[index - len(self.expansions)]
            return at_site(self.expansion(of), site)
        made, nothing = self.expansions[index], self.expanded.nothing()
        if isinstance(made, Expansion):
            return made
        if isinstance(made, tuple):
            return eqx.tree_at(lambda e: e.coefficients, nothing, nothing.coefficients.at[made].set(1.0))
        return eqx.tree_at(lambda e: e.predictions, nothing, {name: jnp.asarray(values) for name, values in made.items()})


def signals_of(problem: Problem, z: Array, extra: Mapping[str, Mapping[str, Any]] | None = None) -> Signals:
    """All candidates of `problem` at z (n,); `extra`: the caller's, name -> stream -> direction (site, n_obs), zero where left out.

    Drivers and processes need a model with sites (`SiteForward`); any forward map has those of the observations.
    """
    predicted = {name: np.asarray(values) for name, values in problem.predict(z).items()}
    notes: list[str] = []
    expanded = Expanded(problem, jnp.zeros((1, 1, 0)), (), False)
    parts, slopes = [], {}
    if isinstance(problem.forward, SiteForward):
        theta = problem.theta(z)
        names = tuple(name for name in problem.forward.model.parameter_names if name in theta)
        acting, water = processes_of(problem, z, names)
        responses = responses_of(problem.forward, water)
        expanded = Expanded(problem, jnp.asarray(np.stack([each.values for each in responses], axis=-1)), names)
        processes = _of_processes(expanded, responses, acting, z, predicted)
        if processes is None:
            notes.append(f"Parameters of {problem.forward.name} were not let vary in time, since its `prepare` takes the record as a "
                         "whole: errors of processes are not among the candidates.")
            expanded, processes = expanded.with_constants(), ([], {}, [])
        drivers, slopes = _of_drivers(expanded, z, predicted)
        parts = [drivers, processes]
    parts += [_of_observations(problem, z, predicted, notes), _of_user(problem, predicted, {} if extra is None else extra)]
    candidates = [candidate for part, *_ in parts for candidate in part]
    expansions = [expansion for *_, part in parts for expansion in part]
    directions = {name: np.concatenate([np.zeros((0, *values.shape)), *(found[name] for part, found, _ in parts if len(part))])
                  for name, values in predicted.items()}
    slopes = {name: np.concatenate([values, np.zeros((len(candidates) - len(values), *values.shape[1:]))])
              for name, values in slopes.items()}
    finite = np.logical_and.reduce([
        np.isfinite(np.where(np.asarray(problem.observations[name].mask), values, 0.0)).all(axis=(1, 2))
        for found in (directions, slopes) for name, values in found.items()])
    if not finite.all():
        notes.append(f"{(~finite).sum()} candidates have no finite direction and were not tested: "
                     f"{', '.join(c.name for c, good in zip(candidates, finite, strict=True) if not good)}.")

    def kept(values):
        return tuple(value for value, good in zip(values, finite, strict=True) if good)

    directions, slopes = ({name: values[finite] for name, values in found.items()} for found in (directions, slopes))
    candidates = kept(candidates)
    local, places = local_candidates(candidates, problem.observations)
    return Signals(candidates + local, directions, expanded, kept(expansions), slopes, tuple(notes), places)


# ---------------------------------------------------------------------------------------------- observations, and the user's own

def _of_observations(problem: Problem, z: Array, predicted: Mapping[str, np.ndarray], notes: list[str]):
    found, timeless = [], []
    along = _along(problem, z)
    for name, stream in problem.observations.items():
        mask, said = _used(problem, name), f"a bias of the observations of {quantity_words(name)}"
        if stream.time is None or not mask.any():
            timeless += [name] * bool(mask.any() and not isinstance(stream.operator, EcologicalConstraints))
            continue
        years = np.where(mask, np.asarray(stream.minutes, float) / (1440 * 365.25), 0.0)
        # About the middle of each site: records that begin in different years have no offset in it.
        middle = years.sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        drift = np.where(mask, years - middle[:, None], 0.0)
        # A factor has the shape of the prediction without what parameters make of it: c H'z is a change of z, against which only its prior
        # speaks, and a prior pulls the prediction that it is scored by towards its mean.
        for what, unit, shape in (("offset", stream.units, 1.0), ("factor", "1", predicted[name] - np.asarray(along[name])),
                                  ("drift", f"{stream.units} yr-1", drift)):
            direction = np.where(mask, shape, 0.0)
            article = "an" if what == "offset" else "a"
            found.append((Candidate(f"{name}_{what}", "observation", ("observation", name), said,
                                    f"{article} {what} of the observations of {quantity_words(name)}", unit,
                                    PLAUSIBLE if what == "factor" else _plausible(problem, predicted, {name: direction})),
                          {name: direction}))
    if timeless:
        notes.append(f"{', '.join(timeless)}: without times, so they are taken as constraints and not as measurements, and biases of their "
                     "observations are not among the candidates.")
    return _filled(predicted, found)


@eqx.filter_jit
def _along(problem: Problem, z: Array) -> dict[str, Array]:
    """H'z: what the parameters add to the prediction at the prior mean, by the tangent at z."""
    return jax.jvp(problem.predict, (z,), (z,))[1]


def _used(problem: Problem, name: str) -> np.ndarray:
    """Which values of a stream count, (site, n_obs)."""
    stream = problem.observations[name]
    return np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)


def _spread(problem: Problem, predicted: Mapping[str, np.ndarray], name: str) -> float:
    """The spread of a stream, as predicted or as observed: zero of a single value."""
    mask = _used(problem, name)
    return float(max(np.std(predicted[name][mask]), np.std(np.asarray(problem.observations[name].values)[mask])))


def _error(problem: Problem, name: str) -> float:
    return float(np.median(np.asarray(problem.observations[name].standard_deviation)[_used(problem, name)]))


def _plausible(problem: Problem, predicted: Mapping[str, np.ndarray], direction: Mapping[str, np.ndarray]) -> float:
    """The coefficient that moves a stream by the share `PLAUSIBLE` of its spread, or by its error, if that is more: the least of them."""
    found = [max(PLAUSIBLE * _spread(problem, predicted, name), _error(problem, name)) / _size(values[_used(problem, name)])
             for name, values in direction.items() if np.any(values[_used(problem, name)])]
    return min(found, default=1.0)


def _filled(predicted: Mapping[str, np.ndarray], found):
    """Candidates, their directions by stream, zero where they have none, and these as expansions."""
    full = [{name: direction.get(name, np.zeros_like(other)) for name, other in predicted.items()} for _, direction in found]
    return [each for each, _ in found], {name: np.stack([each[name] for each in full]) for name in predicted} if full else {}, full


def shape_words(given: Any) -> str:
    """What was given in the place of a mapping, in a few words and without its numbers."""
    shape = getattr(given, "shape", None)
    return f"{type(given).__name__}" + ("" if shape is None else f" of shape {tuple(shape)} and type {getattr(given, 'dtype', '?')}")


def _of_user(problem: Problem, predicted: Mapping[str, np.ndarray], extra: Mapping[str, Mapping[str, Any]]):
    found = []
    if not isinstance(extra, Mapping):
        raise ValueError(complain("candidates by name, with their directions by stream", shape_words(extra), USERS))
    for name, directions in extra.items():
        if not isinstance(directions, Mapping):
            raise ValueError(complain(f"directions by stream for the candidate {name!r}", shape_words(directions), USERS))
        unknown = set(directions) - set(problem.observations)
        if unknown or not directions:
            raise ValueError(complain(f"directions of the streams {', '.join(problem.observations)} for the candidate {name!r}",
                                      ", ".join(map(str, directions)) or "none", USERS))
        shaped = {}
        for stream, values in directions.items():
            wanted, values = predicted[stream].shape, np.asarray(values, float)
            if values.shape not in (wanted, wanted[1:]):
                raise ValueError(complain(f"a direction of shape {wanted} (site, n_obs) for {stream} in the candidate {name!r}",
                                          f"shape {values.shape}", "give the derivative of every prediction, masked ones too"))
            shaped[stream] = np.broadcast_to(values, wanted)
        said = name.replace("_", " ")
        found.append((Candidate(name, "user", ("user", name), said, said, "1", _plausible(problem, predicted, shaped)), shaped))
    return _filled(predicted, found)


# ------------------------------------------------------------------------------------------------------------------------ drivers

def _of_drivers(expanded: Expanded, z: Array, predicted: Mapping[str, np.ndarray]):
    forward, found = expanded.problem.forward, []
    real, days = forward.sites.real, np.asarray(forward.sites.days, float)
    years = (days - np.mean(days, axis=1, where=real, keepdims=True)) / 365.25
    for driver in drivers_of(forward):
        values = series_of(forward, driver)
        spread = float(values[real].std())
        words = f"a bias of the driver {driver.words}"
        for what, detail, unit, shape in (
                ("factor", f"a factor on {driver.words}", "1", values), ("offset", f"an offset of {driver.words}", driver.units, 1.0),
                ("drift", f"a drift of {driver.words}", f"{driver.units} yr-1", years)):
            size = PLAUSIBLE * spread / float(np.sqrt(np.mean(np.square(np.broadcast_to(shape, values.shape)[real]))))
            found.append((Candidate(f"{driver.name}_{what}", "driver", ("driver", driver.name), words, detail, unit, size),
                          _driver_expansion(expanded, driver, what, years)))
    if not found:
        return ([], {}, []), {}
    candidates, expansions = zip(*found, strict=True)
    # Secants and not tangents: the square root of a vapour pressure deficit of zero has no tangent, but a bias of it has an effect.
    steps = np.array([SECANT * candidate.size for candidate in candidates])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *expansions)
    moved, turned = _moved(expanded.with_constants(), z, jnp.asarray(steps), stacked)
    along, by = _along(expanded.problem, z), steps[:, None, None]
    directions = {name: (np.asarray(values) - predicted[name]) / by for name, values in moved.items()}
    # An offset or a drift does what no parameter does: it keeps its shape, which a correction that is linear all the way from the mean
    # of the prior would bend more than the prior bends its score.
    factor = np.array([candidate.name.endswith("_factor") for candidate in candidates])[:, None, None]
    return (candidates, directions, expansions), {name: np.where(factor, np.asarray(values) - np.asarray(along[name]), 0.0) / by
                                                  for name, values in turned.items()}


def _driver_expansion(expanded: Expanded, driver: Driver, what: str, years: np.ndarray) -> Expansion:
    forcing, nothing = expanded.problem.forward.sites.forcing, expanded.nothing()
    shapes = {name: getattr(forcing, name) if what == "factor" else 1.0 if what == "offset" else 0.0 if name in driver.means else years
              for name in (*driver.fields, *driver.means)}
    along = {name: jnp.broadcast_to(jnp.asarray(shape, float), nothing.drivers[name].shape) for name, shape in shapes.items()}
    return eqx.tree_at(lambda e: e.drivers, nothing, nothing.drivers | along)


@eqx.filter_jit
def _moved(expanded: Expanded, z: Array, steps: Array, expansions: Expansion):
    """Predictions with each expansion, and their derivatives along z, (candidate, site, n_obs) by stream."""
    def each(given):
        return jax.jvp(lambda z: expanded.predict(z, *given), (z,), (z,))

    return jax.lax.map(each, (steps, expansions), batch_size=min(16, len(steps)))


# ---------------------------------------------------------------------------------------------------------------------- processes

def _of_processes(expanded: Expanded, responses: list[Response], acting: Mapping[str, str], z: Array, predicted: Mapping[str, np.ndarray]):
    """Candidates, directions and expansions; none where a run with parameters of each step is not the run of the problem."""
    base, directions = _varied(expanded, z)
    for name in expanded.problem.observations:
        used = _used(expanded.problem, name)
        apart = np.abs(np.asarray(base[name]) - predicted[name])[used].max(initial=0.0)
        # A flat prediction has no spread to compare with, but an error.
        if used.any() and not apart <= REPRODUCED * max(_spread(expanded.problem, predicted, name), _error(expanded.problem, name)):
            return None
    table = expanded.problem.forward.model.parameters()
    candidates, expansions = [], []
    for p, name in enumerate(expanded.names):
        about = table[name].description if name in table and table[name].description else name.replace("_", " ")
        for n, response in enumerate(responses):
            candidates.append(Candidate(
                f"{name} x {response.name}", "process", (acting[name], response.theme),
                f"the response of {acting[name]} to {_theme(response, responses)}",
                f"{about} ({name}) that varies with {response.words}", "1", PLAUSIBLE_RESPONSE))
            expansions.append((p, n))
    return candidates, {name: np.asarray(each).reshape(-1, *each.shape[2:]) for name, each in directions.items()}, expansions


def _theme(response: Response, responses: list[Response]) -> str:
    """What the first response of a theme is called stands for all."""
    words = next(other.words for other in responses if other.theme == response.theme)
    return words.split(" (")[0]


@eqx.filter_jit
def _varied(expanded: Expanded, z: Array):
    """Predictions of the stepwise run with constant parameters, and their derivatives (parameter, response, site, n_obs)."""
    nothing = expanded.nothing()
    shape = nothing.coefficients.shape

    def predict(coefficients):
        return expanded.predict(z, jnp.asarray(1.0), eqx.tree_at(lambda e: e.coefficients, nothing, coefficients))

    zero = nothing.coefficients
    basis = jnp.eye(zero.size).reshape(-1, *shape)
    found = jax.lax.map(lambda e: jax.jvp(predict, (zero,), (e,))[1], basis, batch_size=min(BATCH, zero.size))
    return predict(zero), jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), found)


def processes_of(problem: Problem, z: Array, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Parameter -> the process that it acts on, in words; and the modelled stores of water by name, (site, time).

    The process is the output of the model that the parameter moves most within a step, all states as they are; of a parameter that moves
    none, it is the store whose change in that step it moves most.
    """
    outputs, changes, state, of_outputs, of_changes = _effects(problem.forward, problem.theta(z), names)
    outputs = {name: np.asarray(values) for name, values in outputs.items()}
    read = {name for _, stream in problem.observations.items() for name in getattr(stream.operator, "variables", ())}
    units = problem.forward.model.output_units
    # A composite such as NEE is small against its parts, and would seem to move most.
    single = {name: values for name, values in outputs.items() if values.any() and np.mean(values >= 0) in (0.0, 1.0)
              and (name in read or any(rate in units[name] for rate in RATES))} or outputs
    stores = {name: np.asarray(values) for name, values in changes.items()}
    named = {}
    for n, name in enumerate(names):
        named[name] = "the initial state"
        for effects, whole, said in ((of_outputs, single, "{}"), (of_changes, stores, "the store {}")):
            sizes = {each: _size(np.asarray(effects[each])[n]) / (_size(values) + 1e-300) for each, values in whole.items()}
            largest = max(sizes, key=sizes.get) if sizes else None
            if largest is not None and sizes[largest] > 1e-9:
                named[name] = said.format(quantity_words(largest))
                break
    water = {name: np.asarray(values) for name, values in state.items() if any(word in name for word in WATER)}
    return named, water


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@eqx.filter_jit
def _effects(forward: SiteForward, theta: Theta, names: tuple[str, ...]):
    """Outputs, changes of the state and states, each by name (site, time), and what a step adds to the first two a parameter."""
    model, local = forward.model, forward.sites.gather(theta, forward.dims)

    def run(theta, forcing, steps):
        start = equilibrium(model, theta, forcing, steps=steps) if forward.spin_up else None
        ran = simulate(model, theta, forcing, initial_state=start, save=["state"], checkpoint=None)
        return jax.tree.map(lambda leaf: leaf[:-1], ran.state)

    states = jax.vmap(run)(local, forward.sites.forcing, forward.sites.lengths)
    fields = getattr(states, "_fields", ())

    def stepwise(factors):
        varied = dict(local) | {name: local[name] * factors[n] for n, name in enumerate(names)}

        def each(theta, forcing, states):
            constants, inputs = model.prepare(theta, forcing)

            def step(state, now):
                after, output = model.step(constants, state, now)
                change = {name: getattr(after, name) - getattr(state, name) for name in fields if jnp.ndim(getattr(state, name)) == 0}
                return {name: getattr(output, name) for name in model.output_units}, change

            return jax.vmap(step)(states, inputs)

        return jax.vmap(each)(varied, forward.sites.forcing, states)

    one = jnp.ones(len(names))
    slopes = jax.lax.map(lambda e: jax.jvp(stepwise, (one,), (e,))[1], jnp.eye(len(names)), batch_size=min(BATCH, len(names)))
    outputs, changes = stepwise(one)
    return outputs, changes, {name: getattr(states, name) for name in changes}, *slopes


def quantity_words(name: str) -> str:
    """The long name of a flux or driver of the normal form, up to its first comma; other names as they are."""
    about = (FLUXES | METEOROLOGY).get(name)
    return about.long_name.split(",")[0] if about else name.replace("_", " ")
