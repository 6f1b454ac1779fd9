"""Parameter tables and Datasets: exact round trips, and a sentence for every malformed table."""

import jax
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.parameters import Parameter, ParameterSpace


@pytest.fixture(scope="module")
def space():
    third = 1.0 / 3.0
    return ParameterSpace(
        {"lma": Parameter.bounded([90.0, 100 * third], 30.1, 20.0, [400.0, 300.0], dims="pft", units="g m-2",
                                  description='leaf mass, "dry"'),
         "rate": Parameter.log_uniform(1e-4, third, units="d-1"),
         "offset": Parameter.normal(0.1 + 0.2, 2.0, dims=("pft", "site")),
         "scale": Parameter.log_normal(3.0 * third, 0.5),
         "share": Parameter.uniform(0.0, 1.0, default=third),
         "depth": Parameter.bounded(1.0, 0.7, 0.0, np.inf, units="m")},
        coords={"pft": ["DBF", "ENF"], "site": [1, 2, 3]},
    ).fix("share", **{"lma[ENF]": 33.0})


def assert_same(one, two):
    assert one.layout == two.layout
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_csv_round_trip_is_exact(space, tmp_path):
    space.to_csv(tmp_path / "table.csv")
    again = ParameterSpace.from_csv(tmp_path / "table.csv")
    assert_same(space, again)
    assert again.fixed.keys() == space.fixed.keys()
    text = (tmp_path / "table.csv").read_text()
    assert text.splitlines()[0] == ("name,pft,site,default,prior,mean,sd,median,sd_of_log,low,high,units,description,"
                                    "fixed,fixed_at")
    assert "0.30000000000000004" in text


def test_dataframe_has_numbers_and_reads_back(space):
    frame = space.to_dataframe()
    assert len(frame) == 12 and frame["default"].dtype == float
    assert_same(space, ParameterSpace.from_dataframe(frame))


def test_dataset_round_trip_is_exact_through_netcdf(space, tmp_path):
    dataset = space.to_dataset()
    assert dataset["lma"].attrs["units"] == "g m-2" and dataset["lma"].attrs["high"] == [400.0, 300.0]
    assert dataset["rate"].attrs["prior"].startswith("log uniform: low 0.0001")
    assert float(dataset["lma"].sel(pft="ENF")) == 33.0
    dataset.to_netcdf(tmp_path / "space.nc")
    with xr.open_dataset(tmp_path / "space.nc") as read:
        assert_same(space, ParameterSpace.from_dataset(read))


def test_dataset_carries_values_and_correlation():
    plain = ParameterSpace({"a": Parameter.uniform(0.0, 2.0), "b": Parameter.normal(1.0, 2.0)},
                           correlation=[[1.0, 0.3], [0.3, 1.0]])
    z = np.array([0.5, -1.0])
    dataset = plain.to_dataset(z)
    np.testing.assert_allclose(dataset["a"], plain.physical(z)["a"])
    np.testing.assert_allclose(plain.to_dataset({"a": 0.4, "b": 3.0})["b"], 3.0)
    again = ParameterSpace.from_dataset(dataset)
    assert_same(plain, again)
    with pytest.raises(ValueError, match="without correlation"):
        plain.to_dataframe()


def test_a_table_by_hand_needs_few_columns(tmp_path):
    path = tmp_path / "hand.csv"
    path.write_text("name, pft, prior, low, high, mean, sd\nk,,uniform,1,3,,\n"
                    "lma,ENF,truncated_normal,,9,4,1\nlma,DBF,truncated_normal,0,9,5,1\n")
    space = ParameterSpace.from_csv(path)
    assert space.labels == ("k", "lma[ENF]", "lma[DBF]")
    assert space.default_theta["k"] == 2.0 and space.parameters["k"].units == "1"
    np.testing.assert_array_equal(space.bounds()[0], [1.0, -np.inf, 0.0])


def test_spreadsheet_cells_may_be_numbers_and_nan():
    frame = pd.DataFrame({"name": ["a", "b", "b"], "soil": [np.nan, 1.0, 2.0], "prior": "uniform", "low": 0,
                          "high": [1, 2, 3], "fixed": [None, "", "no"]})
    assert ParameterSpace.from_dataframe(frame).labels == ("a", "b[1]", "b[2]")


