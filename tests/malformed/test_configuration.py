"""Wrong options, output folders, data folders and checkpoints, one fault each, as `landcal calibrate` meets them."""

import json
import os
from functools import partial
from pathlib import Path

import filelock
import numpy as np
import pytest
from good_files import CALLMIP, callmip, normal
from malformed_case import Case, check, landcal, names

from landcal_jax import data
from landcal_jax.errors import complain
from landcal_jax.output import FILES
from landcal_jax.run_folder import RunFolder


def nothing() -> None:
    """No file is needed."""


def unfinished(text: str) -> None:
    """A folder with a run that was begun and not ended; `text` is what its options.json holds."""
    Path("out/unfinished").mkdir(parents=True)
    Path("out/unfinished/options.json").write_text(text)


def options_of(command: str) -> dict:
    """The options that a run started by `command` writes down; the run ends there."""
    found = {}

    def stop(folder):
        found.update(folder.options)
        raise ValueError(complain("nothing", "nothing", "nothing"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "__enter__", stop)
        assert landcal(command)[0] == 2 and found
    return found


def begun(**changes) -> None:
    """A folder with a run that was begun with other options, and not ended."""
    unfinished(json.dumps({"options": options_of(TWIN) | changes, "command": "landcal calibrate --out out"}))


def results(name: str) -> None:
    """A folder with one file of results."""
    Path("out").mkdir()
    Path("out", name).write_text("results")


def catalogue(content: bytes | None) -> None:
    """A data folder in which the fluxes of FR-Pue are not those of the catalogue."""
    path = Path("data", data.find_site("FR-Pue").flux.path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


TWIN = "calibrate --quiet --out out"
CASES = [
    # the command line
    Case("no such command", "calibrat", nothing, "a command line such as `landcal --help`",
         "No such command 'calibrat'. Did you mean 'calibrate'",
         "landcal --help"),
    Case("no such option", "calibrate --solvers lbfgs", nothing, "`landcal calibrate --help`", "No such option: --solvers",
         "landcal calibrate --help"),
    Case("no such solver", "calibrate --solver bfgs", nothing, "`landcal calibrate --help`",
         "'--solver': ... 'bfgs' is not one of 'levenberg-marquardt'",
         "landcal calibrate --help"),
    Case("no such model", "calibrate --model jules", nothing, "`landcal calibrate --help`", "'--model': ... 'jules' is not one of 'dalec'",
         "landcal calibrate --help"),
    Case("a seed in words", "calibrate --seed lucky", nothing, "`landcal calibrate --help`", "Invalid value for '--seed'", "--help"),
    Case("a negative seed", "calibrate --seed -3", nothing, "`landcal calibrate --help`", "Invalid value for '--seed'", "--help"),
    Case("no start", "calibrate --starts 0", nothing, "`landcal calibrate --help`", "Invalid value for '--starts'", "--help"),
    Case("a latitude in words", "inspect a.nc --latitude north", nothing, "`landcal inspect --help`", "Invalid value for '--latitude'",
         "--help"),
    Case("no file to inspect", "inspect", nothing, "`landcal inspect --help`", "Missing argument", "landcal inspect --help"),
    Case("a file without its option", f"calibrate --flux {CALLMIP} other.nc", nothing, "--forcing FILE with --flux FILE", "--flux",
         "--help"),
    Case("no such site", "calibrate --site FI-Hyt", nothing, "a site of the catalogue", "'FI-Hyt'", "did you mean FI-Hyy?"),
    Case("forcing alone", "calibrate --forcing a.nc", nothing, "--forcing FILE with --flux FILE", "--forcing alone",
         "landcal calibrate --help"),
    Case("too many years held out", "calibrate --held-out-years 9", nothing, "a record longer than the 9 years held out",
         "2001-01-01 to 2006-12-31",
         "hold out fewer years"),
    Case("a share of nothing", "parameters p.csv --relative-range 0", nothing, "relative_range above 0", "0.0", "relative_range=0.2"),
    Case("a reader without files", "calibrate --reader r.py:read --held-out-years 9", nothing, "--forcing and --flux with --reader",
         "--reader without files",
         "--forcing"),
    Case("a latitude without files", "calibrate --latitude 61 --held-out-years 9", nothing, "--forcing and --flux with --latitude",
         "--latitude without files",
         "--forcing"),
    # names of CalLMIP
    Case("callmip name", f"{TWIN} --callmip my_model.v1", nothing, "a model name of letters, digits, + and -", "'my_model' and 'v1'",
         "underscores"),
    Case("callmip version", f"{TWIN} --callmip DALEC.v/1", nothing, "a model name of letters", "'DALEC' and 'v/1'", "separate the parts"),
    # the output folder
    Case("results present", TWIN, partial(results, FILES[0]), "a folder without results at out", f"{FILES[0]} in it", "--overwrite"),
    Case("a file for a folder", TWIN, lambda: Path("out").touch(), "a folder that can be written to at out", "file exists",
         "another folder (--out)"),
    Case("a folder in a file", "calibrate --quiet --out out/run", lambda: Path("out").touch(), "a folder that can be written to at out/run",
         "not a directory", "another folder (--out)"),
    Case("unfinished run present", TWIN, begun, "a folder without an unfinished run at out", "begun by `landcal calibrate --out out`",
         "--resume"),
    Case("unfinished run without its options", TWIN, lambda: Path("out/unfinished").mkdir(parents=True),
         "a folder without an unfinished run at out",
         "one in out/unfinished", "--overwrite"),
    Case("resume with another seed", f"{TWIN} --resume --seed 3", begun, "the options of the unfinished run in out", "seed 0 then, 3 now",
         "landcal calibrate --out out --resume"),
    Case("resume with another model", f"{TWIN} --resume", partial(begun, model="dalec"), "the options of the unfinished run in out",
         "model 'dalec' then, 'dalec-water' now", "--overwrite"),
    Case("resume beside results of no known run", f"{TWIN} --resume", partial(results, FILES[0]),
         "out/.landcal.json, as landcal wrote them",
         "no such file", "another folder (--out)"),
    Case("options cut short", f"{TWIN} --resume", partial(unfinished, '{"options": {"seed"'),
         "the options of the unfinished run in out/unfinished/options.json", "cannot be read",
         "--overwrite"),
    Case("options without options", f"{TWIN} --resume", partial(unfinished, '{"command": "x"}'),
         "out/unfinished/options.json, as landcal wrote them", "cannot be read", "--overwrite"),
    Case("options that are a list", f"{TWIN} --resume", partial(unfinished, "[1, 2]"),
         "out/unfinished/options.json, as landcal wrote them", "cannot be read", "--overwrite"),
    Case("options in binary", f"{TWIN} --resume", lambda: (unfinished("x"), Path("out/unfinished/options.json").write_bytes(b"\xff\xfe\0")),
         "out/unfinished/options.json, as landcal wrote them", "cannot be read", "--overwrite"),
]
DATA = [
    Case("a data folder that is not there", "calibrate --site FR-Pue", nothing, "a folder in the environment variable LANDCAL_DATA",
         "no folder data",
         "unset it"),
    Case("a wrong checksum", "calibrate --site FR-Pue", partial(catalogue, b"CDF\x01other"),
         "FR-Pue_daily_aggregated_2000-2014_FLUXNET2015_Flux.nc "
         "with SHA256 581c0d57", "the file data/flux_daily/callmip_phase1 ... with SHA256", "remove it, or replace it by https://"),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)


@pytest.mark.parametrize("case", DATA, ids=names(DATA))
def test_one_fault_of_the_data_folder(case, monkeypatch):
    monkeypatch.setenv("LANDCAL_DATA", "data")
    check(case)
    assert not Path("landcal-out").exists()


def test_a_second_run_in_the_same_folder():
    Path("out").mkdir()
    with filelock.FileLock("out/.landcal.lock"):
        check(Case("locked", TWIN, nothing, "a folder out that no other run is using", "another run at work in it", "wait for its end"))


@pytest.mark.parametrize(("size", "got"), [("two", "'two'"), ("-1", "'-1'"), ("nan", "'nan'")])
def test_a_wrong_bound_of_sizes(size, got, monkeypatch):
    monkeypatch.setenv("LANDCAL_LARGEST_FILE_GB", size)
    check(Case("bound", "inspect forcing.nc", normal, "a number above 0 in the environment variable LANDCAL_LARGEST_FILE_GB", got,
               "unset it"))


def test_a_file_above_the_bound_of_sizes(monkeypatch):
    monkeypatch.setenv("LANDCAL_LARGEST_FILE_GB", "0.00001")
    check(Case("bound", f"inspect {CALLMIP}", callmip, "of at most 1e-05 GB", CALLMIP, "LANDCAL_LARGEST_FILE_GB"))


@pytest.mark.parametrize("command", ["inspect", "parameters", "validate"])
def test_a_file_that_may_not_be_read(command):
    normal()
    Path("forcing.nc").chmod(0)
    if os.access("forcing.nc", os.R_OK):
        pytest.skip("root may read everything")
    check(Case("rights", f"{command} forcing.nc", nothing, "a", "forcing.nc, which this user may not read", "chmod a+r forcing.nc"))


def test_a_folder_that_may_not_be_written_to():
    Path("out").mkdir(mode=0o555)
    if os.access("out", os.W_OK):
        pytest.skip("root may write everywhere")
    check(Case("rights", TWIN, nothing, "a folder that can be written to at out", "permission denied", "another folder"))


def damaged(content: bytes) -> bytes:
    return content[:-200]


def changed(content: bytes) -> bytes:
    return content[:600] + bytes(64) + content[664:]


def pickled(content: bytes) -> bytes:
    np.savez("pickled.npz", about=np.array([{"version": 1}], dtype=object))
    return Path("pickled.npz").read_bytes()


CHECKPOINTS = {"cut short": damaged, "changed": changed, "pickled": pickled, "of no checkpoint": lambda content: b"no archive at all",
               "of another run": lambda content: content}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_damaged_checkpoint(fault, monkeypatch):
    """The state that `--resume` would go on from; a small twin, since the file is read when the problem stands."""
    from landcal_jax import checkpoint, experiment

    monkeypatch.setattr(experiment, "twin_experiment", partial(experiment.twin_experiment, years=2, held_out_years=1))
    begun(starts=1)
    path = Path("out/unfinished/solve_0.npz")
    checkpoint.save(path, "of this run", (3,), {"z": np.arange(30.0)}, 4, {"J": [3.0, 2.0]}, {"solve": 1.0})
    path.write_bytes(CHECKPOINTS[fault](path.read_bytes()))
    check(Case(fault, f"{TWIN} --starts 1 --resume", nothing,
               f"checkpoint of {'this problem, solver' if fault == 'of another run' else 'landcal_jax'}",
               "of another run" if fault == "of another run" else "a damaged file", "remove"))
    assert path.is_file() and not Path("out/posterior.nc").exists()


def test_help_is_no_mistake():
    assert landcal("calibrate --help")[0] == 0
