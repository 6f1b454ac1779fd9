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

Importing the package sets nothing, and loads a module when one of its names is first used: `landcal inspect` has no
need of JAX, and figures bring matplotlib. Call `configure()` before the first computation. The public names stand in
`__init__.pyi`, once, for this file and for type checkers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
