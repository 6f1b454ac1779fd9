"""LAVENDAR dicts and Fortran namelists: read, patched without a trace elsewhere, and never run."""

import ast

import numpy as np
import pytest

from landcal_jax.io.parameter_lists.reading import patch_namelist, read_parameters, write_parameters

SETUP = '''# set up of an experiment
import os
output_directory = os.getcwd() + '/output'
"""
opt_params = {'old': [1.0, (0.0, 2.0)]}
"""
opt_params = {'pft_params': {
                  'jules_pftparm': {  # grüner Mais
                      'neff_io': [7, 6.24155040e-04, (5e-05, 0.0015)],
                      'alpha_io': [7, 6.7e-02, (0, 1.0)]}},
              'crop_params': {
                  'jules_cropparm': {
                      'delta_io': [2, -2.97701647e-01, (-2.0, 0.0)]},
                  'jules_other': {'alpha_io': ['None', 3, (1, 5)]}}}
prior_err = 0.2
'''

PFT = """! parameters of five types, after a paper with don't & do's
&jules_pftparm   ! a = 1, / not the end
  neff_io = 3*0.0008,
            8.0D-4, 5.0e-4   ! the last is "maize"
  a_ws_io = 10, 10, 1, 1, 10
  c3_io=1,1,1,0,1
  tlow_io(2:3) = -10.0 0.0
  name_io = 'it''s / C3', "b=2"
  l_flag = .true.
  gap_io = 1.0, , 3.0
  mat(1,:) = 1.0, 2.0
  mat(2,:) = 3.0, 4.0
  last_io = 1.5 2.5
/
 &OTHER RLWCSWEA=200., x = 1 /
&empty /
&rep a=1. / &rep a=2. /
"""


def patched(tmp_path, values, text=PFT):
    (tmp_path / "in.nml").write_bytes(text.encode("latin-1"))
    patch_namelist(tmp_path / "in.nml", values, tmp_path / "out.nml")
    return (tmp_path / "out.nml").read_bytes().decode("latin-1")


# ---------------------------------------------------------------------- LAVENDAR


@pytest.fixture
def setup(tmp_path):
    (tmp_path / "experiment_setup.py").write_text(SETUP, encoding="utf-8")
    return read_parameters(tmp_path / "experiment_setup.py", prior="truncated_normal", share=0.25)


def test_lavendar_file(setup):
    names = ("neff_io", "pft_params.jules_pftparm.alpha_io", "delta_io", "crop_params.jules_other.alpha_io")
    assert setup.format == "LAVENDAR" and setup.space.names == names
    assert setup.space.default_theta["delta_io"] == -0.297701647
    prior = setup.space.parameters["neff_io"].transform
    np.testing.assert_allclose([prior.mean, prior.sd, prior.low, prior.high], [6.2415504e-4, 0.25 * 1.45e-3, 5e-5, 1.5e-3])
    assert any(sentence.startswith("prior_err in the file") for sentence in setup.odd)
    assert "pft_params/jules_pftparm[7] " in str(setup).replace("  ", " "), "a place is shown whole"
    values = setup.by_namelist(dict(setup.space.default_theta) | {"neff_io": 7e-4})
    assert values == {"pft_params": {"jules_pftparm.neff_io(8)": 7e-4, "jules_pftparm.alpha_io(8)": 6.7e-2},
                      "crop_params": {"jules_cropparm.delta_io(3)": -0.297701647, "jules_other.alpha_io": 3.0}}


def test_lavendar_file_comes_back(setup, tmp_path):
    write_parameters(setup, tmp_path / "a.py")
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == SETUP
    theta = dict(setup.space.default_theta) | {"crop_params.jules_other.alpha_io": 3.5, "neff_io": 7e-4}
    write_parameters(setup, tmp_path / "b.py", theta=theta)
    wanted = SETUP.replace("6.24155040e-04", "0.0007").replace("'None', 3,", "'None', 3.5,")
    assert (tmp_path / "b.py").read_text(encoding="utf-8") == wanted


