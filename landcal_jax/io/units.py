"""Units of the field's files: `convert(values, "Pa", "hPa")`, by pint with the reading of CF units of cf-xarray.

Files write units in the exponent style of CF and udunits ("gC m-2 d-1", "W m-2", "gC/m2/d"), and neither library knows
carbon or rain. This module teaches them both and nothing else:

- gC is a dimension of its own, so that carbon cannot turn into water by mistake. "kgC" and "mgC" follow from it, and
  amounts of substance ("umol m-2 s-1", "umolCO2 m-2 s-1") become carbon with the molar mass of carbon.
- Water: 1 kg m-2 is a column of 1 mm.
- Evaporation and latent heat are the same flux: 2.45 MJ kg-1 (Allen et al. 1998, FAO Irrigation and Drainage Paper 56, at
  20 degC; it falls by 0.1 % a kelvin). Only the quantities `latent_heat` and `evapotranspiration` convert so, because
  rain in mm d-1 must not become watts.
"""

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

CARBON_MOLAR_MASS = 12.011  # g mol-1
WATER_DENSITY = 1000.0  # kg m-3
VAPORISATION = 2.45e6  # J kg-1
# Photons per joule of shortwave, with which ingestr makes `ppfd` of shortwave (its kfFEC): Meek et al. (1984), Agronomy Journal 76, 939.
PHOTONS_PER_JOULE = 2.04e-6  # mol J-1
EVAPORATION = ("latent_heat", "latent_heat_uncertainty", "evapotranspiration", "evapotranspiration_uncertainty")

# Spellings that occur in the files and mean something else, or nothing, to pint.
SPELLINGS = {
    "deg C": "degC", "C": "degC", "celsius": "degC", "deg_C": "degC", "deg K": "K", "Kelvin": "K", "kelvin": "K", "hPA": "hPa",
    "mbar": "hPa", "-": "1", "": "1", "none": "1", "dimensionless": "1", "fraction": "1", "nondimensional": "1", "unitless": "1",
    "ppmv": "ppm", "ppbv": "ppb"}
# A name with its substance: umolCO2, umol_CO2, gC, g C, kg[C].
CARBON = (re.compile(r"(?<=mol)[ _]?(?:CO2|C)\b"), re.compile(r"\b([kmuµTP]?g)[ _\[]C\]?\b"))
LONGEST = 100  # letters of a unit
POWER = re.compile(r"\*\*|\^")
LONG = re.compile(r"[A-Za-zµ°\])]\s*[-+]?\s*\d{3}|(?:\*\*|\^)\s*\(?\s*[-+]?\s*\d{3}|\d{16}")  # m-999: no exponent of a unit
EXPONENT = re.compile(r"(?:\*\*|\^)\s*\(?\s*[+-]?\d{1,2}(?:\.0*)?(?![\d.])\s*\)?(?!\s*(?:\*\*|\^))")


@functools.cache
def _registry() -> Any:
    """The single pint registry, made when the first conversion needs it: importing pint takes half a second."""
    import pint

    before = pint.get_application_registry().get()
    from cf_xarray.units import units as registry

    # cf-xarray makes its registry that of the whole process; what a user's script has set stays as it is.
    pint.set_application_registry(before)
    registry.define("gC = [carbon]")
    registry.define(f"molC = {CARBON_MOLAR_MASS} gC")
    registry.define("ppb = 1e-9")
    molar_mass = registry.Quantity(CARBON_MOLAR_MASS, "gC / mol")
    density, heat = registry.Quantity(WATER_DENSITY, "kg / m**3"), registry.Quantity(VAPORISATION, "J / kg")
    land, evaporation = pint.Context("land"), pint.Context("evaporation")
    for per in ("", " / [length] ** 2", " / [length] ** 2 / [time]"):
        land.add_transformation(f"[substance]{per}", f"[carbon]{per}", lambda _, value: value * molar_mass)
        land.add_transformation(f"[carbon]{per}", f"[substance]{per}", lambda _, value: value / molar_mass)
    columns = {"[mass] / [length] ** 2": "[length]", "[mass] / [length] ** 2 / [time]": "[length] / [time]"}
    for column, depth in columns.items():
        land.add_transformation(column, depth, lambda _, value: value / density)
        land.add_transformation(depth, column, lambda _, value: value * density)
    rate, power = "[mass] / [length] ** 2 / [time]", "[mass] / [time] ** 3"
    evaporation.add_transformation(rate, power, lambda _, value: value * heat)
    evaporation.add_transformation(power, rate, lambda _, value: value / heat)
    evaporation.add_transformation("[length] / [time]", power, lambda _, value: value * density * heat)
    evaporation.add_transformation(power, "[length] / [time]", lambda _, value: value / heat / density)
    registry.add_context(land)
    registry.add_context(evaporation)
    return registry


def _spelled(unit: str) -> str:
    """A unit of a file in a spelling that pint reads."""
    text = SPELLINGS.get(unit.strip(), unit.strip())
    text = CARBON[0].sub("", text)
    text = CARBON[1].sub(r"\1C", text)
    if re.search(r"[^\w\s*/^().%°·+-]|^\.|\.$|\.\s|\s\.", text):  # pint's tokenizer would drop it in silence
        raise ValueError(f"a character in {unit!r} that is no part of a unit")
    powers = len(POWER.findall(text)) != len(EXPONENT.findall(text)) or len(re.findall(r"\)\s*(?:\*\*|\^)", text)) > 1
    if len(text) > LONGEST or LONG.search(text) or powers:
        raise ValueError(f"an exponent in {unit!r} that is no small number")  # 9**9**9**9 would be computed, for ever
    return re.sub(r"\s*/\s*", "/", text)


def convert(values: ArrayLike, from_unit: str, to_unit: str, quantity: str = "") -> np.ndarray:
    """Return `values` as float64 in `to_unit`; both units in the exponent style of CF.

    `quantity`: name of the normal form; latent heat and evapotranspiration then convert into each other.

    >>> float(convert(1.0, "umol m-2 s-1", "gC m-2 d-1").round(4))
    1.0378
    >>> float(convert(28.356, "W m-2", "mm d-1", "latent_heat").round(3))
    1.0

    Raises ValueError when a unit is unknown or the two measure different things.
    """
    values = np.asarray(values, dtype=np.float64)
    if from_unit == to_unit:
        return values
    import tokenize

    import pint

    registry = _registry()
    contexts = ("land", "evaporation") if quantity in EVAPORATION else ("land",)
    try:
        given = registry.Quantity(values, registry.parse_units(_spelled(from_unit)))
        return np.asarray(given.to(registry.parse_units(_spelled(to_unit)), *contexts).magnitude, dtype=np.float64)
    except pint.DimensionalityError as error:
        raise ValueError(complain(f"a unit that can become {to_unit!r}", f"{from_unit!r}, another kind of quantity",
                                  "correct the units attribute, or name the right variable")) from error
    except (pint.PintError, ValueError, TypeError, AttributeError, SyntaxError, tokenize.TokenError, AssertionError,
            ArithmeticError, KeyError) as error:
        raise ValueError(complain(f"a unit that can become {to_unit!r}, such as 'gC m-2 d-1', 'W m-2' or 'degC'", repr(from_unit),
                                  "correct the spelling of the unit: factors with integer exponents, separated by blanks")) from error
