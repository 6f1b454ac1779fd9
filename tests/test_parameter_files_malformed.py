"""Malformed sheets of parameters: one fault each, one sentence each; and files that are damaged at random."""

import io
import zipfile

import hypothesis
import hypothesis.strategies as st
import openpyxl
import pandas as pd
import pytest

from landcal_jax.errors import complaint_of
from landcal_jax.io.parameter_lists import sheets as parameter_sheets
from landcal_jax.io.parameter_lists.reading import read_parameters

HEAD = "name,location,include,min,max,flag,pft_mins,pft_maxs,default\n"
GOOD = "a,P,1,0.1,0.5,,,,0.2\n"
ECLAND = "Parameter,Value,Min,Max,Unit,Namelist\n"
CLM_FAULTS = {
    "no number": (HEAD + GOOD + "b,P,1,low,0.5,,,,\n", r"as min of b in row 3 .*\nGot: +'low'"),
    "a bare percent sign": (HEAD + "b,P,1,%,%,,,,0.1\n", "30percent or pft as min of b in row 2"),
    "a product": (HEAD + "b,P,1,0,2*3,,,,\n", "max of b in row 2"),
    "code": (HEAD + "b,P,1,0,__import__('os').getpid(),,,,\n", "max of b in row 2"),
    "underscores": (HEAD + "b,P,1,0,1_000,,,,\n", "max of b in row 2"),
    "min above max": (HEAD + "b,P,1,0.5,0.1,,,,\n", "min below max for b in row 2"),
    "min above max in a vector": (HEAD + 'b,P,1,pft,pft,,"0,2","1,1",\n', "2 and 1 in element 1"),
    "blank bounds": (HEAD + "b,P,1,,,,,,0.1\n", "min and max of the included b in row 2"),
    "one bound": (HEAD + "b,P,1,0.1,,,,,0.1\n", "both min and max, or neither, for b in row 2"),
    "infinite bound": (HEAD + "b,P,1,0.1,inf,,,,0.1\n", "max of b in row 2"),
    "include": (HEAD + GOOD + "b,P,maybe,0.1,0.2,,,,\n", "1 or 0 in the column include, row 3"),
    "no name": (HEAD + ",P,1,0.1,0.2,,,,\n", "a parameter name .* row 2"),
    "a bracket in the name": (HEAD + "b[1],P,1,0.1,0.2,,,,\n", r"'b\[1\]'"),
    "the name of a dim": (HEAD + "pft,P,1,0.1,0.2,,,,\n", "that is no dim, in row 2"),
    "twice": (HEAD + GOOD + GOOD, "a once among the included(.|\n)*row 2 and row 3"),
    "lengths": (HEAD + GOOD + 'b,P,1,pft,pft,,"0,1,2","1,2,3",\nc,P,1,pft,pft,,"0,1","1,2",\n',
                r"3 values, one a PFT, in pft_mins of c in row 4"),
    "text in a vector": (HEAD + 'b,P,1,pft,pft,,"0,x","1,2",\n', "pft_mins of b in row 2"),
    "no vector": (HEAD + 'b,P,1,pft,pft,,,"1,2",\n', "pft_mins of b in row 2(.|\n)*blank cell"),
    "mixed percent": (HEAD + "b,P,1,10percent,0.5,,,,varies\n", "both bounds in percent"),
    "a group without members": (HEAD + "K,P,1,0,0,K,,,\n", "members of the group 'K'"),
    "a flag that is a parameter": (HEAD + GOOD + "b,P,1,0.1,0.5,a,,,0.2\n", "'a' is both"),
    "a column twice": ("name,location,include,min,max,min\n", "min more than once"),
    "no columns": ("1,2,3\n4,5,6\n", "a row of column names"),
    "no max": ("name,location,include,min,minimum,value\n" + "a,P,1,0,1,2\n", "the columns name .* min and max"),
    "too many cells": (HEAD + GOOD + "b,P,1,0.1,0.2,,0,1,1,2,,0.1\n", "9 cells in row 3"),
    "cut short": (HEAD + GOOD + "b,P,1,0.1", "9 cells in row 3"),
    "open quotes": (HEAD + GOOD + 'b,P,1,pft,pft,,"0,1,2,,\n', "closed quotes in row 3"),
    "no rows": (HEAD, "at least one parameter"),
    "a zero byte": (HEAD + GOOD + "\0", "which is no text"),
}
ECLAND_FAULTS = {
    "text": (ECLAND + "A,1,0,many,,\n", "a number as max of A in row 2"),
    "thousands": (ECLAND + 'A,"1,500",1000,2000,,\n', "one number or several"),
    "decimal commas": (ECLAND.replace(",", ";") + "A;0,5;0,1;0,9;;\n", "one number or several"),
    "formula": (ECLAND + "A,=1+1,0,5,,\n", "the formula '=1\\+1', which is not"),
    "no name": (ECLAND + ",1,0,5,,\n", "column Parameter, row 2"), "lengths": (ECLAND + 'A,"1,2","0,0,0","3,3,3",,\n', "as many values"),
    "decimal comma": (ECLAND.replace(",", ";") + "A;0,5x;0;5;;\n", "as value of A"),
    "no value": ("Parameter,Min,Max\nA,0,1\n", "no value among"),
    "reversed": (ECLAND + "A,1,5,0,,\n", "min below max for A in row 2"),
}


