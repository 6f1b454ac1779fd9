"""A program in Fortran, calibrated through its namelist: five parameters of fortran_model/land.f90.

    python examples/external_model.py                               # builds it with gfortran, calibrates it, prints the table
    landcal calibrate examples/external_model.py:problem --solver eki   # the same at the command line, with a report

What landcal_jax needs of a model is a command, the files that hold its parameters, and a function that reads what it wrote.
Every run has its own directory; what has finished stays in the folder of the store, so run this again, or kill it half-way and
run it then: nothing is run twice. With `client=` the runs go to a dask.distributed cluster.
"""

import subprocess
from pathlib import Path

import numpy as np

import landcal_jax as lc
from landcal_jax.weather import weather

lc.configure()
MODEL = Path(__file__).parent / "fortran_model"
TRUTH = {"light_use_efficiency": 1.1, "biomass_turnover": 1.3e-3, "soil_turnover": 2.5e-4, "q10": 1.8, "bucket_depth": 120.0}
ERRORS = {"nee": 0.3, "evapotranspiration": 0.2}
UNITS = {"nee": "gC m-2 d-1", "evapotranspiration": "mm d-1"}


def built(folder):
    """The program, built in `folder` unless it is there."""
    program = Path(folder) / "land"
    if not program.exists():
        subprocess.run(["gfortran", "-O2", str(MODEL / "land.f90"), "-J", str(folder), "-o", str(program)], check=True)
    return program


def read_fluxes(folder):
    """What one run has written: {stream: values}."""
    nee, evapotranspiration = np.loadtxt(folder / "fluxes.txt", unpack=True)
    return {"nee": nee, "evapotranspiration": evapotranspiration}


def program(folder, timeout=60.0, environment=None):
    """The model as landcal_jax runs it: the command, where the parameters go, what it reads and how its output is read."""
    drivers = weather(years=2, seed=5)
    temperature = 0.5 * (drivers["temperature_min"].values + drivers["temperature_max"].values)
    np.savetxt(Path(folder) / "forcing.txt", np.column_stack([temperature, drivers["shortwave"].values, drivers["precipitation"].values]))
    # The parameters have the names of the namelist; else: names={"lue": "vegetation.light_use_efficiency"}.
    model = lc.Executable(
        [built(folder)], outputs=read_fluxes, namelists={"land.nml": MODEL / "land.nml"}, inputs=[Path(folder) / "forcing.txt"],
        timeout=timeout, environment=environment)
    return model, drivers["time"].values


def parameters():
    """Priors: mean, standard deviation, lowest and highest possible value."""
    bounded = lc.Parameter.bounded
    return lc.ParameterSpace({
        "light_use_efficiency": bounded(0.9, 0.3, 0.1, 3.0, units="gC MJ-1", description="of photosynthesis"),
        "biomass_turnover": bounded(1e-3, 4e-4, 1e-4, 1e-2, units="d-1", description="plants to litter"),
        "soil_turnover": bounded(2e-4, 8e-5, 1e-5, 2e-3, units="d-1", description="decomposition at 10 degC"),
        "q10": bounded(2.0, 0.4, 1.0, 4.0, units="1", description="decomposition faster by this factor at 10 K more"),
        "bucket_depth": bounded(150.0, 40.0, 30.0, 500.0, units="mm", description="water that the soil can hold"),
    })


def problem(folder="landcal-out-external", faults=None, timeout=60.0, **options):
    """A twin: observations made by the program itself at `TRUTH`, with errors, one day in five.

    `faults`: environment that makes some of the runs fail, see land.f90. `options`: of BlackBoxForward.
    """
    Path(folder).mkdir(exist_ok=True)
    perfect, time = program(folder)
    rng = np.random.default_rng(2)
    streams = {}
    for name, exact in perfect.once(TRUTH).items():
        values = exact + ERRORS[name] * rng.standard_normal(exact.size)
        values[np.arange(exact.size) % 5 > 0] = np.nan
        streams[name] = lc.Stream(values, ERRORS[name], units=UNITS[name], time=time, description=name)
    observations = lc.Observations(streams, sites=["the weather of landcal_jax"])
    model = perfect if faults is None else program(folder, timeout, faults)[0]
    forward = lc.BlackBoxForward(model, observations=observations, store=Path(folder) / "runs", **options)
    return lc.Problem(parameters(), forward, observations)


if __name__ == "__main__":
    made = problem()
    print(made)
    result = lc.solve(made, lc.IterativeFourDEnVar(), key=0)
    print(result)
    print("Runs of the program:", made.forward.counts)
    posterior = lc.from_ensemble(made, result)
    print(f"{'parameter':<22} {'truth':>10} {'MAP':>10} {'posterior standard deviation':>30}")
    for name, spread in zip(made.space.labels, posterior.matrix().std(axis=0, ddof=1), strict=True):
        print(f"{name:<22} {TRUTH[name]:>10.4g} {float(result.theta[name]):>10.4g} {spread:>30.2g}")
