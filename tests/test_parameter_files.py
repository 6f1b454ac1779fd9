"""Lists of parameters of model centres: what is read, the space it becomes, and the way back without loss."""

import time

import jax
import numpy as np
import openpyxl
import pandas as pd
import pytest

from landcal_jax.io.parameter_lists.reading import read_parameters, write_parameters
from landcal_jax.parameters import Parameter, ParameterSpace

PPE_HEAD = ('test,final,name,location,min,max,flag,comments?,Description,"Tech Note Equation Ref.\n(github version)",'
            '"CLM5 Default Value(s)",Units,pft_mins,pft_maxs\r\n')
PPE = PPE_HEAD + (
    '"for testing purposes, make blank","for full ensemble, 1 include",as on the paramfile,"P, N\nor H",low side,high side,flag,'
    ',,,,,"DO NOT EDIT",\r\n'
    ',,"Radiation parameters, mostly",,,,,a remark,,,,,,\r\n'
    '1,1,leaf_x,P,pft,pft,,,"Leaf ""x""",,varies: 0.1 to 0.34,fraction,"0, 0.23,0.27","0,0.39,0.39"\r\n'
    '0,1,drag,P,0.4,0.95,,,drag of leaves,,6.8E-01,m/s,,\r\n'
    '0,1,heat,P,20percent,50 percent,,,,,2.70E+03,J/K/m3,,\r\n'
    '0,1,psi,P,30percent,30percent,,,,,-2.0,Pa,,\r\n'
    '0,1,bare_sf,P,90percent,900percent,,,a scale factor,,,unitless,,\r\n'
    '0,1,off, N ,-0.64,-0.96,,,,,-0.8,MPa,,\r\n'
    '0,1,edge,P,0.1,0.13,,max is the default,,,0.13,1,,\r\n'
    '0,1,tall,P,1,200000,,,,,100,1,,\r\n'
    '0,0,kept,P,0.01,0.02,,,,,0.015,1,,\r\n'
    '0,0,unknown,P,20percent,20percent,,,,,48*3600,s ,,\r\n'
    '0,1,kc,P,90percent,900percent,KCN,,,,2.0,1,,\r\n'
    '0,1,kn,P,pft,pft,KCN,,,,3,1,"0,0.3,0.3","0,30,30"\r\n'
    '0,1,rising,P,0.25,0.5,LF,,,,0.25,1,,\r\n'
    '0,1,falling,P,0.5,0.25,LF,,,,0.5,1,,\r\n'
    '\r\n'
    '0,0,om_b,H,,,,,,,varies with soil depth,,,\r\n'
    '0,0,,H,,,,,,,2.91,--,,\r\n')

CALLMIP = ("param,loc,include,flag,min,max,precision,pft_mins,pft_maxs\n"
           'kmax,P,1,,pft,pft,.12f,"0.0,3e-09,4e-09","0.0,3.8e-08,4e-09"\n'
           "grperc,P,1,,0.05,0.3,.3f,,\n"
           "r_mort,P,1,,50percent,50percent,.4f,,\n"
           "unused,P,0,,0.8,0.9,.4f,,\n"
           "KCN,P,{kcn},KCN,pft,pft,.4f,0,0\n"
           'kc,P,0,KCN,pft,pft,.4f,"0, 1, 2","0,  3,4"\n'
           "kn,P,0,KCN,50percent,100percent,.4f,,\n")


def odd(table, start):
    return next((sentence for sentence in table.odd if sentence.startswith(start)), "")


def write(path, text):
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def ppe(tmp_path):
    return read_parameters(write(tmp_path / "params.csv", PPE))


# ---------------------------------------------------------------------- CLM


