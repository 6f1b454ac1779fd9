"""Readers of mole fractions, footprints and arrays: on files made here and on real ones where present."""

import numpy as np
import pytest
import xarray as xr

from landcal_jax.io.readers.atmosphere import FORMATS, read_array, read_co2_ppm, read_noaa, read_openghg, read_picarro, read_trendy_co2
from landcal_jax.io.recognition import Head


def written(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def recognised(path):
    return [format.name for format in FORMATS if format.recognises(Head(path))]


def complaint(reader, path, *parts):
    with pytest.raises(ValueError, match="Expected:") as error:
        reader(path)
    for part in (path.name, *parts):
        assert part in str(error.value), (part, str(error.value))


# ---------------------------------------------------------------------- NOAA GML

INSITU = """# header_lines : 9
#
# dataset_name: made for a test by no one at GML
# site_code : XYZ
# site_latitude : 10.5
# site_longitude : -20.25
# dataset_parameter : {gas}
# value:units : {units}
site_code year month day hour minute second datetime time_decimal midpoint_time value value_std_dev nvalue qcflag
XYZ 2020 1 1 0 0 0 2020-01-01T00:00:00Z 2020.0 1 410.0 0.5 25 ...
XYZ 2020 2 1 0 0 0 2020-02-01T00:00:00Z 2020.1 1 -999.99 -99.99 0 *..
XYZ 2020 3 1 0 0 0 2020-03-01T00:00:00Z 2020.2 1 412.0 0.6 26 .S.
XYZ 2020 4 1 0 0 0 2020-04-01T00:00:00Z 2020.3 1 499.0 0.0 3 A..
"""
CO2 = INSITU.format(gas="co2", units="micromol mol-1")


def test_noaa_masks_rejected_months_and_counts_selected_ones(tmp_path):
    path = written(tmp_path, "co2_xyz_surface-insitu_1_ccgg_MonthlyData.txt", CO2)
    ds = read_noaa(path)
    assert recognised(path) == ["NOAA GML text"]
    np.testing.assert_allclose(ds["co2_mole_fraction"], [410.0, np.nan, 412.0, np.nan])
    np.testing.assert_allclose(ds["co2_mole_fraction_variability"], [0.5, np.nan, 0.6, np.nan])
    np.testing.assert_allclose(ds["co2_mole_fraction_number"], [25, np.nan, 26, np.nan])
    assert "co2_mole_fraction_uncertainty" not in ds  # a deviation within the month is no error of its mean
    assert ds["time"].attrs["step"] == "P1M" and ds["latitude"].item() == 10.5 and ds["longitude"].item() == -20.25
    assert "2 rows have a rejection flag in qcflag (1 have the fill value)" in ds.attrs["history"]
    assert "1 rows with a selection flag were kept" in ds.attrs["history"]


def test_noaa_takes_gas_and_unit_from_the_header(tmp_path):
    methane = INSITU.format(gas="ch4", units="micromol mol-1").replace("410.0", "1.9").replace("412.0", "1.91")
    ds = read_noaa(written(tmp_path, "ch4.txt", methane))
    np.testing.assert_allclose(ds["ch4_mole_fraction"].values[[0, 2]], [1900.0, 1910.0])
    complaint(read_noaa, written(tmp_path, "sf6.txt", INSITU.format(gas="sf6", units="ppt")), "'sf6'")


@pytest.mark.parametrize(("old", "new", "parts"), [
    ("header_lines : 9", "header_lines : 10", ("10 lines of header",)),
    (" qcflag\n", " flag\n", ("qcflag",)),
    ("2020-03-01T00:00:00Z", "2020-13-01T00:00:00Z", ("2020-13-01", "line 12")),
    (" 412.0 0.6 26 .S.", " 412.0 0.6", ("line 12",)),
    ("XYZ 2020 3 1 ", "XYZ 2020 4 1 ", ("datetime and month of one time", "2020-03-01 00:00:00 and month 4 on line 12")),
    ("XYZ 2020 3 1 0", "XYZ 2020 3 1 5", ("datetime and hour of one time", "hour 5 on line 12")),
    (" 412.0 ", " 41x2.0 ", ("41x2.0", "line 12", "value")),
    (" 412.0 ", " 41200 ", ("co2_mole_fraction between", "2020-03-01")),
])
def test_noaa_faults_have_a_sentence(tmp_path, old, new, parts):
    assert old in CO2
    complaint(read_noaa, written(tmp_path, "co2_xyz.txt", CO2.replace(old, new)), *parts)


def test_noaa_monthly_flasks(tmp_path):
    text = ("# number_of_header_lines: 3\n# USE OF GML DATA\n# data_fields: site year month value\n"
            "SPO 1969  8   322.51\nSPO 1969 10   320.74\n")
    ds = read_noaa(written(tmp_path, "co2_spo_surface-flask_1_ccgg_month.txt", text))
    assert list(ds["time"].values) == list(np.array(["1969-08", "1969-10"], dtype="datetime64[ns]")) and ds["site"].item() == "SPO"
    assert "states no unit" in ds.attrs["history"] and "1 steps between the first and the last are absent" in ds.attrs["history"]


def test_noaa_real_gap_of_the_eruption(data_dir):
    ds = read_noaa(data_dir / "atm" / "noaa_gml" / "co2_mlo_surface-insitu_1_ccgg_MonthlyData.txt")
    assert ds["co2_mole_fraction"].sel(time=slice("2022-12", "2023-06")).isnull().all()
    assert int(ds["co2_mole_fraction"].isnull().sum()) == 12 and float(ds["co2_mole_fraction"].sel(time="2024-12").item()) == 425.41
    flask = read_noaa(data_dir / "atm" / "noaa_gml" / "co2_mlo_surface-flask_1_ccgg_month.txt")
    both = ds["co2_mole_fraction"].to_series().dropna().to_frame().join(flask["co2_mole_fraction"].to_series().rename("flask"), how="inner")
    assert len(both) > 450 and abs((both["flask"] - both["co2_mole_fraction"]).median()) < 0.3


# ---------------------------------------------------------------------- co2-ppm, TRENDY

MLO = """Date,Decimal Date,Average,Interpolated,Trend,Number of Days
1974-04,1974.2917,333.1,330.0,-01,-9.99,-0.99
1974-05,1974.3750,333.2,330.1,13,0.36,0.20
1974-06,1974.4583,332.2,330.2,-01,-9.99,0.00
"""


def test_co2_of_mauna_loa_is_read_by_place_not_by_its_old_header(tmp_path):
    path = written(tmp_path, "co2-mm-mlo.csv", MLO)
    ds = read_co2_ppm(path)
    assert recognised(path) == ["co2-ppm CSV"] and ds["site"].item() == "MLO"
    np.testing.assert_allclose(ds["co2_mole_fraction"], [333.1, 333.2, 332.2])
    np.testing.assert_allclose(ds["co2_mole_fraction_uncertainty"], [np.nan, 0.2, np.nan])
    np.testing.assert_allclose(ds["co2_mole_fraction_variability"], [np.nan, 0.36, np.nan])
    np.testing.assert_allclose(ds["co2_mole_fraction_number"], [np.nan, 13, np.nan])
    np.testing.assert_allclose(ds["co2_mole_fraction_filled"], [0, 0, 1])
    assert "names 6 columns but rows have 7" in ds.attrs["history"] and "1 uncertainties of 0.00 were masked" in ds.attrs["history"]


def test_co2_global_and_annual(tmp_path):
    ds = read_co2_ppm(written(tmp_path, "co2-mm-gl.csv", "Date,Decimal Date,Average,Trend\n1979-01,1979.042,336.56,0.11,335.92,0.09\n"
                                                         "1979-02,1979.125,337.29,0.09,336.26,0.09\n"))
    np.testing.assert_allclose(ds["co2_mole_fraction_uncertainty"], [0.11, 0.09])
    assert ds["site"].item() == "global" and np.isnan(ds["latitude"].item())
    ds = read_co2_ppm(written(tmp_path, "co2-annmean-gl.csv", "Year,Mean,Uncertainty\n1979,336.85,0.10\n1980,338.91,0.07\n"))
    assert ds["time"].attrs["step"] == "P1Y" and ds["time"].values[1] == np.datetime64("1980-01-01")
    np.testing.assert_allclose(ds["co2_mole_fraction_uncertainty"], [0.10, 0.07])


@pytest.mark.parametrize(("old", "new", "parts"), [
    ("1974-05,1974.3750", "1974-05,1975.3750", ("1974-05, 1975.3750", "line 3")),
    ("1974-05,", "May 1974,", ("May 1974", "line 3")),
    (",13,0.36,0.20", ",13,0.36", ("line 3",)),
    ("333.2", "-33.2", ("co2_mole_fraction between", "1974-05-01")),
])
def test_co2_faults_have_a_sentence(tmp_path, old, new, parts):
    complaint(read_co2_ppm, written(tmp_path, "co2-mm-mlo.csv", MLO.replace(old, new)), *parts)


def test_trendy_without_a_last_line_end(tmp_path):
    path = written(tmp_path, "CO2.txt", "Annee_1700=277.57\nAnnee_1701=277.60\nAnnee_1702=277.62")
    ds = read_trendy_co2(path)
    assert recognised(path) == ["TRENDY annual CO2"] and ds["time"].attrs["step"] == "P1Y" and ds.sizes["time"] == 3
    assert ds["time"].values[0] == np.datetime64("1700-01-01") and float(ds["co2_mole_fraction"][2]) == 277.62
    complaint(read_trendy_co2, written(tmp_path, "bad.txt", "Annee_1700=277.57\nAnnee_1701=\n"), "Annee_1701=", "line 2")
    complaint(read_trendy_co2, written(tmp_path, "twice.txt", "Annee_1700=277.57\nAnnee_1700=277.57\n"), "twice")


# ---------------------------------------------------------------------- Picarro

PICARRO = """Created:  6 Jan 22 08:30 GMT
     -      -         -    -       ch4     ch4   ch4       co2     co2   co2        co
  date   time      type port         C   stdev     N         C   stdev     N         C
140630 000430       air    9       nan     nan   nan    396.87   0.047    19     100.0
140630 000530       air    9   1888.13   0.169    19    396.95   0.018    19     100.0
140630 000630       std    9   1888.13   0.169    19    450.00   0.018    19     100.0
140630 000930       air    9   1888.13   0.169    19    396.99   0.018    19     100.0
"""


def test_picarro_minutes_have_their_middle_as_stamp(tmp_path):
    path = written(tmp_path, "tac.picarro.1minute.100m.201407.dat", PICARRO)
    ds = read_picarro(path)
    assert recognised(path) == ["Picarro .dat of GCWerks"] and ds["site"].item() == "TAC" and ds.attrs["inlet"] == "100m"
    assert ds["time"].values[0] == np.datetime64("2014-06-30T00:04:00") and ds["time"].attrs["label_in_file"] == "middle"
    np.testing.assert_allclose(ds["co2_mole_fraction"], [396.87, 396.95, np.nan, 396.99])
    np.testing.assert_allclose(ds["ch4_mole_fraction"], [np.nan, 1888.13, np.nan, 1888.13])
    for part in ("1 rows of another type than air", "2 steps between the first and the last are absent", "not taken: co."):
        assert part in ds.attrs["history"]


def test_picarro_hours_and_faults(tmp_path):
    hours = PICARRO.replace("000430", "003457").replace("000530", "013458").replace("000630", "023457").replace("000930", "033459")
    ds = read_picarro(written(tmp_path, "tac.picarro.hourly.100m.dat", hours))
    assert ds["time"].values[0] == np.datetime64("2014-06-30T00:00") and ds["time"].attrs["step"] == "PT1H"
    name = "tac.picarro.1minute.100m.dat"
    complaint(read_picarro, written(tmp_path, name, PICARRO.replace("140630 000530", "140630 006530")), "006530", "line 5")
    complaint(read_picarro, written(tmp_path, name, PICARRO.replace("000530", "000430")), "twice")
    complaint(read_picarro, written(tmp_path, name, PICARRO.replace("date   time", "time   date")), "line 3")
    complaint(read_picarro, written(tmp_path, name, PICARRO[:-30]), "line 7", "cut short")


# ---------------------------------------------------------------------- fields, arrays


def footprint(**changes):
    ds = xr.Dataset({"fp": (("lat", "lon", "time"), np.full((2, 3, 4), 0.5), {"units": "(mol/mol)/(mol/m2/s)"}),
                     "age": (("lat", "lon"), [[np.nan, 1, 2], [3, 4, 5.0]])},
                    coords={"lat": [52.0, 52.5], "lon": [0.0, 0.5, 1.0],
                            "time": ("time", np.arange(4.0), {"units": "hours since 2014-07-01"})})
    return ds.assign(changes)


def test_openghg_keeps_units_and_dimensions(tmp_path):
    path = tmp_path / "fp.nc"
    footprint().to_netcdf(path)
    ds = read_openghg(path)
    assert recognised(path) == ["openghg NetCDF"] and ds.attrs["kind"] == "field" and dict(ds.sizes) == {"lat": 2, "lon": 3, "time": 4}
    assert ds["fp"].attrs["units"] == "(mol/mol)/(mol/m2/s)" and ds["time"].values[3] == np.datetime64("2014-07-01T03:00")
    assert "age: 1 of 6 values are NaN" in ds.attrs["history"] and "age has no units" in ds.attrs["history"]
    assert len(ds.attrs["sha256"]) == 64


@pytest.mark.parametrize(("changed", "parts"), [
    (lambda ds: ds.assign(fp=ds["fp"] - 1), ("fp between 0", "-0.5 and 23 more")),
    (lambda ds: ds.assign_coords(lat=[52.0, 152.5]), ("lat in degrees",)),
    (lambda ds: ds.assign_coords(lon=[0.0, 1.0, 0.5]), ("lon in degrees, in order",)),
    (lambda ds: ds.assign_coords(time=("time", np.arange(4.0), {"units": "weeks of work"})), ("weeks of work",)),
    (lambda ds: ds.assign_coords(time=("time", [0.0, 2, 1, 3], {"units": "hours since 2014-07-01"})), ("increasing",)),
    (lambda ds: ds.rename(fp="footprint"), ("fp, flux or vmr_n",)),
])
def test_openghg_faults_have_a_sentence(tmp_path, changed, parts):
    path = tmp_path / "fp.nc"
    changed(footprint()).to_netcdf(path)
    complaint(read_openghg, path, *parts)


def test_openghg_real_respiration_adds_four_to_twelve_ppm(data_dir):
    folder = data_dir / "atm" / "openghg_tacolneston"
    fp = read_openghg(folder / "TAC-100magl_UKV_co2_TEST_201407.nc")
    flux = read_openghg(folder / "co2-rtot-cardamom-2hr_TEST_2014.nc")
    added = 1e6 * (fp["fp"].values * flux["flux"].mean("time").values[..., None]).sum(axis=(0, 1))
    assert 1 < added.min() and added.max() < 16 and 4 < np.median(added) < 12
    air = read_picarro(folder / "tac.picarro.1minute.100m.201407.dat")["co2_mole_fraction"]
    hourly = air.sel(time=slice("2014-07-01T00:00", "2014-07-04T00:59")).resample(time="1h").mean()
    assert fp["time"].values[[0, -1]].tolist() == np.array(["2014-07-01T00", "2014-07-04T00"], dtype="datetime64[ns]").tolist()
    assert 388 < float(hourly.min()) < 390 and 409 < float(hourly.max()) < 412


def test_arrays_are_numbers_and_nothing_else(tmp_path):
    path = tmp_path / "forcing.npy"
    np.save(path, np.array([[1.0, np.nan], [3.0, 4.0]]))
    ds = read_array(path)
    assert recognised(path) == ["NumPy array, .npy"] and ds.attrs["kind"] == "array" and ds["array"].dims == ("dim_0", "dim_1")
    assert "1 values are not finite" in ds.attrs["history"]
    for name, values in {"objects": np.array([{}, []], dtype=object), "texts": np.array(["a"]), "empty": np.zeros((0, 3))}.items():
        np.save(tmp_path / f"{name}.npy", values, allow_pickle=True)
        complaint(read_array, tmp_path / f"{name}.npy")
    (tmp_path / "cut.npy").write_bytes(path.read_bytes()[:-8])
    complaint(read_array, tmp_path / "cut.npy")
