"""The quantities of the normal form: one name, one unit and one range for each, whatever the file and its step.

Everything that flows is a rate, so that a mean over time is a mean of the rate at every step: half-hourly NEE is in
gC m-2 d-1 as daily NEE is, and precipitation is in mm d-1. A series `x` may come with `x_uncertainty` (standard
deviation, same unit) and with `x_filled` (the fraction of the step that was gap-filled: 0 measured, 1 filled); where a
file has them, with `x_variability` (standard deviation of the measurements within the step, which is no error of their
mean) and `x_number` (how many there were).

Range: values outside cannot occur on Earth. `low` and `high` hold for a day; within a day some fluxes reach further.
"""

from typing import NamedTuple

import numpy as np


class Quantity(NamedTuple):
    """Unit, meaning and possible range of a quantity; `low_at_once` and `high_at_once` hold for steps below a day."""

    units: str
    long_name: str
    low: float
    high: float
    standard_name: str = ""
    low_at_once: float | None = None
    high_at_once: float | None = None

    def limits(self, daily: bool) -> tuple[float, float]:
        """The possible range for steps of a day or more, or for shorter ones."""
        if daily:
            return self.low, self.high
        return (self.low if self.low_at_once is None else self.low_at_once,
                self.high if self.high_at_once is None else self.high_at_once)


METEOROLOGY = {
    "temperature": Quantity("degC", "air temperature", -95.0, 60.0, "air_temperature"),
    "temperature_min": Quantity("degC", "daily minimum of air temperature", -95.0, 60.0, "air_temperature"),
    "temperature_max": Quantity("degC", "daily maximum of air temperature", -95.0, 60.0, "air_temperature"),
    "shortwave": Quantity("MJ m-2 d-1", "downward shortwave radiation", 0.0, 48.0,
                          "surface_downwelling_shortwave_flux_in_air", high_at_once=140.0),
    "longwave": Quantity("W m-2", "downward longwave radiation", 20.0, 700.0, "surface_downwelling_longwave_flux_in_air"),
    "net_radiation": Quantity("W m-2", "net radiation", -300.0, 500.0, "surface_net_downward_radiative_flux", -500.0, 1400.0),
    "ppfd": Quantity("umol m-2 s-1", "photosynthetic photon flux density", 0.0, 1500.0,
                     "surface_downwelling_photosynthetic_photon_flux_in_air", high_at_once=3500.0),
    "co2": Quantity("ppm", "mole fraction of carbon dioxide in air", 150.0, 2000.0, "mole_fraction_of_carbon_dioxide_in_air"),
    "vpd": Quantity("hPa", "vapour pressure deficit", 0.0, 150.0, "water_vapor_saturation_deficit_in_air"),
    "vapour_pressure": Quantity("hPa", "vapour pressure", 0.0, 120.0, "water_vapor_partial_pressure_in_air"),
    "specific_humidity": Quantity("kg kg-1", "specific humidity", 0.0, 0.06, "specific_humidity"),
    "relative_humidity": Quantity("1", "relative humidity", 0.0, 1.2, "relative_humidity"),
    "pressure": Quantity("hPa", "surface air pressure", 300.0, 1100.0, "surface_air_pressure"),
    "wind_speed": Quantity("m s-1", "wind speed", 0.0, 110.0, "wind_speed"),
    "friction_velocity": Quantity("m s-1", "friction velocity", 0.0, 10.0),
    "precipitation": Quantity("mm d-1", "precipitation, rain and snow", 0.0, 2000.0, "precipitation_flux", high_at_once=2e4),
    "rainfall": Quantity("mm d-1", "rainfall", 0.0, 2000.0, "rainfall_flux", high_at_once=2e4),
    "snowfall": Quantity("mm d-1", "snowfall, water equivalent", 0.0, 2000.0, "snowfall_flux", high_at_once=2e4),
    "burned_fraction": Quantity("1", "fraction of the area burned", 0.0, 1.0),
    "fapar": Quantity("1", "fraction of absorbed photosynthetically active radiation", 0.0, 1.0),
    "evi": Quantity("1", "enhanced vegetation index", -0.3, 1.0),
    "soil_temperature": Quantity("degC", "soil temperature", -70.0, 80.0, "soil_temperature"),
    "soil_moisture": Quantity("m3 m-3", "volumetric soil moisture", 0.0, 1.0, "volume_fraction_of_condensed_water_in_soil"),
    "canopy_height": Quantity("m", "canopy height", 0.0, 150.0, "canopy_height"),
    "water_table": Quantity("m", "water table above the surface, negative below", -50.0, 20.0),
    "salinity": Quantity("g kg-1", "salinity of the pore or surface water", 0.0, 300.0),
}

