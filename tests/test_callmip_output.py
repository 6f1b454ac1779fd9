"""The specification of CalLMIP output files: sites, names, and the writer of one file."""

import netCDF4
import numpy as np
import pytest

from landcal_jax.io.callmip.output import SITES, FileName, record_days, write_file

DAYS, NAME = record_days("US-SRG"), FileName("Model", "v1.0", 1, "US-SRG", "Cal", "Posterior")


def test_sites_of_the_protocol():
    assert sum(place.period == "Cal" for place in SITES.values()) == 21
    assert sum(place.period == "Val" for place in SITES.values()) == 10
    assert SITES["AU-How"].period == "Val"
    assert record_days("DK-Sor").size == 6574 and record_days("US-Var") is None and record_days("XX-Abc") is None


def test_records_of_the_sites_are_those_of_their_flux_files(data_dir):
    files = sorted((data_dir / "flux_daily" / "callmip_phase1").glob("*_Flux.nc"))
    assert len(files) >= 15
    for path in files:
        site = path.name[:6]
        with netCDF4.Dataset(path) as file:
            days = (np.asarray(file["time"][:]) // 86400).astype(int) + np.datetime64(file["time"].units.split()[2], "D")
            assert np.array_equal(days, record_days(site)), site
            assert (float(file["latitude"][0]), float(file["longitude"][0])) == pytest.approx(SITES[site][1:3], abs=1e-4)


@pytest.mark.parametrize(("change", "words"), [
    ({"days": np.delete(DAYS, 100)}, "2190 days with a gap"),
    ({"series": {"NEE": np.ones(DAYS.size)}}, "NEE"),
    ({"series": {"nep": np.ones(DAYS.size)[:-1]}}, "one value of nep for each of 2191 days"),
])
def test_the_writer_refuses_what_would_be_a_fault(tmp_path, change, words):
    given = {"days": DAYS, "series": {"nep": np.full(DAYS.size, 1e-8)}} | change
    with pytest.raises(ValueError, match=words):
        write_file(tmp_path / str(NAME), NAME, given["days"], given["series"], latitude=31.8, longitude=-110.8)


def test_file_names_and_their_parts():
    text = "ELM.v3.0.2_Phase1b_Scen6_US-Ha1_Val_Posterior.nc"
    name = FileName.parse(text)
    assert name == ("ELM", "v3.0.2", 6, "US-Ha1", "Val", "Posterior") and str(name) == text
    assert name.attributes == {"Model": "ELM.v3.0.2", "CalLMIP_Phase": "Phase1b", "Calibration_Scenario": "Scen6",
                               "Calibration_stage": "Posterior", "Cal_Val": "Validation"}
    assert FileName.parse(text.replace("Val", "Spatial")) is None
