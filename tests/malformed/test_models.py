"""Wrong models and problems (`landcal check FILE.py:problem`), and wrong readers of the user (`--reader FILE.py:function`)."""

import functools
import textwrap
from pathlib import Path

import pytest
from good_files import normal
from malformed_case import Case, check, landcal, names, replaced

PROBLEM = """
import jax.numpy as jnp
import numpy as np
import landcal_jax as lc

def run(theta):
    return {"mass": jnp.exp(-theta["rate"] * jnp.arange(30.0))[None]}

def problem():
    space = lc.ParameterSpace({"rate": lc.Parameter.bounded(0.2, 0.1, 0.0, 1.0)})
    observed = np.exp(-0.1 * np.arange(30.0))
    return lc.Problem(space, lc.FunctionForward(run), lc.Observations({"mass": lc.Stream(observed, 0.05)}))
"""
READER = """
import numpy as np
from landcal_jax.io import normalise

def read(path):
    return normalise({"nee": (np.zeros(10), "gC m-2 d-1")}, time=np.datetime64("2004-01-01") + np.arange(10), path=path, site="FI-Xxx",
                     latitude=61.85, longitude=24.29)
"""


def changed(file, source, old, new):
    return lambda: Path(file).write_text(textwrap.dedent(replaced(source, old, new)))


def model(name, old, new, expected, got, advice):
    """The case of a problem in which `old` becomes `new`."""
    return Case(name, "check m.py:problem --points 1 --scan 2", changed("m.py", PROBLEM, old, new), expected, got, advice)


def reader(name, old, new, expected, got, advice):
    """The case of a reader in which `old` becomes `new`."""
    def write():
        changed("r.py", READER, old, new)()
        Path("mine.dat").write_text("mine\n")
    return Case(f"reader {name}", "inspect mine.dat --reader r.py:read", write, expected, got, advice)


