"""The reader of FLUXNET2015, AmeriFlux and ICOS CSV: which column, which unit, which label, which mark."""

import numpy as np
import pandas as pd
import pytest

from landcal_jax.errors import complaint_of
from landcal_jax.io.readers.fluxnet import FORMATS, read_fluxnet
from landcal_jax.io.recognition import Head

CARBON = 1e-6 * 12.011 * 86400  # umol m-2 s-1 -> gC m-2 d-1
NAME = "FLX_XX-Abc_FLUXNET2015_FULLSET_HH_2001-2001_1-4.csv"


def stamps(n, minutes=30, start="2001-01-01"):
    starts = pd.date_range(start, periods=n, freq=f"{minutes}min")
    return starts.strftime("%Y%m%d%H%M"), (starts + pd.Timedelta(minutes=minutes)).strftime("%Y%m%d%H%M")


def half_hours(n=96, minutes=30, **columns):
    """A frame of FLUXNET2015 half-hours: two days with known values."""
    first, last = stamps(n, minutes)
    i = np.arange(n)
    table = {"TIMESTAMP_START": first, "TIMESTAMP_END": last, "TA_F": 10.0 + i / 100, "TA_F_QC": i % 3, "SW_IN_F": np.full(n, 100.0),
             "SW_IN_F_QC": 0, "VPD_F": 5.0, "VPD_F_QC": 0, "PA_F": 98.5, "PA_F_QC": 2, "P_F": 0.5, "P_F_QC": 0, "WS_F": 2.0, "WS_F_QC": 0,
             "RH": 80.0, "NETRAD": -9999, "NEE_VUT_REF": np.where(i == 5, -9999, -2.0), "NEE_VUT_REF_QC": np.where(i % 4 == 0, 0, 3),
             "NEE_VUT_REF_RANDUNC": 0.5, "NEE_VUT_REF_JOINTUNC": 0.7, "NEE_CUT_REF": -3.0, "NEE_CUT_REF_QC": 1, "LE_F_MDS": 50.0,
             "LE_F_MDS_QC": 0, "LE_RANDUNC": 9.0, "LE_CORR": 60.0, "H_F_MDS": 20.0, "H_F_MDS_QC": 1, "CO2_F_MDS": 380.0,
             "CO2_F_MDS_QC": 0, "SWC_F_MDS_1": 25.0, "SWC_F_MDS_1_QC": 0, "TS_F_MDS_1": 8.0, "TS_F_MDS_1_QC": 0, "USTAR": 0.3,
             "GPP_NT_VUT_REF": 4.0, "GPP_DT_VUT_REF": 4.5, "RECO_NT_VUT_REF": 2.0}
    return pd.DataFrame(table | columns)


def write(folder, frame, name=NAME, head=""):
    path = folder / name
    path.write_text(head + frame.to_csv(index=False))
    return path


def refused(path, **options):
    with pytest.raises(ValueError) as caught:
        read_fluxnet(path, **options)
    text = complaint_of(caught.value)
    assert text is not None, caught.value
    return text


def test_half_hours(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours()))
    assert ds.sizes["time"] == 96 and ds.time.attrs["step"] == "PT30M" and ds.time.attrs["label_in_file"] == "start"
    assert ds.time.values[0] == np.datetime64("2001-01-01T00:00") and ds.site.item() == "XX-Abc" and np.isnan(ds.latitude)
    np.testing.assert_allclose(ds.nee[0], -2.0 * CARBON)
    np.testing.assert_allclose(ds.nee_uncertainty[0], 0.5 * CARBON)
    assert np.isnan(ds.nee[5]) and int(ds.nee.isnull().sum()) == 1
    np.testing.assert_allclose(ds.precipitation, 24.0)
    np.testing.assert_allclose(ds.shortwave, 8.64)
    np.testing.assert_allclose(ds.pressure, 985.0)
    np.testing.assert_allclose(ds.vpd, 5.0)
    np.testing.assert_allclose(ds.relative_humidity, 0.8)
    np.testing.assert_allclose(ds.soil_moisture, 0.25)
    np.testing.assert_allclose(ds.gpp, 4.0 * CARBON)
    np.testing.assert_allclose(ds.reco, 2.0 * CARBON)
    np.testing.assert_allclose(ds.latent_heat_uncertainty, 9.0)
    assert "net_radiation" not in ds and "NETRAD holds no values" in ds.attrs["history"]
    assert ds.precipitation.attrs["units_in_file"] == "mm per step" and ds.nee.attrs["name_in_file"] == "NEE_VUT_REF"


