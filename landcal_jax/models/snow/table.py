"""The parameters of ecLand's namelist NAMPARSNOW that act on the multi-layer scheme, with ecLand's defaults.

Ranges are those of ECMWF's sensitivity study where it is legible, and proposals around the default otherwise. `RSNDTDESTC_ML` is no
name of the namelist: the multi-layer scheme has this value for every layer in its code, while RSNDTDESTC (460) acts in the single-layer
scheme alone.
"""

from landcal_jax.parameters import Parameter

# name, default, low, high, units, description
ROWS = (
    ("RLWCSWEA", 200.0, 150.0, 250.0, "kg m-3", "density above which snow holds the least liquid water"),
    ("RLWCSWEB", 0.03, 0.01, 0.05, "1", "liquid water that dense snow holds, of its ice"),
    ("RLWCSWEC", 0.10, 0.08, 0.15, "1", "liquid water that the lightest snow holds, of its ice"),
    ("RHOMINSNA", 109.0, 90.0, 115.0, "kg m-3", "density of fresh snow at the freezing point, without wind"),
    ("RHOMINSNB", 6.0, 5.0, 7.0, "kg m-3 K-1", "rise of the density of fresh snow with temperature"),
    ("RHOMINSNC", 26.0, 20.0, 32.0, "kg m-3.5 s0.5", "rise of the density of fresh snow with the root of wind"),
    ("RHOMINSND", 50.0, 40.0, 80.0, "kg m-3", "least density"),
    ("RSNDTOVERA", 3.7e7, 1.5e7, 4.0e7, "Pa s", "viscosity of snow at the freezing point without density"),
    ("RSNDTOVERB", 0.081, 0.06, 0.10, "K-1", "rise of viscosity with cold"),
    ("RSNDTOVERC", 0.018, 0.014, 0.022, "m3 kg-1", "rise of viscosity with density"),
    ("RSNDTDESTA", 2.8e-6, 1.5e-6, 4.0e-6, "s-1", "rate of destructive metamorphism at the freezing point"),
    ("RSNDTDESTB", 0.042, 0.01, 0.10, "K-1", "fall of that rate with cold"),
    ("RSNDTDESTC_ML", 0.046, 0.022, 0.060, "m3 kg-1", "fall of that rate with density"),
    ("RSNDTDESTROI", 150.0, 100.0, 200.0, "kg m-3", "density above which that rate falls"),
    ("RSNDAMOB", 1.25, 1.0, 1.5, "1", "mobility of snow in wind"),
    ("RSNDMOB", 295.0, 280.0, 310.0, "kg m-3", "density over which mobility is lost"),
    ("RSNDAW", 2.868, 2.6, 3.1, "1", "threshold of drift"),
    ("RSNDBW", 0.085, 0.07, 0.10, "s m-1", "fall of that threshold with wind"),
    ("RSNDATAUW", 10.0, 5.0, 15.0, "m-1", "shelter by the snow above"),
    ("RSNDBTAUW", 3.25, 2.5, 4.0, "1", "drift at which shelter ends"),
    ("RSNDWCOMPMAX", 350.0, 300.0, 400.0, "kg m-3", "density that wind packs to"),
    ("FSNTCONDA", 0.024, 0.015, 0.035, "W m-1 K-1", "conductivity of snow, constant"),
    ("FSNTCONDB", -1.23e-4, -1.8e-4, -0.6e-4, "W m2 K-1 kg-1", "conductivity of snow, by density"),
    ("FSNTCONDC", 2.5e-6, 1.5e-6, 3.5e-6, "W m5 K-1 kg-2", "conductivity of snow, by the square of density"),
    ("SSASNEXTCNST", 0.0038, 0.002, 0.006, "m2.5 kg-1", "extinction of shortwave, by density and the root of grain size"),
    ("RSNSNOW", 7.0, 4.0, 15.0, "W m-2 K-1", "conductance between skin and snow that does not melt"),
)


def parameters() -> dict[str, Parameter]:
    """Uniform priors between the ends of the ranges; those of albedo belong to its scheme."""
    return {name: Parameter.uniform(low, high, default, units=units, description=what) for name, default, low, high, units, what in ROWS}