def test_clm_bounds_of_every_kind(ppe):
    space = ppe.space
    assert ppe.format == "CLM" and space.coords == {"pft": ("not vegetated", "NET temperate", "NET boreal")}
    bounds = {name: (p.low.tolist(), p.high.tolist()) for name, p in space.parameters.items()}
    assert bounds["drag"] == (0.4, 0.95) and space.parameters["drag"].units == "m/s"
    assert bounds["heat"] == (2160.0, 4050.0)
    assert bounds["psi"] == (-2.6, -1.4) and bounds["off"] == (-0.96, -0.64)
    assert bounds["bare_sf_factor"] == (pytest.approx(0.1), 10.0)
    assert bounds["leaf_x"][0][1:] == [0.23, 0.27] and bounds["leaf_x"][1][1:] == [0.39, 0.39]
    default = space.default_theta
    assert default["heat"] == 2700.0 and default["bare_sf_factor"] == 1.0 and default["drag"] == 0.68
    np.testing.assert_allclose(default["leaf_x"], [0.0, 0.31, 0.33])
    assert default["edge"] == pytest.approx(0.13 - 1e-3 * 0.03)
    assert set(space.fixed) == {"leaf_x[not vegetated]", "kept"} and space.fixed["kept"] == 0.015
    assert space.parameters["leaf_x"].description == 'Leaf "x"'


def test_clm_says_what_is_odd(ppe):
    assert odd(ppe, "3 rows without a parameter")
    assert "bare_sf (row 8)" in odd(ppe, "Bounds in percent of a default that the list does not give")
    assert "off (row 9)" in odd(ppe, "Negative, with min above max")
    assert "edge (row 10)" in odd(ppe, "Default on its bound")
    assert "tall (row 11): 2e+05 fold" in odd(ppe, "A range over more than 3 decades")
    assert "leaf_x (row 4) (2 of 3 elements) has 'varies: 0.1 to 0.34'" in odd(ppe, "Default not in the list")
    assert "unknown; om_b" in odd(ppe, "Excluded, with a default that is not in the list")
    assert "leaf_x (row 4) (1 of 3 elements)" in odd(ppe, "A range of zero width: fixed")
    assert "falling (row 17)" in odd(ppe, "In a group, with min above max")


def test_groups_move_together(ppe):
    assert ppe.groups == {"KCN": ("kc", "kn"), "LF": ("rising", "falling")}
    space = ppe.space
    assert "kc" not in space.layout.names and space.parameters["KCN"].low == 0.0
    np.testing.assert_allclose(space.default_theta["KCN"], 1 / 11, rtol=1e-12)  # 2 between 0.2 and 20, 3 between 0.3 and 30
    theta = dict(space.default_theta) | {"KCN": 1.0, "LF": 0.25}
    values = ppe.values(theta)
    np.testing.assert_allclose(values["kc"], 20.0)
    np.testing.assert_allclose(values["kn"], [3.0, 30.0, 30.0])  # bare ground has no range
    assert values["rising"] == 0.3125 and values["falling"] == 0.4375
    assert "KCN" not in values and values["kept"] == 0.015
    members = ppe.values(jax.vmap(space.physical)(np.zeros((4, space.size))))
    assert members["kn"].shape == (4, 3) and members["leaf_x"].shape == (4, 3)
    grad = jax.grad(lambda p: ppe.values(theta | {"KCN": p})["kn"].sum())(0.5)
    assert grad == pytest.approx(2 * 29.7)


def test_values_need_the_right_names(ppe):
    theta = dict(ppe.space.default_theta)
    with pytest.raises(ValueError, match="also 'heta'(.|\n)*heat"):
        ppe.values(theta | {"heta": 1.0})
    theta.pop("heat")
    with pytest.raises(ValueError, match="no heat"):
        ppe.values(theta)


@pytest.mark.parametrize("included", [0, 1])
def test_callmip_groups_by_the_row_of_the_group(tmp_path, included):
    table = read_parameters(write(tmp_path / "c.csv", CALLMIP.format(kcn=included)))
    assert table.groups == ({"KCN": ("kc", "kn_factor")} if included else {})
    assert table.space.labels == ("kmax[NET temperate]", "grperc", "r_mort_factor") + (("KCN",) if included else ())
    assert set(table.space.fixed) == {"kmax[not vegetated]", "kmax[NET boreal]"}
    assert table.values()["kmax"][2] == 4e-9 and "unused" not in table.values()
    if included:
        np.testing.assert_allclose(table.values()["kc"], [0, 1 + 2 / 3, 2 + 2 / 3])  # where the factor is 1
        assert table.values()["kn_factor"] == pytest.approx(1.0)


