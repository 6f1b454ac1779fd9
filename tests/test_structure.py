"""The structural report: it names what was planted, and is quiet where nothing was."""

import jax.numpy as jnp
import numpy as np
import pytest

import landcal_jax as lc
from landcal_jax import structure
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.structure import tested
from landcal_jax.structure.findings import p_text, season_of
from landcal_jax.structure.parameters import bounds
from landcal_jax.structure.score_tests import whitened_at
from landcal_jax.structure.subsets import own_optimum

DAYS = np.arange(730)
PHASE = 2 * np.pi * DAYS / 365.25
SHAPES = {"level": np.ones(730), "cycle": np.cos(PHASE), "slope": (DAYS - 365) / 365}
BUMP = np.exp(-0.5 * (((DAYS % 365) - 150) / 20.0) ** 2)


def two_streams(theta):
    """Two streams that share three parameters."""
    one = sum(theta[name] * jnp.asarray(shape) for name, shape in SHAPES.items())
    return {"nee": one[None], "latent_heat": (3 * theta["level"] + theta["cycle"] * jnp.asarray(np.sin(PHASE)))[None]}


def problem_with(seed: int = 0, bump: float = 0.0, drift: float = 0.0) -> Problem:
    rng = np.random.default_rng(seed)
    space = ParameterSpace({name: Parameter.normal(0.0, 2.0) for name in SHAPES})
    truth = {name: jnp.asarray(value) for name, value in zip(SHAPES, (1.0, -0.7, 0.4), strict=True)}
    made = two_streams(truth)
    time = np.datetime64("2001-01-01") + DAYS.astype("timedelta64[D]")
    added = {"nee": bump * BUMP, "latent_heat": drift * DAYS / 365.25}
    streams = {name: Stream(np.asarray(made[name])[0] + added[name] + 0.5 * rng.standard_normal(730), 0.5, time=time, units="1")
               for name in made}
    return Problem(space, FunctionForward(two_streams), Observations(streams))


def optimum(problem: Problem):
    return lc.solve(problem, lc.GaussNewton(), progress=False).z


@pytest.fixture(scope="module")
def wrong():
    problem = problem_with(3, bump=0.8)
    return structure.examine(problem, optimum(problem), candidates={"spring_pulse": {"nee": BUMP}})


def test_a_right_model_is_quiet_nearly_always():
    """One report in twenty may have an alarm: two of twelve at most are allowed here."""
    loud = [seed for seed in range(12)
            if not structure.examine(problem := problem_with(seed), optimum(problem), refits=False).quiet]
    assert len(loud) <= 2


def test_a_planted_signal_is_named_with_its_size(wrong):
    assert not wrong.quiet
    assert wrong.top.numbers["candidate"] == "spring_pulse" and wrong.top.sentence.startswith("Spring pulse is in the observations")
    named = wrong.named[0]
    assert abs(named.refit.coefficient - 0.8) < 3 * named.refit.spread < 0.4
    assert named.refit.after < named.refit.before - 20


def test_a_drift_of_one_stream_is_named_without_a_candidate_of_the_user():
    problem = problem_with(1, drift=0.5)
    top = structure.examine(problem, optimum(problem)).top
    assert top.numbers["group"] == ("observation", "latent_heat") and top.numbers["candidate"] == "latent_heat_drift"


def test_sentences_dataset_and_page_say_the_same(wrong, tmp_path):
    table = wrong.to_xarray()
    assert table.attrs["quiet"] == 0 and table.sizes["finding"] == len(wrong)
    first = np.flatnonzero(table["alarm"].values)[0]
    assert str(table["sentence"].values[first]) == wrong.sentences[0] == wrong.top.sentence
    assert all(each.sentence.endswith(".") and each.advice.endswith(".") and any(c.isdigit() for c in each.sentence) for each in wrong)
    table.to_netcdf(tmp_path / "structure.nc")
    page = wrong.write(tmp_path / "structure.html").read_text()
    assert "Spring pulse" in page and page.count("data:image/png") >= 6
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page


def test_a_quiet_report_says_what_was_tested():
    problem = problem_with(0)
    findings = structure.examine(problem, optimum(problem), refits=False)
    assert findings.quiet and findings.top is None and "Nothing stands out of chance" in findings.sentences[0]