def test_marks_of_filling(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours()))
    np.testing.assert_allclose(ds.nee_filled[:4], [0, 1, 1, 1])
    np.testing.assert_allclose(ds.nee_filled.mean(), 0.75)
    np.testing.assert_allclose(ds.gpp_filled, ds.nee_filled)
    np.testing.assert_allclose(ds.temperature_filled[:3], [0, 1, 1])
    np.testing.assert_allclose(ds.pressure_filled, 1)
    assert "friction_velocity_filled" not in ds and ds.reco.attrs["gap_filled"] == "included, not marked"


def test_history_says_what_was_taken(tmp_path):
    said = read_fluxnet(write(tmp_path, half_hours())).attrs["history"]
    assert "nee is NEE_VUT_REF (first by preference); not taken: NEE_CUT_REF." in said
    assert "latent_heat is LE_F_MDS (first by preference); not taken: LE_CORR." in said
    assert "nee_uncertainty is NEE_VUT_REF_RANDUNC, random error only; not taken: NEE_VUT_REF_JOINTUNC." in said
    assert "give latitude= and longitude=" in said


def test_columns_chosen_by_the_user(tmp_path):
    path = write(tmp_path, half_hours())
    ds = read_fluxnet(path, columns={"nee": "NEE_CUT_REF", "co2": None, "latent_heat": "LE_CORR"})
    np.testing.assert_allclose(ds.nee, -3.0 * CARBON)
    np.testing.assert_allclose(ds.nee_filled, 1.0)
    np.testing.assert_allclose(ds.latent_heat, 60.0)
    np.testing.assert_allclose(ds.latent_heat_filled, 0.0)
    assert "co2" not in ds and "nee_uncertainty" not in ds and "as the user has chosen" in ds.attrs["history"]
    ds = read_fluxnet(path, columns={"nee_uncertainty": "NEE_VUT_REF_JOINTUNC"})
    np.testing.assert_allclose(ds.nee_uncertainty, 0.7 * CARBON)
    assert "a column NEE_X" in refused(path, columns={"nee": "NEE_X"})
    assert "'carbon'" in refused(path, columns={"carbon": "NEE_CUT_REF"})


def test_empty_first_choice(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours(NEE_VUT_REF=-9999)))
    np.testing.assert_allclose(ds.nee, -3.0 * CARBON)
    assert "without values: NEE_VUT_REF" in ds.attrs["history"]


def test_end_only_is_relabelled(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours().drop(columns="TIMESTAMP_START")))
    assert ds.time.values[0] == np.datetime64("2001-01-01T00:00") and ds.time.attrs["label_in_file"] == "end"


def test_hours(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours(48, 60), "FLX_XX-Abc_FLUXNET2015_SUBSET_HR_2001-2001_1-4.csv"))
    assert ds.time.attrs["step"] == "PT1H"
    np.testing.assert_allclose(ds.precipitation, 12.0)
    np.testing.assert_allclose(ds.nee[0], -2.0 * CARBON)


@pytest.mark.parametrize(("name", "times", "step"), [
    ("FLX_XX-Abc_FLUXNET2015_FULLSET_DD_2001-2001_1-4.csv", ["20010101", "20010102", "20010103", "20010104"], "P1D"),
    ("FLX_XX-Abc_FLUXNET2015_FULLSET_MM_2001-2001_1-4.csv", ["200101", "200102", "200103", "200104"], "P1M")])
def test_days_and_months(tmp_path, name, times, step):
    frame = half_hours(4).drop(columns=["TIMESTAMP_START", "TIMESTAMP_END"])
    frame = frame.drop(columns=[column for column in frame if column.endswith("_QC")])
    frame.insert(0, "TIMESTAMP", times)
    ds = read_fluxnet(write(tmp_path, frame.assign(NEE_VUT_REF_QC=[1.0, 0.75, 0.0, -9999]), name))
    assert ds.time.attrs["step"] == step and ds.time.values[1] == np.datetime64("2001-01-02" if step == "P1D" else "2001-02-01")
    np.testing.assert_allclose(ds.nee, -2.0)
    np.testing.assert_allclose(ds.precipitation, 0.5)
    np.testing.assert_allclose(ds.nee_filled, [0.0, 0.25, 1.0, np.nan])
    assert ds.temperature.attrs["gap_filled"] == "included, not marked"
    assert "counts good filling as measured" in ds.attrs["history"]


