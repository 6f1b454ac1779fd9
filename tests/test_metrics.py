"""Problems of metrics: targets and their errors, gaps, sites, models of every kind, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_problem import two_pool_problem

import landcal_jax as lc
from landcal_jax import testing
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.emulator import emulate
from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.history_matching import history_match
from landcal_jax.members import run_members
from landcal_jax.metrics import (
    Metric,
    Stock,
    amplitude,
    bias,
    day_of_peak,
    initial,
    mean,
    months,
    nse,
    peak,
    rmsd,
    season_start,
    slope,
    spring_slope,
    with_metrics,
)
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs, evaluate
from landcal_jax.sensitivity import morris

DAYS = np.arange("2001-01-01", "2003-01-01", dtype="datetime64[D]")
DAY = jnp.asarray(np.arange(DAYS.size) % 365 + 1.0)
SITES = ("North", "South", "Gap")
SPACE = ParameterSpace({
    "level": Parameter.normal(2.0, 1.0), "size": Parameter.normal(4.0, 1.0), "day": Parameter.normal(180.0, 10.0)})
TRUTH = {"level": 1.0, "size": 5.0, "day": 175.0}
SUMMER = months(6, 7, 8)


def seasons(theta):
    """A cosine of one year at three sites, the second 170 days later; NEE is observed, GPP is not."""
    shift = jnp.array([0.0, 170.0, 0.0])[:, None]
    nee = theta["level"] + theta["size"] * jnp.cos(2 * jnp.pi * (DAY - theta["day"] - shift) / 365)
    return {"nee": nee, "heat": 10.0 * nee[:, :100], "gpp": 2.0 * nee}


def observed(seed=0, sigma=0.3, **options):
    rng = np.random.default_rng(seed)
    truth = seasons(TRUTH)
    mask = rng.random((3, DAYS.size)) < 0.7
    mask[2] = False
    mask[2, 100:108] = True  # eight days in April
    nee = np.where(mask, truth["nee"] + sigma * rng.standard_normal(mask.shape), np.nan)
    heat = truth["heat"] + rng.standard_normal((3, 100))
    return Observations({
        "nee": Stream(nee, sigma, time=DAYS, units="gC m-2 d-1", **options), "heat": Stream(heat, 1.0, units="W m-2")}, sites=SITES)


METRICS = {
    "nee_rmsd": Metric("nee", rmsd), "nee_mean": Metric("nee", mean), "summer": Metric("nee", bias, keep=SUMMER),
    "spring": Metric("nee", spring_slope), "peak": Metric("nee", peak()), "start": Metric("nee", season_start(0.5), keep=None),
    "heat_nse": Metric("heat", nse)}


@pytest.fixture(scope="module")
def inner():
    return Problem(SPACE, FunctionForward(seasons), observed())


@pytest.fixture(scope="module")
def problem(inner):
    return with_metrics(inner, METRICS)


def test_every_metric_is_a_stream_of_one_value_a_site(problem):
    predicted = problem.predict(SPACE.whiten(TRUTH))
    assert problem.observations.names == tuple(METRICS) and problem.observations.sites == SITES
    assert {name: values.shape for name, values in predicted.items()} == dict.fromkeys(METRICS, (3, 1))
    assert [problem.observations[name].units for name in METRICS] == [
        "gC m-2 d-1", "gC m-2 d-1", "gC m-2 d-1", "gC m-2 d-2", "gC m-2 d-1", "d", "1"]
    assert "7 metrics of function seasons" in str(problem) and problem.observations["spring"].description.startswith("slope from 03-01")
    assert {name: values.shape for name, values in problem.ensemble(jnp.zeros((4, 3))).items()} == dict.fromkeys(METRICS, (4, 3, 1))
    assert costs(problem, jnp.zeros((2, 3))) == pytest.approx(float(problem.cost(jnp.zeros(3))), rel=1e-12)


def test_metrics_are_those_of_the_observed_days(inner, problem):
    stream, modelled = inner.observations["nee"], np.asarray(inner.predict(jnp.ones(3))["nee"])
    mask, values, predicted = np.asarray(stream.mask), np.asarray(stream.values), problem.predict(jnp.ones(3))
    in_summer = SUMMER(np.broadcast_to(DAYS, mask.shape))
    for site in range(3):
        seen = mask[site]
        assert float(predicted["nee_rmsd"][site, 0]) == pytest.approx(np.sqrt(np.mean((modelled - values)[site, seen] ** 2)), rel=1e-12)
        assert float(predicted["nee_mean"][site, 0]) == pytest.approx(modelled[site, seen].mean(), rel=1e-12)
        if site < 2:
            both = seen & in_summer[site]
            assert float(predicted["summer"][site, 0]) == pytest.approx((modelled - values)[site, both].mean(), rel=1e-10)


def test_targets_are_the_metrics_of_the_observations(inner, problem):
    streams = problem.observations
    np.testing.assert_array_equal(streams["nee_rmsd"].values, 0.0)
    np.testing.assert_allclose(streams["heat_nse"].values, 1.0, rtol=1e-14)
    values, mask = (np.asarray(array) for array in (inner.observations["nee"].values, inner.observations["nee"].mask))
    np.testing.assert_allclose(streams["nee_mean"].values[:, 0], [values[site, mask[site]].mean() for site in range(3)], rtol=1e-12)


def test_errors_of_metrics_are_those_of_R(inner, problem):
    mask = np.asarray(inner.observations["nee"].mask)
    number = mask.sum(axis=1)
    sigma = {name: np.asarray(stream.sigma)[:, 0] for name, stream in problem.observations.items()}
    # 200 draws know a standard deviation to 5 %.
    np.testing.assert_allclose(sigma["nee_mean"], 0.3 / np.sqrt(number), rtol=0.2)
    np.testing.assert_allclose(sigma["nee_rmsd"], 0.3, rtol=0.1)
    day, window = np.asarray(DAY), (np.asarray(DAY) >= 60) & (np.asarray(DAY) <= 151)
    for site in range(2):
        x = np.concatenate([day[part] - day[part].mean() for year in range(2)
                            for part in [np.flatnonzero(mask[site] & window & (np.arange(730) // 365 == year))]])
        assert sigma["spring"][site] == pytest.approx(0.3 / np.sqrt(np.sum(x**2)), rel=0.2)


def test_errors_with_memory_and_of_the_model_count():
    made = (observed(model_error=0.4, correlation=memory) for memory in (None, ExponentialCorrelation(10.0)))
    white, remembering = (
        with_metrics(Problem(SPACE, FunctionForward(seasons), observations), {"mean": METRICS["nee_mean"]}) for observations in made)
    inner = observed(model_error=0.4, correlation=ExponentialCorrelation(10.0))["nee"]
    sigma = [np.asarray(one.observations["mean"].sigma)[:2, 0] for one in (white, remembering)]
    number = np.asarray(inner.mask).sum(axis=1)[:2]
    np.testing.assert_allclose(sigma[0], 0.5 / np.sqrt(number), rtol=0.2)
    # The variance of a mean of correlated errors, from the matrix.
    days = np.flatnonzero(np.asarray(inner.mask)[0])
    matrix = 0.25 * np.exp(-np.abs(days[:, None] - days) / 10.0)
    assert sigma[1][0] == pytest.approx(np.sqrt(matrix.mean()), rel=0.2)


def test_an_error_in_proportion_takes_the_observed_level():
    inner = Problem(SPACE, FunctionForward(seasons), observed(model_error=ModelError(proportional=0.5)))
    made = with_metrics(inner, {"rmsd": METRICS["nee_rmsd"]})
    stream = inner.observations["nee"]
    expected = np.sqrt(0.3**2 + np.mean((0.5 * np.asarray(stream.values)[0, np.asarray(stream.mask)[0]]) ** 2))
    assert float(made.observations["rmsd"].sigma[0, 0]) == pytest.approx(expected, rel=0.1)


def test_a_site_without_enough_days_is_masked_and_said(problem):
    for name, there in (("nee_rmsd", [1, 1, 1]), ("spring", [1, 1, 0]), ("peak", [1, 1, 0]), ("summer", [1, 1, 0]), ("start", [1, 1, 0])):
        np.testing.assert_array_equal(np.asarray(problem.observations[name].mask)[:, 0], np.array(there, bool))
    notes = problem.observations.notes
    assert sum("is masked at Gap (8 values)" in note for note in notes) == 3
    assert any("summer is masked at Gap (0 values)" in note for note in notes)
    assert np.isnan(problem.predict(jnp.zeros(3))["spring"][2, 0])
    value, gradient, _ = evaluate(problem, jnp.zeros(3))
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_a_site_that_gives_nan_derivatives_does_no_harm(inner):
    def inverse(series):  # 0/0 where there are few values, and so is its derivative
        number = jnp.sum(series.mask)
        total = jnp.sum(jnp.where(series.mask, series.modelled, 0.0))
        return total * (number - 8.0) / (number - 8.0)

    made = with_metrics(inner, {"odd": Metric("nee", inverse, units="1")})
    assert list(np.asarray(made.observations["odd"].mask)[:, 0]) == [True, True, False]
    assert np.isfinite(evaluate(made, jnp.zeros(3))[1]).all()
    assert np.isfinite(jax.jvp(made.cost, (jnp.zeros(3),), (jnp.ones(3),))[1])


def test_metrics_that_a_site_does_not_have_are_no_failed_runs(inner):
    def breaks(theta):
        if theta["level"] > 3.0:
            raise FloatingPointError("no such soil")
        return {name: np.asarray(values) for name, values in seasons(theta).items()}

    observations, two = observed(), {name: METRICS[name] for name in ("nee_mean", "spring")}
    external = BlackBoxForward(breaks, observations=observations, workers=1)
    inside, outside = with_metrics(inner, two), with_metrics(Problem(SPACE, external, observations), two)
    history = history_match(outside, waves=1, points=512, progress=False)
    z, targets = history.waves[0].z, ["nee_mean[North]", "nee_mean[South]", "nee_mean[Gap]", "spring[North]", "spring[South]"]
    failed = int((np.asarray(SPACE.physical(jnp.asarray(z))["level"]) > 3.0).sum())
    assert 0 < failed == (~history.waves[0].finished).sum() == emulate(outside, z).failed == run_members(outside, z).failures
    assert run_members(inside, z).finished.all() and list(history.targets.labels) == targets
    for made in (inside, outside):
        effects = morris(made, runs=40, key=0)
        assert list(effects["output"].values) == targets and np.isfinite(effects["mu_star"]).all()
        assert ("runs failed" in effects.attrs["sentences"]) == (made is outside) and "No run has" not in effects.attrs["sentences"]


def test_sensitivity_is_of_metrics_without_a_target_too(inner):
    made = with_metrics(inner, {"mean": METRICS["nee_mean"], "gpp": Metric("gpp", mean, units="gC m-2 d-1")})
    effects = morris(made, runs=40, key=0)
    assert [name for name in effects["output"].values if name.startswith("gpp")] == [f"gpp[{site}]" for site in SITES]
    # GPP is twice NEE, of all days and not the observed ones alone.
    level = effects["mu_star"].sel(parameter="level")
    np.testing.assert_allclose(level.sel(output="gpp[North]"), 2.0 * level.sel(output="mean[North]"), rtol=1e-6)


def test_a_metric_that_no_site_has_is_refused(inner):
    with pytest.raises(ValueError, match="at one site at least"):
        with_metrics(inner, {"few": Metric("nee", slope("03-01", "05-31", least=1000))})
    with pytest.raises(ValueError, match=r"series\.mask"):
        with_metrics(inner, {"forgets": Metric("nee", lambda series: jnp.mean(series.modelled))})
    with pytest.raises(ValueError, match="none at any site"):
        with_metrics(inner, {"never": Metric("nee", mean, keep=np.zeros(DAYS.size, bool))})
    with pytest.raises(ValueError, match="a scalar of the series"):
        with_metrics(inner, {"vector": Metric("nee", lambda series: series.modelled)})


def test_a_metric_that_errors_do_not_move_needs_its_sigma(inner):
    def count(series):
        return jnp.sum(series.mask).astype(float)

    with pytest.raises(ValueError, match="errors in R move"):
        with_metrics(inner, {"count": Metric("nee", count)})
    assert float(with_metrics(inner, {"count": Metric("nee", count)}, sigma={"count": 1.0}).observations["count"].sigma[0, 0]) == 1.0


def test_targets_and_sigma_of_the_user(inner):
    made = with_metrics(inner, {"mean": METRICS["nee_mean"], "rmsd": METRICS["nee_rmsd"]},
                        targets={"mean": [1.0, np.nan, 3.0]}, sigma={"mean": 0.5, "rmsd": [0.1, 0.2, 0.3]})
    stream = made.observations["mean"]
    assert list(np.asarray(stream.mask)[:, 0]) == [True, False, True]
    np.testing.assert_array_equal(np.asarray(stream.values)[[0, 2], 0], [1.0, 3.0])
    np.testing.assert_array_equal(made.observations["rmsd"].sigma[:, 0], [0.1, 0.2, 0.3])
    with pytest.raises(KeyError, match="sigma of the metrics mean"):
        with_metrics(inner, {"mean": METRICS["nee_mean"]}, sigma={"men": 1.0})
    with pytest.raises(ValueError, match="one for each of 3 sites"):
        with_metrics(inner, {"mean": METRICS["nee_mean"]}, targets={"mean": [1.0, 2.0]})


def test_the_key_draws_the_errors(inner):
    made = [with_metrics(inner, {"mean": METRICS["nee_mean"]}, key=key).observations["mean"].sigma for key in (1, 1, jax.random.key(2))]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_errors_that_go_together_are_noted(inner):
    made = with_metrics(inner, {"mean": METRICS["nee_mean"], "bias": Metric("nee", bias), "heat": METRICS["heat_nse"]})
    notes = [note for note in made.observations.notes if "taken as independent" in note]
    # Both are the mean of the errors, with the sign of model minus observation.
    assert len(notes) == 1 and "those of mean and bias correlate by 1.00" in notes[0] and "other pairs" not in notes[0]


def test_days_of_the_year_lie_on_a_circle_at_southern_sites_too():
    def peaking(theta):
        return {"gpp": 3.0 * jnp.stack([jnp.cos(2 * jnp.pi * (DAY - at - theta["late"]) / 365) for at in (180.0, 363.0)])}

    space = ParameterSpace({"late": Parameter.normal(0.0, 5.0)})
    gpp = np.asarray(peaking({"late": 0.0})["gpp"]) + 0.5 * np.random.default_rng(3).standard_normal((2, DAYS.size))
    inner = Problem(space, FunctionForward(peaking), Observations({"gpp": Stream(gpp, 0.5, time=DAYS)}, sites=("north", "south")))
    days = {name: Metric("gpp", day_of_peak()) for name in ("day", "given")}
    made = with_metrics(inner, days, targets={"given": [180.0, 2.0]})
    target, sigma = (np.asarray(values)[:, 0] for values in (made.observations["day"].values, made.observations["day"].sigma))
    np.testing.assert_allclose(target, [180.0, 363.0], atol=4.0)
    assert (sigma < 5.0).all() and (sigma > 0.2).all()
    for late in (-6.0, 6.0):
        predicted = made.predict(space.whiten({"late": late}))
        np.testing.assert_allclose(predicted["day"][:, 0], np.array([180.0, 363.0]) + late, atol=0.1)
        # Near the target that was given, which is 2 January.
        np.testing.assert_allclose(predicted["given"][:, 0], np.array([180.0, -2.0]) + late, atol=0.1)


def test_windows_of_the_south_are_those_of_the_sites_that_are_named(inner):
    north, south = (with_metrics(inner, {"spring": Metric("nee", spring_slope, south=sites)}) for sites in ((), ["South"]))
    spring = [np.asarray(made.predict(jnp.zeros(3))["spring"])[:2, 0] for made in (north, south)]
    assert spring[0][0] == spring[1][0] > 0 and spring[0][1] < 0 < spring[1][1]
    with pytest.raises(KeyError, match="sites among North"):
        with_metrics(inner, {"spring": Metric("nee", spring_slope, south=["Gone"])})


def test_a_comparison_with_what_nobody_observes_is_refused(inner):
    for measure in (rmsd, nse):
        with pytest.raises(ValueError, match="observations of gpp"):
            with_metrics(inner, {"mean": METRICS["nee_mean"], "gpp": Metric("gpp", measure, time=DAYS)})


def test_options_that_mean_nothing_are_refused(inner):
    for draws in (0, 1, "many"):
        with pytest.raises(ValueError, match="two draws"):
            with_metrics(inner, {"mean": METRICS["nee_mean"]}, draws=draws)
    with pytest.raises(TypeError, match="booleans for keep="):
        with_metrics(inner, {"mean": Metric("nee", mean, keep=np.full(DAYS.size, 0.3))})
    with pytest.raises(ValueError, match="at least one metric by name"):
        with_metrics(inner, [Metric("nee", mean)])


def test_functions_that_are_no_measures_are_refused(inner):
    with pytest.raises(TypeError, match="a measure, or a function"):
        Metric("nee", "rmsd")
    for function in (lambda series: np.nanmean(series.modelled), lambda series: 1.0 if jnp.nanmean(series.modelled) > 0 else 0.0,
                     lambda series: float(jnp.nanmean(series.modelled))):
        with pytest.raises(TypeError, match=r"jax\.numpy instead of numpy"):
            with_metrics(inner, {"own": Metric("nee", function)})


# ---------------------------------------------------------------------- outputs that nobody observes


def test_an_output_that_nobody_observes_is_predicted_and_no_part_of_J(inner):
    made = with_metrics(inner, {"mean": METRICS["nee_mean"], "gpp": Metric("gpp", amplitude(1), time=DAYS, units="gC m-2 d-1")})
    assert not np.asarray(made.observations["gpp"].mask).any()
    assert "gpp has no target: it is predicted, and no part of J" in made.observations.notes
    assert float(made.predict(SPACE.whiten(TRUTH))["gpp"][0, 0]) == pytest.approx(20.0, rel=1e-3)
    alone = with_metrics(inner, {"mean": METRICS["nee_mean"]})
    assert float(made.cost(jnp.ones(3))) == float(alone.cost(jnp.ones(3)))
    given = with_metrics(inner, {"gpp": Metric("gpp", mean)}, targets={"gpp": 2.0}, sigma={"gpp": 0.1})
    assert float(given.terms(jnp.zeros(3))["gpp"]) == pytest.approx(0.5 * 3 * ((4.0 - 2.0) / 0.1) ** 2, rel=1e-6)
    with pytest.raises(ValueError, match="sigma for the target"):
        with_metrics(inner, {"gpp": Metric("gpp", mean)}, targets={"gpp": 2.0})
    with pytest.raises(ValueError, match="times of the series"):
        with_metrics(inner, {"gpp": Metric("gpp", peak())}).predict(jnp.zeros(3))


def test_outputs_and_stocks_of_a_model():
    inner = two_pool_problem()
    made = with_metrics(inner, {
        "all": Metric(Pick("lost"), mean), "january": Metric(Pick("lost"), mean, keep=months(1)),
        "stock": Metric(Stock("fast"), initial, units="gC m-2"), "seen": Metric("lost", mean)}, streams=["total"])
    z = jnp.full(6, 0.3)
    run, predicted = inner.forward.run(inner.theta(z)), made.predict(z)
    lost = np.asarray(run.output.lost)[0]
    assert float(predicted["all"].item()) == pytest.approx(lost.mean(), rel=1e-12)
    # The steps of the sites begin on 1 January 1970; those of the stream, on every second day, in 2001.
    assert float(predicted["january"].item()) == pytest.approx(lost[:31].mean(), rel=1e-12)
    assert float(predicted["seen"].item()) == pytest.approx(lost[1::2].mean(), rel=1e-12)
    assert float(predicted["stock"].item()) == pytest.approx(float(inner.theta(z)["fast_0"]), rel=1e-12)
    assert made.observations["all"].units == inner.observations["lost"].units
    np.testing.assert_allclose(predicted["total"], inner.predict(z)["total"], rtol=1e-12)
    assert float(made.terms(z)["total"]) == pytest.approx(float(inner.terms(z)["total"]), rel=1e-12)
    with pytest.raises(KeyError, match=r'Metric\(Pick\("gone"\)'):
        with_metrics(inner, {"gone": Metric("gone", mean)})
    with pytest.raises(ValueError, match="a pool of the model"):
        with_metrics(inner, {"stock": Metric(Stock("gone"), initial)})


def test_names_are_checked(inner):
    for streams in (["gone"], ["nee_mean"]):
        with pytest.raises(KeyError, match="streams to keep"):
            with_metrics(inner, {"nee_mean": METRICS["nee_mean"]}, streams=streams)
    with pytest.raises(ValueError, match="each a Metric"):
        with_metrics(inner, {"mean": mean})
    with pytest.raises(ValueError, match="months from 1 to 12"):
        months(0)
    with pytest.raises(ValueError, match=r"keep= of nse"):
        with_metrics(inner, {"nse": Metric("heat", nse, keep=SUMMER)})
    with pytest.raises(ValueError, match="R is given"):
        with_metrics(inner.with_error_parameters(["nee"]), {"mean": METRICS["nee_mean"]})


# ---------------------------------------------------------------------- models and methods


def test_derivatives_are_exact(problem):
    z = jnp.array([0.3, -0.5, 0.4])
    step = 1e-6
    _, jacobian = problem.jacobian(z)
    for n in range(3):
        ahead, behind = (problem.residual_vector(z + sign * step * jnp.eye(3)[n]) for sign in (1, -1))
        np.testing.assert_allclose(jacobian[:, n], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)
    assert testing.adjoint_dot_test(problem, z) < 1e-12


def run_outside(theta):
    if theta["level"] > 50:
        raise RuntimeError("too high")
    return {name: np.asarray(values) for name, values in seasons(theta).items() if name != "gpp"}


@pytest.mark.slow
def test_an_external_model_gives_the_same_metrics(inner, problem):
    forward = BlackBoxForward(run_outside, observations=inner.observations, workers=2)
    few = {name: METRICS[name] for name in ("nee_rmsd", "start")}
    outside = with_metrics(inner.with_forward(forward), few)
    Z = jax.random.normal(jax.random.key(0), (5, 3)).at[3, 0].set(60.0)
    runs, same = outside.ensemble(Z), problem.ensemble(Z)
    good = np.arange(5) != 3
    for name in few:
        np.testing.assert_allclose(runs[name][good], same[name][good], rtol=1e-10)
        assert np.isnan(runs[name][3]).all()
    assert list(np.isnan(costs(outside, Z))) == list(~good)
    assert not outside.differentiable and "too high" in outside.forward.failure_words()
    np.testing.assert_allclose(outside.predict(Z[0])["nee_rmsd"], same["nee_rmsd"][0], rtol=1e-10)
    twin = outside.finite_difference(1e-5)
    exact = with_metrics(inner, few)
    np.testing.assert_allclose(evaluate(twin, Z[0])[1], evaluate(exact, Z[0])[1], rtol=2e-3, atol=0.1)


def test_a_failed_run_has_no_metric_at_all(inner):
    def failing(theta):
        return {name: jnp.where(theta["level"] > 50, jnp.nan, values) for name, values in seasons(theta).items()}

    made = with_metrics(inner.with_forward(FunctionForward(failing)), {name: METRICS[name] for name in ("nee_mean", "peak", "start")})
    predicted = made.ensemble(jnp.array([[0.0, 0.0, 0.0], [60.0, 0.0, 0.0]]))
    for name, stream in made.observations.items():
        there = np.asarray(stream.mask)
        assert np.isfinite(predicted[name][0][there]).all() and np.isnan(predicted[name][1]).all()


def test_the_error_of_an_emulator_is_not_lost_in_silence(inner):
    class Uncertain(FunctionForward):
        uncertain = True

    with pytest.raises(ValueError, match="an emulator of these"):
        with_metrics(inner.with_forward(Uncertain(seasons)), {"nee_rmsd": METRICS["nee_rmsd"]}, sigma={"nee_rmsd": 1.0})


def test_linear_metrics_have_the_posterior_of_the_linear_problem(inner):
    made = with_metrics(inner, {"north": Metric("nee", mean, keep=np.arange(DAYS.size) < 400)})
    space = SPACE.fix("day")
    made = Problem(space, made.forward, made.observations)
    result = lc.solve(made, lc.LevenbergMarquardt(), progress=False)
    stream, mask = made.observations["north"], np.asarray(inner.observations["nee"].mask)
    G = []
    for site in range(3):
        base = np.asarray(seasons({"level": 0.0, "size": 1.0, "day": 180.0})["nee"][site])
        seen = mask[site] & (np.arange(DAYS.size) < 400)
        G.append([1.0, base[seen].mean()])
    G, sd = np.array(G), np.asarray(stream.sigma)[:, 0]
    innovation = np.asarray(stream.values)[:, 0] - G @ np.array([2.0, 4.0])
    P = np.linalg.inv(np.eye(2) + G.T @ (G / sd[:, None] ** 2))
    np.testing.assert_allclose(result.z, P @ G.T @ (innovation / sd**2), rtol=1e-6)
    np.testing.assert_allclose(lc.laplace(made, result).covariance, P, rtol=1e-6)


def test_metrics_find_the_truth_of_a_twin(inner):
    problem = with_metrics(inner, {name: METRICS[name] for name in ("nee_mean", "spring", "summer")})
    result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False)
    posterior = lc.laplace(problem, result)
    away = (np.asarray(result.z) - np.asarray(SPACE.whiten(TRUTH))) / np.sqrt(np.asarray(posterior.covariance).diagonal())
    assert (np.abs(away) < 3).all(), away


def test_metrics_of_metrics(problem):
    """A problem of metrics is a problem like any other."""
    again = with_metrics(problem, {"off": Metric("nee_mean", bias)}, sigma={"off": 1.0})
    values = np.asarray(problem.predict(jnp.ones(3))["nee_mean"]) - np.asarray(problem.observations["nee_mean"].values)
    np.testing.assert_allclose(again.predict(jnp.ones(3))["off"], values, rtol=1e-12)