def test_lavendar_dict(setup, tmp_path):
    given = {"b": [15.7, (0.0, 32.0)], "group": {"c": (2, 0.3, [0.0, 1.5])}}
    table = read_parameters(given)
    assert table.space.labels == ("b", "c") and table.source == "the dict"
    write_parameters(table, tmp_path / "d.py", theta={"b": 16.0, "c": 0.3})
    text = (tmp_path / "d.py").read_text()
    assert ast.literal_eval(text.split("=", 1)[1].strip()) == {"b": [16.0, (0.0, 32.0)], "group": {"c": (2, 0.3, [0.0, 1.5])}}
    assert given["b"][0] == 15.7
    again = read_parameters(tmp_path / "d.py")
    assert again.space.default_theta["b"] == 16.0


CODE = "open({path!r}, 'w').close()"
MALICIOUS = {
    "a call as prior": ("{{'a': [{code}, (0, 1)]}}", "which is not run"),
    "a call as dict": ("opt_params = dict(a={code})", "none that is written out"),
    "a call as key": ("opt_params = {{str({code}): [1.0, (0, 2)]}}", "names in quotes"),
    "beside the dict": ("{code}\nopt_params = {{'a': [1.0, (0, 2)]}}", None),
    "an import": ("{{'a': [__import__('os').system('touch {path}'), (0, 1)]}}", "which is not run"),
    "unpacked": ("{{**{code}, 'a': [1, (0, 2)]}}", "names in quotes"),
    "comprehension": ("opt_params = {{'a': [x for x in [{code}]]}}", "which is not run"),
    "f-string": ("{{'a': [f'{{{code}}}', (0, 1)]}}", "no Python|which is not run"),
}


@pytest.mark.parametrize("fault", MALICIOUS)
def test_code_in_a_dict_is_never_run(tmp_path, fault):
    mark = tmp_path / "was_run"
    text, sentence = MALICIOUS[fault]
    (tmp_path / "p.py").write_text(text.format(code=CODE.format(path=str(mark)), path=mark))
    if sentence is None:
        assert read_parameters(tmp_path / "p.py").space.size == 1
    else:
        with pytest.raises(ValueError, match=sentence):
            read_parameters(tmp_path / "p.py")
    assert not mark.exists()


BAD_DICTS = {
    "text": ("{'a': ['x', (0, 1)]}", "for a in line 1"), "bounds": ("{'a': [1.0, (0, 1, 2)]}", r"\[index, prior, \(low, high\)\]"),
    "reversed": ("{'a': [1.0, (3, 2)]}", "min below max for a in line 1"), "infinite": ("{'a': [1.0, (0, 1e999)]}", "finite numbers"),
    "boolean": ("{'a': [True, (0, 2)]}", "finite numbers"), "index": ("{'a': [-1, 1.0, (0, 2)]}", "index counts from 0"),
    "empty": ("{}", "at least one parameter"), "cut": ("opt_params = {'a': [1.0, (0, 2)", "no Python"),
    "deep": ("{'a': " * 300 + "1" + "}" * 300, "Expected"), "two": ("a = {'x': [1, (0, 2)]}\nb = {'y': [1, (0, 2)]}", "Expected"),
    "name": ("{'a[1]': [1.0, (0, 2)]}", "a parameter name"),
}


@pytest.mark.parametrize("fault", BAD_DICTS)
def test_malformed_dicts_are_named(tmp_path, fault):
    text, sentence = BAD_DICTS[fault]
    (tmp_path / "p.py").write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_parameters(tmp_path / "p.py")
    assert "Try:" in str(caught.value) and str(tmp_path) in str(caught.value)


# ---------------------------------------------------------------------- namelists


