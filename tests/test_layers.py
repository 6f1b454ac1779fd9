"""The rules of the package as a whole: layers, size of files, and an import without side effects."""

import ast
import json
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "landcal_jax"
PLOTTING = ("plot", "plot_style", "plot_parameters", "plot_comparison", "plot_coverage", "plot_identifiability", "plot_bayesopt",
            "plot_emulator", "plot_equifinality", "plot_history_matching", "plot_scorecard", "plot_sensitivity")
# From the top down. A module imports from its own line, without circles, and from the lines below it.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("report", "structure", "output", "caveats", "calibration", "experiment", "identifying", "callmip", "callmip_information", *PLOTTING),
    ("smc", "variational", "particles", "microcanonical", "history_matching", "history_tables",
     "history_files"),
    ("sampling", "hamiltonian", "turns", "metropolis", "diagnostics", "posterior", "error_estimation", "error_reporting",
     "information", "design", "laplace",
     "propagation", "carried_errors", "importance", "covariance", "comparison", "comparison_scores"),
    ("bayesopt", "bayesian_search", "bayesian_optimum", "bayesian_model", "acquisition",
     "gradient", "ensemble", "ensemble_iterated", "ensemble_kalman", "ensemble_space", "resilient", "search", "testing", "testing_coverage",
     "rank_statistics", "twins", "weather", "emulator", "emulator_loop", "implausibility", "sensitivity",
     "sensitivity_gradient", "sensitivity_indices",
     "sensitivity_runs", "metrics", "metric_reading", "metric_targets", "scorecard",
     "scorecard_cells"),
    ("solving",),
    ("solvers",),
    ("members",),
    ("problem",),
    ("error_parameters", "error_fitting", "error_transfer", "map_error", "error_moments", "forward", "blackbox", "linear_product",
     "member_processes",
     "member_pool", "executable", "member_store", "model_identity", "recorded"),
    ("sites", "observations", "observation_checks", "models", "io", "data"),
    ("parameters", "parameter_layout", "parameter_tables", "priors", "transforms", "operators", "model",
     "measures", "seasons", "gp", "gp_fitting"),
    ("error_model",),
    ("configuration", "devices", "errors", "findings", "keys", "checkpoint", "run_folder", "progress", "nroy"),
)
HEIGHT = {module: -depth for depth, layer in enumerate(LAYERS) for module in layer}
FILES = sorted(PACKAGE.rglob("*.py"))


def place(file: Path) -> str:
    """Its name in the table: the folder, or the name of a file that lies in none."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(file): file for file in FILES}


def imported(file: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; write the full name"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            names |= submodules or {node.module}
    return names


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_imports_point_downward(file):
    if file == PACKAGE / "__init__.py":
        return  # It lists public names and is imported by nobody: `cli` and all others import modules.
    assert place(file) in HEIGHT, f"{file.name} has no place in the layers: give it one in LAYERS"
    for name in imported(file) & set(MODULES) - {"landcal_jax"}:
        above = place(MODULES[name])
        assert HEIGHT[above] <= HEIGHT[place(file)], f"{dotted(file)} imports {name}, which is above it"


def test_no_module_imports_in_a_circle():
    graph = {name: imported(file) & set(MODULES) - {name, "landcal_jax"} for name, file in MODULES.items()}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_nothing_below_plotting_imports_matplotlib(file):
    if HEIGHT.get(place(file), -99) < HEIGHT["plot"]:
        assert not [name for name in imported(file) if name.split(".")[0] == "matplotlib"]


@pytest.mark.parametrize("folder", ["landcal_jax", "tests", "benchmarks", "examples"])
def test_no_file_is_longer_than_450_lines(folder):
    lengths = {str(file): len(file.read_text().splitlines()) for file in (ROOT / folder).rglob("*.py")}
    assert {file: length for file, length in lengths.items() if length > 450} == {}


PROBE = """
import importlib, json, logging, os, sys
import jax

def settings():
    return dict(jax.config.values), dict(os.environ), list(logging.getLogger().handlers)

before = settings()
importlib.import_module("landcal_jax")
drawing = "matplotlib" in sys.modules
for name in {modules!r}:
    importlib.import_module(name)
started = jax._src.xla_bridge.backends_are_initialized()
print(json.dumps([
    *(name for name, old, new in zip(("options of JAX", "environment", "log"), before, settings()) if old != new),
    *["matplotlib without figures"] * drawing, *["JAX has started"] * started, *["float64"] * jax.config.jax_enable_x64]))
"""


def test_importing_everything_changes_nothing():
    modules = sorted(set(MODULES) - {"landcal_jax.cli"})
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(modules=modules)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=clean | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, f"something prints when it is imported: {done.stdout}"
    assert json.loads(done.stdout) == []