def test_reanalysis_is_marked(tmp_path):
    frame = half_hours().drop(columns=["TA_F", "TA_F_QC"]).assign(TA_ERA=9.0)
    ds = read_fluxnet(write(tmp_path, frame))
    np.testing.assert_allclose(ds.temperature_filled, 1.0)
    assert "temperature is reanalysis (TA_ERA), none of it measured." in ds.attrs["history"]
    path = write(tmp_path, frame[["TIMESTAMP_START", "TIMESTAMP_END", "TA_ERA"]], NAME.replace("FULLSET", "ERAI"))
    assert "_QC" not in read_fluxnet(path).attrs["history"]


def test_auxiliary_files_are_refused(tmp_path):
    (tmp_path / "AMF_US-Xyz_FLUXNET_AUXNEE_2016-2021_3-5.csv").write_text(
        "ID,VARIABLE,PARAMETER,VALUE,TIMESTAMP\n1,USTAR_MP_METHOD,SUCCESS_RUN,1,2016\n")
    assert "parameters of the processing" in refused(tmp_path / "AMF_US-Xyz_FLUXNET_AUXNEE_2016-2021_3-5.csv")


def base(n=96, **columns):
    first, last = stamps(n)
    i = np.arange(n)
    return pd.DataFrame({"TIMESTAMP_START": first, "TIMESTAMP_END": last, "FC_1_1_1": np.where(i == 1, -9999, -2.0),
                         "SC_1_1_1": np.where(i < 4, -9999, 0.5), "FC_SSITC_TEST_1_1_1": 1, "LE_1_1_1": 30.0, "H_1_1_1": 10.0,
                         "TA_1_1_1": -9999, "TA_1_2_1": 11.0, "TA_PI_F_1_1_1": 12.0, "P_1_1_1": 0.1, "PA_1_1_1": 98.0,
                         "VPD_PI_1_1_1": np.where(i == 7, -0.2, 4.0), "SWC_1_1_1": 30.0, "USTAR_1_1_1": 0.2,
                         "CO2_1_1_1": 400.0, "FCH4_1_1_1": 100.0} | columns)


HEAD = "# Site: US-Xyz\n# Version: 3-5\n"


