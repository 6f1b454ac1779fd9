"""Experiments from data to posterior: a small twin from end to end, what is held out, and the model error."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.calibration import calibrate, solver_in_words, with_estimated_model_error
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ESMDA, ETKI
from landcal_jax.error_model import ModelError
from landcal_jax.experiment import FIRE_PARAMETERS, TRUTH, Experiment, dalec_problem, observed_experiment, twin_experiment
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.io.model_data import fluxes
from landcal_jax.members import FailedRuns
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.observations import Observations, Stream
from landcal_jax.output import read_warnings
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.plot import autocorrelation
from landcal_jax.problem import Problem
from landcal_jax.solvers import Status
from landcal_jax.weather import weather

SOLVER = MultiStart(LevenbergMarquardt(), number=4, candidates=64, explore=10, finalists=1)
SIGMA, EXTRA = 0.3, 0.8  # measurement error that is declared, error that is not [gC m-2 d-1]


def solved(experiment):
    return calibrate(experiment, SOLVER, seed=3, draws=300, progress=False)


@pytest.fixture(scope="module")
def twin():
    return twin_experiment(0, years=2, held_out_years=1, model=Dalec2())


@pytest.fixture(scope="module")
def calibration(twin):
    return solved(twin)


@pytest.fixture(scope="module")
def made_flux(twin) -> xr.Dataset:
    """Fluxes as a reader gives them: the truth with an error of which the declared uncertainty is a part only."""
    run = twin.problem.forward.run(twin.truth).output.nee[0]
    rng = np.random.default_rng(1)
    values = np.asarray(run) + np.hypot(SIGMA, EXTRA) * rng.standard_normal(run.size)
    values[rng.random(run.size) < 0.3] = np.nan
    units = {"units": "gC m-2 d-1"}
    time = weather(years=2, seed=0)["time"]
    return xr.Dataset(
        {"nee": ("time", values, units), "nee_uncertainty": ("time", np.full(run.size, SIGMA), units)},
        coords={"time": time, "site": "temperate_forest"}, attrs={"title": "made", "history": "Nothing was corrected."})


@pytest.fixture(scope="module")
def observed(made_flux):
    return observed_experiment(weather(years=2, seed=0), made_flux, held_out_years=1, model=Dalec2())


@pytest.fixture(scope="module")
def observed_calibration(observed):
    return solved(observed)


# ------------------------------------------------------------------------------------------------------------ the twin

def test_the_end_is_lower_than_the_truth_and_not_too_low(twin, calibration):
    truth = float(twin.problem.cost(twin.problem.space.whiten(twin.truth)))
    result = calibration.result
    assert result.cost < truth
    # At the minimum J is lower than at the truth by n / 2 or so, the parameters having fitted some of the noise.
    assert truth - result.cost < twin.problem.space.size
    assert result.status in (Status.CONVERGED, Status.NO_DECREASE)
    assert result.cost == pytest.approx(float(twin.problem.cost(result.z)), rel=1e-9)


def test_the_run_explains_what_it_did_not_see(twin, calibration):
    before, after = (twin.problem.predict(z) for z in (jnp.zeros(twin.problem.space.size), calibration.result.z))
    held_out = twin.held_out["nee"]
    assert held_out.scores(after["nee"])["rmse"][0] < 0.5 * held_out.scores(before["nee"])["rmse"][0]


def test_most_truths_are_inside_their_interval(twin, calibration):
    space = twin.problem.space
    low, high = np.quantile(calibration.posterior.matrix(), (0.05, 0.95), axis=0)
    middle = np.asarray(space.flatten(calibration.result.theta))
    truth = np.array(space.flatten(twin.truth))
    for name in ("onset_day", "fall_day"):  # known modulo a year
        at = space.labels.index(name)
        truth[at] = middle[at] + (truth[at] - middle[at] + 182.625) % 365.25 - 182.625
    inside = (low < truth) & (truth < high)
    assert inside.mean() > 0.75, [label for label, good in zip(space.labels, inside, strict=True) if not good]


def test_the_same_seed_gives_the_same_numbers(twin, calibration):
    again = solved(twin)
    assert jnp.array_equal(again.result.z, calibration.result.z)
    assert jnp.array_equal(again.posterior.z, calibration.posterior.z)
    assert again.result.counts == calibration.result.counts
    for name, values in again.result.history.items():
        np.testing.assert_array_equal(values, calibration.result.history[name])


def test_another_seed_draws_another_twin(twin):
    other = twin_experiment(1, years=2, held_out_years=1, model=Dalec2())
    assert not jnp.array_equal(other.problem.observations["nee"].mask, twin.problem.observations["nee"].mask)
    assert all(float(value) == float(twin.truth[name]) for name, value in other.truth.items())


def test_the_truth_is_the_table_of_the_module(twin):
    assert set(twin.truth) == set(Dalec2().parameter_names) <= set(TRUTH)
    found = {name: float(value) for name, value in twin.truth.items()}
    assert found == pytest.approx({name: TRUTH[name] for name in found})


def test_what_was_done_is_recorded(calibration):
    assert calibration.about == {"seed": 3, "solver": "LevenbergMarquardt from 4 starts"}
    assert solver_in_words(LevenbergMarquardt()) == "LevenbergMarquardt"


def test_the_chosen_curvature_and_number_of_draws_are_used(twin):
    done = calibrate(twin, LevenbergMarquardt(default_max_steps=2), draws=7, progress=False, about={"command": "test"})
    assert done.posterior.z.shape == (7, twin.problem.space.size)
    assert done.about["command"] == "test" and "gauss-newton" in done.posterior.method
    assert done.result.status is Status.MAX_STEPS


# ------------------------------------------------------------------------------------------------------------- held out

def test_days_are_either_calibrated_or_held_out(twin):
    calibrated, held_out = twin.problem.observations["nee"], twin.held_out["nee"]
    first = np.datetime64("2002-01-01")
    assert calibrated.time[calibrated.mask].max() < first <= held_out.time[held_out.mask].min()
    assert not np.any(calibrated.mask & held_out.mask)


def test_without_held_out_years_all_is_calibrated(twin):
    whole = twin_experiment(0, years=2, held_out_years=0, model=Dalec2())
    assert whole.held_out is None
    both = int(twin.problem.observations.count) + int(twin.held_out.count)
    assert int(whole.problem.observations.count) == both


def test_held_out_values_change_nothing(made_flux, observed_calibration):
    changed = made_flux.copy(deep=True)
    later = changed["time"] >= np.datetime64("2002-01-01")
    changed["nee"] = changed["nee"].where(~later, 3 * changed["nee"] + 5)
    changed["nee_uncertainty"] = changed["nee_uncertainty"].where(~later, 9.0)
    done = solved(observed_experiment(weather(years=2, seed=0), changed, held_out_years=1, model=Dalec2()))
    assert jnp.array_equal(done.result.z, observed_calibration.result.z)
    assert jnp.array_equal(done.posterior.z, observed_calibration.posterior.z)
    assert done.result.terms == observed_calibration.result.terms
    other, one = done.experiment.held_out["nee"], observed_calibration.experiment.held_out["nee"]
    assert not jnp.array_equal(other.values, one.values)


# ---------------------------------------------------------------------------------------------------------- model error

def test_the_model_error_makes_chi_square_one(observed, observed_calibration):
    estimated = with_estimated_model_error(observed, observed_calibration.result)
    stream = estimated.problem.observations["nee"]
    predicted = observed.problem.predict(observed_calibration.result.z)
    assert float(stream.chi_square(predicted["nee"])) == pytest.approx(1.0, abs=1e-6)
    assert float(stream.model_error.constant[0]) == float(estimated.held_out["nee"].model_error.constant[0])


def test_the_estimate_finds_the_noise_that_was_not_declared(observed_calibration):
    final = observed_calibration.experiment
    stream = final.problem.observations["nee"]
    assert float(stream.model_error.constant[0]) == pytest.approx(EXTRA, rel=0.15)
    predicted = final.problem.predict(observed_calibration.result.z)["nee"]
    assert float(stream.chi_square(predicted)) == pytest.approx(1.0, abs=0.02)
    assert float(final.held_out["nee"].model_error.constant[0]) == float(stream.model_error.constant[0])


def test_the_history_goes_on_over_the_rounds(observed_calibration):
    result = observed_calibration.result
    assert result.history["nee"][-1] == pytest.approx(result.terms["nee"])
    assert len({len(values) for values in result.history.values()}) == 1
    assert len(result.details["end_cost"]) == SOLVER.number


def test_a_twin_keeps_the_errors_it_was_made_with(twin, calibration):
    assert calibration.experiment is twin
    assert float(calibration.experiment.problem.observations["nee"].model_error.constant[0]) == 0.0


# ----------------------------------------------------------------------------------------------------- observed records

def test_notes_say_what_the_readers_did(observed):
    assert "made: Nothing was corrected." in observed.notes
    assert observed.title == "Dalec2 calibrated at temperate_forest"


def test_a_stream_that_the_model_lacks_is_left_out(made_flux):
    flux = made_flux.assign(latent_heat=("time", np.ones(made_flux.sizes["time"]), {"units": "W m-2"}))
    made = observed_experiment(weather(years=2, seed=0), flux, held_out_years=1, model=Dalec2())
    assert list(made.problem.observations) == ["nee"]
    assert "Not used for calibration: latent_heat." in made.notes


def without_calibrated_days(flux):
    return flux.assign(nee=flux["nee"].where(flux["time"].dt.year > 2001))


@pytest.mark.parametrize(("change", "years", "said"), [
    (lambda flux: flux, 2, "Expected: a record longer than the 2 years held out\nGot:      2001-01-01 to 2002-12-31"),
    (lambda flux: flux, 9, "a record longer than the 9 years held out"),
    (without_calibrated_days, 1, "Expected: observed nee before 2002-01-01"),
    (lambda flux: flux.assign(nee=flux["nee"] * np.nan), 1, "Expected: observed nee for Dalec2"),
    (lambda flux: flux.rename(nee="NEE"), 1, "Got:      values of NEE\nTry:      check the names"),
], ids=["as long as the record", "longer", "only held-out days", "empty", "another name"])
def test_records_that_cannot_be_used(made_flux, change, years, said):
    with pytest.raises(ValueError, match="Try:") as error:
        observed_experiment(weather(years=2, seed=0), change(made_flux), held_out_years=years, model=Dalec2())
    assert said in str(error.value)


def test_days_that_the_rule_of_filled_shares_made_void_are_named(made_flux):
    """A record whose nights are all filled: the error says so, and which option keeps its days."""
    share = ("time", np.full(made_flux.sizes["time"], 0.4), {"units": "1"})
    marked = made_flux.assign(nee_filled=share).assign_coords(latitude=50.0, longitude=10.0)
    forcing, kept, void = weather(years=2, seed=0), fluxes(marked, most_filled=0.5), fluxes(marked)
    assert list(observed_experiment(forcing, kept, held_out_years=1, model=Dalec2()).problem.observations) == ["nee"]
    observed = int(made_flux["nee"].notnull().sum())
    with pytest.raises(ValueError, match="--most-filled 0.5") as error:
        observed_experiment(forcing, void, held_out_years=1, model=Dalec2())
    assert (f"nee on none of {void.sizes['time']} steps ({observed} days are void: more than 25 % of each was gap-filled or missing)"
            in str(error.value))


def test_a_forcing_without_a_daily_course_is_a_caution(made_flux):
    forcing = weather(years=2, seed=0)
    assert observed_experiment(forcing, made_flux, held_out_years=1, model=Dalec2()).cautions == []
    flat = forcing.assign(temperature_min=forcing["temperature_max"])
    cautions = observed_experiment(flat, made_flux, held_out_years=1, model=Dalec2()).cautions
    assert len(cautions) == 1 and cautions[0].startswith("temperature_min equals temperature_max on every day (730)")


@pytest.mark.parametrize("held_out_years", [2, 3])
def test_a_twin_without_calibrated_days_is_refused(held_out_years):
    with pytest.raises(ValueError, match="hold out fewer years"):
        twin_experiment(0, years=2, held_out_years=held_out_years, model=Dalec2())


# ------------------------------------------------------------------------------------------------- constraints and fire

def test_constraints_are_one_more_term_of_j(twin):
    with_them = twin_experiment(0, years=2, held_out_years=1, model=Dalec2(), constraints=True)
    z = twin.problem.space.whiten(twin.truth)
    terms, without = with_them.problem.terms(z), twin.problem.terms(z)
    assert set(terms) == {"prior", "nee", "edc"}
    assert terms["edc"] > 0
    assert float(terms["nee"]) == float(without["nee"])
    assert "edc" not in with_them.held_out


def test_the_error_of_constraints_is_not_estimated(twin, calibration):
    with_them = twin_experiment(0, years=2, held_out_years=1, model=Dalec2(), constraints=True)
    estimated = with_estimated_model_error(with_them, calibration.result).problem.observations
    assert float(estimated["edc"].model_error.constant[0]) == 0.0
    assert set(estimated) == {"nee", "edc"}


def test_fire_parameters_are_free_only_where_it_burns():
    forcing = weather(years=1, seed=0)
    flux = xr.Dataset(
        {"nee": ("time", np.ones(forcing.sizes["time"]), {"units": "gC m-2 d-1"}),
         "nee_uncertainty": ("time", np.ones(forcing.sizes["time"]), {"units": "gC m-2 d-1"})},
        coords={"time": forcing["time"], "site": forcing["site"]})
    observations = Observations.from_dataset(flux, ["nee"])
    calm = dalec_problem(forcing, observations, DalecWater()).space
    assert set(calm.fixed) == set(FIRE_PARAMETERS)
    assert calm.size == len(DalecWater().parameter_names) - 4
    burned = np.zeros(forcing.sizes["time"])
    burned[200] = 0.1
    burning = forcing.assign(burned_fraction=("time", burned, {"units": "1"}))
    assert not dalec_problem(burning, observations, DalecWater()).space.fixed
    assert dalec_problem(forcing, observations, Dalec2()).space.size == 23  # it has no parameters of fire


def test_an_experiment_of_ones_own_needs_the_problem_only(twin):
    own = replace(twin, held_out=None, truth=None, title="mine")
    ds = calibrate(own, LevenbergMarquardt(default_max_steps=2), draws=20, progress=False).to_xarray()
    assert ds.attrs["title"] == "mine" and "truth" not in ds
    assert not ds["nee_held_out"].any()
    assert (ds["score"].sel(period="held_out", metric="n") == 0).all()


# ------------------------------------------------------------------------- solvers that see runs only

@pytest.fixture(scope="module")
def line():
    """A straight line seen with an error of twice what is declared; its posterior has a closed form."""
    x = jnp.linspace(-1.0, 1.0, 200)
    values = 1.0 + 0.5 * x + 0.2 * np.random.default_rng(0).standard_normal(x.size)
    space = ParameterSpace({"a": Parameter.normal(0.0, 1.0), "b": Parameter.normal(0.0, 1.0)})
    stream = Stream(values, 0.1, model_error=0.0, time=np.datetime64("2001-01-01") + np.arange(x.size))
    forward = FunctionForward(lambda theta: {"y": (theta["a"] + theta["b"] * x)[None]})
    return Experiment(Problem(space, forward, Observations({"y": stream})), None, "a line", None, True, [], [])


def closed_form(experiment):
    jacobian = np.asarray(experiment.problem.jacobian(jnp.zeros(2))[1])
    covariance = np.linalg.inv(jacobian.T @ jacobian)
    return -covariance @ jacobian.T @ np.asarray(experiment.problem.residual_vector(jnp.zeros(2))), covariance


def test_the_posterior_of_an_ensemble_is_that_of_the_estimated_error(line):
    done = calibrate(line, ETKI(size=20), seed=1, progress=False)
    error = float(np.asarray(done.experiment.problem.observations["y"].model_error.constant).max())
    assert error == pytest.approx(np.sqrt(0.2**2 - 0.1**2), rel=0.2)
    mean, covariance = closed_form(done.experiment)
    np.testing.assert_allclose(done.posterior.covariance, covariance, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(done.result.z, mean, rtol=1e-7)
    assert done.about["solver"] == "ETKI"


@pytest.mark.parametrize("differentiable", [True, False])
def test_a_search_without_posterior_is_followed_by_one_with_it(line, differentiable):
    problem = line.problem
    if not differentiable:
        def run(theta):
            return {"y": (theta["a"] + theta["b"] * np.linspace(-1.0, 1.0, 200))[None]}

        problem = problem.with_forward(BlackBoxForward(run, observations=problem.observations))
    experiment = replace(line, problem=problem, estimate_model_error=False)
    done = calibrate(experiment, EKI(size=20, to="minimum", tolerance=0.05), seed=1, progress=False)
    mean, covariance = closed_form(line)
    np.testing.assert_allclose(done.result.z, mean, atol=1e-5)
    np.testing.assert_allclose(done.posterior.covariance, covariance, rtol=1e-4, atol=1e-8)
    assert done.about["solver"] == f"EKI, then {'LevenbergMarquardt' if differentiable else 'IterativeFourDEnVar'}"
    # The history goes on, and the work of both is counted.
    assert len(done.result.history["y"]) > 5 and done.result.counts["forward"] > 21 + 21 + 1


@pytest.mark.parametrize(("kind", "solver"), [
    ("none", "IterativeFourDEnVar"), ("tangent", "LevenbergMarquardt"), ("adjoint", "IterativeFourDEnVar"), ("both", "LevenbergMarquardt"),
    ("differences", "LevenbergMarquardt")])
def test_an_external_model_is_calibrated_without_naming_a_solver(line, kind, solver):
    x = np.linspace(-1.0, 1.0, 200)

    def run(theta):
        return {"y": (theta["a"] + theta["b"] * x)[None]}

    def adjoint(theta, weights):
        return {"a": weights["y"].sum(), "b": (weights["y"] * x).sum()}

    options = {"tangent": lambda theta, along: run(along)} if kind in ("tangent", "both") else {}
    options |= {"adjoint": adjoint} if kind in ("adjoint", "both") else {}
    problem = line.problem.with_forward(BlackBoxForward(run, observations=line.problem.observations, **options))
    problem = problem.finite_difference() if kind == "differences" else problem
    done = calibrate(replace(line, problem=problem, estimate_model_error=False), seed=1, progress=False)
    mean, covariance = closed_form(line)
    np.testing.assert_allclose(done.result.z, mean, atol=1e-5)
    np.testing.assert_allclose(done.posterior.covariance, covariance, rtol=1e-4, atol=1e-8)
    assert done.about["solver"] == solver


@pytest.mark.parametrize("number", [5, 30])
def test_a_record_of_a_few_values_has_a_report(number, tmp_path):
    x = np.linspace(-1.0, 1.0, number)
    time = np.datetime64("2001-01-01") + np.arange(number)
    values = 1.0 + x + 0.1 * np.random.default_rng(0).standard_normal(number)
    observations = Observations({"y": Stream(values, 0.1, units="mm", time=time)})
    space = ParameterSpace({"a": Parameter.normal(0.0, 2.0), "b": Parameter.normal(0.0, 2.0)})
    forward = FunctionForward(lambda theta: {"y": (theta["a"] + theta["b"] * x)[None]})
    done = calibrate(Experiment(Problem(space, forward, observations)), LevenbergMarquardt(), progress=False)
    assert done.write(tmp_path)["report.html"].stat().st_size > 10_000


def test_autocorrelation_ends_with_the_record():
    values = np.array([1.0, -1.0, 1.0, -1.0])
    found, pairs = autocorrelation(values, 6)
    np.testing.assert_allclose(found, [1, -1, 1, -1, np.nan, np.nan, np.nan])
    assert pairs.tolist() == [4, 3, 2, 1, 0, 0, 0]


def test_runs_that_failed_are_counted_in_the_warnings(line):
    x = jnp.linspace(-1.0, 1.0, 200)
    # No square root below a = -0.5: a third of the prior.
    forward = FunctionForward(lambda theta: {"y": (theta["a"] + theta["b"] * x + 0 * jnp.sqrt(theta["a"] + 0.5))[None]})
    experiment = replace(line, problem=line.problem.with_forward(forward), estimate_model_error=False)
    done = calibrate(experiment, ESMDA(size=60, inflations=1), seed=1, progress=False, failed=FailedRuns(limit=0.6))
    lost = int(done.result.details["failed_runs"])
    assert 10 < lost < 30
    sentences = read_warnings(done.to_xarray())
    assert any(sentence.startswith(f"{lost} of {done.result.counts['forward']} runs failed") for sentence in sentences)
    with pytest.raises(RuntimeError, match="(?s)at most 10%.*at a -"):
        calibrate(experiment, ESMDA(size=60), seed=1, progress=False, failed=FailedRuns(limit=0.1))


def test_calibrate_refuses_what_does_not_go_together_before_anything_runs(line):
    rich = ModelError(0.3, correlation_days=4.0)
    observations = line.problem.observations.with_streams({"y": line.problem.observations["y"].with_model_error(rich)})
    remembering = replace(line, problem=line.problem.with_observations(observations), estimate_model_error=True)
    for experiment, solver, words, message in [
            (remembering, None, {}, "a memory in that of y"),
            (replace(line, estimate_model_error=False), None, {"errors": "marginal"}, "whose R is given"),
            (line, IterativeFourDEnVar(), {"posterior": "hessian"}, "that of an ensemble"),
            (line, None, {"posterior": "mcmc"}, "gauss-newton, hessian, low-rank, nuts, smc")]:
        with pytest.raises(ValueError, match=message):
            calibrate(experiment, solver, progress=False, **words)


def test_a_share_of_the_flux_grows_with_the_run_of_the_first_guess_until_it_is_estimated(line):
    share = ModelError(0.1, proportional=0.2)
    problem = line.problem.with_observations(
        line.problem.observations.with_streams({"y": line.problem.observations["y"].with_model_error(share)}))
    given = calibrate(replace(line, problem=problem, estimate_model_error=False), LevenbergMarquardt(), progress=False)
    level = given.experiment.problem.observations["y"].model_error.level
    np.testing.assert_allclose(level, np.abs(problem.predict(problem.space.default_z)["y"]))
