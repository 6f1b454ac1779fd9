"""What tells one external model from another: all that its function reaches, by content, the same in every process."""

import functools
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from test_blackbox import OBSERVATIONS, WHITE, Z, black, in_numpy

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.errors import complaint_of
from landcal_jax.executable import Executable
from landcal_jax.model_identity import identity_of

FACTOR = 1.0
TABLE = {"slopes": [1.0, np.array([1.0, 2.0])]}


def helper(value):
    return FACTOR * value


def by_helper(theta):
    return {name: helper(values) for name, values in in_numpy(theta).items()}


def by_table(theta):
    return {name: TABLE["slopes"][0] * values for name, values in in_numpy(theta).items()}


def test_a_global_of_a_helper_is_part_of_the_model(tmp_path, monkeypatch):
    # A store that took the two for one gave the runs of the first to the second.
    first = black(by_helper, store=tmp_path).ensemble(Z)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    changed = black(by_helper, store=tmp_path)
    np.testing.assert_allclose(changed.ensemble(Z)["decay"], 3.0 * first["decay"])
    assert changed.forward.counts == {"run": 7, "found": 0, "failed": 0}
    monkeypatch.setitem(globals(), "FACTOR", 1.0)
    again = black(by_helper, store=tmp_path)
    assert np.array_equal(again.ensemble(Z)["decay"], first["decay"]) and again.forward.counts["found"] == 7


def test_a_dictionary_is_known_by_what_is_in_it(monkeypatch):
    before = identity_of(by_table)
    monkeypatch.setitem(TABLE, "slopes", [1.0, np.array([1.0, 2.5])])
    other = identity_of(by_table)
    monkeypatch.setitem(TABLE, "slopes", [1.0, np.array([1.0, 2.0])])
    assert before == identity_of(by_table) != other and not before.unknown


def makes(value):
    """The same function with another value in each place where a function can have one."""
    def captured(theta):
        return value

    def default(theta, value=value):
        return value

    class Object:
        def __init__(self):
            self.value = value

        def __call__(self, theta):
            return self.value

    def marked(theta):
        return marked.value

    marked.value = value
    return captured, default, functools.partial(captured, extra=value), Object(), Object().__call__, marked, functools.wraps(
        in_numpy)(captured), jax.jit(captured), np.vectorize(captured)


@pytest.mark.parametrize(("one", "other"), [
    (1.0, 2.0), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ({"a": {"b": (1, [2])}}, {"a": {"b": (1, [3])}}), (np.zeros(3), np.ones(3)),
    (np.zeros(3), np.zeros(3, int)), (xr.Dataset({"a": ("t", [1.0])}), xr.Dataset({"a": ("t", [2.0])})), ({1, 2}, {1, 3}),
    (np.cos, np.sin), (Path("a"), Path("b")), (lambda x: x + 1, lambda x: x - 1), (np.random.default_rng(0), np.random.default_rng(1)),
    (np.float64(1.0), np.float64(2.0)), (jax.numpy.ones(2), jax.numpy.zeros(2)), (threading.Thread, threading.Timer)],
    ids=lambda value: type(value).__name__)
def test_each_value_counts_wherever_the_function_has_it(one, other):
    for first, again, second in zip(makes(one), makes(one), makes(other), strict=True):
        assert identity_of(first) == identity_of(again) != identity_of(second), first
        assert identity_of(first).unknown == ()


MODEL = """
import re, json, functools, numpy as np, xarray as xr, pandas as pd, jax
import constants, package.inner
from package import other
K = {"b": {"x", "yy", "zzz"}, "t": (1, 2), "re": re.compile("a.c"), "r": np.random.default_rng(3), "when": pd.Timestamp("2001-01-01")}
FRAME = pd.DataFrame({"a": [1.0, 2.0]}, index=["x", "y"])
DATA = xr.Dataset({"v": (("t",), [1.0, 2.0])}, attrs={"units": "m"})

class Shape:
    scale = 2.0
    def area(self, x):
        return x * self.scale if x in {"p", "q", "rr"} else constants.K

@functools.lru_cache
def cached(x):
    return Shape().area(x)

@jax.jit
def traced(x):
    return x + 1

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

def run(theta, folder):
    import lazy
    from package import late
    return {"y": [cached("p") + np.sum(K) + FRAME + DATA + traced(1) + constants.K + lazy.L + package.inner.I + other.O + late.X, even(3)]}
"""
FILES = {"model.py": MODEL, "constants.py": "K = 1\n", "lazy.py": "L = 1\n", "package/inner.py": "I = 1\n", "package/other.py": "O = 1\n",
         "package/late.py": "X = 1\n"}


