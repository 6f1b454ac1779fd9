"""Output files of CalLMIP Phase 1b: what they must be, as data, and the NetCDF writer.

The rules are those of the protocol, version 2 (June 2026), sections 6 and 7. They leave a few things open, decided here:

- `lat` and `lon` are variables of one number each. The protocol wants them scalar, and dimensions of the same names beside
  them. xarray cannot open a file that has both ("dimension 'lat' already exists as a scalar variable"; the published
  template is one), so they are written as coordinates of length one. Any tool reads one number from either.
- Days are counted 0, 1, 2, ... from the first of January, as in the files of observed fluxes: decoded, the dates agree.
- `_post_unc` is a standard deviation.
- Values are float64, a missing one is 1e20 and declared, the file is NetCDF-4 (classic model).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from landcal_jax.errors import complain

FILL = 1e20
UNCERTAINTY = "_post_unc"
PHASE = "Phase1b"
PERIODS = {"Cal": "Calibration", "Val": "Validation"}
STAGES = ("Prior", "Posterior")
# What each scenario calibrates against.
SCENARIOS = {1: ("nep", "hfls", "hfss"), 2: ("nep",), 3: ("hfls",), 4: ("hfss",), 5: ("nep", "hfls"), 6: ("hfls", "hfss")}
IN_WORDS = {"nep": "NEE", "hfls": "LE", "hfss": "H"}


class OutputVariable(NamedTuple):
    """A variable of the files: its units (the first is written), meaning, what a day can be, and what it is taken for.

    `low` and `high`: daily values outside are no such quantity in these units. `tiny`: a record that never exceeds this is
    suspicious. `aliases`: names of the same thing elsewhere. `optional`: asked for only of models that have it.
    """

    units: tuple[str, ...]
    long_name: str
    standard_name: str
    low: float
    high: float
    tiny: float
    aliases: tuple[str, ...] = ()
    optional: bool = False


CARBON_FLUX, CARBON, WATER_FLUX, ENERGY = ("kgC m-2 s-1",), ("kg m-2",), ("kg m-2 s-1",), ("W m-2",)
NEP_NAME = ("surface_net_downward_mass_flux_of_carbon_dioxide_expressed_as_carbon_due_to_all_land_processes_excluding_"
            "anthropogenic_land_use_change")
VARIABLES = {
    "nep": OutputVariable(CARBON_FLUX, "net ecosystem productivity, positive into the land (the opposite sign of NEE)", NEP_NAME,
                          -6e-7, 6e-7, 1e-10, ("NEE", "NEP", "nee", "NEE_daily")),
    "hfls": OutputVariable(ENERGY, "latent heat flux, positive to the atmosphere", "surface_upward_latent_heat_flux",
                           -300.0, 700.0, 15.0, ("Qle", "LE", "Qle_daily")),
    "hfss": OutputVariable(ENERGY, "sensible heat flux, positive to the atmosphere", "surface_upward_sensible_heat_flux",
                           -500.0, 700.0, 5.0, ("Qh", "H", "Qh_daily")),
    "gpp": OutputVariable(CARBON_FLUX, "gross primary production",
                          "gross_primary_productivity_of_biomass_expressed_as_carbon", -1e-9, 6e-7, 1e-10, ("GPP",)),
    "reco": OutputVariable(CARBON_FLUX, "total ecosystem respiration, of plants and soil", "", -1e-9, 6e-7, 1e-10,
                           ("RECO", "TER", "Reco", "er")),
    "tran": OutputVariable(WATER_FLUX, "transpiration", "transpiration_flux", -2e-4, 4e-4, 1e-7, ("TVeg",)),
    "evspsblsoi": OutputVariable(WATER_FLUX, "evaporation from soil, sublimation included", "water_evaporation_flux_from_soil",
                                 -2e-4, 4e-4, 1e-8, ("ESoil", "evspsblsoil")),
    "hfg": OutputVariable(ENERGY, "ground heat flux", "", -500.0, 500.0, 0.5, ("Qg",), optional=True),
    "ts": OutputVariable(("K",), "skin temperature of the land", "surface_temperature", 170.0, 350.0, 0.0, ("AvgSurfT", "tskin", "tsl")),
    "lai": OutputVariable(("m2 m-2", "1"), "leaf area index", "leaf_area_index", 0.0, 20.0, 1e-3, ("LAI",)),
    "cLiveBioAbove": OutputVariable(CARBON, "carbon mass in living biomass above ground", "", 0.0, 200.0, 1e-4,
                                    ("AbvGrndWood", "cLiveBioabove", "AGB", "agb")),
    "cSoil": OutputVariable(CARBON, "carbon mass in soil", "soil_mass_content_of_carbon", 0.0, 1000.0, 1e-2,
                            ("TotSoilCarb", "csoil")),
    "mrso": OutputVariable(CARBON, "total water of the soil column", "mass_content_of_water_in_soil", 0.0, 1e5, 5.0, ("SoilMoist",)),
    "mrsos": OutputVariable(CARBON, "water of the upper 10 cm of the soil", "mass_content_of_water_in_soil_layer", 0.0, 200.0, 1.0, ()),
}


class Place(NamedTuple):
    """A site of the protocol: which part it has, degrees north and east, first and last year of its record.

    None stands for what is not public (flux files of validation sites are not given out).
    """

    period: str
    latitude: float | None = None
    longitude: float | None = None
    first_year: int | None = None
    last_year: int | None = None


# Coordinates and years of the flux files of Phase 1b; of sites without such a file, coordinates of FLUXNET.
SITES = {
    "CA-Qfo": Place("Cal", 49.6925, -74.3421, 2004, 2010), "CH-Dav": Place("Cal", 46.81533, 9.85592, 1997, 2014),
    "DE-Gri": Place("Cal", 50.94947, 13.51253, 2004, 2014), "DE-Hai": Place("Cal", 51.07917, 10.453, 2000, 2012),
    "DE-Tha": Place("Cal", 50.96361, 13.56694, 1998, 2014), "DK-Sor": Place("Cal", 55.48587, 11.64464, 1997, 2014),
    "FI-Hyy": Place("Cal", 61.8475, 24.295, 1996, 2014), "FR-Pue": Place("Cal", 43.74139, 3.59583, 2000, 2014),
    "IT-Lav": Place("Cal", 45.9562, 11.28132, 2005, 2014), "IT-MBo": Place("Cal", 46.01468, 11.04583, 2003, 2012),
    "IT-Noe": Place("Cal", 40.60618, 8.15169, 2004, 2014), "NL-Loo": Place("Cal", 52.16658, 5.74356, 1997, 2013),
    "RU-Fyo": Place("Cal", 56.46153, 32.92208, 2003, 2014), "US-MMS": Place("Cal", 39.3232, -86.4131, 1999, 2014),
    "US-NR1": Place("Cal", 40.0329, -105.5464, 1999, 2014), "US-SRG": Place("Cal", 31.7894, -110.8277, 2009, 2014),
    "US-SRM": Place("Cal", 31.8214, -110.866, 2004, 2014), "US-Ton": Place("Cal", 38.4316, -120.966, 2001, 2014),
    "US-Var": Place("Cal", 38.4133, -120.9507), "US-Whs": Place("Cal", 31.7438, -110.0522, 2008, 2014),
    "US-Wkg": Place("Cal", 31.7365, -109.9419, 2005, 2014),
    "AU-ASM": Place("Val", -22.283, 133.249), "AU-How": Place("Val", -12.4952, 131.15, 2003, 2014),
    "AU-Stp": Place("Val", -17.1507, 133.3502), "AU-Tum": Place("Val", -35.6566, 148.1517),
    "CH-Cha": Place("Val", 47.2102, 8.4104), "US-FPe": Place("Val"), "US-GLE": Place("Val", 41.3665, -106.2399),
    "US-Ha1": Place("Val", 42.5378, -72.1715), "US-Me2": Place("Val", 44.4523, -121.5574), "US-UMB": Place("Val", 45.5598, -84.7138)}

PATTERN = re.compile(
    r"(?P<model>[A-Za-z0-9+-]+)\.(?P<version>[A-Za-z0-9.+-]+)_Phase1b_Scen(?P<scenario>[1-6])_(?P<site>[A-Za-z0-9-]+)"
    r"_(?P<period>Cal|Val)_(?P<stage>Prior|Posterior)\.nc")
PATTERN_IN_WORDS = "<model>.<version>_Phase1b_Scen<1-6>_<Site>_<Cal|Val>_<Prior|Posterior>.nc"


class FileName(NamedTuple):
    """What the name of an output file says; `str()` makes the name."""

    model: str
    version: str
    scenario: int
    site: str
    period: str
    stage: str

    @classmethod
    def parse(cls, name: str) -> "FileName | None":
        """The parts of a file name, None if it is not of the pattern."""
        found = PATTERN.fullmatch(name)
        return None if found is None else cls(**(found.groupdict() | {"scenario": int(found["scenario"])}))

    @property
    def attributes(self) -> dict[str, str]:
        """The global attributes that such a file must have."""
        return {"Model": f"{self.model}.{self.version}", "CalLMIP_Phase": PHASE, "Calibration_Scenario": f"Scen{self.scenario}",
                "Calibration_stage": self.stage, "Cal_Val": PERIODS[self.period]}

    def __str__(self) -> str:
        return f"{self.model}.{self.version}_{PHASE}_Scen{self.scenario}_{self.site}_{self.period}_{self.stage}.nc"


def scenario_in_words(scenario: int) -> str:
    """Such as "Scenario 5 (NEE and LE)"."""
    return f"Scenario {scenario} ({' and '.join(IN_WORDS[name] for name in SCENARIOS[scenario])})"


def record_days(site: str) -> np.ndarray | None:
    """Every day of the record of a site of the protocol, leap days included; None where it is not public."""
    place = SITES.get(site)
    if place is None or place.first_year is None:
        return None
    return np.arange(f"{place.first_year}-01-01", f"{place.last_year + 1}-01-01", dtype="datetime64[D]")


def check_names(model: str, version: str) -> None:
    """Raise ValueError if model and version cannot stand in a file name."""
    if FileName.parse(str(FileName(model, version, 1, "DK-Sor", "Cal", "Prior"))) is None or "." in model:
        raise ValueError(complain("a model name of letters, digits, + and -, and a version of these and dots (such as CLASSIC and v2)",
                                  f"{model!r} and {version!r}", "leave out blanks and underscores, which separate the parts of the name"))


def write_file(
    path: str | Path, name: FileName, days: np.ndarray, series: Mapping[str, np.ndarray], *, latitude: float, longitude: float,
    comments: Mapping[str, str] | None = None, attributes: Mapping[str, str] | None = None,
) -> None:
    """Write one output file.

    `days`: (time,) datetime64[D], every day of the record. `series`: variable -> (time,) in the units of `VARIABLES`, also
    `<variable>_post_unc`; NaN is missing. `comments`: variable -> its attribute `comment`. `attributes`: more global ones.
    Raises ValueError for an unknown variable, a length that is not that of `days`, or days with a gap.
    """
    import netCDF4

    days = np.asarray(days, "datetime64[D]")
    _check_series(name, days, series)
    first = days[0].astype("datetime64[Y]").astype("datetime64[D]")
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as file:
        file.setncatts(name.attributes | {"Conventions": "CF-1.11"} | dict(attributes or {}))
        for dimension, size in (("time", len(days)), ("lat", 1), ("lon", 1)):
            file.createDimension(dimension, size)
        for dimension, value, attrs in (
                ("time", (days - first).astype(float), {
                    "standard_name": "time", "long_name": "start of the day", "axis": "T", "calendar": "standard",
                    "units": f"days since {first} 00:00:00"}),
                ("lat", latitude, {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"}),
                ("lon", longitude, {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"})):
            variable = file.createVariable(dimension, "f8", (dimension,))
            variable.setncatts(attrs)
            variable[:] = value
        for key in sorted(series, key=_order):
            _write_series(file, key, np.asarray(series[key], float), (comments or {}).get(key, ""))


def _order(key: str) -> tuple[bool, int]:
    return key.endswith(UNCERTAINTY), list(VARIABLES).index(key.removesuffix(UNCERTAINTY))


def _check_series(name: FileName, days: np.ndarray, series: Mapping[str, np.ndarray]) -> None:
    if len(days) == 0 or (np.diff(days) != np.timedelta64(1, "D")).any():
        raise ValueError(complain(f"every day from the first to the last in {name}, leap days included", f"{len(days)} days with a gap",
                                  "fill the axis with all days; a day without a value is NaN"))
    for key, values in series.items():
        if key.removesuffix(UNCERTAINTY) not in VARIABLES:
            raise ValueError(complain(f"variables of CalLMIP for {name}: {', '.join(VARIABLES)}", key, "leave it out, or rename it"))
        if np.shape(values) != days.shape:
            raise ValueError(complain(f"one value of {key} for each of {len(days)} days in {name}", f"shape {np.shape(values)}",
                                      "put the series on the axis of the file"))


def _write_series(file, key: str, values: np.ndarray, comment: str) -> None:
    parent = key.removesuffix(UNCERTAINTY)
    about = VARIABLES[parent]
    variable = file.createVariable(key, "f8", ("time", "lat", "lon"), fill_value=FILL, zlib=True, complevel=4)
    variable.units = about.units[0]
    variable.long_name = about.long_name if key == parent else f"posterior standard deviation of {parent} ({about.long_name})"
    if about.standard_name:
        # The modifier of CF for a standard deviation of the quantity.
        variable.standard_name = about.standard_name if key == parent else f"{about.standard_name} standard_error"
    if key == parent:
        variable.cell_methods = "time: mean"
    if comment:
        variable.comment = comment
    variable[:, 0, 0] = np.where(np.isfinite(values), values, FILL)