def test_namelist_reading(tmp_path):
    (tmp_path / "p.nml").write_text(PFT)
    table = read_parameters(tmp_path / "p.nml", relative_range=0.5, pft=["BT", "NT", "C3", "C4", "maize"])
    assert table.format == "namelist" and table.space.coords["pft"] == ("BT", "NT", "C3", "C4", "maize")
    np.testing.assert_array_equal(table.space.default_theta["neff_io"], [8e-4, 8e-4, 8e-4, 8e-4, 5e-4])
    np.testing.assert_array_equal(table.space.parameters["tlow_io"].low, [-15.0, 0.0 - 1e-6 * 15])
    assert table.space.labels[-1] == "RLWCSWEA" or "rlwcswea" in table.space.labels
    assert {"a_ws_io", "c3_io", "x"} <= set(table.space.fixed) and "tlow_io[3]" in table.space.fixed
    left_out = next(sentence for sentence in table.odd if sentence.startswith("No numbers"))
    assert all(name in left_out for name in ("name_io", "l_flag", "gap_io", "mat", "&rep"))
    only = read_parameters(tmp_path / "p.nml", relative_range=0.5, only=["a_ws_io"])
    assert only.space.names == ("a_ws_io",)
    values = read_parameters(tmp_path / "p.nml")
    assert values.values()["a_ws_io"].tolist() == [10, 10, 1, 1, 10] and "No parameter is free" in str(values)
    with pytest.raises(ValueError, match="at least one parameter with a range"):
        _ = values.space


def test_namelist_round_trip(tmp_path):
    (tmp_path / "p.nml").write_bytes(PFT.replace("\n", "\r\n").encode())
    table = read_parameters(tmp_path / "p.nml", relative_range=0.5)
    write_parameters(table, tmp_path / "q.nml", theta=table.space.default_theta)
    assert (tmp_path / "q.nml").read_bytes() == (tmp_path / "p.nml").read_bytes()
    theta = dict(table.space.default_theta) | {"neff_io": np.array([8e-4, 9e-4, 8e-4, 8e-4, 5e-4])}
    write_parameters(table, tmp_path / "q.nml", theta=theta, overwrite=True)
    text = (tmp_path / "q.nml").read_bytes().decode()
    assert text == PFT.replace("\n", "\r\n").replace("3*0.0008", "0.0008, 0.0009, 0.0008")
    patch_namelist(tmp_path / "p.nml", table.values(table.space.default_theta), tmp_path / "r.nml")
    assert (tmp_path / "r.nml").read_bytes() == (tmp_path / "p.nml").read_bytes()


PATCHES = {
    "scalar": ({"rlwcswea": 180.5}, "RLWCSWEA=200.", "RLWCSWEA=180.5"),
    "group and case": ({"other.RLWCSWEA": np.float64(180.5)}, "RLWCSWEA=200.", "RLWCSWEA=180.5"),
    "one element": ({"jules_pftparm.neff_io(5)": 7e-4}, "5.0e-4", "0.0007"),
    "of a repeat": ({"neff_io(2)": 7e-4}, "3*0.0008", "0.0008, 0.0007, 0.0008"),
    "whole repeat": ({"neff_io": [7e-4, 7e-4, 7e-4, 8e-4, 5e-4]}, "3*0.0008", "3*0.0007"),
    "D exponent kept": ({"neff_io": [8e-4, 8e-4, 8e-4, 8e-4, 6e-4]}, "5.0e-4", "0.0006"),
    "NaN keeps": ({"neff_io": [np.nan, np.nan, np.nan, np.nan, 6e-4]}, "5.0e-4", "0.0006"),
    "whole number": ({"c3_io(4)": 1.0}, "1,1,1,0,1", "1,1,1,1,1"),
    "real as integer": ({"a_ws_io(1)": 10.5}, "10, 10, 1", "10.5, 10, 1"),
    "section": ({"tlow_io(3)": 1.5}, "-10.0 0.0", "-10.0 1.5"),
    "null value": ({"gap_io(2)": 2.0}, "1.0, , 3.0", "1.0,  2.0, 3.0"),
    "logical": ({"l_flag": False}, ".true.", ".false."),
    "text": ({"name_io(2)": "it's"}, '"b=2"', "'it''s'"),
    "blanks between": ({"last_io": [1.5, 3.5]}, "1.5 2.5", "1.5 3.5"),
    "single precision": ({"rlwcswea": np.float32(0.1)}, "RLWCSWEA=200.", "RLWCSWEA=0.1"),
    "new in an empty group": ({"empty.RTAUF": 0.24}, "&empty /", "&empty \n  RTAUF = 0.24\n/"),
    "new list": ({"jules_pftparm.new_io": [1.0, 2.5]}, "1.5 2.5\n/", "1.5 2.5\n  new_io = 1.0, 2.5\n/"),
    "nothing": ({}, "", ""),
}


