"""Malformed lists of parameters, one fault each, as `landcal parameters` meets them: sheets, dicts, namelists, own tables, priors."""

import io
import zipfile
from pathlib import Path

import openpyxl
import pytest
from malformed_case import Case, check, names, replaced

CLM = ('name,location,include,min,max,flag,pft_mins,pft_maxs,default\na,P,1,0.1,0.5,,,,0.2\nv,P,1,pft,pft,,"0,1,2","1,2,3",\n'
       "p,N,1,30percent,30percent,,,,4.0\n")
ECLAND = "Parameter,Value,Min,Max,Unit,Namelist\nRVRSMIN,100,50,200,s m-1,NAMVEG\nRVLAI,3,1,6,m2 m-2,NAMVEG\n"
OWN = ("name,pft,default,prior,mean,sd,low,high,units,fixed,fixed_at\nlma,,90,truncated_normal,90,20,20,200,g m-2,,\n"
       "rate,,0.5,uniform,,,0,1,1,,\nvcmax,C3,50,normal,50,10,,,umol m-2 s-1,,\nvcmax,C4,30,normal,30,10,,,umol m-2 s-1,,\n")
LAVENDAR = "opt_params = {\n  'pft_params.nml': {\n    'jules_pftparm': {\n      'neff_io': [7, 6.24e-4, (5e-4, 7e-4)],\n" \
           "      'alpha_io': [7, 0.055, (0.04, 0.07)]}}}\n"
NAMELIST = "! surface types\n&jules_pftparm\n  neff_io = 5*8.0e-4,\n  alpha_io = 0.08, 0.08, 0.06, 0.04, 0.08\n/\n"


def sheet(name, file, source, old, new, expected, got, advice):
    """The case of a text in which `old` becomes `new`."""
    def write():
        Path(file).write_bytes(replaced(source, old, new).encode())
    return Case(name, f"parameters {file}", write, expected, got, advice)


def clm(name, old, new, expected, got, advice):
    return sheet(f"clm {name}", "clm.csv", CLM, old, new, expected, got, advice)


def ecland(name, old, new, expected, got, advice):
    return sheet(f"ecland {name}", "ecland.csv", ECLAND, old, new, expected, got, advice)


def lavendar(name, old, new, expected, got, advice):
    return sheet(f"lavendar {name}", "setup.py", LAVENDAR, old, new, expected, got, advice)


def namelist(name, old, new, expected, got, advice):
    return sheet(f"namelist {name}", "pft.nml", NAMELIST, old, new, expected, got, advice)


def own(name, old, new, expected, got, advice):
    return sheet(f"own {name}", "own.csv", OWN, old, new, expected, got, advice)


def workbook(change=None):
    """The sheet of ecLand as XLSX; `change` makes other bytes of it."""
    def write():
        book = openpyxl.Workbook()
        for line in ECLAND.splitlines():
            book.active.append(line.split(","))
        content = io.BytesIO()
        book.save(content)
        Path("ecland.xlsx").write_bytes(content.getvalue() if change is None else change(content.getvalue()))
    return write


def bomb(content):
    """The workbook with one more part, which grows to a gigabyte when it is unpacked."""
    packed = io.BytesIO(content)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/media/blank.bin", "w") as part:
        for _ in range(300):
            part.write(bytes(1_000_000))
    return packed.getvalue()