@pytest.mark.parametrize("fault", [*CLM_FAULTS, *(f"ecLand: {fault}" for fault in ECLAND_FAULTS)])
def test_malformed_lists_are_named(fault, tmp_path):
    text, sentence = ECLAND_FAULTS[fault[8:]] if fault.startswith("ecLand: ") else CLM_FAULTS[fault]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_parameters(tmp_path / "bad.csv")
    assert complaint_of(caught.value) and "bad.csv" in str(caught.value)


def test_malformed_excluded_rows_do_not_stop_reading(tmp_path):
    text = HEAD + GOOD + "b,P,0,%,%,,,,x\nc,P,0,3,2,,,,2.5\nd,P,0,pft,pft,,,,\na,P,0,1,2,,,,1.5\n"
    (tmp_path / "p.csv").write_text(text)
    table = read_parameters(tmp_path / "p.csv")
    assert table.space.labels == ("a",) and table.space.fixed == {"c": 2.5}
    assert any(sentence.startswith("Listed twice: a: row 2 is used, row 6 is not") for sentence in table.odd)
    assert any(sentence.startswith("Excluded, with min above max: c (row 4)") for sentence in table.odd)


ARGUMENTS = {"prior": ({"prior": "gaussian"}, "a prior out of"), "share": ({"share": 0.0}, "share above 0"),
             "range": ({"relative_range": float("nan")}, "relative_range above 0"), "only": ({"only": ["b"]}, "only="),
             "pft twice": ({"pft": ["x", "x"]}, "different labels"), "pft": ({"pft": ["x"]}, "1 values, one a PFT")}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_wrong_arguments(case, tmp_path):
    (tmp_path / "p.csv").write_text(HEAD + GOOD + 'v,P,1,pft,pft,,"0,1","1,2",\n')
    arguments, sentence = ARGUMENTS[case]
    with pytest.raises(ValueError, match=sentence):
        read_parameters(tmp_path / "p.csv", **arguments)


def test_a_landcal_table_says_its_priors_itself(tmp_path):
    (tmp_path / "own.csv").write_text("name,prior,low,high\na,uniform,0,1\n")
    assert read_parameters(tmp_path / "own.csv").space.labels == ("a",)
    with pytest.raises(ValueError, match="no prior="):
        read_parameters(tmp_path / "own.csv", prior="truncated_normal")
    (tmp_path / "own.csv").write_text("name,prior,low,high\n\na,uniform,0,1_0\n")
    with pytest.raises(ValueError, match="column 'high', line 3 of .*own.csv"):
        read_parameters(tmp_path / "own.csv")


