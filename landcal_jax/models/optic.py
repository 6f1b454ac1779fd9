"""The toy carbon model of the OptIC intercomparison: two pools, four parameters, two regimes.

Biomass x1 grows by a production that saturates with both pools and is driven by F(t); litter fall moves carbon to the
soil x2, which respires it; a small seed keeps the biomass above zero:

    dx1/dt = F(t) x1 / (x1 + p1) * x2 / (x2 + p2) + s - k1 x1
    dx2/dt = k1 x1 - k2 x2                                            s = 0.01

The classical fourth-order Runge-Kutta scheme takes steps of one time unit, with F held constant in a step. With
k1 = 0.2 the biosphere stays active; with k1 = 0.4 it flips between active and dormant, which makes the cost function of
a calibration steep, curved and, for some truths, multimodal. That is why the model is kept as a test bed.

References: Trudinger et al. (2007), OptIC project, Journal of Geophysical Research 112, G02027,
doi:10.1029/2006JG000367; Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361, whose
set-up (start at x = (1, 1), forcing of `generate_forcing`) the defaults follow.
"""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.parameters import Parameter

SEED_PRODUCTION = 0.01  # s [pool units per time unit]

ACTIVE = {"p1": 1.0, "p2": 1.0, "k1": 0.2, "k2": 0.1}
"""Parameters of the active biosphere: half saturations p1, p2 [pool units]; turnover rates k1, k2 [per time unit]."""
BOUNDS = {"p1": (0.5, 5.0), "p2": (0.5, 5.0), "k1": (0.03, 0.9), "k2": (0.01, 0.12)}
"""The range of each parameter in Douglas et al. (2025)."""


def optic(
    theta: Mapping[str, ArrayLike], forcing: ArrayLike, initial: Sequence[float] | ArrayLike = (1.0, 1.0)
) -> Array:
    """Trajectory (n + 1, 2) of biomass and soil carbon under `forcing` (n,); row 0 is `initial`.

    `theta` holds scalars p1, p2, k1, k2.
    """
    missing = set(ACTIVE) - set(theta)
    if missing:
        raise ValueError(complain(
            "parameters p1, p2, k1, k2", f"only {', '.join(sorted(theta)) or 'none'}",
            f"give {', '.join(sorted(missing))}, for example from landcal_jax.models.optic.ACTIVE"))
    p1, p2, k1, k2 = (jnp.asarray(theta[name], float) for name in ACTIVE)

    def tendency(x, f):
        x1, x2 = x
        litter = k1 * x1
        return f * x1 / (x1 + p1) * x2 / (x2 + p2) + SEED_PRODUCTION - litter, litter - k2 * x2

    def moved(x, slope, by):
        return x[0] + by * slope[0], x[1] + by * slope[1]

    def step(x, f):
        a = tendency(x, f)
        b = tendency(moved(x, a, 0.5), f)
        c = tendency(moved(x, b, 0.5), f)
        d = tendency(moved(x, c, 1.0), f)
        after = tuple(x[i] + (a[i] + 2 * b[i] + 2 * c[i] + d[i]) / 6 for i in (0, 1))
        return after, after

    start = jnp.asarray(initial, float)
    # Two scalars rather than one vector: they stay in registers, which is several times faster on a CPU.
    _, trajectory = jax.lax.scan(step, (start[0], start[1]), jnp.asarray(forcing, float))
    return jnp.concatenate([start[None], jnp.stack(trajectory, axis=-1)])


class Optic(eqx.Module):
    """A forward function `theta -> {"biomass": (1, n + 1), "soil": (1, n + 1)}`, every step including the initial one.

    `forcing` is (n,), `initial` the two pools at the start.
    """

    forcing: Array
    initial: Array

    def __init__(self, forcing: ArrayLike, initial: Sequence[float] | ArrayLike = (1.0, 1.0)):
        self.forcing = jnp.asarray(forcing, float)
        self.initial = jnp.asarray(initial, float)
        if self.forcing.ndim != 1 or self.initial.shape != (2,):
            raise ValueError(complain(
                "forcing (n,) and two initial pools", f"shapes {self.forcing.shape} and {self.initial.shape}",
                "give one series and (biomass, soil); vmap over the theta for ensembles"))

    def __call__(self, theta: Mapping[str, ArrayLike]) -> dict[str, Array]:
        biomass, soil = optic(theta, self.forcing, self.initial).T
        return {"biomass": biomass[None], "soil": soil[None]}


def parameters() -> dict[str, Parameter]:
    """The parameter table: uniform priors over `BOUNDS`, defaults `ACTIVE`."""
    about = {"p1": "half saturation of production in biomass", "p2": "half saturation of production in soil carbon",
             "k1": "turnover rate of biomass", "k2": "turnover rate of soil carbon"}
    return {name: Parameter.uniform(*BOUNDS[name], default=ACTIVE[name], description=about[name]) for name in ACTIVE}


def generate_forcing(seed: int, n: int, time_scale: float = 10.0, spread: float = 0.5) -> np.ndarray:
    """Draw F = exp(m), (n,), with m a first-order autoregression from m = 0.

    `time_scale` is its decorrelation time [time units], `spread` its stationary standard deviation [1].
    """
    memory = np.exp(-1.0 / time_scale)
    noise = np.sqrt(1 - memory**2) * spread * np.random.default_rng(seed).standard_normal(n)
    log_forcing = np.zeros(n)
    for t in range(1, n):
        log_forcing[t] = memory * log_forcing[t - 1] + noise[t - 1]
    return np.exp(log_forcing)
