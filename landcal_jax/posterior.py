"""Posterior uncertainty: one type, whatever made it.

`laplace.laplace` makes it from the curvature of J, the samplers from chains, `from_ensemble` from an ensemble solver, and
`from_draws` from draws of anything, such as those that a history match has not ruled out.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax import propagation
from landcal_jax.carried_errors import carried
from landcal_jax.covariance import Covariance, rank_of, root_of, squared_distances
from landcal_jax.errors import complain
from landcal_jax.importance import Importance, importance_of, resampled
from landcal_jax.keys import key_of
from landcal_jax.members import draw_members
from landcal_jax.problem import Problem, costs
from landcal_jax.solvers import Result

# Names that ArviZ has for what samplers tell of each draw.
STATISTICS = {"log_density": "lp", "steps": "n_steps"}


class Posterior(eqx.Module):
    """Draws from a posterior, with labels and units.

    `z`: (draw, n) in whitened space. `centre` (n,): the MAP. `covariance`: (n, n) of z, an array or a `LowRankCovariance`. `gaussian`:
    whether centre and covariance are the posterior, of which the draws are a sample. `method`: how it was made, in words.
    `chains`: the number of Markov chains among the draws, which are ordered chain by chain; 1 for draws that are independent. `details`:
    what the method tells of itself, by name: arrays with one value a draw (`log_density`, `diverging`, ...), model runs (`forward`,
    `gradient`), seconds, and a `note` in words.
    """

    problem: Problem
    z: Array
    centre: Array
    covariance: Covariance
    method: str = eqx.field(static=True)
    gaussian: bool = eqx.field(static=True, default=False)
    chains: int = eqx.field(static=True, default=1)
    details: dict = eqx.field(default_factory=dict)

    def __str__(self) -> str:
        """The method, and median and 90 % interval of each parameter; what it warns of."""
        table = quantile_table(self)
        lines = [f"Posterior: {self.method}, {len(self.z)} draws" + (f" of {self.chains} chains" if self.chains > 1 else ""), table]
        return "\n".join([*lines, *([str(self.details["warning"])] if "warning" in self.details else [])])

    def __repr__(self) -> str:
        return f"<Posterior: {self.method}, {len(self.z)} draws of {self.z.shape[1]} parameters>"

    def theta(self) -> dict[str, Array]:
        """Draws of the physical parameters: name -> (draw, *dims)."""
        return jax.vmap(self.problem.space.physical)(self.z)

    def matrix(self) -> np.ndarray:
        """Draws of the free physical parameters, (draw, n) in the order of `space.labels`."""
        return np.asarray(jax.vmap(lambda z: self.problem.space.flatten(self.problem.space.physical(z)))(self.z))

    def predictive(
        self, key: Array | int = 0, *, quantiles=(0.05, 0.5, 0.95), draws: int | None = None, problem: Problem | None = None,
        outputs: propagation.Outputs = (),
    ) -> xr.Dataset:
        """Uncertainty propagated to every observed quantity, and to other `outputs` of the model.

        Returns for each stream `<stream>` (quantile, site, <stream>_obs), with parameter uncertainty only, `<stream>_model`, with the
        model error added, which is what the truth should fall into, and `<stream>_total`, with the measurement error too: what
        a new observation should fall into. The three parts as standard deviations (site, <stream>_obs) are
        `<stream>_sd_parameters`, `<stream>_sd_model_error` and `<stream>_sd_observation`; the last is the median of the
        stream in a place that was never observed. `<stream>_time` (site, <stream>_obs) are its times.

        `outputs`: names of model outputs, each then on every step of the model, (quantile, site, step) with the coordinate `time`; or
        {name: operator}, such as {"monthly": WindowMean("gpp", windows)}, (quantile, site, <name>_obs). They have the part of the
        parameters, and `<name>_model` with `<name>_sd_model_error` where a stream has the same variable on the steps of the model
        and the operator is Pick, WindowSum or WindowMean: its model error is carried through them with its memory. `problem`: another one
        with the same parameters, for other sites, periods or observations, such as `posterior.problem.with_observations(held_out)`. A
        stream of it without any model error has that of the calibrated stream of its name, site by site, see `error_transfer`. Which
        model error an output or such a stream has is said in its attribute `model_error`.

        A Gaussian approximation is propagated through the tangent-linear model at its centre, H B' H' of the
        textbooks, for one tangent a parameter. Running its draws through the model instead would be wrong where the
        model is not linear: they lie where J is far too high (see `excess_cost`; Immer et al. 2021, AISTATS 130, 703).
        A model without tangent-linear is run at its centre and one standard deviation to either side along each principal axis
        of the covariance, 2 n + 1 runs: the slopes between them take the place of tangents. Error parameters are those of the centre.
        A band of an output that the data hardly constrain may so leave its physical range; draws cannot.
        Draws of any other posterior, or of this one if a number of `draws` is given, are run; `key` draws their errors, for each
        draw with its own error parameters where these are free. Members that fail are left out and counted in the attribute
        `failed`; where both sides of an axis fail, the band is too narrow by what is along it.

        Raises ValueError for a problem with other parameters or priors, for outputs that the model does not have, for a number of
        `draws` that there are not, and for quantiles that are not between zero and one.
        """
        quantiles, target, said = propagation.checked_quantiles(quantiles), self.problem, {}
        if problem is not None:
            target = propagation.elsewhere(self.problem, problem, jnp.concatenate([self.centre[None], self.z[:8]]))
            target, said = propagation.with_errors_of(self.problem, target)
        operators = propagation.operators_of(target, outputs)
        ways, of_outputs = carried(target, operators)
        target = propagation.with_outputs(target, operators)
        if self.gaussian and draws is None:
            bands = propagation.linear_bands(target, self.centre, self.covariance, quantiles, ways)
        else:
            bands = propagation.sampled_bands(target, self.some(draws), key_of(key), quantiles, ways)
        return propagation.to_dataset(target, bands, quantiles, tuple(operators), ways, said | of_outputs)

    def some(self, number: int | None = None) -> Array:
        """`number` draws z (number, n), evenly spaced, so that all chains have a part in them; all of them without it.

        Raises ValueError for a number below one or above that of the draws.
        """
        if number is None:
            return self.z
        if not isinstance(number, int | np.integer) or not 1 <= number <= len(self.z):
            raise ValueError(complain(f"a number of draws between 1 and {len(self.z)}, which there are", f"{number!r}",
                                      "leave it out for all"))
        return self.z[np.arange(number) * len(self.z) // number]

    def excess_cost(self, draws: int | None = None) -> float:
        """Median rise of J from the centre to the draws, over n/2, what it is for a Gaussian: near 1 is right.

        `draws`: how many are run, 200 without it; 50 of an external model, whose runs may take minutes.
        Far above 1 the posterior is not Gaussian in z. Intervals of single parameters may still hold, but a draw is then no
        credible set of parameters: run a sampler on `problem.log_density` where you need such sets.
        """
        draws = min(200 if self.problem.forward.traceable else 50, len(self.z)) if draws is None else draws
        rise = costs(self.problem, np.asarray(self.some(draws))) - float(self.problem.cost(self.centre))
        return float(np.median(np.where(np.isfinite(rise), rise, np.inf)) / (0.5 * self.z.shape[1]))

    def importance(self, draws: int | None = None) -> Importance:
        """Whether draws of a Gaussian stand for the posterior: Pareto-smoothed weights exp(-J) / Gaussian density, and k-hat.

        `draws`: how many are run, all of them without it. `Importance.sentence` says what was found and what to do. Runs count
        once a draw. Raises ValueError where the draws are not of a Gaussian, or its covariance is singular; see `importance_of`.
        """
        if not self.gaussian:
            raise ValueError(complain("draws of a Gaussian, whose density is known", self.method, "laplace(problem, result).importance()"))
        z = self.some(draws)
        squared = squared_distances(self.covariance, z - self.centre)
        return importance_of(0.5 * squared - costs(self.problem, np.asarray(z)))

    def reweighted(self, found: Importance | None = None, *, key: Array | int = 0) -> "Posterior":
        """The draws resampled in proportion to their importance weights, `found` by `importance()`; a sample, no Gaussian.

        As many draws as have weights, some of them several times: `details` has `effective` and `distinct`, the numbers of independent
        and of different draws. Raises ValueError where k-hat says that weights do not help.
        """
        found = self.importance() if found is None else found
        if not found.passed:
            raise ValueError(complain(
                f"a k-hat below {found.limit:.2f}", f"{found.k_hat:.2f}", "nuts(problem, result, posterior=posterior)"))
        return from_draws(self.problem, self.some(len(found.weights)), method=f"{self.method}, reweighted", weights=found.weights,
                          centre=self.centre, key=key, details={"k_hat": found.k_hat})

    def to_xarray(self) -> xr.Dataset:
        """Draws as a Dataset: one variable a parameter, (draw, *dims), with units."""
        variables = self._variables()
        return xr.Dataset({name: (("draw", *dims), values, attrs) for name, (dims, values, attrs) in variables.items()},
                          coords=self._coords(variables), attrs={"posterior_method": self.method, "chains": self.chains})

    def to_inference_data(self) -> xr.DataTree:
        """Everything in the schema of ArviZ, for its tables and figures: a DataTree.

        Groups: `posterior`, the parameters that are free, (chain, draw, *dims) with units; `sample_stats`, what `details` has for each
        draw (`log_density` is `lp`, `steps` is `n_steps`); `constant_data`, parameters that are fixed; `observed_data`, each
        stream (site, <stream>_obs), NaN where nothing was observed.
        """
        number = len(self.z) // self.chains
        coords = {"chain": np.arange(self.chains), "draw": np.arange(number)}

        def chained(values):
            return np.asarray(values).reshape(self.chains, number, *np.shape(values)[1:])

        variables = self._variables()
        free = {name: variables[name] for name in self.problem.space.names}
        fixed = {name: found for name, found in variables.items() if name not in free}
        about = {"inference_library": "landcal_jax", "posterior_method": self.method, "note": str(self.details.get("note", ""))}
        posterior = {name: (("chain", "draw", *dims), chained(values), attrs) for name, (dims, values, attrs) in free.items()}
        constant = {name: (dims, values[0], attrs) for name, (dims, values, attrs) in fixed.items()}
        statistics = {STATISTICS.get(name, name): (("chain", "draw"), chained(values)) for name, values in self.details.items()
                      if np.shape(values) == (len(self.z),) and not self.gaussian}
        observed = {name: (("site", f"{name}_obs"), np.where(stream.mask, stream.values, np.nan), {"units": stream.units})
                    for name, stream in self.problem.observations.items()}
        groups = {
            "posterior": xr.Dataset(posterior, coords | self._coords(free), about), "sample_stats": xr.Dataset(statistics, coords),
            "constant_data": xr.Dataset(constant, self._coords(fixed)),
            "observed_data": xr.Dataset(observed, {"site": list(self.problem.observations.sites)})}
        return xr.DataTree.from_dict({name: group for name, group in groups.items() if group.data_vars})

    def _variables(self) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str]]]:
        parameters = self.problem.space.parameters
        return {name: (parameters[name].dims, np.asarray(values),
                       {"units": parameters[name].units, "long_name": parameters[name].description or name})
                for name, values in self.theta().items()}

    def _coords(self, variables: Mapping[str, tuple]) -> dict[str, list[str]]:
        """Labels of the dims of these variables."""
        dims = {dim for of_one, _, _ in variables.values() for dim in of_one}
        return {dim: list(labels) for dim, labels in self.problem.space.coords.items() if dim in dims}


def quantile_table(posterior: Posterior) -> str:
    """Median, 5 and 95 % quantiles of each free parameter with its unit, as text."""
    space, values = posterior.problem.space, posterior.matrix()
    units = {name: parameter.units for name, parameter in space.parameters.items()}
    rows = np.quantile(values, (0.5, 0.05, 0.95), axis=0).T
    table = pd.DataFrame(rows, index=list(space.labels), columns=["median", "5 %", "95 %"])
    table["units"] = [units.get(label.split("[")[0], "") for label in space.labels]
    return table.to_string(float_format="{:.4g}".format)


def from_xarray(problem: Problem, dataset: xr.Dataset, *, chains: int | None = None) -> Posterior:
    """A posterior from its draws on disk: what `Posterior.to_xarray` gave, or the `posterior.nc` of a calibration.

    The centre is the mean of the draws in z, the covariance theirs; what else the method told is not in the file, so that of a Gaussian
    its draws are left. `chains`: see `Posterior`; those of the file without it.
    Raises ValueError for other parameters or labels than those of the problem, and for draws outside of the bounds of its priors.
    """
    space = problem.space
    labels = [str(label) for label in dataset["parameter"].values] if "parameter" in dataset.coords else None
    if labels is not None and dataset["theta"].dims == ("draw", "parameter"):
        if labels != list(space.labels):
            raise ValueError(complain(f"draws of {', '.join(space.labels)}", ", ".join(labels), "the problem that they were made for"))
        theta = space.unflatten(dataset["theta"].values)
    else:
        shapes = {name: ("draw", *parameter.dims) for name, parameter in space.parameters.items()}
        if lacking := [name for name, dims in shapes.items() if name not in dataset or dataset[name].dims != dims]:
            raise ValueError(complain(f"draws of {', '.join(f'{name} {shapes[name]}' for name in lacking)}",
                                      ", ".join(f"{name} {found.dims}" for name, found in dataset.data_vars.items()),
                                      "the problem that they were made for"))
        for dim, labels in space.coords.items():
            if dim in dataset.coords and [str(label) for label in dataset[dim].values] != list(labels):
                raise ValueError(complain(f"{dim} {', '.join(labels)}", ", ".join(map(str, dataset[dim].values)),
                                          f"dataset.sel({dim}=...) in the order of the problem"))
        theta = {name: jnp.asarray(dataset[name].values, float) for name in shapes}
    method = str(dataset.attrs.get("posterior_method", "draws of a file"))
    return from_draws(problem, np.asarray(space.whiten(theta)), method=method,
                      chains=int(dataset.attrs.get("chains", 1)) if chains is None else chains)


def from_draws(
    problem: Problem, z: ArrayLike, *, method: str, weights: ArrayLike | None = None, chains: int = 1, centre: ArrayLike | None = None,
    key: Array | int = 0, details: Mapping[str, Any] | None = None,
) -> Posterior:
    """A posterior of draws z (draw, n) that were made anywhere, such as by a sampler of your own or a history match.

    `method`: what made them, in words. `weights` (draw,), of any sum: the draws are resampled in proportion (systematically, with `key`),
    so that all that is done with them later need not know of weights; `details` then has `effective`, the number of independent
    draws that they are worth, `distinct`, that of different draws, and a `note`. `chains`: see `Posterior`. `centre` (n,):
    the MAP where it is known; the mean of the draws without it. The covariance is that of the draws about their mean. `details`: more
    to keep, by name; arrays with one value a draw are resampled too.

    Raises ValueError for fewer than two draws, another shape, values that are not finite, or weights of chains.
    """
    z, n = np.asarray(z, float), problem.space.size
    if z.ndim != 2 or z.shape[1] != n or len(z) < 2 or len(z) % chains or not np.isfinite(z).all():
        raise ValueError(complain(
            f"two or more draws z (draw, {n}) in whitened space, finite, as many in each of {chains} chains",
            f"shape {z.shape}, {(~np.isfinite(z)).sum()} values that are not finite",
            "problem.space.whiten(theta) makes z of physical values"))
    details = dict(details or {})
    mean, spread = z.mean(axis=0), np.cov(z, rowvar=False, ddof=1)
    if weights is not None:
        weights = np.asarray(weights, float)
        if weights.shape != (len(z),) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.sum() > 0 or chains != 1:
            raise ValueError(complain(f"one weight of zero or more for each of {len(z)} draws of one chain, some above zero",
                                      f"shape {weights.shape}, {chains} chains", "leave `weights` out where all draws count alike"))
        weights = weights / weights.sum()
        mean, spread = weights @ z, np.cov(z, rowvar=False, aweights=weights)
        places = resampled(weights, len(z), key)
        number, distinct = 1.0 / np.sum(weights**2), len(np.unique(places))
        said = f"{len(z)} draws resampled by their weights: {distinct} different ones, worth {number:.0f} independent ones"
        details = {name: np.asarray(values)[places] if np.shape(values) == (len(z),) else values for name, values in details.items()}
        details |= {"effective": number, "distinct": distinct, "note": "; ".join(filter(None, (details.get("note"), said)))}
        z = z[places]
    centre = jnp.asarray(mean if centre is None else centre)
    return Posterior(problem, jnp.asarray(z), centre, jnp.asarray(spread.reshape(n, n)), method, chains=chains, details=details)


def from_ensemble(problem: Problem, result: Result, *, draws: int = 1000, key: Array | int = 0) -> Posterior:
    """The posterior that an ensemble solver ended with: 4DEnVar, ES-MDA, EKI or ETKI at t = 1, unscented.

    Where the method ends with an ensemble, its members are the draws; the centre is the analysis, the covariance that of the method
    or of the members. Where it ends with a Gaussian (iterated 4DEnVar, the unscented inversion), that is drawn from: `draws` of
    second order exactly, with `key`; methods that have members have no use for either. An ensemble that does not span the space
    leaves directions without any spread: `method` says so, `details` has the `rank` of the covariance and a `note`.
    Raises ValueError where the theory of the method gives no posterior ensemble, or fewer than two members have a z.
    """
    details = result.details
    if "posterior_z" not in details:
        method = str(details.get("method", "a solver of another kind"))
        why = f" ({details['no_posterior']})" if "no_posterior" in details else ""
        raise ValueError(complain(
            "a solver that ends with a posterior ensemble", f"{method}{why}, {result.status.sentence}",
            'FourDEnVar(), IterativeFourDEnVar(), ESMDA(), ETKI() or EKI() with to="posterior"; laplace() at the minimum of any solver'))
    if details.get("posterior_gaussian", False):
        covariance = np.asarray(details["posterior_covariance"])
        noise = draw_members(problem, key_of(key), draws)
        z = result.z + noise @ jnp.asarray(root_of(covariance)).T
        words, about = _span(covariance)
        method = f"Gaussian ({details['method']}{words})"
        return Posterior(problem, z, result.z, jnp.asarray(covariance), method, gaussian=True, details=about)
    members, outside = np.asarray(details["posterior_z"]), int(details.get("posterior_outside", 0))
    if len(members) < 2:
        raise ValueError(complain("two or more posterior members inside the bounds", f"{len(members)}, {outside} outside",
                                  'FourDEnVar(space="z"), which cannot leave them'))
    covariance = (members - result.z).T @ (members - result.z) / (len(members) - 1)
    if "posterior_covariance" in details and str(details.get("posterior_space", "z")) == "z":
        covariance = np.asarray(details["posterior_covariance"])
    left_out = f", {outside} of {len(members) + outside} members outside the bounds left out" if outside else ""
    words, about = _span(covariance)
    method = f"ensemble ({details['method']}{left_out}{words})"
    return Posterior(problem, jnp.asarray(members), result.z, jnp.asarray(covariance), method, details=about)


def _span(covariance: np.ndarray) -> tuple[str, dict[str, Any]]:
    """What to say of a covariance (n, n) that is singular, for `method` and `details`; nothing where it is not."""
    rank, n = rank_of(covariance), len(covariance)
    if rank == n:
        return "", {"rank": rank}
    note = (f"the ensemble spans {rank} of {n} directions of the parameters; along the others the posterior has no spread at all, which is "
            "no knowledge: take more members than parameters, or laplace() at the minimum")
    return f", spread along {rank} of {n} directions", {"rank": rank, "note": note}
