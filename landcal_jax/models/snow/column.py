"""The snow column: five layers from the top, how much ground they cover, their grid, and how snow moves to a new grid.

What layers have in common is written for all of them at once, (5,): as five scalars it would be five times as much to compile.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.models.snow.constants import EMPTY_DENSITY, EPSILON, FREEZING, HEAT_CAPACITY_ICE, LATENT_FUSION, LAYERS

DEEPEST = 1e30  # m: no limit
PLACE = np.arange(LAYERS)


class Column(NamedTuple):
    """Mass with liquid water [kg m-2 of the grid box], temperature [K], density [kg m-3] and liquid water [kg m-2] by layer, (5,)."""

    mass: Array
    temperature: Array
    density: Array
    liquid: Array


class Grid(NamedTuple):
    """Thickness [m] of the layers and which of them are in use, (5,)."""

    thickness: Array
    active: Array


def clipped(column: Column) -> Column:
    """No negative mass, liquid water between none and all of it."""
    mass = jnp.maximum(column.mass, 0.0)
    return column._replace(mass=mass, liquid=jnp.clip(column.liquid, 0.0, mass))


def thickness(column: Column) -> Array:
    """Thickness of the layers [m], were the snow spread over the whole grid box."""
    return column.mass / column.density


def depth(column: Column) -> Array:
    """Depth of the snow [m], spread over the whole grid box."""
    return jnp.sum(thickness(column))


def water_equivalent(column: Column) -> Array:
    """Mass of the snow [kg m-2], liquid water with it."""
    return jnp.sum(column.mass)


def cover(column: Column) -> Array:
    """Snow-covered fraction, tanh(4000 D / rho) with the mean density rho (ecLand, surfbc, LESN09)."""
    deep = depth(column)
    there = deep > 0
    density = jnp.clip(water_equivalent(column) / jnp.where(there, deep, 1.0), 100.0, 400.0)
    return jnp.where(there, jnp.tanh(4000 * deep / density), 0.0)


class AbstractGrid(eqx.Module):
    """How snow of a given depth is divided into layers."""

    @abc.abstractmethod
    def __call__(self, deep: Array) -> Grid:
        """The grid of snow of depth `deep` [m]."""


def _ecland(deep: Array, least: Array, most: Array, last: int) -> Grid:
    """Layers of at least `least`, the others in equal parts up to `most`, what is left in layer `last` (srfsn_vgrid)."""
    active = (deep >= jnp.cumsum(least)) | (PLACE == 0)
    # A layer is in use only where all above it are.
    number = jnp.sum(active)
    first = jnp.where(number > 1, jnp.minimum(deep, most[0]), deep)
    part = (deep - first) / jnp.maximum(number - 1.0, 1.0)
    thick = jnp.where(PLACE == 0, first, jnp.where(active, jnp.minimum(part, most), 0.0))
    lowest = jnp.minimum(number - 1, last)
    return Grid(thick + jnp.where((PLACE == lowest) & (PLACE > 0), deep - jnp.sum(thick), 0.0), active)


class EcLandGrid(AbstractGrid):
    """One to five layers with the depth of the snow; where a layer comes or goes, temperatures mix at once: a jump of the gradient."""

    def __call__(self, deep):
        return _ecland(deep, np.array([0.075, 0.05, 0.05, 0.05, 0.05]), np.array([0.075, 0.10, 0.20, DEEPEST, 0.15]), last=3)


class MountainGrid(AbstractGrid):
    """ecLand's grid where the standard deviation of orography is 50 m or more: thicker layers in snow deeper than 0.25 m."""

    def __call__(self, deep):
        least, most = (jnp.minimum(low, jnp.maximum(high, 0.1) + 0.1 * (deep - 0.25)) for low, high in ((0.25, 0.10), (0.30, 0.15)))
        limits = jnp.where(PLACE == 0, least, jnp.where(PLACE == LAYERS - 1, DEEPEST, most))
        rugged = _ecland(deep, jnp.full(LAYERS, least), limits, last=4)
        plain = EcLandGrid()(deep)
        pick = deep > 0.25
        return jax.tree.map(lambda one, other: jnp.where(pick, one, other), rugged, plain)


class GlacierGrid(AbstractGrid):
    """ecLand's grid over ice: layers of 0.5 m, the lowest takes what is left."""

    def __call__(self, deep):
        return _ecland(deep, np.full(LAYERS, 0.5), np.array([0.5, 0.5, 0.5, 0.5, DEEPEST]), last=4)


class ContinuousGrid(AbstractGrid):
    """All five layers at any depth, a fifth each up to ecLand's limits: piecewise linear in the depth, so that no layer comes or goes."""

    def __call__(self, deep):
        thick = jnp.minimum(deep / LAYERS, np.array([0.075, 0.10, 0.20, DEEPEST, 0.15]))
        return Grid(thick + jnp.where(PLACE == 3, deep - jnp.sum(thick), 0.0), jnp.ones(LAYERS, bool))


def regrid(column: Column, grid: Grid) -> Column:
    """Snow on the new grid: mass and enthalpy go by overlap, so that both are conserved (srfsn_regrid). Empty layers keep T and density."""
    share = _overlaps(thickness(column), grid.thickness)
    enthalpy = HEAT_CAPACITY_ICE * column.mass * (column.temperature - FREEZING) - LATENT_FUSION * (column.mass - column.liquid)
    # Not a product of matrices, which would be a call out of the compiled loop.
    mass, heat = jnp.sum(share * column.mass, axis=1), jnp.sum(share * enthalpy, axis=1)
    filled = grid.thickness > EPSILON
    warmth = FREEZING + (heat + LATENT_FUSION * mass) / (HEAT_CAPACITY_ICE * jnp.where(filled & (mass > 0), mass, 1.0))
    return Column(
        jnp.where(filled, mass, 0.0),
        jnp.where(filled, jnp.minimum(FREEZING, warmth), column.temperature),
        jnp.where(filled, mass / jnp.where(filled, grid.thickness, 1.0), column.density),
        jnp.where(filled, jnp.clip(mass + heat / LATENT_FUSION, 0.0, mass), 0.0))


def _overlaps(old: Array, new: Array) -> Array:
    """Share of each old layer that lies in each new one: (new, old)."""
    after, before = jnp.cumsum(new)[:, None], jnp.cumsum(old)
    common = jnp.minimum(after, before) - jnp.maximum(after - new[:, None], before - old)
    return jnp.where(old > EPSILON, jnp.maximum(0.0, common) / jnp.where(old > EPSILON, old, 1.0), 0.0)


def no_snow(mass: Array) -> Column:
    """A column without layers but for `mass` [kg m-2] in the first, dry and at the freezing point."""
    zero = jnp.zeros(LAYERS)
    return Column(jnp.where(PLACE == 0, mass, zero), zero + FREEZING, zero + EMPTY_DENSITY, zero)