def test_only_labels_and_defaults_from_elsewhere(tmp_path):
    path = write(tmp_path / "c.csv", CALLMIP.format(kcn=0))
    table = read_parameters(path, only=["KCN", "r_mort"], pft=["bare", "ENF", "DBF"], prior="truncated_normal", share=0.2,
                            defaults={"r_mort": 0.02, "kc": [0.0, 1.5, 2.5, 9.0], "kn": 1.0, "grperc": 0.11})
    assert table.space.names == ("r_mort", "KCN") and table.groups == {"KCN": ("kc", "kn")}
    prior = table.space.parameters["r_mort"].transform
    np.testing.assert_allclose([prior.low, prior.high, prior.mean, prior.sd], [0.01, 0.03, 0.02, 0.2 * 0.02])
    assert table.space.fixed["grperc"] == 0.11
    np.testing.assert_allclose(table.values()["kc"], [0, 1 + 2 * 0.25, 2 + 2 * 0.25])  # positions 1/4 and 1/3 of kn: median
    assert table.space.default_theta["KCN"] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="'KCM'(.|\n)*KCN"):
        read_parameters(path, only=["KCM"])


def test_defaults_of_a_parameter_file(tmp_path):
    import xarray as xr

    xr.Dataset({"kmax": ("all", [0.0, 2e-8, 4e-9, 7.0, 7.0]), "r_mort": 0.02, "name": ("all", list("abcde")),
                "grperc": ("one", [0.1])}).to_netcdf(tmp_path / "defaults.nc")
    table = read_parameters(write(tmp_path / "c.csv", CALLMIP.format(kcn=0)), defaults=tmp_path / "defaults.nc")
    assert table.space.default_theta["kmax"].tolist() == [0.0, 2e-8, 4e-9] and table.space.default_theta["r_mort"] == 0.02


def test_a_default_that_the_space_had_to_replace_is_written(tmp_path):
    text = "param,loc,include,min,max,default\nout,P,1,0,1,5\nedge,P,1,0,1,1.0\nin,P,1,0,1,0.250\n"
    table = read_parameters(write(tmp_path / "a.csv", text))
    assert "out (row 2): 5 outside 0 and 1" in odd(table, "Default outside of its bounds")
    write_parameters(table, tmp_path / "b.csv", theta=table.space.default_theta)
    assert (tmp_path / "b.csv").read_text() == text.replace(",5\n", ",0.5\n")


def test_columns_by_pft_hold_defaults(tmp_path):
    text = "param,min,max,default,bare,ENF\nfix,0,1,0.25,0,0.25\nscale,10,60,15,,\nstem,30percent,30percent,,0,0.08\n"
    table = read_parameters(write(tmp_path / "u.csv", text))
    assert table.space.coords == {"pft": ("bare", "ENF")} and table.space.labels == ("fix[bare]", "fix[ENF]", "scale", "stem[ENF]")
    np.testing.assert_allclose(table.space.bounds()[1], [1, 1, 60, 0.104])
    write_parameters(table, tmp_path / "v.csv", theta=dict(table.space.default_theta) | {"stem": np.array([0.0, 0.09])})
    assert (tmp_path / "v.csv").read_text() == text.replace("0,0.08", "0,0.09")


def test_bare_ground_with_nan_is_fixed_and_nan_again(tmp_path):
    text = 'param,loc,include,min,max,pft_mins,pft_maxs,default\na,P,1,pft,pft,"nan,1,2","nan,3,4","nan,2,3"\n'
    table = read_parameters(write(tmp_path / "a.csv", text))
    assert table.space.size == 2 and "a (row 2) (1 of 3 elements)" in odd(table, "NaN, as for bare ground")
    assert np.isfinite(table.space.default_theta["a"]).all()
    np.testing.assert_array_equal(table.values(table.space.default_theta)["a"], [np.nan, 2.0, 3.0])


# ---------------------------------------------------------------------- ecLand


ECLAND = [["Snow parameters of ecLand", None, None, None, None, None, None, None],
          ["Parameter", "Value", "Min", "Max", "Unit", "Namelist", "Precision", "Definition"],
          ["RLWCSWEA", 200.0, 150, 250, "kg m-2", "NAMPARSNOW", "1", "liquid water capacity"],
          ["RSNDTOVERA", 3.7e7, 3.0e7, 4.5e7, "Pa s", "NAMPARSNOW", None, None],
          ["RVRSMIN", "100, 180,240", "50,90,120", "150,270,360", "s m-1", "NAMPARVEG", None, "by type"],
          [None, None, None, None, None, None, None, None],
          ["RALFMINSN", 0.5, None, None, "1", "NAMPARSNOW", None, "not calibrated"],
          ["LESN09", ".true.", None, None, None, "NAMPARSNOW", None, "a switch"]]


