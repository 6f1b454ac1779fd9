"""Observation operators: calendars against pandas, influence of single steps, gradients, refusals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from landcal_jax.operators import (
    Anomaly,
    Log,
    Pick,
    WindowMean,
    Windows,
    WindowSum,
    from_minutes,
    match_times,
    monthly_windows,
    n_day_windows,
    pad_times,
    to_minutes,
    yearly_windows,
)

TIME = np.arange("2003-11-12", "2005-03-07", dtype="datetime64[D]")
SHORT = np.where(TIME < np.datetime64("2004-05-20"), TIME, np.datetime64("NaT"))
TIMES = np.stack([TIME, SHORT])


class Output(NamedTuple):
    nee: Any
    lai: Any = None


class Run(NamedTuple):
    output: Output


def run_of(nee):
    return Run(Output(nee))


@pytest.fixture(scope="module")
def series():
    generator = np.random.default_rng(7)
    values = generator.normal(size=TIMES.shape)
    values[generator.random(TIMES.shape) < 0.4] = np.nan
    values[0, (TIME >= np.datetime64("2004-02-01")) & (TIME < np.datetime64("2004-03-01"))] = np.nan
    values[np.isnat(TIMES)] = np.nan
    return values


@pytest.mark.parametrize(("windows", "rule"), [(monthly_windows, "MS"), (yearly_windows, "YS")])
@pytest.mark.parametrize(("operator", "method"), [(WindowMean, "mean"), (WindowSum, "sum")])
def test_calendar_windows_are_those_of_pandas(series, windows, rule, operator, method):
    grid = windows(TIMES, ~np.isnan(series))
    filled = np.nan_to_num(series, nan=1e6)
    result = np.asarray(operator("nee", grid)(run_of(jnp.asarray(filled))))
    for site in (0, 1):
        expected = pd.Series(series[site, ~np.isnat(TIMES[site])], TIME[~np.isnat(TIMES[site])]).resample(rule)
        expected = expected.sum(min_count=1) if method == "sum" else expected.mean()
        present = ~np.isnat(grid.start()[site])
        np.testing.assert_array_equal(grid.start()[site, present], expected.index.values.astype("datetime64[m]"))
        np.testing.assert_allclose(result[site, present], expected.values, rtol=1e-12)
        assert np.isnan(result[site, ~present]).all()
    if rule == "MS":
        assert np.isnan(result[0, 3]), "a February without a single observed day has no mean"


def test_leap_february_has_29_days_and_2100_has_28():
    february = monthly_windows(np.arange("2004-02-01", "2004-03-01", dtype="datetime64[D]"))
    assert february.size.tolist() == [[29.0]]
    century = yearly_windows(np.arange("2100-01-01", "2101-01-01", dtype="datetime64[D]"))
    assert century.size.tolist() == [[365.0]]


def test_n_day_windows_count_from_the_first_step_of_a_site():
    windows = n_day_windows(TIMES, 8)
    expected = pd.Series(1.0, TIME).resample("8D").sum()
    np.testing.assert_array_equal(windows.size[0], expected.values)
    np.testing.assert_array_equal(windows.start()[0], expected.index.values.astype("datetime64[m]"))
    assert windows.size[1].sum() == (~np.isnat(SHORT)).sum()


def test_satellite_composites_begin_again_on_the_first_of_january():
    start = n_day_windows(TIME, 8, restart_yearly=True).start()[0]
    assert np.datetime64("2004-01-01", "m") in start and np.datetime64("2005-01-01", "m") in start
    size = n_day_windows(TIME, 8, restart_yearly=True).size[0]
    assert size[start == np.datetime64("2004-12-26", "m")] == 6


def test_half_hourly_steps_fall_into_days():
    halfhours = np.datetime64("2004-02-28", "m") + np.arange(96) * np.timedelta64(30, "m")
    assert n_day_windows(halfhours, 1).size.tolist() == [[48.0, 48.0]]


def test_windows_with_too_few_steps_are_left_empty():
    seen = np.zeros(TIME.shape, bool)
    seen[[0, 1, 2, 40]] = True
    assert monthly_windows(TIME, seen, minimum=2).size[0].tolist()[:3] == [3.0, 0.0, 0.0]


def test_one_calendar_serves_all_sites():
    values = jnp.arange(2.0 * TIME.size).reshape(2, -1)
    shared, own = WindowMean("nee", monthly_windows(TIME)), WindowMean("nee", monthly_windows(np.stack([TIME, TIME])))
    np.testing.assert_array_equal(shared(run_of(values)), own(run_of(values)))


def test_a_run_of_one_site_may_have_no_site_axis():
    values = jnp.arange(1.0 * TIME.size)
    np.testing.assert_array_equal(Pick("nee")(run_of(values)), values[None])


def test_a_step_in_no_window_has_no_influence():
    index = np.array([[0, 0, -1, 1, 1, 1], [-1, 0, 1, -1, 1, 0]])
    operator = WindowMean("nee", index)
    values = jnp.where(index < 0, jnp.nan, jnp.arange(12.0).reshape(2, 6))
    np.testing.assert_allclose(operator(run_of(values)), [[0.5, 4.0], [9.0, 9.0]])
    gradient = jax.grad(lambda x: operator(run_of(x)).sum())(values)
    np.testing.assert_allclose(gradient, [[0.5, 0.5, 0, 1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5, 0, 0.5, 0.5]])


def test_observed_mean_and_its_error_skip_the_missing_days(series):
    operator = WindowMean("nee", monthly_windows(TIMES, ~np.isnan(series)))
    values, sigma = operator.observed(series, 0.5)
    size = np.asarray(operator.windows.size)
    np.testing.assert_allclose(sigma[size > 0], 0.5 / np.sqrt(size[size > 0]))
    assert np.isnan(values[size == 0]).all() and np.isnan(sigma[size == 0]).all()
    total, spread = WindowSum("nee", operator.windows).observed(series, 0.5)
    np.testing.assert_allclose(total, values * size)
    np.testing.assert_allclose(spread, sigma * size)


def test_anomaly_subtracts_the_mean_of_the_observed_values(series):
    mask = ~np.isnan(series)
    operator = Anomaly(Pick("nee"), mask)
    result = np.asarray(operator(run_of(jnp.asarray(series))))
    np.testing.assert_allclose(result, series - np.nanmean(series, axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(operator.observed(series, 1.0)[0], result)
    gradient = jax.grad(lambda x: jnp.nansum(operator(run_of(x))[:, :1]))(jnp.asarray(series))
    assert np.isfinite(gradient).all()


def test_log_has_a_floor_and_a_finite_gradient():
    operator = Log(Pick("lai"), 0.1)
    values = jnp.array([[-1.0, 0.0, 0.1, 2.0]])
    np.testing.assert_allclose(operator(Run(Output(None, values))), np.log([[0.1, 0.1, 0.1, 2.0]]))
    gradient = jax.grad(lambda x: operator(Run(Output(None, x))).sum())(values)
    np.testing.assert_allclose(gradient, [[0.0, 0.0, 0.0, 0.5]])
    observed, sigma = operator.observed(values, 0.3)
    np.testing.assert_allclose(observed, np.log([[0.1, 0.1, 0.1, 2.0]]))
    np.testing.assert_allclose(sigma, [[3.0, 3.0, 3.0, 0.15]])


def test_log_keeps_a_failed_run_visible_but_lets_no_nan_into_the_gradient_of_the_others():
    operator = Log(Pick("nee"), 0.1)
    values = jnp.array([[jnp.nan, jnp.inf, 3.0]])
    assert np.isnan(operator(run_of(values))[0, 0]) and np.isinf(operator(run_of(values))[0, 1])
    gradient = jax.grad(lambda x: operator(run_of(x))[0, 2])(values)
    np.testing.assert_allclose(gradient, [[0.0, 0.0, 1 / 3]])


def test_operators_compose_and_say_what_they_are(series):
    windows = monthly_windows(TIMES, ~np.isnan(series))
    operator = Log(Anomaly(WindowMean("nee", windows), np.asarray(windows.size) > 0), 0.1)
    assert operator.variables == ("nee",)
    assert str(operator) == "log of (anomaly of (mean of nee over 17 windows))"
    assert operator.times(TIMES).shape == (2, 17)
    assert Anomaly(Pick("nee"), [True]).units({"nee": "gC m-2 d-1"}) == "gC m-2 d-1"
    assert operator.units({"nee": "gC m-2 d-1"}) is None


def test_operators_are_pytrees_for_jit_and_vmap(series):
    compiled = jax.jit(lambda operator, values: operator(run_of(values)))
    mask = ~np.isnan(series)
    first, second = (WindowMean("nee", n_day_windows(TIMES, 30, seen)) for seen in (mask, ~np.isnan(series[::-1])))
    values = jnp.asarray(np.nan_to_num(series))
    np.testing.assert_allclose(compiled(first, values), first(run_of(values)))
    compiled(second, values)
    assert compiled._cache_size() == 1, "other gaps in arrays of the same shape must not compile again"
    members = jnp.stack([values, 2 * values])
    batched = jax.vmap(lambda x: first(run_of(x)))(members)
    np.testing.assert_allclose(batched[1], 2 * batched[0])


def test_minutes_hold_every_time_exactly():
    times = np.array(["1850-01-01T00:30", "NaT", "2100-12-31T23:59"], "datetime64[m]")
    np.testing.assert_array_equal(from_minutes(to_minutes(times)), times)


def test_times_of_observations_and_model_are_matched():
    axis = pad_times([TIME, TIME[:5]])
    assert axis.shape == (2, TIME.size) and np.isnat(axis[1, 5:]).all()
    at, place = match_times(TIME[3:8], axis[1])
    assert at.tolist() == [0, 1] and place.tolist() == [3, 4]
    with pytest.raises(ValueError, match="strictly increasing"):
        match_times(TIME[::-1], axis[0])


@pytest.mark.parametrize(("mistake", "message"), [
    (lambda: Pick("gpp")(run_of(jnp.zeros((1, 3)))), "Expected: an output of the model: nee, lai"),
    (lambda: Log(Pick("nee"), 0.0), "a floor above zero"),
    (lambda: Windows([[0.0, 1.0]]), "an integer window"),
    (lambda: Windows([[-1, -1]]), "an integer window"),
    (lambda: Windows([[0, 3]], TIME[None, :2]), "windows below 2"),
    (lambda: Windows([[0, 1]]).start(), "know when they begin"),
    (lambda: WindowMean("nee", [[0, 1]])(run_of(jnp.zeros((1, 3)))), r"shape \(1, 3\)"),
    (lambda: WindowMean("nee", [[0, 1]]).observed([[1.0, np.nan]], 1.0), "1 missing values inside windows"),
    (lambda: Anomaly(Pick("nee"), [True, True]).observed([[1.0, np.nan]], 1.0), "1 missing, first at site 0, value 1"),
    (lambda: Pick("nee").observed([[1.0, 2.0]], [1.0, 1.0, 1.0]), "`sigma`"),
    (lambda: monthly_windows(np.arange(5)), "times as datetime64"),
    (lambda: monthly_windows(["2004-01-01", "2004-02-30"]), "standard calendar"),
    (lambda: monthly_windows(TIME, np.ones(3, bool)), "`observed`"),
    (lambda: monthly_windows(TIME, np.zeros(TIME.size, bool)), "at least 1 observed steps"),
    (lambda: monthly_windows(np.full(3, np.datetime64("NaT"))), "a time axis at every site"),
    (lambda: n_day_windows(TIME, 0), "at least 1 day"),
])
def test_mistakes_are_explained(mistake, message):
    with pytest.raises(ValueError, match=message) as caught:
        mistake()
    assert "Got: " in str(caught.value) and "Try: " in str(caught.value)
