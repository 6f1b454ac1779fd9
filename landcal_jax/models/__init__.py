"""Land models written in JAX, one file a model, each readable as physics."""

from landcal_jax.models.dalec import Dalec2 as Dalec2
from landcal_jax.models.dalec_numerics import Conserving as Conserving
from landcal_jax.models.dalec_numerics import Published as Published
from landcal_jax.models.dalec_water import DalecWater as DalecWater