def workbook(path, rows):
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active["A1"] = "see the other sheet"
    sheet = book.create_sheet("Parameters")
    for row in rows:
        sheet.append(row)
    sheet["K1"] = "=SUM(B3:B4)"
    book.save(path)
    return path


@pytest.mark.parametrize("form", ["xlsx", "csv", "semicolons", "frame"])
def test_ecland_sheet(tmp_path, form):
    if form == "xlsx":
        source = workbook(tmp_path / "p.xlsx", ECLAND)
    elif form == "frame":
        source = pd.DataFrame(ECLAND[2:], columns=ECLAND[1])
    else:
        frame = pd.DataFrame(ECLAND[2:], columns=ECLAND[1])
        frame.to_csv(tmp_path / "p.csv", index=False, sep="," if form == "csv" else ";")
        source = tmp_path / "p.csv"
    table = read_parameters(source)
    assert table.format == "ecLand" and table.space.size == 5 and table.space.coords == {"type_3": ("1", "2", "3")}
    assert table.space.default_theta["RSNDTOVERA"] == 3.7e7 and table.space.fixed == {"RALFMINSN": 0.5}
    np.testing.assert_array_equal(table.space.parameters["RVRSMIN"].high, [150, 270, 360])
    assert "RALFMINSN" in odd(table, "Without bounds") and "'.true.'" in odd(table, "The value is no number")
    theta = dict(table.space.default_theta) | {"RLWCSWEA": 180.0}
    assert set(table.by_namelist(theta)) == {"NAMPARSNOW", "NAMPARVEG"}
    assert table.by_namelist(theta)["NAMPARSNOW"] == {"NAMPARSNOW.RLWCSWEA": 180.0, "NAMPARSNOW.RSNDTOVERA": 3.7e7}


def test_ecland_workbook_keeps_everything_else(tmp_path):
    table = read_parameters(workbook(tmp_path / "p.xlsx", ECLAND))
    theta = dict(table.space.default_theta) | {"RLWCSWEA": 180.25, "RVRSMIN": np.array([100.0, 181.5, 240.0])}
    write_parameters(table, tmp_path / "q.xlsx", theta=theta)
    book = openpyxl.load_workbook(tmp_path / "q.xlsx")
    assert book.sheetnames == ["Notes", "Parameters"] and book["Parameters"]["K1"].value == "=SUM(B3:B4)"
    cells = [[cell.value for cell in row[:8]] for row in book["Parameters"].iter_rows()]
    wanted = [list(row) for row in ECLAND]
    wanted[2][1], wanted[4][1] = 180.25, "100,181.5,240"
    assert cells == wanted


# ---------------------------------------------------------------------- round trips