good = functools.partial(changed, "m.py", PROBLEM, "rate", "rate")
RETURN = PROBLEM[PROBLEM.index("    return lc.Problem"):]
BODY = READER[READER.index("    return normalise"):]
CASES = [
    Case("no name", "check m.py", good(), "FILE.py:name, a Problem in a Python file", "'m.py'", "landcal check mymodel.py:problem"),
    Case("no file", "check n.py:problem", good(), "a Python file n.py", "no such file", "check the name"),
    Case("another name", "check m.py:problm", good(), "'problm' in m.py", "run, problem", "after the colon"),
    Case("a function of something", "check m.py:run", good(), "a function without arguments at m.py:run that returns a Problem",
         "arguments theta",
         "another function"),
    Case("a module", "check m.py:jnp", good(), "a landcal_jax Problem at m.py:jnp", "a module", "Problem(space, forward, observations)"),
    model("syntax", "def problem():", "def problem(:", "a file m.py that runs", "SyntaxError", "python m.py"),
    model("an import that is not there", "import numpy as np", "import nunpy as np", "a file m.py that runs", "No module named 'nunpy'",
          "python m.py"),
    model("a file that exits", "import numpy as np", "import numpy as np\nraise SystemExit(3)", "a file m.py that runs", "SystemExit",
          "python m.py"),
    model("a problem that raises", RETURN, "    return 1 / 0\n", "m.py:problem that runs",
          "ZeroDivisionError: division by zero (line 12 of m.py)", "correct m.py"),
    model("nothing returned", RETURN, "    pass\n", "a landcal_jax Problem at m.py:problem", "a NoneType",
          "Problem(space, forward, observations)"),
    model("an argument", "def problem():", "def problem(site):", "a function without arguments at m.py:problem", "arguments site",
          "give them defaults"),
    model("another stream", '"mass": jnp', '"weight": jnp', "a function that returns the streams mass", "weight", "return {stream: array}"),
    model("another shape", "arange(30.0))[None]", "arange(31.0))[None]", "modelled observations of shape (1, 30)", "31",
          "the same time axis"),
    model("no mapping", 'return {"mass": jnp.exp(-theta["rate"] * jnp.arange(30.0))[None]}',
          'return jnp.exp(-theta["rate"] * jnp.arange(30.0))[None]',
          "a function that returns the streams mass", "Tracer", "return {stream: array}"),
    model("a parameter that is not there", 'theta["rate"]', 'theta["speed"]', "m.py:problem that runs",
          "KeyError: 'speed' (line 7 of m.py)", "correct m.py"),
    model("a float of a traced value", 'jnp.exp(-theta["rate"]', 'np.exp(-float(theta["rate"])', "m.py:problem that runs",
          "ConcretizationTypeError ... (line 7 of m.py)",
          "jax.numpy"),
    model("an operator for a function", "observed, 0.05)", 'observed, 0.05, __import__("landcal_jax.operators").operators.Pick("mass"))',
          "streams without operator", "an operator for mass",
          "operator=None"),
    model("NaN in what was observed", "observed = np.exp(-0.1 * np.arange(30.0))", "observed = np.full(30, np.nan)",
          "values (site, n_obs) of",
          "0 observed", "mask and fill values"),
    model("a negative error", "observed, 0.05", "observed, -0.05", "a sigma above zero at every observed place", "30 without",
          "give a sigma"),
    model("errors of another length", "observed, 0.05", "observed, np.full(7, 0.05)", "(site, n_obs)", "shape (7,)", "a scalar"),
    model("a default outside the bounds", "bounded(0.2, 0.1, 0.0, 1.0)", "bounded(3.0, 0.1, 0.0, 1.0)",
          "a default inside the bounds 0 and 1",
          "3.0", "correct the default"),
    model("bounds reversed", "bounded(0.2, 0.1, 0.0, 1.0)", "bounded(0.2, 0.1, 1.0, 0.0)", "low < high", "low = 1.0, high = 0.0", "swap"),
    model("a number for a prior", "lc.Parameter.bounded(0.2, 0.1, 0.0, 1.0)", "0.2", "a Parameter for 'rate'", "float: 0.2",
          "rate=Parameter"),
    model("no parameter", '{"rate": lc.Parameter.bounded(0.2, 0.1, 0.0, 1.0)}', "{}", "at least one parameter", "none", "ParameterSpace"),
    model("a name with brackets", '{"rate": lc', '{"rate[1]": lc', "a parameter name", "'rate[1]'", "rename"),
    model("no stream", '{"mass": lc.Stream(observed, 0.05)}', "{}", "at least one stream", "streams of shape {}", "mask"),
    # readers of the user
    reader("raises", BODY, '    return {}["no such key"]\n', "r.py:read that runs with mine.dat",
           "KeyError: 'no such key' (line 6 of r.py)", "correct r.py"),
    reader("returns nothing", BODY, "    pass\n", "a Dataset of the normal form from the reader read", "NoneType", "normalise"),
    reader("returns a table", BODY, "    import pandas\n    return pandas.DataFrame({'nee': [1.0]})\n",
           "a Dataset of the normal form from the reader read",
           "DataFrame", "normalise"),
    reader("returns a Dataset of another form", BODY, "    import xarray\n    return xarray.Dataset({'nee': ('t', np.zeros(10))})\n",
           "a Dataset of the normal form from the reader read for mine.dat", "a Dataset with dimensions t", "normalise"),
    reader("returns undecoded times", BODY,
           "    import xarray\n    return xarray.Dataset({'nee': ('time', np.zeros(10))}, coords={'time': range(10), "
           "'site': 'X', 'latitude': 1.0, 'longitude': 2.0})\n", "a Dataset of the normal form from the reader read",
           "times of type int64", "normalise"),
    reader("a name that is none", '{"nee": (np', '{"NetFlux": (np', "a name of the normal form (temperature", "'NetFlux'",
           "one of these names"),
    reader("a unit that is none", '"gC m-2 d-1"', '"bushels"', "nee of mine.dat in a unit that can become", "'bushels'",
           "correct the units"),
    reader("values of another length", "np.zeros(10)", "np.zeros(9)", "10 values of nee in mine.dat, one a step", "shape (9,)", "one site"),
    reader("text for numbers", "np.zeros(10)", "['low'] * 10", "numbers in nee of mine.dat", "low", "-9999"),
    reader("times in words", 'np.datetime64("2004-01-01") + np.arange(10)', "['yesterday'] * 10", "time stamps in mine.dat", "yesterday",
           "2005-06-30 23:30"),
    reader("American dates", 'np.datetime64("2004-01-01") + np.arange(10)', "[f'06/{day:02}/2004' for day in range(1, 11)]",
           "time stamps in mine.dat", "06/01/2004", "2005-06-30 23:30"),
    reader("stamps as numbers", 'np.datetime64("2004-01-01") + np.arange(10)', "20040101 + np.arange(10)",
           "time stamps in mine.dat, as datetime64 or text", "numbers, such as 20040101", "pandas.to_datetime"),
    reader("a label that is none", 'path=path', 'path=path, label="noon"', "the label of the stamps in mine.dat: start, middle, end",
           "'noon'", "label="),
    reader("a step that is none", 'path=path', 'path=path, step="daily"', "the step of mine.dat ... P1D", "'daily'", "leave it out"),
    Case("reader is none", "inspect mine.dat --reader r.py:np",
         lambda: (changed("r.py", READER, "np", "np")(), Path("mine.dat").write_text("x")),
         "a function at r.py:np that takes the path of a file", "a module", "def read(path)"),
    Case("reader without a name", "inspect mine.dat --reader r.py", lambda: Path("mine.dat").write_text("x"), "FILE.py:name, a reader",
         "'r.py'",
         "--reader myreader.py:read"),
    Case("reader for a calibration", "calibrate --reader r.py:read --forcing mine.dat --flux mine.dat",
         lambda: (changed("r.py", READER, BODY, "    raise OverflowError('too much')\n")(), Path("mine.dat").write_text("x")),
         "r.py:read that runs with mine.dat", "OverflowError: too much (line 6 of r.py)", "correct r.py"),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)


def test_a_model_with_nan_in_the_prior_box_fails_the_check():
    """No mistake of the command line, so no sentence: the report of the scan says where, and the status is 1."""
    changed("m.py", PROBLEM, 'jnp.exp(-theta["rate"]', 'jnp.sqrt(theta["rate"] - 0.9) + jnp.exp(-theta["rate"]')()
    status, said, complained = landcal("check m.py:problem --points 1 --scan 20")
    assert status == 1 and complained == "" and "rate" in said and "nan" in said.lower()


def test_a_right_reader_and_a_right_problem():
    good()()
    assert landcal("check m.py:problem --points 1 --scan 2")[0] == 0
    changed("r.py", READER, "np", "np")()
    normal("mine.dat")
    assert landcal("inspect mine.dat --reader r.py:read")[0] == 0