def test_no_file_and_no_list(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_parameters(tmp_path / "missing.csv")
    with pytest.raises(TypeError, match="a file, a dict or a DataFrame"):
        read_parameters(3)
    with pytest.raises(ValueError, match="a row of column names in the DataFrame"):
        read_parameters(pd.DataFrame({"x": [1]}))


# ---------------------------------------------------------------------- workbooks


def workbook(rows):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


ROWS = [["Parameter", "Value", "Min", "Max", "Unit", "Namelist"], ["A", 1.5, 1, 2, "m", "NAM"]]


def refused(tmp_path, content, sentence):
    (tmp_path / "bad.xlsx").write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_parameters(tmp_path / "bad.xlsx")
    assert complaint_of(caught.value)


def test_a_formula_is_not_evaluated(tmp_path):
    refused(tmp_path, workbook([*ROWS, ["B", '=HYPERLINK("http://x","1")', 1, 2, "", ""]]), "formula '=HYPERLINK.*not evaluated")


def test_a_workbook_that_grows_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    content = io.BytesIO(workbook(ROWS))
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet2.xml", b"0" * 60_000_000)
    assert len(content.getvalue()) < 100_000
    monkeypatch.setattr(openpyxl, "load_workbook", lambda *args, **kwargs: pytest.fail("it was opened"))
    refused(tmp_path, content.getvalue(), "at most 50 MB once it is unpacked")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_workbook_with_entities_is_refused(tmp_path, encoding):
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    content = io.BytesIO(workbook(ROWS))
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr("xl/other.xml", bomb.encode(encoding))
    refused(tmp_path, content.getvalue(), "without document types")


def test_other_archives_and_huge_tables_are_refused(tmp_path, monkeypatch):
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("a.txt", "a")
    refused(tmp_path, empty.getvalue(), "an XLSX workbook")
    refused(tmp_path, workbook(ROWS)[:3000], "an XLSX workbook")
    monkeypatch.setattr(parameter_sheets, "MOST_ROWS", 30)
    refused(tmp_path, workbook(ROWS * 20), "at most 30 rows")
    monkeypatch.setattr(parameter_sheets, "LARGEST", 1000)
    refused(tmp_path, workbook(ROWS), "at most 0.001 MB")


# ---------------------------------------------------------------------- random damage


SOURCES = {
    "clm.csv": (HEAD + GOOD + 'v,P,1,pft,pft,,"0,1","0,2","0,1.5"\n'
                'k,P,1,30percent,30percent,K,,,3\nl,P,1,1,2,K,,,1.5\nz,H,0,,,,,,\n').encode(),
    "ecland.csv": (ECLAND + 'A,1,0,5,m,NAM\nB,"1,2","0,0","3,3",s,NAM\nC,2,,,,\n').encode(),
    "own.csv": b"name,pft,default,prior,low,high,units\na,,1.5,uniform,1,2,m\nb,x,2,log_uniform,1,9,1\nb,y,2,log_uniform,1,9,1\n",
    "setup.py": b"opt_params = {'f': {'g': {'a': [7, 6.2e-04, (5e-05, 0.0015)], 'b': ['None', 1, (0, 2)]}}}\n",
    "p.nml": b"&grp a = 3*0.5, 1.0 ! c\n b(2:3) = 1.5 2.5\n s = 'x' /\n",
    "p.xlsx": workbook([*ROWS, ["B", "1,2", "0,0", "3,3", None, None]]),
}


@pytest.mark.parametrize("name", SOURCES)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(data=st.data())
def test_damaged_files_are_read_or_named(name, tmp_path, data):
    content = bytearray(SOURCES[name])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))):]
    (tmp_path / name).write_bytes(bytes(content))
    try:
        table = read_parameters(tmp_path / name)
        assert str(table) and table.values()
    except (ValueError, FileNotFoundError) as error:
        assert complaint_of(error), error