@pytest.mark.parametrize("source", ["ppe", "callmip", "ecland", "xlsx", "cr", "bom"])
def test_cells_come_back_verbatim(tmp_path, source):
    text = {"ppe": PPE, "callmip": CALLMIP.format(kcn=1), "cr": CALLMIP.format(kcn=1).replace("\n", "\r"), "bom": "\ufeff" + PPE,
            "ecland": "Parameter;Value;Min;Max;Unit\nA; 1.50 ;1;2;m\n\n\"B;\";x;;;\n"}.get(source)
    path = write(tmp_path / "p.csv", text) if text else workbook(tmp_path / "p.xlsx", ECLAND)
    table = read_parameters(path)
    again = tmp_path / f"q{path.suffix}"
    write_parameters(table, again)
    if text:
        assert again.read_bytes() == path.read_bytes()
    pd.testing.assert_frame_equal(read_parameters(again).frame, table.frame)
    moved = dict(table.space.default_theta)
    with pytest.raises(FileExistsError, match="(?s)Expected: no file .*q.*Try: .*overwrite=True"):
        write_parameters(table, again, theta=moved)
    pd.testing.assert_frame_equal(read_parameters(again).frame, table.frame)
    write_parameters(table, again, theta=moved, overwrite=True)
    new = read_parameters(again)
    differing = new.frame.iloc[:, :table.frame.shape[1]] != table.frame
    written = {new.frame.loc[row].iloc[2 if source in ("ppe", "bom") else 0] for row in differing.index[differing.any(axis=1)]}
    # What was known stays verbatim; what the list did not know has its value now.
    assert written == ({"leaf_x"} if source in ("ppe", "bom") else set())
    for name, value in new.space.default_theta.items():
        np.testing.assert_allclose(value, moved[name], rtol=1e-12)


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_theta_becomes_the_defaults_of_a_list(tmp_path, ppe, suffix):
    space = ppe.space
    theta = space.physical(np.linspace(-1, 1, space.size))
    write_parameters(ppe, tmp_path / f"new.{suffix}", theta=theta)
    new = read_parameters(tmp_path / f"new.{suffix}")
    for name, value in new.values().items():
        if name not in ("bare_sf_factor", "heat", "psi", "kc", "LF", "kn", "rising", "falling"):
            np.testing.assert_allclose(value, ppe.values(theta)[name], rtol=1e-12, err_msg=name)
    column = "CLM5 Default Value(s)"
    frame = new.frame.set_index("name")[column]
    assert float(frame["heat"]) == pytest.approx(float(theta["heat"])) and frame["kept"] == "0.015"
    assert float(frame["kc"]) == pytest.approx(float(ppe.values(theta)["kc"]))
    assert frame["bare_sf"] == f"{float(theta['bare_sf_factor'])!r} times the default"
    assert frame["unknown"] == "48*3600"


def test_a_list_without_a_column_for_defaults_gets_one(tmp_path):
    table = read_parameters(write(tmp_path / "c.csv", CALLMIP.format(kcn=0)))
    theta = dict(table.space.default_theta) | {"kmax": np.array([0.0, 1e-8, 4e-9]), "r_mort_factor": 1.2}
    write_parameters(table, tmp_path / "d.csv", theta=theta)
    lines = (tmp_path / "d.csv").read_text().splitlines()
    assert lines[0].endswith("pft_maxs,default") and lines[1].endswith(',"0.0,1e-08,4e-09"') and lines[2].endswith(",,,0.175")
    assert lines[3].endswith(",,,1.2 times the default") and lines[4] == "unused,P,0,,0.8,0.9,.4f,,,"
    assert read_parameters(tmp_path / "d.csv").space.default_theta["kmax"].tolist() == [0.0, 1e-8, 4e-9]


def test_numbers_in_single_precision_are_written_short(tmp_path, ppe):
    theta = {name: np.asarray(value, np.float32) for name, value in ppe.space.default_theta.items()}
    write_parameters(ppe, tmp_path / "a.csv", theta=theta | {"drag": np.float32(0.7)})
    frame = read_parameters(tmp_path / "a.csv").frame.set_index("name")["CLM5 Default Value(s)"]
    assert frame["drag"] == "0.7" and frame["heat"] == "2.70E+03"


def assert_same(one, two):
    assert one.layout == two.layout
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("prior", ["uniform", "truncated_normal"])
@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_table_to_space_to_landcal_to_space(tmp_path, suffix, prior):
    first = read_parameters(write(tmp_path / "params.csv", PPE), prior=prior)
    write_parameters(first, tmp_path / f"own.{suffix}", format="landcal")
    own = read_parameters(tmp_path / f"own.{suffix}")
    assert own.format == "landcal"
    assert_same(own.space, first.space)
    write_parameters(own, tmp_path / f"again.{suffix}", theta=dict(own.space.default_theta))
    pd.testing.assert_frame_equal(read_parameters(tmp_path / f"again.{suffix}").frame, own.frame)
    theta = dict(own.space.default_theta) | {"heat": 3000.0, "leaf_x": np.array([0.0, 0.3, 0.35])}
    write_parameters(own, tmp_path / f"moved.{suffix}", theta=theta)
    moved = read_parameters(tmp_path / f"moved.{suffix}")
    assert moved.space.default_theta["heat"] == 3000.0 and moved.space.default_theta["leaf_x"].tolist() == [0.0, 0.3, 0.35]
    assert int((moved.frame != own.frame).to_numpy().sum()) == 3


