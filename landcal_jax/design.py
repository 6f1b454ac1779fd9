"""What observations that are not yet taken would tell: the expected posterior, and which candidate to take first.

Where model and errors are Gaussian and the model is linear about the point, the posterior covariance does not depend on the values that
will be observed. So only errors, masks and operators of the new streams are looked at: (I + F + F_new)^-1 (`information`). Errors in
proportion to the flux go by what the model predicts at the point, unless they have a level. That is Bayesian optimal design, D for
information, A for mean variance: Chaloner and Verdinelli (1995), Statistical Science 10, 273. The posterior is that expected at the
point of today: where the new data would move it far, do it again there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.information import informed_by, jacobians, listed, require_linear, root_of, spectrum
from landcal_jax.observations import Observations, Stream
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, point_of

Streams = Observations | Mapping[str, Stream]
NATS_PER_BIT = np.log(2)


def expected_posterior(problem: Problem, z: Result | Array, new: Streams, *, outputs: Streams | None = None) -> xr.Dataset:
    """What would be left of the uncertainty at `z` (a Result, or z (n,)) if `new` streams were observed besides those of `problem`.

    `new`: streams with operator, errors (R in all its forms) and mask; their values are not looked at. They may be called as an existing
    stream, such as more years of it. `outputs`: streams that name predictions of interest by their operators (their errors are not
    looked at either), for example yearly sums of NEE, or a pool at the end.

    Returns over `parameter`: `sd_before` and `sd_after`, in prior standard deviations of the whitened parameter, `sd_alone` (the new
    streams without those of today) and `information` gained by the new streams [nats]; over `stream` (the new ones): `count` and
    `information_alone`, what each adds to today's streams by itself. Of each output `<name>_sd_before` and `<name>_sd_after`
    (site, <name>_obs), standard deviation by parameters alone, in its units. `attrs`: `information` of all new streams together,
    `sentences`. The errors of the new streams are independent of each other and of those of today.

    Raises TypeError for a model without tangent-linear, ValueError for streams that the model does not give and derivatives that are
    not finite.
    """
    z, root = point_of(problem, z), root_of(problem.space)
    today = informed_by(problem, z)(problem.observations.names)
    added = _informations(problem, z, new)
    after, alone = spectrum(today.matrix + sum(added.values())), spectrum(sum(added.values()))
    streams = dict(new.items())
    ds = xr.Dataset(coords={"parameter": list(problem.space.labels), "stream": list(streams)})
    for name, words, part in (("before", "of today", today), ("after", "after the new observations", after),
                              ("alone", "with the new observations alone", alone)):
        ds[f"sd_{name}"] = "parameter", np.sqrt(part.variance(root)), _about(
            f"posterior standard deviation {words}, in prior standard deviations of the whitened parameter")
    ds["information"] = "parameter", np.log(ds["sd_before"].values / ds["sd_after"].values), _about(
        "information that the new observations add", "nat")
    ds["count"] = "stream", [int(stream.count) for stream in streams.values()], _about("values that would be observed")
    ds["information_alone"] = "stream", [spectrum(today.matrix + part).information - today.information for part in added.values()], _about(
        "information that this stream alone would add to the streams of today", "nat")
    for name, (stream, slope) in _predicted(problem, z, outputs).items():
        for when, part in (("before", today), ("after", after)):
            words = f"standard deviation of {stream.description or name} by parameters, {when} the new observations"
            values = np.sqrt(part.variance(slope)).reshape(stream.values.shape)
            ds[f"{name}_sd_{when}"] = ("site", f"{name}_obs"), values, _about(words, stream.units)
    ds.attrs = {"information": after.information - today.information,
                "comment": "linear about the point; the values of the new observations are not known and do not matter"}
    ds.attrs["sentences"] = json.dumps(_expected_findings(ds, outputs))
    return ds


def rank_observations(
    problem: Problem, z: Result | Array, candidates: Streams, *, number: int | None = None, criterion: Literal["D", "A"] = "D",
    parameters: Sequence[str] | None = None, outputs: Streams | None = None,
) -> xr.Dataset:
    """The order in which to take `candidates` (as `new` of `expected_posterior`) besides the streams of `problem`, the best first.

    Greedy: every step takes the candidate that gains most beside those taken before, for `number` steps, all without it. `criterion`:
    "D", information [nats], half the logarithm of the determinant of the covariance before over after; "A", the mean variance (in
    prior variances), as a share of that of today. Both are of all parameters, of the `parameters` (labels) alone, or (A) of the predicted
    `outputs`, each value relative to its own variance of today. For D of all parameters the greedy choice gains at least 63 % of what
    the best choice of so many does (Nemhauser, Wolsey and Fisher 1978, Mathematical Programming 14, 265), since information is submodular.

    Returns over `step`: `taken` (the name), `gain` and `total`; `gain_of` (step, candidate), what each would gain at that step, NaN
    once taken; `sd` (step, parameter) afterwards, step 0 is today. `attrs`: `criterion`, `sentences`.
    Raises ValueError for another criterion, unknown labels, outputs with D, a number outside 1 to all.
    """
    z, names = point_of(problem, z), tuple(candidates)
    number = len(names) if number is None else number
    if not 1 <= number <= len(names):
        raise ValueError(complain(f"a number of 1 to {len(names)} candidates", f"{number}", "leave it out to rank all"))
    target = _target(problem, z, criterion, parameters, outputs)
    root, added = root_of(problem.space), _informations(problem, z, candidates)
    state = informed_by(problem, z)(problem.observations.names).matrix
    start = target.score(state)
    totals, gains, taken, sds = [0.0], [], [], [np.sqrt(spectrum(state).variance(root))]
    for _ in range(number):
        trial = {name: target.score(state + added[name]) - start for name in names if name not in taken}
        gains.append([trial.get(name, np.nan) - totals[-1] for name in names])
        best = max(trial, key=trial.__getitem__)
        taken.append(best)
        totals.append(trial[best])
        state = state + added[best]
        sds.append(np.sqrt(spectrum(state).variance(root)))
    about = {"long_name": target.words, "units": "nat" if criterion == "D" else "1"}
    ds = xr.Dataset(
        {"taken": ("step", ["", *taken], {"long_name": "the candidate taken at this step"}), "total": ("step", totals, about),
         "gain": ("step", np.diff(totals, prepend=0.0), about),
         "gain_of": (("step", "candidate"), np.vstack([np.full(len(names), np.nan), gains]), about),
         "sd": (("step", "parameter"), np.stack(sds), _about("posterior standard deviation, in prior standard deviations")),
         "count": ("candidate", [int(stream.count) for _, stream in candidates.items()], _about("values that would be observed"))},
        coords={"step": np.arange(number + 1), "candidate": list(names), "parameter": list(problem.space.labels)})
    ds.attrs = {"criterion": criterion, "target": target.words}
    ds.attrs["sentences"] = json.dumps(_ranked_findings(ds))
    return ds


class _Target(NamedTuple):
    """What a ranking is for: the rows of `directions` (q, n) are functions of z, of which `criterion` is taken."""

    directions: np.ndarray
    criterion: str
    words: str

    def score(self, information: np.ndarray) -> float:
        """The larger the better: minus half the log determinant of their covariance, or minus their mean variance."""
        part = spectrum(information)
        if self.criterion == "D":
            return -0.5 * float(np.linalg.slogdet(part.covariance(self.directions))[1])
        return -float(np.mean(part.variance(self.directions)))


def _target(problem: Problem, z: Array, criterion: str, parameters: Sequence[str] | None, outputs: Streams | None) -> _Target:
    if criterion not in ("D", "A"):
        raise ValueError(complain('criterion "D" (information) or "A" (mean variance)', repr(criterion), "one of the two"))
    if outputs is not None and (criterion == "D" or parameters is not None):
        raise ValueError(complain('criterion "A" for outputs, without parameters', f"{criterion} and parameters={parameters}",
                                  'criterion="A", or leave `outputs` out'))
    labels, directions = list(problem.space.labels), root_of(problem.space)
    unknown = [name for name in parameters or () if name not in labels]
    if unknown or (parameters is not None and not len(parameters)):
        raise ValueError(complain(f"labels among {listed(labels, 40)}", listed(unknown) or "none", "check the names"))
    whose = "all parameters" if parameters is None else listed(list(parameters), 40)
    if parameters is not None:
        directions = directions[[labels.index(name) for name in parameters]]
    if outputs is not None:
        directions = np.concatenate([slope for _, slope in _predicted(problem, z, outputs).values()])
        whose = listed(list(outputs))
    today = informed_by(problem, z)(problem.observations.names).variance(directions)
    if criterion == "A":
        known = today > 0  # what no parameter moves cannot be improved
        if not known.any():
            raise ValueError(complain("outputs that depend on a parameter", f"{whose}, which none moves", "other outputs"))
        # Variances of parameters compare in units of their priors; outputs have units of their own.
        scale = np.full(len(today), np.mean(today)) if outputs is None else today
        directions = (directions / np.sqrt(np.where(known, scale, 1.0))[:, None])[known]
        return _Target(directions, criterion, f"reduction of the mean variance of {whose}, as a share of that of today")
    return _Target(directions, criterion, f"information gained about {whose}")


def _informations(problem: Problem, z: Array, streams: Streams) -> dict[str, np.ndarray]:
    """F (n, n) of each of these streams at z, as if they were observed where their masks say."""
    named = problem.with_observations(_observations(problem, streams))
    predicted = named.predict(z)
    # Errors in proportion to what is modelled go by this run, where they have no other.
    filled = {name: stream.with_model_error(stream.model_error.completed(predicted[name])) for name, stream in named.observations.items()}
    blocks = jacobians(named.with_observations(named.observations.with_streams(filled)), z)
    return {name: block.T @ block for name, block in blocks.items()}


def _observations(problem: Problem, streams: Streams) -> Observations:
    if not len(streams):
        raise ValueError(complain("one stream or more", "none", 'give for example {"lai": Stream(values, sigma, operator)}'))
    return streams if isinstance(streams, Observations) else Observations(streams, sites=problem.observations.sites)


def _predicted(problem: Problem, z: Array, outputs: Streams | None) -> dict[str, tuple[Stream, np.ndarray]]:
    """By output, its stream and the derivative (site * n_obs, n) of what is predicted."""
    if outputs is None:
        return {}
    require_linear(problem)
    named = problem.with_observations(_observations(problem, outputs))
    slopes = _slopes(named, z)
    return {name: (stream, np.asarray(slopes[name]).reshape(stream.values.size, -1)) for name, stream in named.observations.items()}


@eqx.filter_jit
def _slopes(problem: Problem, z: Array) -> dict[str, Array]:
    return jax.vmap(lambda v: jax.jvp(problem.predict, (z,), (v,))[1], out_axes=-1)(jnp.eye(z.size, dtype=z.dtype))


def _about(long_name: str, units: str = "1") -> dict[str, str]:
    return {"long_name": long_name, "units": units}


def _values(count: xr.DataArray) -> str:
    return "1 value" if int(count) == 1 else f"{int(count)} values"


def _expected_findings(ds: xr.Dataset, outputs: Streams | None) -> list[str]:
    names, ratio = ds["parameter"].values, (ds["sd_after"] / ds["sd_before"]).values
    order = [index for index in np.argsort(ratio, kind="stable") if ratio[index] < 0.9]
    what = listed([str(name) for name in ds["stream"].values])
    found = [f"{what} ({_values(ds['count'].sum())}) would add {ds.attrs['information'] / NATS_PER_BIT:.1f} bits. " + (
        "The spread would fall most for " + listed([f"{names[index]} (to {ratio[index]:.0%} of today's)" for index in order]) + "."
        if order else "No parameter would lose a tenth of its spread: these observations are not worth taking for the parameters.")]
    for name in outputs or ():
        before, after = (float(np.sqrt((ds[f"{name}_sd_{when}"] ** 2).mean())) for when in ("before", "after"))
        if before > 0:
            found.append(f"The spread of {name} by parameters would fall from {before:.3g} to {after:.3g} "
                         f"{ds[f'{name}_sd_after'].attrs['units']}".rstrip() + f" ({after / before:.0%}).")
    return found


def _ranked_findings(ds: xr.Dataset) -> list[str]:
    bits, factor = ds.attrs["criterion"] == "D", 1 / NATS_PER_BIT if ds.attrs["criterion"] == "D" else 100.0
    unit, found = ("bits" if bits else "%"), []
    for step in range(1, ds.sizes["step"]):
        name, one = str(ds["taken"].values[step]), ds.isel(step=step)
        gain, first = float(one["gain"]) * factor, float(ds["gain_of"].isel(step=1).sel(candidate=name)) * factor
        words = f"{step}. {name} ({_values(ds['count'].sel(candidate=name))}): {gain:.3g} {unit}"
        if first > 0 and gain < 0.5 * first:
            words += f", of {first:.3g} had it been the first: the others tell most of it"
        found.append(words + ".")
    return [f"In this order, by {ds.attrs['target']}:", *found]
