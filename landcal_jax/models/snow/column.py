"""The snow column: five layers from the top, how much ground they cover, their grid, and how snow moves to a new grid.

All fields are tuples of five scalars: as scalars they live in registers, and loops over layers are unrolled.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.constants import EMPTY_DENSITY, EPSILON, FREEZING, HEAT_CAPACITY_ICE, LATENT_FUSION, LAYERS

Layers = tuple[Array, ...]
DEEPEST = 1e30  # m: no limit


class Column(NamedTuple):
    """Mass with liquid water [kg m-2 of the grid box], temperature [K], density [kg m-3] and liquid water [kg m-2] by layer."""

    mass: Layers
    temperature: Layers
    density: Layers
    liquid: Layers


class Grid(NamedTuple):
    """Thickness [m] of the layers and which of them are in use, each five."""

    thickness: Layers
    active: Layers


def clipped(column: Column) -> Column:
    """No negative mass, liquid water between none and all of it."""
    mass = tuple(jnp.maximum(each, 0.0) for each in column.mass)
    liquid = tuple(jnp.clip(water, 0.0, each) for water, each in zip(column.liquid, mass, strict=True))
    return column._replace(mass=mass, liquid=liquid)


def thickness(column: Column) -> Layers:
    """Thickness of the layers [m], were the snow spread over the whole grid box."""
    return tuple(mass / density for mass, density in zip(column.mass, column.density, strict=True))


def depth(column: Column) -> Array:
    """Depth of the snow [m], spread over the whole grid box."""
    return sum(thickness(column))


def water_equivalent(column: Column) -> Array:
    """Mass of the snow [kg m-2], liquid water with it."""
    return sum(column.mass)


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


def _ecland(deep: Array, least: Layers, most: Layers, last: int) -> Grid:
    """Layers of at least `least`, the others in equal parts up to `most`, what is left in layer `last` (srfsn_vgrid)."""
    reached, total = [], 0.0
    for each in least:
        total = total + each
        reached.append(deep >= total)
    active = (jnp.ones_like(reached[0]), *reached[1:])
    number = 1.0 + sum(jnp.where(each, 1.0, 0.0) for each in active[1:])
    first = jnp.where(active[1], jnp.minimum(deep, most[0]), deep)
    part = (deep - first) / jnp.maximum(number - 1.0, 1.0)
    thick = [first, *(jnp.where(active[k], jnp.minimum(part, most[k]), 0.0) for k in range(1, LAYERS))]
    rest = deep - sum(thick)
    for k in range(1, LAYERS):
        following = active[k + 1] if k + 1 < LAYERS else jnp.zeros_like(active[0])
        deepest = active[k] & ~following & (number <= last) | (number > last) & (k == last)
        thick[k] = thick[k] + jnp.where(deepest, rest, 0.0)
    return Grid(tuple(thick), active)


class EcLandGrid(AbstractGrid):
    """One to five layers with the depth of the snow; where a layer comes or goes, temperatures mix at once: a jump of the gradient."""

    def __call__(self, deep):
        return _ecland(deep, (0.075, 0.05, 0.05, 0.05, 0.05), (0.075, 0.10, 0.20, DEEPEST, 0.15), last=3)


class MountainGrid(AbstractGrid):
    """ecLand's grid where the standard deviation of orography is 50 m or more: thicker layers in snow deeper than 0.25 m."""

    def __call__(self, deep):
        least, most = (jnp.minimum(low, jnp.maximum(high, 0.1) + 0.1 * (deep - 0.25)) for low, high in ((0.25, 0.10), (0.30, 0.15)))
        rugged = _ecland(deep, (least,) * LAYERS, (least, *(most,) * 3, jnp.asarray(DEEPEST)), last=4)
        plain = EcLandGrid()(deep)
        pick = deep > 0.25
        return jax.tree.map(lambda one, other: jnp.where(pick, one, other), rugged, plain)


class GlacierGrid(AbstractGrid):
    """ecLand's grid over ice: layers of 0.5 m, the lowest takes what is left."""

    def __call__(self, deep):
        return _ecland(deep, (0.5,) * LAYERS, (0.5, 0.5, 0.5, 0.5, DEEPEST), last=4)


class ContinuousGrid(AbstractGrid):
    """All five layers at any depth, a fifth each up to ecLand's limits: piecewise linear in the depth, so that no layer comes or goes."""

    def __call__(self, deep):
        limits = (0.075, 0.10, 0.20, DEEPEST, 0.15)
        thick = [jnp.minimum(deep / LAYERS, limit) for limit in limits]
        thick[3] = thick[3] + deep - sum(thick)
        return Grid(tuple(thick), (jnp.ones_like(deep, bool),) * LAYERS)


def regrid(column: Column, grid: Grid) -> Column:
    """Snow on the new grid: mass and enthalpy go by overlap, so that both are conserved (srfsn_regrid). Empty layers keep T and density."""
    old, new = thickness(column), grid.thickness
    share = _overlaps(old, new)
    enthalpy = tuple(
        HEAT_CAPACITY_ICE * mass * (temperature - FREEZING) - LATENT_FUSION * (mass - liquid)
        for mass, temperature, liquid in zip(column.mass, column.temperature, column.liquid, strict=True))
    moved = []
    for k in range(LAYERS):
        mass = sum(share[k][j] * column.mass[j] for j in range(LAYERS))
        heat = sum(share[k][j] * enthalpy[j] for j in range(LAYERS))
        filled = new[k] > EPSILON
        some = jnp.where(filled & (mass > 0), mass, 1.0)
        warmth = FREEZING + (heat + LATENT_FUSION * mass) / (HEAT_CAPACITY_ICE * some)
        moved.append((
            jnp.where(filled, mass, 0.0),
            jnp.where(filled, jnp.minimum(FREEZING, warmth), column.temperature[k]),
            jnp.where(filled, mass / jnp.where(filled, new[k], 1.0), column.density[k]),
            jnp.where(filled, jnp.clip(mass + heat / LATENT_FUSION, 0.0, mass), 0.0)))
    return Column(*(tuple(field) for field in zip(*moved, strict=True)))


def _overlaps(old: Layers, new: Layers) -> list[list[Array]]:
    """Share of each old layer that lies in each new one: [new][old]."""
    ends = []
    for layers in (old, new):
        below, edges = 0.0, [0.0]
        for each in layers:
            below = below + each
            edges.append(below)
        ends.append(edges)
    before, after = ends
    return [[
        jnp.where(old[j] > EPSILON, jnp.maximum(0.0, jnp.minimum(after[k + 1], before[j + 1]) - jnp.maximum(after[k], before[j]))
                  / jnp.where(old[j] > EPSILON, old[j], 1.0), 0.0)
        for j in range(LAYERS)] for k in range(LAYERS)]


def no_snow(mass: Array) -> Column:
    """A column without layers but for `mass` [kg m-2] in the first, dry and at the freezing point."""
    zero = jnp.zeros_like(mass)
    return Column((mass, *(zero,) * (LAYERS - 1)), (zero + FREEZING,) * LAYERS, (zero + EMPTY_DENSITY,) * LAYERS, (zero,) * LAYERS)