def test_findings_of_others_and_of_chains_are_ranked_with_these():
    class Diagnosis:
        passed = False
        sentences = ("The chains disagree: R-hat 1.3.",)

    problem = problem_with(0)
    deep = structure.Finding("emulator", "The emulator is 9 standard deviations out of its depth.", "Run more members there.", log_p=-60.0)
    findings = structure.examine(problem, optimum(problem), refits=False, more=[deep], diagnosis=Diagnosis())
    assert [each.kind for each in findings.alarms] == ["chains", "emulator"]


def test_parts_of_the_data_are_compared_as_in_the_closed_form():
    """The optimum of one stream alone is that of its own linear problem, and its statistic is small in a right model."""
    problem = problem_with(2)
    z = optimum(problem)
    whitened = whitened_at(problem, z, problem.observations)
    away, statistic, degrees = own_optimum(tested.Tested.of(whitened, problem.observations), whitened.rows["nee"])
    streams = {"nee": problem.observations["nee"]}
    alone = Problem(problem.space, FunctionForward(lambda theta: {"nee": two_streams(theta)["nee"]}), Observations(streams))
    np.testing.assert_allclose(np.asarray(z) + away, np.asarray(optimum(alone)), atol=1e-8)
    assert degrees == 2 and statistic < 14  # the slope is seen by one stream alone: nothing to compare there


def test_a_parameter_at_its_bound_has_a_wider_one_to_try():
    """Truth 3, bound 2: the bound to try lies beyond the truth, and not far beyond."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2001-01-01") + np.arange(100).astype("timedelta64[D]")
    stream = Stream(3.0 + 0.5 * rng.standard_normal(100), 0.5, time=time)
    space = ParameterSpace({"a": Parameter.uniform(0.0, 2.0)})
    problem = Problem(space, FunctionForward(lambda theta: {"y": jnp.broadcast_to(theta["a"], (1, 100))}), Observations({"y": stream}))
    z = lc.solve(problem, lc.LevenbergMarquardt(), progress=False).z
    found = list(bounds(problem, whitened_at(problem, z, problem.observations), np.asarray(z)))
    assert len(found) == 1 and "upper bound" in found[0].sentence
    assert 2.8 < found[0].numbers["try"] < 4.5


def test_what_cannot_be_examined_is_refused():
    problem = problem_with(0)
    with pytest.raises(ValueError, match="a Problem with its result"):
        structure.examine(problem)
    with pytest.raises(ValueError, match="directions of the streams"):
        structure.examine(problem, jnp.zeros(3), candidates={"mine": {"lai": np.ones(730)}})
    with pytest.raises(ValueError, match="shape"):
        structure.examine(problem, jnp.zeros(3), candidates={"mine": {"nee": np.ones(3)}})


def test_words_of_seasons_and_p_values():
    days = np.array(["2001-01-15", "2001-04-15", "2001-07-15", "2001-10-15"], "datetime64[D]").astype(float)
    assert list(season_of(np.append(days, np.nan))) == ["December to February", "March to May", "June to August",
                                                       "September to November", ""]
    assert p_text(np.log(0.034)) == "p = 0.034" and p_text(-700.0) == "p = 1e-304"


def test_failed_runs_and_sites_that_disagree_are_found_and_drawn(tmp_path):
    """Runs fail where a and b are both high; two sites have other true values of a."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2001-01-01") + np.arange(200).astype("timedelta64[D]")
    pattern = np.cos(np.arange(200) / 9.0)

    def model(theta):
        run = jnp.where((theta["a"] > 0.8) & (theta["b"] > 0.2), jnp.nan, theta["a"] * jnp.asarray(pattern) + theta["b"])
        return {"nee": jnp.broadcast_to(run, (2, 200))}

    values = np.stack([0.5 * pattern, -0.5 * pattern]) + 0.5 * rng.standard_normal((2, 200))
    space = ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in ("a", "b")})
    problem = Problem(space, FunctionForward(model), Observations({"nee": Stream(values, 0.5, time=time)}, sites=["north", "south"]))
    findings = structure.examine(problem, optimum(problem))
    kinds = {each.kind: each for each in findings.alarms}
    assert "a " in kinds["failed runs"].sentence and 0.05 < (~kinds["failed runs"].numbers["finished"]).mean() < 0.15
    away = {each.subject: each.numbers["shift"] for each in findings if each.kind == "site conflict"}
    assert away["north"][0] == pytest.approx(0.5, abs=0.1) and away["south"][0] == pytest.approx(-0.5, abs=0.1)
    assert kinds["site conflict"].log_p < -20 and "above all a" in kinds["site conflict"].sentence
    assert "failed, in the two parameters" in findings.write(tmp_path / "structure.html").read_text()
