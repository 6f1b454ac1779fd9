"""Scorecards: normalised differences, their significance over blocks, the objective and the figure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

import landcal_jax as lc
from landcal_jax import plot_scorecard
from landcal_jax.metrics import bias, correlation, day_of_peak, kge, peak, rmsd
from landcal_jax.observations import Observations, Stream
from landcal_jax.scorecard import Leads, days_since, scorecard, scorecard_objective, season_of, sentences

DAYS = np.arange("2001-01-01", "2004-01-01", dtype="datetime64[D]")
SITES = ("A", "B", "C")
REGIONS = {"all": SITES, "north": ("A", "B"), "south": ("C",)}
SHAPE = (3, DAYS.size)


def observed(seed=0, streams=("nee", "heat")):
    rng = np.random.default_rng(seed)
    return Observations({
        name: Stream(rng.standard_normal(SHAPE), 1.0, mask=rng.random(SHAPE) < 0.6, time=DAYS, units=units)
        for name, units in zip(streams, ("gC m-2 d-1", "W m-2"), strict=True)}, sites=SITES)


OBSERVED = observed()
VALUES = {name: np.asarray(stream.values) for name, stream in OBSERVED.items()}
MASK = {name: np.asarray(stream.mask) for name, stream in OBSERVED.items()}


def run(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: values + scale * rng.standard_normal(SHAPE) for name, values in VALUES.items()}


REFERENCE, EXPERIMENT = run(1), run(2, 0.8)


@pytest.fixture(scope="module")
def card():
    return scorecard(OBSERVED, EXPERIMENT, REFERENCE, regions=REGIONS)


def rmse(run, name, site, keep):
    keep = keep & MASK[name][site]
    return np.sqrt(np.mean((run[name] - VALUES[name])[site, keep] ** 2))


def test_cells_are_normalised_differences_of_mean_errors(card):
    seasons = season_of(DAYS)
    assert list(card["column"].values) == ["DJF", "MAM", "JJA", "SON"] and list(card["units"].values) == ["gC m-2 d-1", "W m-2"]
    for name in VALUES:
        for region, sites in REGIONS.items():
            for season in ("DJF", "JJA"):
                cell = card.sel(variable=name, region=region, column=season)
                within = seasons == season
                e, r = (np.mean([rmse(one, name, SITES.index(site), within) for site in sites]) for one in (EXPERIMENT, REFERENCE))
                assert float(cell["difference"]) == pytest.approx(e / r - 1, rel=1e-10)
                assert float(cell["experiment"]) == pytest.approx(e, rel=1e-10)
                assert int(cell["number"]) == sum((MASK[name][SITES.index(site)] & (seasons == season)).sum() for site in sites)
    assert float(card["overall"]) == pytest.approx(float(card["difference"].mean()), rel=1e-12)


def test_standard_errors_are_those_of_the_jackknife(card):
    block = DAYS.astype(int) // 30
    winter = season_of(DAYS) == "DJF"
    numbers = np.unique(block[winter & MASK["nee"].any(axis=0)])
    sites = range(3)
    each = np.array([
        np.mean([rmse(EXPERIMENT, "nee", site, winter & (block != number)) for site in sites])
        / np.mean([rmse(REFERENCE, "nee", site, winter & (block != number)) for site in sites]) for number in numbers])
    m = len(numbers)
    error = np.sqrt((m - 1) / m * np.sum((each - each.mean()) ** 2))
    cell = card.sel(variable="nee", region="all", column="DJF")
    assert float(cell["error"]) == pytest.approx(error, rel=1e-8) and int(cell["blocks"]) == m
    half = stats.t.ppf(0.975, m - 1) * error
    assert float(cell["upper"] - cell["difference"]) == pytest.approx(half, rel=1e-8)
    assert bool(cell["significant"]) == (abs(float(cell["difference"])) > half) == (float(cell["p_value"]) < 0.05)
    # 20 % smaller errors everywhere: each interval of all sites reaches there, give or take.
    assert (np.abs(card["difference"].sel(region="all") + 0.2) < 4 * card["error"].sel(region="all")).all()


def test_a_run_with_the_same_errors_but_smaller_is_better_without_doubt():
    smaller = {name: values + 0.8 * (REFERENCE[name] - values) for name, values in VALUES.items()}
    card = scorecard(OBSERVED, smaller, REFERENCE, regions=REGIONS)
    np.testing.assert_allclose(card["difference"], -0.2, rtol=1e-12)
    np.testing.assert_allclose(card["error"], 0.0, atol=1e-12)
    assert card["significant"].all() and "24 are better and 0 are worse" in sentences(card)[1]


def simulated(block_days, memory):
    """Share of cells called different though both runs have errors of the same law, with memory in days."""
    rng = np.random.default_rng(7)
    rho, sites, names = np.exp(-1 / memory) if memory else 0.0, 40, ("a", "b")

    def errors():
        white = rng.standard_normal((len(names), sites, DAYS.size))
        errors = white.copy()
        for day in range(1, DAYS.size):
            errors[..., day] = rho * errors[..., day - 1] + np.sqrt(1 - rho**2) * white[..., day]
        return dict(zip(names, errors, strict=True))

    labels = tuple(f"site {n}" for n in range(sites))
    observations = Observations({name: Stream(np.zeros((sites, DAYS.size)), 1.0, time=DAYS) for name in names}, sites=labels)
    card = scorecard(observations, errors(), errors(), regions={site: (site,) for site in labels}, by=None, block_days=block_days)
    return float(card["significant"].mean()), card


def test_significance_errs_as_often_as_it_says():
    # 80 independent cells at 5 %: between 0 and 10 with probability 99.5 %.
    assert simulated(30.0, 0.0)[0] < 0.125
    long, short = simulated(90.0, 15.0), simulated(15.0, 15.0)
    assert long[0] < 0.15 and short[0] > 1.5 * long[0]
    assert float(short[1]["block_correlation"].median()) > 0.2
    assert any("take longer blocks" in line for line in sentences(short[1]))


def test_few_blocks_say_nothing_about_significance():
    card = scorecard(OBSERVED, EXPERIMENT, REFERENCE, by=None, block_days=400)
    assert (card["blocks"] < 5).all() and np.isnan(card["error"]).all() and not card["significant"].any()
    assert np.isfinite(card["difference"]).all() and any("fewer than 5 blocks" in line for line in sentences(card))
    assert "too few blocks" in sentences(card)[0]


# ---------------------------------------------------------------------- columns


def test_streams_by_lead_time():
    streams = {"T_1": OBSERVED["nee"], "T_5": OBSERVED["heat"]}
    names = dict(zip(streams, VALUES, strict=True))
    e, r = ({new: one[old] for new, old in names.items()} for one in (EXPERIMENT, REFERENCE))
    card = scorecard(Observations(streams, sites=SITES), e, r, by=Leads({"T_5": ("temperature", 5.0), "T_1": ("temperature", 1.0)}))
    plain = scorecard(OBSERVED, EXPERIMENT, REFERENCE, by=None)
    assert list(card["variable"].values) == ["temperature"] and list(card["column"].values) == [1.0, 5.0]
    np.testing.assert_allclose(card["difference"].values[0, 0], plain["difference"].values[:, 0, 0], rtol=1e-12)
    np.testing.assert_allclose(card["error"].values[0, 0], plain["error"].values[:, 0, 0], rtol=1e-9)
    with pytest.raises(KeyError, match="a lead time for every stream"):
        scorecard(OBSERVED, EXPERIMENT, REFERENCE, by=Leads({"nee": ("nee", 1.0)}))


def test_days_since_a_start():
    lead = days_since(["2001-01-01", "2001-01-11"], [0, 1, 5, 8])
    time = np.array(["2000-12-31", "2001-01-01", "2001-01-03", "2001-01-07", "2001-01-10", "2001-01-11", "NaT"], "datetime64[m]")
    np.testing.assert_array_equal(lead(time), [np.nan, 1, 5, 8, np.nan, 1, np.nan])
    with pytest.raises(ValueError, match="rising"):
        days_since(["2001-01-01"], [3, 1])


def test_seasons_are_those_of_their_months():
    time = np.array(["2001-12-01", "2001-02-28", "2001-03-01", "2001-08-31", "2001-11-30", "NaT"], "datetime64[D]")
    assert list(season_of(time)) == ["DJF", "DJF", "MAM", "JJA", "SON", ""]


# ---------------------------------------------------------------------- the objective


def test_the_objective_is_the_overall_difference(card):
    objective = scorecard_objective(OBSERVED, REFERENCE, regions=REGIONS)
    assert float(objective(EXPERIMENT)) == pytest.approx(float(card["overall"]), rel=1e-12)
    assert float(objective(REFERENCE)) == 0.0 and float(objective(VALUES)) == pytest.approx(-1.0)
    failed = {name: values.copy() for name, values in EXPERIMENT.items()}
    failed["nee"][0, np.flatnonzero(MASK["nee"][0])[3]] = np.nan
    unseen = {name: np.where(MASK[name], values, np.nan) for name, values in EXPERIMENT.items()}
    members = {name: np.stack([one[name] for one in (EXPERIMENT, failed, unseen, REFERENCE)]) for name in VALUES}
    np.testing.assert_allclose(objective(members), [float(card["overall"]), np.nan, float(card["overall"]), 0.0], rtol=1e-12, atol=1e-15)

    def along(step):
        return objective.of_run({name: jnp.asarray(values) * (1 + step) for name, values in EXPERIMENT.items()})

    expected = (float(along(1e-5)) - float(along(-1e-5))) / 2e-5
    assert float(jax.grad(along)(0.0)) == pytest.approx(expected, rel=1e-6)


def test_weights_choose_what_counts(card):
    weights = xr.DataArray([1.0, 0.0, 3.0, 0.0], dims="column", coords={"column": ["DJF", "MAM", "JJA", "SON"]})
    one = card["difference"].sel(variable="nee", region="all")
    objective = scorecard_objective(OBSERVED, REFERENCE, weights=weights * xr.DataArray(
        [1.0, 0.0], dims="variable", coords={"variable": ["nee", "heat"]}))
    assert float(objective(EXPERIMENT)) == pytest.approx(float((one.sel(column="DJF") + 3 * one.sel(column="JJA")) / 4), rel=1e-12)
    by_variable = scorecard_objective(OBSERVED, REFERENCE, weights={"heat": 0.0})
    assert float(by_variable(EXPERIMENT)) == pytest.approx(float(one.mean()), rel=1e-12)
    for wrong, error in (({"gone": 1.0}, KeyError), ({"nee": -1.0}, ValueError), (weights.isel(column=slice(2)), ValueError)):
        with pytest.raises(error, match="Expected"):
            scorecard_objective(OBSERVED, REFERENCE, weights=wrong)


def test_another_measure_takes_its_departure_from_the_best():
    objective = scorecard_objective(OBSERVED, REFERENCE, by=None, score=bias)
    departures = [np.mean([abs(np.mean((one["nee"] - VALUES["nee"])[site, MASK["nee"][site]])) for site in range(3)])
                  for one in (EXPERIMENT, REFERENCE)]
    alone = scorecard_objective(OBSERVED, REFERENCE, by=None, score=bias, weights={"heat": 0.0})
    assert float(alone(EXPERIMENT)) == pytest.approx(departures[0] / departures[1] - 1, rel=1e-10)
    assert np.isfinite(objective(EXPERIMENT))


# ---------------------------------------------------------------------- mistakes


def test_mistakes_are_said():
    timeless = Observations({"nee": Stream(VALUES["nee"], 1.0)}, sites=SITES)
    lost = REFERENCE | {"nee": np.full(SHAPE, np.nan)}
    cases = [
        (ValueError, "a finite nee in the reference", {"reference": lost}),
        (KeyError, "the stream heat", {"reference": {"nee": VALUES["nee"]}}),
        (ValueError, r"nee of the experiment of shape \(3, 1095\)", {"experiment": EXPERIMENT | {"nee": np.zeros((3, 5))}}),
        (KeyError, "regions of the sites A, B, C", {"regions": {"x": ("D",)}}), (ValueError, "level between", {"level": 2.0}),
        (ValueError, "times of the stream nee", {"observations": timeless}), (ValueError, "labels of columns", {
            "by": lambda time: np.full(time.shape, "")}), (KeyError, "labels of the stream heat", {"by": {"nee": np.zeros(SHAPE)}}),
        (ValueError, "runs of some of the streams", {"experiment": {}, "reference": {}}), (ValueError, "columns by season", {"by": "week"}),
        (TypeError, "a list of names", {"regions": {"n": "A"}}), (TypeError, "a measure, or a function", {"score": "rmsd"}),
        (TypeError, "operations of JAX", {"score": lambda series: np.nanmean(series.modelled)}),
        (TypeError, "columns by a word", {"by": 3}),
        (ValueError, "a cell with a weight", {"score": peak()}), (ValueError, "a cell with a weight", {"reference": VALUES})]
    for error, words, other in cases:
        given = {"observations": OBSERVED, "experiment": EXPERIMENT, "reference": REFERENCE} | other
        with pytest.raises(error, match=words):
            scorecard(**given)
    with pytest.raises(ValueError, match="a cell with a weight"):
        scorecard_objective(OBSERVED, VALUES, by=None)


def test_a_score_that_is_lost_is_no_gain(tmp_path):
    """Where the measure is undefined for the experiment alone, it may not look better for that."""
    winter, flat = season_of(DAYS) == "DJF", {name: values.copy() for name, values in EXPERIMENT.items()}
    flat["nee"][:, winter] = 0.0
    card = scorecard(OBSERVED, flat, REFERENCE, score=correlation)
    assert np.isnan(card["overall"]) and np.isnan(card["overall_error"]) and int(card["lost"].sum()) == 1
    assert any("In 1 cell correlation is undefined for the experiment" in line and "nee, all, DJF" in line for line in sentences(card))
    objective = scorecard_objective(OBSERVED, REFERENCE, score=correlation)
    assert np.isnan(objective(flat)) and np.isfinite(objective(EXPERIMENT))
    dead = {name: values.copy() for name, values in EXPERIMENT.items()}
    dead["nee"][0] = 0.0  # one site of three
    assert int(scorecard(OBSERVED, dead, REFERENCE, score=kge)["lost"].sum()) == 4
    without = scorecard(OBSERVED, flat, REFERENCE, score=correlation, weights={"nee": 0.0})
    assert np.isfinite(without["overall"]) and np.isfinite(without["overall_error"])
    figure = plot_scorecard.scorecard(card)
    assert sum(line.get_marker() == "x" for axis in figure.axes for line in axis.get_lines()) == 1 and "not known" in figure.get_supxlabel()


def test_days_of_the_year_are_compared_on_their_circle():
    day = np.arange(DAYS.size) % 365.25 + 1

    def peaking(at):
        return {"gpp": np.stack([np.cos(2 * np.pi * (day - one) / 365.25) for one in at])}

    observations = Observations({"gpp": Stream(peaking((363, 180))["gpp"], 0.1, time=DAYS)}, sites=("south", "north"))
    card = scorecard(observations, peaking((367, 184)), peaking((355, 172)), by=None, score=day_of_peak(),
                     regions={"south": ("south",), "north": ("north",)})
    np.testing.assert_allclose(card["experiment"].values.ravel(), 4.0, atol=0.1)
    np.testing.assert_allclose(card["reference"].values.ravel(), 8.0, atol=0.1)
    np.testing.assert_allclose(card["difference"].values.ravel(), -0.5, atol=0.02)


def test_columns_are_words_and_have_their_names():
    leads = days_since("2001-01-01", [0, 365, 730])
    for by, name, labels in (("month", "month", ("Jan", "Dec")), ("year", "year", ("2001", "2003")), ("season", "season", ("DJF", "SON")),
                             (leads, "lead time [d]", (365.0, 730.0)), (lambda time: np.full(time.shape, "x"), "column", ("x", "x"))):
        card = scorecard(OBSERVED, EXPERIMENT, REFERENCE, by=by, block_days=1000)
        assert card["column"].attrs["long_name"] == name and (card["column"].values[0], card["column"].values[-1]) == labels


# ---------------------------------------------------------------------- the figure


def test_the_figure_has_a_triangle_a_cell(card, tmp_path):
    shown = card.copy(deep=True)
    shown["difference"][0, 0, 0], shown["error"][1, 0, 1] = np.nan, np.nan
    figure = plot_scorecard.scorecard(shown)
    marks = [line for axis in figure.axes for line in axis.get_lines() if line.get_marker() in "^v."]
    assert [axis.get_title(loc="left") for axis in figure.axes] == list(REGIONS) and len(marks) == 23
    assert sum(line.get_marker() == "." for line in marks) == 1
    up = sum(line.get_marker() == "^" for line in marks)
    assert up == int((shown["difference"] < 0).sum()) - int(float(shown["difference"][1, 0, 1]) < 0)
    filled = sum(line.get_markerfacecolor() != "white" for line in marks if line.get_marker() != ".")
    assert filled == int((shown["significant"] & shown["difference"].notnull() & shown["error"].notnull()).sum())
    figure.savefig(tmp_path / "card.png")
    assert "Season" in figure.get_supxlabel() and "RMSD" in figure.get_supxlabel()


def test_sentences_need_the_attributes(card):
    assert str(rmsd) == card.attrs["score"] and lc.sentences(card) == sentences(card)
    with pytest.raises(ValueError, match="a Dataset of scorecard"):
        sentences(card.drop_attrs())
