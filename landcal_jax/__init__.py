"""landcal_jax: calibration of land surface models with exact gradients.

The words that the package uses, everywhere:

| word / symbol | meaning | array axes |
|---|---|---|
| `theta` | physical parameters, a dict name -> array shaped by the parameter's dims | `(pft,)`, `(site,)`, ... |
| `z` | control vector in whitened space, prior N(0, I) | `(n,)` |
| `x_b`, `B` | prior mean and covariance of theta (Gaussian case); B may be full | `(n,)`, `(n, n)` |
| `y`, `R` | observations and their error covariance: measurement error + model error | per stream |
| `H` | forward map: theta -> model run -> observation operator -> what was observed | |
| `G` | Jacobian dH/dz (tangent linear `jvp`, adjoint `vjp`) | `(m, n)` |
| `J` | the cost, term by term: `prior`, then one term a stream | scalar |
| member, site, time, layer | the axis order, outermost first | |
| stream | one kind of observation with its operator, errors and mask (NEE daily, LAI 8-day, ...) | |
| forcing | meteorological drivers | `(site, time, ...)` |
| MAP, analysis | minimiser of J(z) | |

Importing the package sets nothing; call `configure()` before the first computation.
"""

import importlib

from landcal_jax.configure import configure as configure
from landcal_jax.experiment import Calibration as Calibration
from landcal_jax.experiment import Experiment as Experiment
from landcal_jax.experiment import calibrate as calibrate
from landcal_jax.experiment import observed_experiment as observed_experiment
from landcal_jax.experiment import site_experiment as site_experiment
from landcal_jax.experiment import twin_experiment as twin_experiment
from landcal_jax.forward import AbstractForward as AbstractForward
from landcal_jax.forward import FunctionForward as FunctionForward
from landcal_jax.forward import SiteForward as SiteForward
from landcal_jax.gradient import LBFGS as LBFGS
from landcal_jax.gradient import GaussNewton as GaussNewton
from landcal_jax.gradient import LevenbergMarquardt as LevenbergMarquardt
from landcal_jax.gradient import MultiStart as MultiStart
from landcal_jax.gradient import Optax as Optax
from landcal_jax.model import AbstractModel as AbstractModel
from landcal_jax.model import Run as Run
from landcal_jax.model import equilibrium as equilibrium
from landcal_jax.model import simulate as simulate
from landcal_jax.observations import ExponentialCorrelation as ExponentialCorrelation
from landcal_jax.observations import Observations as Observations
from landcal_jax.observations import Stream as Stream
from landcal_jax.observations import StreamSpec as StreamSpec
from landcal_jax.parameters import Parameter as Parameter
from landcal_jax.parameters import ParameterSpace as ParameterSpace
from landcal_jax.posterior import Posterior as Posterior
from landcal_jax.posterior import laplace as laplace
from landcal_jax.problem import Problem as Problem
from landcal_jax.sites import Sites as Sites
from landcal_jax.solve import Result as Result
from landcal_jax.solve import SolveError as SolveError
from landcal_jax.solve import Status as Status
from landcal_jax.solve import solve as solve


def __getattr__(name: str):
    # Figures bring matplotlib, which takes a second to import: only those who draw pay for it.
    if name in ("plot", "report", "output"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