def test_ameriflux_base(tmp_path):
    ds = read_fluxnet(write(tmp_path, base(), "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD))
    assert ds.site.item() == "US-Xyz" and "Version: 3-5" in ds.attrs["source"]
    np.testing.assert_allclose(ds.nee[4:], -1.5 * CARBON)
    assert int(ds.nee.isnull().sum()) == 4
    said = ds.attrs["history"]
    assert "nee is FC_1_1_1 + SC_1_1_1 on the 92 steps that have both; 3 steps without a storage change are missing." in said
    assert "not filtered for calm nights" in said and "FC_SSITC_TEST_1_1_1" in said
    np.testing.assert_allclose(ds.temperature, 11.0)  # TA_1_1_1 is empty and TA_PI_F is filled
    assert "temperature is TA_1_2_1 (first by preference); not taken: TA_PI_F_1_1_1; without values: TA_1_1_1." in said
    np.testing.assert_allclose(ds.methane, 100e-9 * 12.011 * 86400)
    np.testing.assert_allclose(ds.precipitation, 4.8)
    assert ds.vpd.values[7] == 0.0 and "vpd: 1 values between -1 and 0 hPa" in said
    assert not [name for name in ds if name.endswith("_filled")]


def test_base_without_storage_and_filled_by_the_team(tmp_path):
    frame = base().drop(columns=["SC_1_1_1", "TA_1_1_1", "TA_1_2_1"])
    ds = read_fluxnet(write(tmp_path, frame, "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD))
    np.testing.assert_allclose(ds.nee[0], -2.0 * CARBON)
    assert "nee is FC_1_1_1 alone" in ds.attrs["history"]
    assert ds.temperature.attrs["gap_filled"] == "included, not marked"


def test_base_prefers_nee_of_the_team(tmp_path):
    ds = read_fluxnet(write(tmp_path, base(NEE_PI=-7.0), "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD))
    np.testing.assert_allclose(ds.nee, -7.0 * CARBON)
    assert "nee is NEE_PI (first by preference); not taken: FC_1_1_1" in ds.attrs["history"]


def test_spikes_are_masked_and_said(tmp_path):
    spiky = base(200, CO2_1_1_1=np.where(np.arange(200) == 9, 9000.0, 400.0))
    ds = read_fluxnet(write(tmp_path, spiky, "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD))
    assert np.isnan(ds.co2.values[9]) and int(ds.co2.isnull().sum()) == 1
    assert "co2 (CO2_1_1_1): 1 of 200 values outside 150 to 2000 ppm were masked, the first 9000 in line 13." in ds.attrs["history"]
    assert "co2 between 150 and 2000" in refused(write(tmp_path, base(CO2_1_1_1=9000.0), "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD))


def test_icos(tmp_path):
    ds = read_fluxnet(write(tmp_path, half_hours(), "ICOSETC_XX-Abc_FLUXNET_HH_L2.csv"))
    assert "ICOS" in ds.attrs["source"] and ds.attrs["license"].startswith("CC-BY-4.0")


@pytest.mark.parametrize(("change", "words"), [
    ({"TIMESTAMP_START": [*stamps(95)[0], "200101031200"]}, "in line 97"),
    ({"TIMESTAMP_START": ["2.00101E+11", *stamps(96)[0][1:]]}, "spreadsheet"),
    ({"TIMESTAMP_END": ["200101012460", *stamps(96)[1][1:]]}, "'200101012460' in line 2"),
    ({"NEE_VUT_REF_QC": 7}, "0, 1, 2 or 3"),
    ({"LE_F_MDS": "many"}, "'many' in line 2"),
    ({"PA_F": 985.0}, "pressure between"),
    ({"TA_F": 280.0}, "temperature between")])
def test_faults(tmp_path, change, words):
    assert words in refused(write(tmp_path, half_hours().assign(**change)))


def test_faults_of_the_file(tmp_path):
    frame = half_hours()
    assert "steps of DD" in refused(write(tmp_path, frame, NAME.replace("_HH_", "_DD_")))
    assert "US-Abc in its comment" in refused(write(tmp_path, frame, head="# Site: US-Abc\n"))
    assert "HH, HR, DD or MM" in refused(write(tmp_path, frame.assign(TIMESTAMP_START="20010101", TIMESTAMP_END="20010107")))
    assert "no such column" in refused(write(tmp_path, frame[["TIMESTAMP_START", "TIMESTAMP_END", "RH"]].rename(columns={"RH": "WD"})))
    path = write(tmp_path, frame)
    path.write_text(path.read_text()[:-40])
    assert "cut short" in refused(path)
    path.write_text("\n".join(path.read_text().split("\n")[::-1]))
    assert refused(path)
    swapped = frame.iloc[[1, 0, *range(2, 96)]]
    assert "increasing" in refused(write(tmp_path, swapped))


def test_line_ends_do_not_matter(tmp_path):
    path = write(tmp_path, half_hours())
    expected, text = read_fluxnet(path), path.read_bytes()
    for end in (b"\r", b"\r\n"):
        path.write_bytes(text.replace(b"\n", end))
        np.testing.assert_array_equal(read_fluxnet(path).nee, expected.nee)


def test_recognition(tmp_path):
    recognises = FORMATS[0].recognises
    assert recognises(Head(write(tmp_path, half_hours())))
    assert recognises(Head(write(tmp_path, base(), "AMF_US-Xyz_BASE_HH_3-5.csv", HEAD)))
    assert not recognises(Head(write(tmp_path, pd.DataFrame({"TIMESTAMP_END": ["2001-01-01 00:30"], "TA_F": [1.0]}))))
    units = "TIMESTAMP_START,NEE_VUT_REF\n-,umol m-2 s-1\n200101010000,1\n"
    (tmp_path / "units.csv").write_text(units)
    assert not recognises(Head(tmp_path / "units.csv"))
