"""The ecLand multi-layer snow scheme; see `landcal_jax.models.snow.model`."""

from landcal_jax.models.snow.albedo import ChalitaLeTreut as ChalitaLeTreut
from landcal_jax.models.snow.albedo import EcLandAlbedo as EcLandAlbedo
from landcal_jax.models.snow.albedo import FsmDiagnostic as FsmDiagnostic
from landcal_jax.models.snow.albedo import FsmPrognostic as FsmPrognostic
from landcal_jax.models.snow.model import Snow as Snow
from landcal_jax.models.snow.switches import Exact as Exact
from landcal_jax.models.snow.switches import Smooth as Smooth