HEAD = "name,pft,default,prior,mean,sd,median,sd_of_log,low,high,units,description,fixed,fixed_at\n"
GOOD = "a,,1.0,normal,1.0,2.0,,,,,1,,no,\n"
MALFORMED = {
    "no prior column": ("name,low\na,1\n", "add prior"),
    "misspelt column": ("name,prior,units,higth,low\na,uniform,m,1,0\n", "rename it to 'high'"),
    "unknown prior": (HEAD + "a,,1.0,gaussian,1.0,2.0,,,,,1,,no,\n", "'gaussian'"),
    "code as prior": (HEAD + "a,,1.0,__import__('os'),1.0,2.0,,,,,1,,no,\n", "a prior out of"),
    "no name": (HEAD + ",,1.0,normal,1.0,2.0,,,,,1,,no,\n", "a parameter name in line 2"),
    "not a number": (HEAD + "a,,1.0,normal,one,2.0,,,,,1,,no,\n", "a number in column 'mean', line 2 of .*'one'"),
    "code as number": (HEAD + "a,,1.0,normal,2*3,2.0,,,,,1,,no,\n", "a number in column 'mean'"),
    "blank number": (HEAD + "a,,1.0,normal,,2.0,,,,,1,,no,\n", "a blank cell"),
    "number unused": (HEAD + "a,,1.0,normal,1.0,2.0,,,0.0,5.0,1,,no,\n", "also low, high"),
    "default outside": (HEAD + "a,,9.0,uniform,,,,,0.0,5.0,1,,no,\n", "inside the bounds.*parameter 'a'.*line 2"),
    "low high": (HEAD + "a,,9.0,uniform,,,,,5.0,0.0,1,,no,\n", "low < high for parameter 'a'"),
    "twice": (HEAD + GOOD + GOOD, "one row for a"),
    "mixed dims": (HEAD + GOOD + GOOD.replace("a,,", "a,x,"), "labels along no dim"),
    "missing label": (HEAD + GOOD.replace("a,,", "a,x,") + GOOD.replace("a,,", "b,y,"), "none for y|none for x"),
    "units differ": (HEAD + GOOD.replace("a,,", "a,x,") + GOOD.replace("a,,", "a,y,").replace(",1,,no", ",m,,no"),
                     "one units for all rows"),
    "fixed": (HEAD + GOOD.replace(",no,", ",1,"), "yes or no in column 'fixed'"),
    "fixed_at alone": (HEAD + GOOD.replace(",no,", ",no,3.0"), "fixed = yes beside"),
    "all fixed": (HEAD + GOOD.replace(",no,", ",yes,"), "at least one free"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_tables_are_named(fault, tmp_path):
    text, sentence = MALFORMED[fault]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=f"(?s){sentence.removeprefix('(?s)')}") as caught:
        ParameterSpace.from_csv(tmp_path / "bad.csv")
    assert "Expected:" in str(caught.value) and "Try:" in str(caught.value)


def test_what_a_table_cannot_hold_is_refused():
    other = ParameterSpace({"a": Parameter(dist.Gumbel(0.0, 1.0))})
    with pytest.raises(ValueError, match="Gumbel"):
        other.to_dataframe()
    with pytest.raises(ValueError, match="prior_kind"):
        ParameterSpace.from_dataset(other.to_dataset())
    crossed = ParameterSpace({"a": Parameter.normal(0.0, 1.0, dims=("x", "y")),
                              "b": Parameter.normal(0.0, 1.0, dims=("y", "x"))}, {"x": [1], "y": [1]})
    with pytest.raises(ValueError, match="order of coords"):
        crossed.to_dataframe()
    assert ParameterSpace.from_dataset(crossed.to_dataset()).layout == crossed.layout


def test_a_broken_dataset_is_named(space):
    dataset = space.to_dataset()
    dataset["lma"].attrs["mean"] = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="attribute 'mean' with 1 or 2 numbers on 'lma'"):
        ParameterSpace.from_dataset(dataset)
    with pytest.raises(ValueError, match="prior_kind"):
        ParameterSpace.from_dataset(xr.Dataset({"a": 1.0}))
