"""A model of your own: litter and soil carbon, calibrated on respiration that a chamber measured now and then.

    python examples/own_model.py                       # calibrate, print the table of parameters
    landcal check examples/own_model.py:problem        # are the derivatives exact, wherever the prior reaches?

A model is written for ONE site and ONE step; the loop over time, the gradient, batches of members and of sites are
those of landcal_jax. The rules for `prepare` and `step` are those of JAX: use `jax.numpy` instead of `numpy`, return
new values instead of changing arrays in place, and `jnp.where(condition, a, b)` instead of `if` on computed values.
`forcing` and everything that prepares observations is plain NumPy.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import landcal_jax as lc
from landcal_jax.operators import Pick
from landcal_jax.weather import weather

lc.configure()


# What the model is driven with, what it carries from step to step and what it gives back are tuples with names.
class Forcing(NamedTuple):
    """Drivers: `temperature` [degC] and `litterfall` [gC m-2 d-1], one value a day."""

    temperature: jnp.ndarray
    litterfall: jnp.ndarray


class State(NamedTuple):
    """Carbon in litter and in soil [gC m-2]."""

    litter: jnp.ndarray
    soil: jnp.ndarray


class Output(NamedTuple):
    """`respiration` [gC m-2 d-1]."""

    respiration: jnp.ndarray


class TwoPools(lc.AbstractModel):
    """Litter decays; a fraction of what is lost becomes soil carbon, which decays too, both faster when it is warm."""

    def parameters(self):
        """Default, standard deviation of the prior, lowest and highest possible value, units, description."""
        bounded = lc.Parameter.bounded
        return {
            "litter_turnover": bounded(2e-3, 2e-3, 1e-4, 2e-2, units="d-1", description="at 10 degC"),
            "soil_turnover": bounded(5e-5, 5e-5, 1e-6, 1e-3, units="d-1", description="at 10 degC"),
            "humified": bounded(0.3, 0.2, 0.05, 0.9, units="1", description="fraction of decayed litter to soil"),
            "q10": bounded(2.0, 0.5, 1.0, 4.0, units="1", description="decay faster by this factor at 10 K more"),
            "litter_0": bounded(400.0, 200.0, 10.0, 2000.0, units="gC m-2", description="litter at the start"),
            "soil_0": bounded(8000.0, 3000.0, 500.0, 30000.0, units="gC m-2", description="soil at the start"),
        }

    @property
    def parameter_names(self):
        """The order of a plain vector of parameters."""
        return tuple(self.parameters())

    @property
    def output_units(self):
        """Units of each output; observations in other units are refused."""
        return {"respiration": "gC m-2 d-1"}

    def forcing(self, dataset):
        """Drivers of one site from its Dataset: the daily mean temperature, and litter that falls in autumn mostly."""
        temperature = 0.5 * (dataset["temperature_min"].values + dataset["temperature_max"].values)
        day = dataset.indexes["time"].day_of_year.to_numpy()
        litterfall = 0.5 + 4.0 * np.exp(-0.5 * ((day - 300) / 20.0) ** 2)
        return Forcing(jnp.asarray(temperature), jnp.asarray(litterfall))

    def prepare(self, theta, forcing):
        """(constants, inputs): what depends on time but not on the state is cheaper here, for all days at once."""
        warmth = theta["q10"] ** ((forcing.temperature - 10.0) / 10.0)
        return theta, (warmth, forcing.litterfall)

    def initial_state(self, theta):
        """The state at the start of the first day."""
        return State(theta["litter_0"], theta["soil_0"])

    def step(self, theta, state, inputs):
        """One day: (state at its end, output of the day)."""
        warmth, litterfall = inputs
        # The exact loss of a day at a constant rate: never more than there is, whatever the parameters.
        litter_lost = -state.litter * jnp.expm1(-theta["litter_turnover"] * warmth)
        soil_lost = -state.soil * jnp.expm1(-theta["soil_turnover"] * warmth)
        humus = theta["humified"] * litter_lost
        after = State(state.litter + litterfall - litter_lost, state.soil + humus - soil_lost)
        return after, Output(litter_lost - humus + soil_lost)


TRUTH = {
    "litter_turnover": 4e-3, "soil_turnover": 8e-5, "humified": 0.2, "q10": 2.6, "litter_0": 300.0, "soil_0": 7000.0}


def chamber(forcing, error=0.3, seed=1):
    """What would be a file of measurements: one value a day, NaN on the days without (here six of seven)."""
    exact = lc.simulate(TwoPools(), TRUTH, forcing, save=["respiration"]).output.respiration
    rng = np.random.default_rng(seed)
    values = np.asarray(exact) + error * rng.standard_normal(exact.size)
    values[rng.random(exact.size) > 1 / 7] = np.nan
    return values


drivers = weather(years=4, seed=3)  # a Dataset with temperature_min, temperature_max, ...; yours comes from a file
sites = lc.Sites.from_datasets(drivers, TwoPools())
stream = lc.Stream(
    values=chamber(TwoPools().forcing(drivers)), sigma=0.3, operator=Pick("respiration"), units="gC m-2 d-1",
    time=drivers["time"].values, description="soil respiration")
problem = lc.Problem(
    lc.ParameterSpace(TwoPools().parameters()), lc.SiteForward(TwoPools(), sites),
    lc.Observations({"respiration": stream}, sites=sites.names))

if __name__ == "__main__":
    print(problem)
    result = lc.solve(problem, lc.LevenbergMarquardt())
    print(result)
    posterior = lc.laplace(problem, result)
    print(f"{'parameter':<16} {'truth':>10} {'MAP':>10} {'5 %':>10} {'95 %':>10}")
    low, high = np.quantile(posterior.matrix(), (0.05, 0.95), axis=0)
    for name, below, above in zip(problem.space.labels, low, high, strict=True):
        print(f"{name:<16} {TRUTH[name]:>10.4g} {float(result.theta[name]):>10.4g} {below:>10.4g} {above:>10.4g}")
    # posterior.nc, parameters.csv and report.html: lc.calibrate(lc.Experiment(problem, title="Two pools")).write("out")
