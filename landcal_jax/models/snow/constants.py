"""Constants of the ecLand snow scheme, in SI units."""

FREEZING = 273.16  # K
LATENT_VAPOUR = 2.5008e6  # J kg-1
LATENT_SUBLIMATION = 2.8345e6  # J kg-1
LATENT_FUSION = LATENT_SUBLIMATION - LATENT_VAPOUR
GRAVITY = 9.80665  # m s-2
HEAT_CAPACITY_ICE = 2.05e6 / 920  # J kg-1 K-1; that of liquid water is not used in snow
STEFAN_BOLTZMANN = 5.67037e-8  # W m-2 K-4
GAS_CONSTANT = 6.0221367e23 * 1.380658e-23  # J mol-1 K-1, as ecLand has it (CODATA 1986)
GAS_CONSTANT_AIR = GAS_CONSTANT / 28.9644e-3  # J kg-1 K-1
GAS_CONSTANT_VAPOUR = GAS_CONSTANT / 18.0153e-3  # J kg-1 K-1
HEAT_CAPACITY_AIR = 3.5 * GAS_CONSTANT_AIR  # J kg-1 K-1
DAY = 86400.0  # s

LAYERS = 5
EMPTY_DENSITY = 100.0  # kg m-3, of layers without snow
DENSEST = 500.0  # kg m-3
THERMAL_DEPTH = 1.0  # m of a layer that take part in the exchange of heat and in absorption (RDSNMAX)
COVERED = 0.99  # a snow fraction from here on is one
TRACE = 1e-6  # a snow fraction below is none
EPSILON = 10 * 2.220446049250313e-16
"""Masses [kg m-2] and depths below count as nothing."""
