"""Units of the field's files, converted by pint: `convert(values, "Pa", "hPa")`.

Files write units in the exponent style of CF and udunits ("gC m-2 d-1", "W m-2", "gC/m2/d"), and pint does not know
carbon or rain. This module teaches it both and nothing else:

- gC is a dimension of its own, so that carbon cannot turn into water by mistake. "kgC" and "mgC" follow from it, and
  amounts of substance ("umol m-2 s-1", "umolCO2 m-2 s-1") become carbon with the molar mass of carbon.
- Water: 1 kg m-2 is a column of 1 mm.

What depends on more than the unit (photon flux to shortwave, evaporation to latent heat) is not a unit conversion and
lives with the reader that needs it.
"""

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

CARBON_MOLAR_MASS = 12.011  # g mol-1
WATER_DENSITY = 1000.0  # kg m-3

# Spellings that occur in the files and mean something else, or nothing, to pint.
SPELLINGS = {"deg C": "degC", "C": "degC", "hPA": "hPa", "-": "1", "": "1"}
TOKEN = re.compile(r"(?P<name>[A-Za-zµ_%]+)\^?(?P<power>-?\d+)?|1")


@functools.cache
def _registry() -> Any:
    """The single pint registry, made when the first conversion needs it: importing pint takes half a second."""
    import pint

    registry = pint.UnitRegistry(cache_folder=None)
    registry.define("gC = [carbon]")
    registry.define(f"molC = {CARBON_MOLAR_MASS} gC")
    molar_mass = registry.Quantity(CARBON_MOLAR_MASS, "gC / mol")
    density = registry.Quantity(WATER_DENSITY, "kg / m**3")
    land = pint.Context("land")
    for per in ("", " / [length] ** 2", " / [length] ** 2 / [time]"):
        land.add_transformation(f"[substance]{per}", f"[carbon]{per}", lambda _, value: value * molar_mass)
        land.add_transformation(f"[carbon]{per}", f"[substance]{per}", lambda _, value: value / molar_mass)
    columns = {"[mass] / [length] ** 2": "[length]", "[mass] / [length] ** 2 / [time]": "[length] / [time]"}
    for column, depth in columns.items():
        land.add_transformation(column, depth, lambda _, value: value / density)
        land.add_transformation(depth, column, lambda _, value: value * density)
    registry.add_context(land)
    registry.enable_contexts("land")
    return registry


def _to_pint(unit: str) -> str:
    """Rewrite a unit of the exponent style as a pint expression: "gC m-2 d-1" is "gC**1 * m**-2 * d**-1"."""
    text = SPELLINGS.get(unit.strip(), unit.strip()).replace("CO2", "C")
    factors = []
    for position, part in enumerate(text.split("/")):
        for token in re.split(r"[\s.*·]+", part.strip().replace("**", "^")):
            match = TOKEN.fullmatch(token)
            if match is None:
                raise ValueError(complain("a unit such as 'gC m-2 d-1', 'W m-2' or 'degC'", repr(unit),
                                          "write factors with integer exponents, separated by blanks"))
            if match["name"]:
                power = int(match["power"] or 1) * (-1 if position else 1)
                factors.append(f"{match['name']}**{power}" if power != 1 else match["name"])
    return " * ".join(factors) or "dimensionless"


def convert(values: ArrayLike, from_unit: str, to_unit: str) -> np.ndarray:
    """Return `values` as float64 in `to_unit`; both units in the exponent style of CF.

    >>> float(convert(1.0, "umol m-2 s-1", "gC m-2 d-1").round(4))
    1.0378

    Raises ValueError when a unit is unknown or the two measure different things.
    """
    values = np.asarray(values, dtype=np.float64)
    if from_unit == to_unit:
        return values
    import pint

    registry = _registry()
    source, target = _to_pint(from_unit), _to_pint(to_unit)
    try:
        return np.asarray(registry.Quantity(values, source).to(target).magnitude, dtype=np.float64)
    except pint.UndefinedUnitError as error:
        raise ValueError(complain(f"a unit that can become {to_unit!r}", repr(from_unit),
                                  f"correct the spelling of the unit ({error})")) from error
    except pint.DimensionalityError as error:
        raise ValueError(complain(f"a unit that can become {to_unit!r}", f"{from_unit!r}, another kind of quantity",
                                  "correct the units attribute, or name the right variable")) from error