GOOD = {"clm.csv": CLM, "ecland.csv": ECLAND, "own.csv": OWN, "setup.py": LAVENDAR, "pft.nml": NAMELIST}
CASES = [
    clm("min above max", "0.1,0.5", "0.5,0.1", "min below max for a in row 2 of clm.csv", "0.5 and 0.1", "swap or correct"),
    clm("a word as bound", "0.1,0.5", "low,0.5", "a number, 30percent or pft as min of a in row 2 of clm.csv", "'low'", "correct the cell"),
    clm("vector of another length", '"0,1,2","1,2,3"', '"0,1,2","1,2"', "3 values, one a PFT, in pft_maxs of v in row 3 of clm.csv", "2",
        "complete the list"),
    clm("no vector", '"0,1,2"', "", "numbers joined by commas in pft_mins of v in row 3 of clm.csv", "a blank cell", "one number a PFT"),
    clm("include", "a,P,1", "a,P,perhaps", "1 or 0 in the column include, row 2 of clm.csv (a)", "'perhaps'", "write 1 or 0"),
    clm("parameter twice", "p,N,1", "a,N,1", "a once among the included", "row 2 ... row 4", "exclude one of the rows"),
    clm("percent without a default", "30percent,30percent,,,,4.0", "30percent,0.5,,,,",
        "both bounds in percent ... for p in row 4 of clm.csv: its default is not in the list", "one of each", "give the default"),
    clm("a row cut short", "p,N,1,30percent,30percent,,,,4.0\n", "p,N,1,30per", "9 cells in row 4 of clm.csv", "4, beginning with 'p'",
        "cut short"),
    clm("no max", "min,max", "min,maximum", "the columns name (or param), min and max in clm.csv", "no max among name, location",
        "add or rename"),
    clm("code as a number", "0.1,0.5", "0.1,__import__('os').getpid()", "max of a in row 2 of clm.csv", "__import__", "correct the cell"),
    clm("a formula", "0.1,0.5", "0.1,=2*0.25", "max of a in row 2 of clm.csv", "the formula '=2*0.25', which is not evaluated", "correct"),
    clm("zero bytes", "0.2", "\0\0\0", "a list of parameters as CSV or XLSX", "clm.csv, which is no text", "save it as .csv"),
    ecland("reversed", "50,200", "200,50", "min below max for RVRSMIN in row 2 of ecland.csv", "200 and 50", "swap or correct"),
    ecland("text", "50,200", "50,many", "a number as max of RVRSMIN in row 2 of ecland.csv", "'many'", "paste the number itself"),
    ecland("missing column", "Value,Min", "Number,Min", "the columns Parameter, Value, Min and Max in ecland.csv",
           "no value among parameter, number",
           "add or rename"),
    ecland("no name", "RVLAI,3", ",3", "a name in the column Parameter, row 3 of ecland.csv", "a blank cell", "fill it in"),
    Case("ecland workbook damaged", "parameters ecland.xlsx", workbook(lambda content: content[:len(content) // 2]), "an XLSX workbook",
         "ecland.xlsx, which cannot be read as one", "save the sheet as CSV"),
    Case("ecland workbook bomb", "parameters ecland.xlsx", workbook(bomb), "an XLSX workbook of at most", "ecland.xlsx, 300", "as CSV"),
    Case("ecland workbook with entities", "parameters ecland.xlsx", workbook(lambda content: entities(content)),
         "an XLSX workbook without document types in its XML", "ecland.xlsx declares one in", "as CSV"),
    lavendar("code", "0.055", "open('x').read()", "numbers ... for alpha_io in line 5 of setup.py", "which is not run",
             "write the numbers out"),
    lavendar("one bound", "(0.04, 0.07)", "0.04", "[index, prior, (low, high)] ... for alpha_io in line 5 of setup.py", "[7, 0.055, 0.04]",
             "finite numbers"),
    lavendar("syntax", "{\n    'jules", "[\n    'jules", "a dict", "no Python, line", "LAVENDAR"),
    lavendar("reversed", "(0.04, 0.07)", "(0.07, 0.04)", "min below max for alpha_io in line 5 of setup.py", "0.07 and 0.04",
             "swap or correct"),
    namelist("no end", "\n/\n", "\n", "Fortran namelists &group name = value ... / in pft.nml", "End-of-file reached",
             "the / at the end of each group"),
    namelist("quotes", "0.08, 0.08", "'0.08, 0.08", "name = values in line 4 of pft.nml", "'0.08, 0.08", "check quotes"),
    namelist("huge repeat", "5*8.0e-4", "900000000*8.0e-4", "at most 100000 elements of an array in line 3 of pft.nml", "900000000*",
             "the count"),
    namelist("kind", "0.06", "0.06_8", "numbers without a kind in line 4 of pft.nml (alpha_io)", "0.06_8", "0.06"),
    namelist("no group", "&jules_pftparm", "jules_pftparm", "at least one &group in pft.nml", "none", "the name of the file"),
    own("unknown prior", "truncated_normal", "truncated_gaussian", "a prior out of ... in line 2 of own.csv (lma)", "'truncated_gaussian'",
        "truncated_normal"),
    own("sd of zero", "90,20,20,200", "90,0,20,200", "sd > 0 for parameter 'lma' (line 2 of own.csv)", "sd = 0.0",
        "a positive number in the units"),
    own("default outside", "lma,,90", "lma,,900", "a default inside the bounds 20 and 200 for ", "900", "correct the default"),
    own("low above high", "20,20,200", "20,200,20", "low < high for parameter 'lma' (line 2 of own.csv)", "low = 200.0, high = 20.0",
        "swap or correct"),
    own("mean far outside", "90,20,20,200", "9000,20,20,200",
        "a mean at most 30 sd outside the bounds for parameter 'lma' (line 2 of own.csv)", "mean = 9000.0, sd = 20.0", "a larger sd"),
    own("label missing", "vcmax,C4,30,normal,30,10,,,umol m-2 s-1,,\n", "other,C4,30,normal,30,10,,,1,,\n",
        "a row of 'vcmax' for every label of pft",
        "none for C4", "add the rows"),
    own("label twice", "vcmax,C4", "vcmax,C3", "one row for vcmax[C3]", "line 4 of own.csv and line 5 of own.csv", "remove one"),
    own("fixed_at alone", "g m-2,,", "g m-2,,85", "fixed = yes beside the value in 'fixed_at', line 2 of own.csv (lma)", "fixed = blank",
        "write yes"),
    own("fixed in words", "g m-2,,", "g m-2,maybe,", "yes or no in column 'fixed', line 2 of own.csv (lma)", "'maybe'", "fixed_at"),
    own("fixed outside the bounds", "g m-2,,", "g m-2,yes,850", "lma fixed inside its bounds 20 and 200", "850.0",
        "another value, or wider bounds"),
    own("unknown column", "name,pft", "name,defualt", "the columns name", "'defualt'", "'default'"),
    own("no number", "0,1,1,,", "zero,1,1,,", "a number in column 'low', line 3 of own.csv (rate)", "'zero'", "0.05"),
    own("numbers of another prior", "uniform,,,", "uniform,0.5,,", "only low, high for the uniform prior of 'rate' in line 3 of own.csv",
        "also mean",
        "truncated_normal"),
    own("two priors", "C4,30,normal,30,10", "C4,30,log_normal,30,10", "one prior for all rows of 'vcmax': 'normal'",
        "'log_normal' in line 5 of own.csv",
        "make them equal"),
    own("infinite", "0,1,1,,", "0,inf,1,,", "a finite high for parameter 'rate' (line 3 of own.csv)", "high = inf", "correct the number"),
    own("a bracket in a name", "lma,,90", "lma[1],,90", "a parameter name ... without '['", "'lma[1]'", "rename"),
    Case("a list without known columns", "parameters x.csv", lambda: Path("x.csv").write_text("p,from,to\na,0,1\n"),
         "a row of column names in x.csv", "p, from, to", "name the columns so"),
    Case("no list", "parameters x.csv", lambda: None, "a list of parameters", "no file x.csv", "check the name"),
    Case("an empty list", "parameters x.csv", lambda: Path("x.csv").touch(), "a list of parameters", "x.csv, which is empty", "again"),
]


def entities(content):
    """The workbook with a document type in its XML, which could grow without end or read other files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, b'<!DOCTYPE x [<!ENTITY a "aa">]>' + part if entry.filename.endswith("sheet1.xml") else part)
    return packed.getvalue()


@pytest.mark.parametrize("file", GOOD)
def test_a_right_list_reads(file):
    from malformed_case import landcal

    Path(file).write_text(GOOD[file])
    status, said, complained = landcal(f"parameters {file}")
    assert (status, complained) == (0, "") and file in said


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)
