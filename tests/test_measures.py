"""Scalars of one series against closed forms, with gaps, and where they cannot be computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.measures import Measure, Series, dimensionless, per_day, same_units
from landcal_jax.metric_reading import series_of
from landcal_jax.metrics import (
    amplitude,
    bias,
    correlation,
    day_of_peak,
    deviation,
    initial,
    kge,
    mean,
    nse,
    peak,
    rmsd,
    season_end,
    season_start,
    sink,
    slope,
    spring_slope,
    yearly,
)
from landcal_jax.observations import Stream

DAYS = np.arange("2003-01-01", "2006-01-01", dtype="datetime64[D]")  # 2004 is a leap year
RNG = np.random.default_rng(0)


def one(modelled, observed=None, mask=True, days=DAYS) -> Series:
    """The series of one site, NaN where masked, as a metric gives it to its measure."""
    modelled = np.asarray(modelled, float)
    mask = np.broadcast_to(mask, modelled.shape)[None]
    observed = modelled if observed is None else observed
    series = jax.tree.map(lambda leaf: leaf[0], series_of(mask, None if days is None else days[None], observed[None], np.ones(mask.shape)))
    return Series(jnp.where(mask[0], modelled, jnp.nan), series.observed, series.mask, series.sigma, series.day_of_year, series.year,
                  series.days, series.years)


def seasonal(level=2.0, size=3.0, day=180.0):
    """A cosine of 365 days, highest on this day of the year, on the calendar of the measures."""
    return level + size * np.cos(2 * np.pi * (calendar() - day) / 365)


def calendar():
    return np.asarray(one(np.zeros(DAYS.size)).day_of_year)


def test_scores_are_those_of_the_stream_with_gaps():
    y, mask = RNG.normal(3.0, 2.0, 400), RNG.random(400) < 0.6
    h = 0.5 * y + RNG.normal(size=400)
    series = one(h, y, mask, days=None)
    known = Stream(y, 1.0, mask=mask).scores(h[None])
    for measure, name in ((rmsd, "rmse"), (bias, "bias"), (correlation, "r"), (kge, "kge")):
        assert float(measure(series)) == pytest.approx(known[name][0], rel=1e-12)
    assert float(nse(series)) == pytest.approx(1 - np.sum((h - y)[mask] ** 2) / np.sum((y[mask] - y[mask].mean()) ** 2), rel=1e-12)
    assert float(mean(series)) == pytest.approx(h[mask].mean(), rel=1e-12)
    assert float(deviation(series)) == pytest.approx(h[mask].std(), rel=1e-12)
    assert float(initial(series)) == h[mask][0]


def test_a_perfect_model_has_the_best_score_and_a_finite_derivative():
    y = RNG.normal(size=50)
    for measure, best in ((rmsd, 0.0), (bias, 0.0), (nse, 1.0), (kge, 1.0), (correlation, 1.0)):
        value, gradient = jax.value_and_grad(lambda h, measure=measure: measure(one_of(h, y)))(jnp.asarray(y))
        assert float(value) == pytest.approx(best, abs=1e-7) and np.isfinite(gradient).all()


def one_of(h, y):
    return Series(h, jnp.asarray(y), jnp.ones(h.shape, bool), jnp.ones(h.shape))


@pytest.mark.parametrize("measure", [nse, kge, correlation])
def test_what_has_no_variance_gives_no_number(measure):
    assert np.isnan(measure(one(np.arange(5.0), np.ones(5), days=None)))


def test_nothing_observed_gives_no_number():
    series = one(np.ones(DAYS.size), mask=np.zeros(DAYS.size, bool))
    for measure in (rmsd, bias, mean, nse, kge, correlation, initial, spring_slope, amplitude(), peak(), day_of_peak(), season_start(),
                    yearly(mean)):
        assert np.isnan(measure(series)), str(measure)


MEASURES = (rmsd, bias, nse, kge, correlation, mean, deviation, spring_slope, amplitude(), peak(), sink(), day_of_peak(), season_start(),
            season_end(), yearly(peak(31), spread=True))


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_gaps_change_neither_value_nor_derivative(measure):
    mask = RNG.random(DAYS.size) < 0.5
    y, h = seasonal(), seasonal(1.5, 2.5, 190.0) + RNG.normal(0, 0.1, DAYS.size)

    def of(h):
        series = one(y, y, mask)
        return measure(Series(jnp.where(mask, h, jnp.nan), *(getattr(series, name) for name in (
            "observed", "mask", "sigma", "day_of_year", "year", "days", "years"))))

    other = np.where(mask, h, RNG.normal(size=h.size) * 1e3)
    value, gradient = jax.value_and_grad(of)(jnp.asarray(h))
    again, derivative = jax.value_and_grad(of)(jnp.asarray(np.where(RNG.random(h.size) < 0.5, other, np.where(mask, h, np.nan))))
    assert float(value) == float(again) and np.isfinite(value)
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[~mask] == 0).all() and np.abs(gradient).max() > 0
    np.testing.assert_array_equal(gradient, derivative)
    # Against central differences along a smooth direction; away from kinks.
    along = np.cos(2 * np.pi * (calendar() - 100) / 365)
    step = 1e-5
    expected = (float(of(jnp.asarray(h + step * along))) - float(of(jnp.asarray(h - step * along)))) / (2 * step)
    assert float(np.asarray(gradient) @ along) == pytest.approx(expected, rel=1e-5, abs=1e-8)


# ---------------------------------------------------------------------- slopes


def test_slope_of_lines_with_gaps_and_levels_is_exact():
    year = DAYS.astype("datetime64[Y]").astype(int)
    mask = (RNG.random(DAYS.size) < 0.3) | (year == 34)
    h = 0.07 * calendar() + np.array([5.0, -20.0, 300.0])[year - 33]
    assert float(slope("03-01", "05-31")(one(h, mask=mask))) == pytest.approx(0.07, rel=1e-10)


def test_slope_reads_its_window_alone():
    day = calendar()
    h = np.where((day >= 60) & (day <= 151), 0.5 * day, 1e3 * RNG.normal(size=day.size))
    assert float(slope("03-01", "05-31")(one(h))) == pytest.approx(0.5, rel=1e-9)


def test_a_window_over_new_year_belongs_to_one_season():
    # Southern summer: a line from 1 November on that goes on in January, at another level in each season.
    first = np.array([np.datetime64(f"{year}-11-01") for year in range(2002, 2006)])
    season = np.searchsorted(first, DAYS, side="right") - 1
    h = 2.0 * (DAYS - first[season]).astype(int) + 1e3 * season
    series = one(h)
    assert float(slope("11-01", "02-28")(series)) == pytest.approx(2.0, rel=5e-3)  # 29 February counts as the 28th
    assert float(slope("11-01", "01-31")(series)) == pytest.approx(2.0, rel=1e-10)


def test_slope_of_few_values_is_none():
    mask = np.isin(DAYS, np.arange("2004-04-01", "2004-04-10", dtype="datetime64[D]"))
    h = calendar()
    assert np.isnan(slope("03-01", "05-31")(one(h, mask=mask)))
    assert float(slope("03-01", "05-31", least=9)(one(h, mask=mask))) == pytest.approx(1.0)


def test_dates_have_to_be_dates():
    for wrong in ("02-29", "13-01", "3-1", "00-10"):
        with pytest.raises(ValueError, match="month-day"):
            slope(wrong, "05-31")


def test_days_of_the_year_are_those_of_a_common_year():
    day = dict(zip(DAYS.astype(str), calendar(), strict=True))
    assert [day[date] for date in ("2003-01-01", "2003-03-01", "2004-03-01", "2004-02-28", "2004-02-29", "2004-12-31", "2005-12-31")] == [
        1, 60, 60, 59, 59, 365, 365]


# ---------------------------------------------------------------------- seasonal cycle


def damping(days):
    """What a running mean over so many days leaves of a cosine of 365 days."""
    return np.sin(np.pi * days / 365) / (days * np.sin(np.pi / 365))


@pytest.mark.parametrize("smooth", [1, 15])
def test_levels_of_a_cosine(smooth):
    series = one(seasonal())
    # 29 February counts as a second 28 February, which is one value more in some means.
    factor = damping(smooth)
    assert float(amplitude(smooth)(series)) == pytest.approx(6 * factor, rel=2e-4)
    assert float(peak(smooth)(series)) == pytest.approx(2 + 3 * factor, rel=2e-4)
    assert float(sink(smooth)(series)) == pytest.approx(2 - 3 * factor, rel=5e-4)


def test_timing_of_a_cosine():
    series = one(seasonal(day=170.3))
    assert float(day_of_peak(1)(series)) == pytest.approx(170.3, abs=0.01)
    half = 365 / 4  # a cosine crosses half of its amplitude a quarter of a year from its peak
    assert float(season_start(0.5, 1)(series)) == pytest.approx(170.3 - half, abs=0.01)
    assert float(season_end(0.5, 1)(series)) == pytest.approx(170.3 + half, abs=0.01)
    away = np.arccos(-0.6) * 365 / (2 * np.pi)
    assert float(season_end(0.2, 1)(series)) - float(season_start(0.2, 1)(series)) == pytest.approx(2 * away, abs=0.02)


def test_the_season_of_low_values_is_that_of_the_mirrored_series():
    h = seasonal(day=150.0)
    for measure in (day_of_peak, season_start, season_end):
        assert float(measure(smooth=15, lowest=True)(one(-h))) == pytest.approx(float(measure(smooth=15)(one(h))), abs=1e-9)


def test_days_about_new_year_stay_together():
    late, early = one(seasonal(day=360.0)), one(seasonal(day=5.0))
    for shift, series in ((-5.0, late), (5.0, early)):
        assert float(day_of_peak(1, centre=1.0)(series)) == pytest.approx(shift, abs=0.01)
    assert float(day_of_peak(1)(late)) == pytest.approx(360.0, abs=0.01)
    assert float(season_start(0.5, 1, centre=1.0)(early)) == pytest.approx(5 - 365 / 4, abs=0.01)


def every(step, day):
    """A cosine of three years that is highest on this day, as a value every so many days from each 1 January."""
    days = np.concatenate([np.datetime64(f"{year}-01-01") + np.arange(0, 365, step) for year in (2003, 2005, 2006)])
    of_year = (days - days.astype("datetime64[Y]")).astype(int) + 1.0
    return one(np.cos(2 * np.pi * (of_year - day) / 365), days=days)


@pytest.mark.parametrize("step", [1, 8, 16])
def test_timing_of_a_sparse_series_moves_with_it(step):
    """No staircase: half-day steps of the phase come back to a tenth of a day and with a slope of one."""
    phases, quarter = np.arange(176.0, 186.0, 0.5), 365 / 4
    for measure, away in ((day_of_peak(), 0.0), (season_start(0.5), -quarter), (season_end(0.5), quarter)):
        found = np.array([float(measure(every(step, day))) for day in phases])
        np.testing.assert_allclose(found, phases + away, atol=0.1)
        np.testing.assert_allclose(np.diff(found) / 0.5, 1.0, atol=0.1)
    assert np.isnan(day_of_peak()(every(30, 180.0))) and float(day_of_peak(31)(every(30, 180.0))) == pytest.approx(180.0, abs=0.5)


def test_a_modelled_day_is_given_near_the_observed_one():
    late, early = seasonal(day=363.0), seasonal(day=2.0)
    assert float(day_of_peak()(one(early, late))) == pytest.approx(367.0, abs=0.05)
    assert float(day_of_peak()(one(late, early))) == pytest.approx(-2.0, abs=0.05)
    assert float(day_of_peak(centre=183.0)(one(early, late))) == pytest.approx(2.0, abs=0.05)
    assert float(season_start(0.5)(one(seasonal(day=90.0), seasonal(day=95.0)))) == pytest.approx(90 - 365 / 4, abs=0.1)


def test_days_by_year_are_averaged_on_their_circle():
    year = DAYS.astype("datetime64[Y]").astype(int) - 33
    by_year = np.choose(year, [seasonal(day=day) for day in (360.0, 2.0, 4.0)])
    assert float(yearly(day_of_peak())(one(by_year))) == pytest.approx((360 + 367 + 369) / 3, abs=0.3)
    assert float(yearly(day_of_peak(), spread=True)(one(by_year))) == pytest.approx(np.std([-5, 2, 4], ddof=1), abs=0.3)


def test_years_and_windows_of_the_south():
    southern = dataclasses.replace(one(seasonal(day=10.0)), south=jnp.asarray(True))
    northern = one(np.roll(seasonal(day=10.0), 184))  # the same half a year later
    assert float(spring_slope(southern)) == pytest.approx(float(spring_slope(northern)), rel=0.03)
    assert float(spring_slope(southern)) > 0 > float(spring_slope(one(seasonal(day=10.0))))
    # Each year from July on has another summer; only whole ones are compared by calendar years in the north.
    season = (DAYS.astype("datetime64[M]").astype(int) - 6) // 12 - 32
    h = seasonal(day=10.0) * np.array([1.0, 2.0, 4.0, 8.0])[season]
    peaks = [float(peak()(one(h, mask=season == number))) for number in (1, 2)]
    assert float(yearly(peak(), start="07-01")(one(h))) == pytest.approx(np.mean(peaks), rel=1e-12)
    assert float(yearly(peak())(dataclasses.replace(one(h), south=jnp.asarray(True)))) == pytest.approx(np.mean(peaks), rel=1e-12)


def test_a_constant_that_is_no_binary_number_does_not_vary():
    z = np.random.default_rng(5).normal(size=DAYS.size)
    for measure in (correlation, kge):
        assert np.isnan(measure(one(np.full(DAYS.size, 0.1), z)))
    for measure in (nse, correlation, kge):
        assert np.isnan(measure(one(z, np.full(DAYS.size, 0.1))))


def test_measures_of_ones_own_are_checked():
    with pytest.raises(TypeError, match="a function of a Series"):
        Measure("rmsd", "RMSD", same_units)
    with pytest.raises(TypeError, match="a measure, or a function"):
        yearly("peak")
    with pytest.raises(ValueError, match="two values"):
        slope("03-01", "05-31", least=0)


def test_a_year_with_a_hole_gives_no_cycle():
    h, winter = seasonal(), (calendar() < 60)
    series = one(h, mask=~winter)
    assert all(np.isnan(measure(series)) for measure in (amplitude(), peak(), day_of_peak(), season_start()))
    assert float(peak(coverage=0.8)(series)) == pytest.approx(float(peak()(one(h))), rel=1e-3)
    assert np.isfinite(amplitude(coverage=0.8)(series))


def test_a_flat_year_has_a_day_of_peak_but_no_season():
    flat = one(np.ones(DAYS.size))
    assert np.isnan(season_start()(flat)) and float(amplitude()(flat)) == 0.0


@pytest.mark.parametrize("wrong", [lambda: amplitude(4), lambda: amplitude(15, coverage=1.5), lambda: season_start(1.2), lambda: peak(0),
                                   lambda: day_of_peak(2.5)])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        wrong()


def test_measures_by_year():
    year = DAYS.astype("datetime64[Y]").astype(int) - 33
    h = seasonal(size=1.0) * np.array([1.0, 2.0, 4.0])[year]
    peaks = [float(peak()(one(h, mask=year == number))) for number in range(3)]
    assert float(yearly(peak())(one(h))) == pytest.approx(np.mean(peaks), rel=1e-12)
    assert float(yearly(peak(), spread=True)(one(h))) == pytest.approx(np.std(peaks, ddof=1), rel=1e-12)
    # The summer of the second year is missing: the measure of that year is left out.
    gap = (year == 1) & (calendar() > 120) & (calendar() < 240)
    assert float(yearly(peak())(one(h, mask=~gap))) == pytest.approx(np.mean([peaks[0], peaks[2]]), rel=1e-12)
    assert np.isnan(yearly(peak(), least=3)(one(h, mask=~gap)))


def test_a_series_without_times_says_so():
    for measure in (spring_slope, amplitude(), day_of_peak(), yearly(mean)):
        with pytest.raises(ValueError, match="times of the series"):
            measure(one(np.ones(5), days=None))


def test_units_follow_the_measure():
    assert [per_day(unit) for unit in ("W m-2", "gC m-2 d-1", "1", "")] == ["W m-2 d-1", "gC m-2 d-2", "d-1", ""]
    assert spring_slope.units_of("gC m-2 d-1") == "gC m-2 d-2" and day_of_peak().units_of("K") == "d"
    assert rmsd.units_of is same_units and nse.units_of is dimensionless and yearly(spring_slope).units_of("K") == "K d-1"


def test_a_maker_of_measures_says_that_it_has_to_be_called():
    for maker in (peak, amplitude):
        with pytest.raises(TypeError, match="call it"):
            maker(Series(*jnp.zeros((4, 3))))