@pytest.mark.parametrize("case", PATCHES)
def test_patch_changes_only_what_is_named(tmp_path, case):
    values, old, new = PATCHES[case]
    assert PFT.count(old) == 1 or not old
    assert patched(tmp_path, values) == PFT.replace(old, new)


REFUSED = {
    "unknown name": ({"nef_io": 1.0}, "neff_io"), "unknown group": ({"othr.x": 1.0}, "other.x"),
    "length": ({"neff_io": [1.0, 2.0]}, "5 values"),
    "one for a list": ({"neff_io": 1.0}, r"neff_io\(1\)"),
    "element": ({"neff_io(6)": 1.0}, "element 6 of 5"),
    "matrix": ({"mat": [1.0]}, "by hand"), "infinite": ({"x": np.inf}, "finite"), "repeated group": ({"rep.a": 1.0}, "once"),
    "key": ({"a b": 1.0}, "names like"),
    "lines in a text": ({"name_io(1)": "a'\n/ &b"}, "one line of plain text"), "no list yet": ({"empty.b(2)": 1.0}, "no such variable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_patch_refuses(tmp_path, case):
    values, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        patched(tmp_path, values)
    assert "Try:" in str(caught.value) and [file.name for file in tmp_path.iterdir()] == ["in.nml"]


def test_patch_does_not_overwrite_its_template(tmp_path):
    path = tmp_path / "p.nml"
    path.write_text(PFT)
    with pytest.raises(ValueError, match="another file than the template"):
        patch_namelist(path, {"x": 2.0}, path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        patch_namelist(path, {"x": 2.0}, tmp_path / "missing" / "p.nml")
    (tmp_path / "mine.nml").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        patch_namelist(path, {"x": 2.0}, tmp_path / "mine.nml")
    assert (tmp_path / "mine.nml").read_text() == "mine"
    patch_namelist(path, {"x": 2.0}, tmp_path / "mine.nml", overwrite=True)
    assert "2.0" in (tmp_path / "mine.nml").read_text()


BAD_NAMELISTS = {
    "no end": "&a x=1", "no group": "x = 1\n", "code": "&a x=__import__('os').system('touch was_run') /", "binary": "&a x=1\0 /",
    "repeat bomb": "&a x=99999999999*1.0 /", "index bomb": "&a x(999999999)=1.0 /", "no numbers": "&a x='text' /", "a kind": "&a x=1.5_8 /",
    "quotes": "&a x='open /\n", "a value without a name": "&a 2.5 x=1.0 /", "nothing": "! a comment\n",
}


@pytest.mark.parametrize("fault", BAD_NAMELISTS)
def test_malformed_namelists_are_named(tmp_path, fault, capsys):
    (tmp_path / "p.nml").write_text(BAD_NAMELISTS[fault])
    with pytest.raises(ValueError, match="Expected: (.|\n)*p.nml(.|\n)*Try:"):
        read_parameters(tmp_path / "p.nml")
    assert capsys.readouterr().out == ""


def test_ecland_and_jules_from_list_to_model_input(tmp_path, setup):
    (tmp_path / "list.csv").write_text("Parameter,Value,Min,Max,Unit,Namelist\nRLWCSWEA,200,150,250,kg m-2,NAMPARSNOW\n"
                                       "RTAUF,0.24,0.1,0.5,1,NAMPARSNOW\n")
    (tmp_path / "input").write_text("&NAMPARSNOW /\n&NAMPARSOIL\n RTF1 = 274.16\n/\n")
    table = read_parameters(tmp_path / "list.csv")
    patch_namelist(tmp_path / "input", table.by_namelist({"RLWCSWEA": 180.0, "RTAUF": 0.3})["NAMPARSNOW"], tmp_path / "namelist")
    read = read_parameters(tmp_path / "namelist")
    assert read.values()["rlwcswea"] == 180.0 and read.values()["rtauf"] == 0.3 and read.values()["rtf1"] == 274.16