LOOK = """
import sys
from landcal_jax.model_identity import identity_of
mine = {"model", "constants", "lazy", "package"}
for folder in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] in mine]:
        del sys.modules[name]
    sys.path[0] = folder
    import model
    print(*identity_of(model.run))
"""


def written(folder, edited=None):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + ("# edited\n" if name == edited else ""))
    return folder


def seen(seed, *folders):
    """Identities in a process of its own, with another order of sets."""
    settings = {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", LOOK, *map(str, folders)], capture_output=True, text=True, check=False,
                          env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_same_in_every_process_and_another_one_for_every_edit(tmp_path):
    # The first process compiles the modules, the second finds them compiled.
    whole = written(tmp_path / "whole")
    first, = seen("1", whole)
    others = seen("2", whole, written(tmp_path / "copy"), *(written(tmp_path / str(n), name) for n, name in enumerate(FILES)))
    assert first.endswith(" ()") and others[:2] == [first, first]
    assert len(set(others)) == 1 + len(FILES)


def test_a_number_that_is_set_in_a_module_counts(tmp_path, monkeypatch):
    (tmp_path / "settings_of_mine.py").write_text("K = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = importlib.import_module("settings_of_mine")

    def run(theta):
        return settings.K

    def later(theta):
        import settings_of_mine
        return settings_of_mine.K

    before = identity_of(run), identity_of(later)
    settings.K = 2
    assert not set(before) & {identity_of(run), identity_of(later)}


def test_a_container_of_a_class_of_the_user_is_known_by_the_class(monkeypatch):
    class Table(dict):
        def row(self):
            return helper(self["row"])

    table = Table(row=1.0)

    def run(theta):
        return table.row()

    before = identity_of(run)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert identity_of(run) != before and not before.unknown


def test_what_has_no_content_needs_a_version(tmp_path):
    lock = threading.Lock()
    with (tmp_path / "table.txt").open("w") as handle:
        def run(theta):
            with lock:
                handle.tell()
            return in_numpy(theta)

        words = "(?s)whose content can be known.*handle in .*run, a TextIOWrapper.*lock in .*run, a lock.*version"
        with pytest.raises(ValueError, match=words) as error:
            black(run, store=tmp_path / "runs")
        assert complaint_of(error.value)
        black(run, store=tmp_path / "runs", version="1").ensemble(Z)
        again = black(run, store=tmp_path / "runs", version="1")
        again.ensemble(Z)
        assert again.forward.counts == {"run": 0, "found": 7, "failed": 0}
        # Without a store it runs, and no checkpoint of another model is taken for one of this.
        plain = black(run)
        np.testing.assert_allclose(plain.ensemble(Z)["total"], WHITE.ensemble(Z)["total"])
        assert repr(plain.forward.members) != repr(black(run).forward.members)


def test_an_object_may_say_what_it_is():
    class Diary(list):
        def identity(self):
            return "diary"

    def made(diary):
        def run(theta):
            diary.append(theta)
            return in_numpy(theta)
        return run

    assert identity_of(made(Diary())) == identity_of(made(Diary([1]))) != identity_of(made([]))


def test_the_function_that_reads_outputs_is_known_by_what_it_refers_to(tmp_path, monkeypatch):
    def reader(folder):
        return {"y": helper(1.0)}

    def program(outputs):
        return Executable([sys.executable, "-c", "pass"], outputs=outputs)

    before = program(reader).identity()
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert program(reader).identity() != before and not before.unknown
    lock = threading.Lock()
    with pytest.raises(ValueError, match="lock in .*, a lock"):
        BlackBoxForward(program(lambda folder: lock), observations=OBSERVATIONS, store=tmp_path)


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("/proc/landcal", tmp_path / "file"):
        with pytest.raises(OSError, match="for the store of runs, which can be written to") as error:
            black(in_numpy, store=folder)
        assert complaint_of(error.value)