def test_a_space_is_written_as_a_landcal_table(tmp_path):
    space = ParameterSpace({"a": Parameter.log_uniform(1e-4, 0.1, dims="soil"), "b": Parameter.uniform(0.0, 1.0)},
                           {"soil": ["1", "2"]}).fix("b")
    write_parameters(space, tmp_path / "s.csv", theta={"a": [0.001, 0.01]})
    table = read_parameters(tmp_path / "s.csv", only=["a"])
    assert table.space.default_theta["a"].tolist() == [0.001, 0.01] and "log uniform" in str(table)
    with pytest.raises(ValueError, match="ends with .csv, .xlsx"):
        write_parameters(space, tmp_path / "s.nc")


def test_what_is_printed(ppe):
    lines = str(ppe).splitlines()
    assert lines[0].endswith("params.csv: CLM; 15 parameters; 11 elements free; 11 parameters in the space; 2 left out; pft: 3")
    row = next(line for line in lines if line.strip().startswith("drag"))
    assert row.split() == ["drag", "0.68", "0.4", "to", "0.95", "uniform", "m/s", "P", "free"]
    assert any(line.strip().startswith("kc ") and line.endswith("moves with KCN") for line in lines)
    assert any(line.strip().startswith("KCN") and line.endswith("group of 2") for line in lines)
    assert "What is odd:" in lines


def test_hundreds_of_parameters_by_pft_in_seconds(tmp_path):
    random = np.random.default_rng(0)
    rows = ["name,location,include,min,max,pft_mins,pft_maxs,default"]
    for i in range(300):
        low = random.uniform(0.1, 1.0, 17)
        rows.append(f'p{i},P,1,pft,pft,"{",".join(map(repr, low.tolist()))}","{",".join(map(repr, (3 * low).tolist()))}",'
                    f'"{",".join(map(repr, (2 * low).tolist()))}"')
    start = time.perf_counter()
    table = read_parameters(write(tmp_path / "many.csv", "\n".join(rows)))
    read = time.perf_counter() - start
    theta = table.space.default_theta
    write_parameters(table, tmp_path / "again.csv", theta=theta)
    assert (tmp_path / "again.csv").read_text() == "\n".join(rows)
    assert table.space.size == 5100 and len(str(table).splitlines()) > 300
    assert read < 2.0 and time.perf_counter() - start < 15.0


def test_a_location_that_nobody_knows_is_odd(tmp_path):
    table = read_parameters(write(tmp_path / "c.csv", "name,location,min,max,default\na,P,1,3,2\nb,Q,1,3,2\nc,,1,3,2\nd,\"N, H\",1,3,2\n"))
    assert odd(table, "A location that is none of").endswith("b (row 3): 'Q'.")


def test_a_fixed_parameter_without_a_range_is_shown_as_fixed(tmp_path):
    table = read_parameters(write(tmp_path / "c.csv", "name,include,min,max,default\na,1,1,3,2\nb,0,,,0.5\nc,0,,,0\n"))
    write_parameters(table, tmp_path / "own.csv", format="landcal")
    rows = [line.split() for line in str(read_parameters(tmp_path / "own.csv")).splitlines()]
    assert ["b", "0.5", "1", "fixed"] in rows and ["c", "0", "1", "fixed"] in rows and rows[2][-1] == "free"


def test_a_table_of_landcal_keeps_its_digits_without_float64(tmp_path):
    """Whatever JAX computes in: what stands in the table is what is shown and written."""
    text = ("name,default,prior,median,sd_of_log,low,high,units,fixed,fixed_at\n"
            "a,0.002,uniform,,,0.001,0.003,1,no,\nb,0.1,log_normal,0.1,0.3,,,1,yes,0.3\n")
    with jax.enable_x64(False):
        table = read_parameters(write(tmp_path / "own.csv", text))
        shown = str(table)
        assert [entry.low.item() for entry in table.entries] == [0.001, 0.0] and table.values()["b"].item() == 0.3
        write_parameters(table.space, tmp_path / "again.csv")
    assert "0.001 to 0.003" in shown and "fixed at 0.3" in shown
    lines = (tmp_path / "again.csv").read_text().splitlines()
    assert lines[1].startswith("a,0.002,uniform,") and ",0.001,0.003,1," in lines[1] and lines[2].endswith(",yes,0.3")