FLUXES = {
    "nee": Quantity("gC m-2 d-1", "net ecosystem exchange of carbon, positive to the atmosphere", -100.0, 100.0,
                    low_at_once=-250.0, high_at_once=250.0),
    "gpp": Quantity("gC m-2 d-1", "gross primary production", -100.0, 100.0, low_at_once=-250.0, high_at_once=250.0),
    "reco": Quantity("gC m-2 d-1", "ecosystem respiration", -100.0, 100.0, low_at_once=-250.0, high_at_once=250.0),
    "latent_heat": Quantity("W m-2", "latent heat flux, positive to the atmosphere", -400.0, 800.0,
                            "surface_upward_latent_heat_flux", -1500.0, 2000.0),
    "sensible_heat": Quantity("W m-2", "sensible heat flux, positive to the atmosphere", -400.0, 800.0,
                              "surface_upward_sensible_heat_flux", -1500.0, 2000.0),
    "ground_heat": Quantity("W m-2", "ground heat flux, positive into the soil", -500.0, 500.0,
                            "downward_heat_flux_in_soil", -1000.0, 1500.0),
    "evapotranspiration": Quantity("mm d-1", "evapotranspiration", -50.0, 50.0, low_at_once=-60.0, high_at_once=80.0),
    "lai": Quantity("m2 m-2", "leaf area index", 0.0, 20.0, "leaf_area_index"),
    "biomass": Quantity("gC m-2", "carbon in live biomass, above and below ground", 0.0, 1e6),
    "soil_carbon": Quantity("gC m-2", "soil organic carbon", 0.0, 1e7),
    "soil_respiration": Quantity("gC m-2 d-1", "soil respiration", -100.0, 100.0, low_at_once=-250.0, high_at_once=250.0),
    "methane": Quantity("gC m-2 d-1", "methane flux, positive to the atmosphere", -10.0, 50.0),
}

SNOW = {
    "shortwave_up": Quantity("MJ m-2 d-1", "upward shortwave radiation", 0.0, 48.0,
                             "surface_upwelling_shortwave_flux_in_air", high_at_once=140.0),
    "albedo": Quantity("1", "albedo of the surface", 0.0, 1.0, "surface_albedo"),
    "snow_depth": Quantity("m", "snow depth", 0.0, 20.0, "surface_snow_thickness"),
    "snow_water_equivalent": Quantity("kg m-2", "snow water equivalent", 0.0, 10000.0, "surface_snow_amount"),
    "snow_cover": Quantity("1", "fraction of the area covered by snow", 0.0, 1.0, "surface_snow_area_fraction"),
    "runoff": Quantity("mm d-1", "runoff at the base of the snow", 0.0, 2000.0, "runoff_flux", high_at_once=5000.0),
    "surface_temperature": Quantity("degC", "surface temperature", -100.0, 90.0, "surface_temperature"),
}

AIR = {
    "co2_mole_fraction": Quantity("ppm", "mole fraction of carbon dioxide in air", 150.0, 2000.0,
                                  "mole_fraction_of_carbon_dioxide_in_air"),
    "ch4_mole_fraction": Quantity("ppb", "mole fraction of methane in air", 200.0, 10000.0, "mole_fraction_of_methane_in_air"),
}

QUANTITIES = METEOROLOGY | FLUXES | SNOW | AIR
COMPANIONS = ("_uncertainty", "_filled", "_variability", "_number")


def quantity(name: str) -> Quantity:
    """The quantity of a variable of the normal form, also of its companions (`x_uncertainty`, `x_filled` ...).

    Raises KeyError for a name that the normal form does not have.
    """
    if name.endswith("_uncertainty"):
        of = QUANTITIES[name.removesuffix("_uncertainty")]
        return Quantity(of.units, f"standard deviation of the random error of {name.removesuffix('_uncertainty')}", 0.0, np.inf)
    if name.endswith("_filled"):
        base = name.removesuffix("_filled")
        _ = QUANTITIES[base]
        return Quantity("1", f"fraction of the step in which {base} was gap-filled", 0.0, 1.0)
    if name.endswith("_variability"):
        of = QUANTITIES[name.removesuffix("_variability")]
        return Quantity(of.units, f"standard deviation of {name.removesuffix('_variability')} within the step", 0.0, np.inf)
    if name.endswith("_number"):
        _ = QUANTITIES[name.removesuffix("_number")]
        return Quantity("1", f"number of measurements of {name.removesuffix('_number')} in the step", 0.0, np.inf)
    return QUANTITIES[name]
