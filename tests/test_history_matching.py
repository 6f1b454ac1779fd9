"""History matching on models whose space not ruled out is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import kstest

from landcal_jax import plot_history_matching as plots
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.forward import FunctionForward
from landcal_jax.history_matching import History, ended, history_match, spread
from landcal_jax.implausibility import implausibility, largest, targets_of
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem

SIGMA = 0.05
SMALL = {"points": 1024, "progress": False, "key": 1}


def space():
    return ParameterSpace({name: Parameter.uniform(-1.0, 1.0, units="kg") for name in ("a", "b")})


def streams(sigma=SIGMA, **values):
    return Observations({name: Stream([[value]], sigma, units="m") for name, value in values.items()})


def box():
    """Both parameters are observed, with an error: what is left is a box about the truth of 0.3 a side, 0.15^2 of the prior."""
    def model(theta):
        return {"p": theta["a"][None, None], "q": theta["b"][None, None]}

    return Problem(space(), FunctionForward(model), streams(p=0.2, q=-0.3))


def never(theta):
    raise AssertionError("the model was run")


def test_implausibility_is_a_distance_in_standard_deviations():
    targets = targets_of(streams(p=1.0, q=2.0), {"q": 0.12})
    np.testing.assert_allclose(np.sqrt(targets.variance), [0.05, 0.13])
    np.testing.assert_allclose(implausibility([[1.1, 2.26]], [[0.0, 0.0]], targets), [[2.0, 2.0]])
    np.testing.assert_allclose(implausibility([[1.5, 2.0]], [[0.12**2, 1.0]], targets), [[0.5 / 0.13, 0.0]])
    values = np.array([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]])
    for valmax, expected in ((0, [5.0, 9.0]), (1, [3.0, 2.0]), (2, [1.0, 0.0]), (3, [0.0, 0.0])):
        np.testing.assert_array_equal(largest(values, valmax), expected)


@pytest.fixture(scope="module")
def boxed():
    return history_match(box(), waves=2, stop=(), **SMALL)


def test_what_is_left_of_a_linear_model_is_the_box(boxed):
    assert abs(boxed.fraction - 0.15**2) < 4 * boxed.fraction_error < 0.8 * 0.15**2
    theta = np.asarray(boxed.posterior(500).matrix())
    np.testing.assert_allclose(theta.min(axis=0), [0.05, -0.45], atol=0.01)
    np.testing.assert_allclose(theta.max(axis=0), [0.35, -0.15], atol=0.01)
    truth = np.asarray(boxed.problem.space.whiten({"a": 0.2, "b": -0.3}))[None]
    assert boxed.scores(truth).shape == (2, 1) and (boxed.scores(truth) < 0.1).all() and boxed.kept(truth).all()
    assert not boxed.kept(np.asarray(boxed.problem.space.whiten({"a": 0.4, "b": -0.3}))[None]).any()
    assert boxed.runs == 40 and boxed.waves[1].learned_from == 40
    assert f"wave 2: 20 runs, {100 * boxed.fraction:.3g} +- " in str(boxed)
    assert boxed.posterior(10).details["fraction"] == boxed.fraction


def test_emulators_that_are_certain_end_it_after_one_wave():
    history = history_match(box(), waves=4, **SMALL)
    assert len(history.waves) == 1 and "certain" in history.status and ended(history) and not ended(history, ())


def test_some_targets_may_fail_and_a_discrepancy_makes_room():
    either = history_match(box(), waves=1, valmax=1, **SMALL)
    assert abs(either.fraction - (1 - 0.85**2)) < 4 * either.fraction_error
    wide = history_match(box(), waves=1, discrepancy={"p": np.sqrt(3) * SIGMA}, **SMALL)
    assert abs(wide.fraction - 2 * 0.15**2) < 4 * wide.fraction_error


def test_later_designs_lie_in_what_is_left_and_are_new(boxed):
    first, second = (wave.z for wave in boxed.waves)
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 40
    theta = np.asarray(boxed.problem.space.flatten(boxed.problem.space.physical(jnp.asarray(second))))
    assert (np.abs(theta - [0.2, -0.3]) < 0.16).all()
    # Spread over the box: each quarter of it has its share.
    quarter = (theta > [0.2, -0.3]) @ [1, 2]
    assert (np.bincount(quarter, minlength=4) >= 3).all()


def test_a_spread_fills_what_was_left_out():
    x = np.random.default_rng(0).random((2000, 2))
    taken = np.random.default_rng(1).random((30, 2)) * [0.5, 1.0]
    chosen = spread(x, 30, taken)
    assert (chosen[:, 0] > 0.5).mean() > 0.85
    with pytest.raises(ValueError, match="3 points that were not run before"):
        spread(taken[:2], 3, np.zeros((0, 2)))


def test_targets_that_no_point_meets_are_a_structural_error():
    def model(theta):
        return {"p": theta["a"][None, None], "q": theta["a"][None, None] + 0 * theta["b"]}

    history = history_match(Problem(space(), FunctionForward(model), streams(p=0.5, q=-0.5)), waves=3, **SMALL)
    assert history.empty and len(history.waves) == 1
    assert history.status.startswith("Structural error") and "10" in history.status
    with pytest.raises(ValueError, match="a region with 5 points"):
        history.posterior(5)
    with pytest.raises(ValueError, match="where something is left"):
        history.told(np.zeros((20, 2)), np.zeros((20, 2)))
    assert isinstance(plots.fractions(history.to_xarray()), Figure) and isinstance(plots.matrix(history.matrix(points=512)), Figure)


def test_an_emulator_that_learned_nothing_rules_nothing_out():
    def model(theta):
        return {"p": theta["a"][None, None], "q": jnp.sin(1e5 * (theta["a"] + 3 * theta["b"]))[None, None]}

    history = history_match(Problem(space(), FunctionForward(model), streams(p=0.2, q=0.9)), waves=1, runs_a_wave=40, **SMALL)
    assert history.waves[0].judge.used.tolist() == [True, False]
    assert "learned nothing: q (R2" in str(history)
    assert abs(history.fraction - 0.15) < 4 * history.fraction_error
    again = history_match(Problem(space(), FunctionForward(lambda theta: {"q": model(theta)["q"]}), streams(q=0.9)), waves=1,
                          runs_a_wave=40, **SMALL)
    assert again.fraction == 1.0 and again.status.startswith("Wave 1 rules out nothing: no emulator learned anything")


def external(folder=None):
    def model(theta):
        if theta["a"] < -0.6:
            raise FloatingPointError("no such soil")
        return {"p": np.array([[theta["a"]]]), "q": np.array([[theta["b"]]])}

    observations = streams(p=0.2, q=-0.3)
    return Problem(space(), BlackBoxForward(model, observations=observations, workers=1, store=folder), observations)


def test_failed_runs_of_an_external_model_are_left_out_and_said():
    history = history_match(external(), waves=1, **SMALL)
    assert (~history.waves[0].finished).sum() == 4 and history.waves[0].learned_from == 16
    assert "4 of 20 runs failed and are left out, at a -" in str(history)
    assert abs(history.fraction - 0.15**2) < 4 * history.fraction_error
    assert history.to_xarray()["failed"].values.tolist() == [4]


def test_a_run_that_is_cut_short_goes_on_with_the_same_bits(boxed, tmp_path):
    options = SMALL | {"stop": (), "folder": tmp_path}
    history_match(box(), waves=1, **options)
    again = history_match(box(), waves=2, **options)
    np.testing.assert_array_equal(again.cloud.u, boxed.cloud.u)
    np.testing.assert_array_equal(again.waves[1].z, boxed.waves[1].z)
    assert again.fraction == boxed.fraction and sorted(path.name for path in tmp_path.iterdir()) == ["wave_01.npz", "wave_02.npz"]
    read = history_match(box(), waves=2, **options)
    np.testing.assert_array_equal(read.waves[1].judge.r2, boxed.waves[1].judge.r2)
    with pytest.raises(ValueError, match="one of another run"):
        history_match(box(), waves=2, **(options | {"cutoff": 2.5}))


def test_the_two_halves_of_a_wave_are_for_models_that_run_elsewhere():
    history = History.of(box(), points=1024, key=0)
    z = history.design(25, key=1)
    assert z.shape == (25, 2)
    theta = history.problem.space.physical(jnp.asarray(z))
    after = history.told(z, np.column_stack([theta["a"], theta["b"]]), key=2)
    same = history.told(z, {"p": np.asarray(theta["a"])[:, None, None], "q": np.asarray(theta["b"])[:, None, None]}, key=2)
    assert after.fraction == same.fraction and abs(after.fraction - 0.15**2) < 4 * after.fraction_error
    with pytest.raises(ValueError, match="one row for each run"):
        history.told(z, np.zeros((25, 3)))


def test_waves_of_a_model_that_runs_elsewhere_are_kept_between_them(tmp_path):
    def runs(z):
        theta = history.problem.space.physical(jnp.asarray(z))
        return np.column_stack([theta["a"], theta["b"]])

    history = History.of(box(), points=1024, key=0)
    assert history.resumed(tmp_path) is history
    first = history.design(20, key=1)
    history = history.told(first, runs(first), key=2)
    history.save(tmp_path)
    later = History.of(box(), points=1024, key=0).resumed(tmp_path)
    second = later.design(20, key=3)
    np.testing.assert_array_equal(second, history.design(20, key=3))
    one, other = (each.told(second, runs(second), key=4) for each in (history, later))
    np.testing.assert_array_equal(one.cloud.u, other.cloud.u)
    np.testing.assert_array_equal(one.waves[0].judge.r2, other.waves[0].judge.r2)
    assert str(one) == str(other) and other.runs == 40
    other.save(tmp_path)
    one.save(tmp_path)  # the same, which changes nothing
    assert len(history.resumed(tmp_path).waves) == 2 and sorted(path.name for path in tmp_path.iterdir()) == ["wave_01.npz", "wave_02.npz"]
    with pytest.raises(ValueError, match="the runs of wave 2 in"):
        history.told(first, runs(first), key=4).save(tmp_path)
    with pytest.raises(ValueError, match="one of another run"):
        History.of(box(), points=1024, key=0, valmax=1).resumed(tmp_path)


def test_a_millionth_of_the_prior_is_drawn_uniformly():
    names = tuple("abcdef")

    def model(theta):
        return {name: theta[name][None, None] for name in names}

    wide = ParameterSpace({name: Parameter.uniform(-1.0, 1.0) for name in names})
    observations = streams(0.1 / 3, **{name: 0.3 for name in names})
    history = history_match(Problem(wide, FunctionForward(model), observations), waves=1, runs_a_wave=30, progress=False, key=0)
    # 0.2 of 2 for each of six parameters.
    assert abs(history.fraction - 1e-6) < 4 * history.fraction_error < 0.8e-6
    theta = np.asarray(history.posterior(500).matrix())
    assert (np.abs(theta - 0.3) < 0.1 + 1e-4).all()
    assert all(kstest((theta[:, n] - 0.2) / 0.2, "uniform").pvalue > 0.001 for n in range(6))
    np.testing.assert_allclose(np.corrcoef(theta.T)[np.triu_indices(6, 1)], 0.0, atol=0.25)


def test_bins_of_correlated_parameters_have_their_own_share_of_the_prior():
    about = {name: Parameter.normal(0.0, 1.0) for name in ("a", "b")}
    tied = ParameterSpace(about, correlation=[[1.0, 0.5], [0.5, 1.0]])

    def model(theta):
        return {"p": theta["a"][None, None], "q": theta["b"][None, None]}

    problem = Problem(tied, FunctionForward(model), streams(10.0, p=0.0, q=0.0))
    history = History.of(problem, points=8192).told(z := np.random.default_rng(0).standard_normal((20, 2)),
                                                    np.asarray(tied.flatten(tied.physical(jnp.asarray(z)))))
    assert history.fraction == 1.0
    # Nothing is ruled out: all of every bin is left, though the prior has little in those of opposite ends.
    density = history.matrix(bins=4, points=512)["density"].values[0, 1]
    np.testing.assert_allclose(np.diag(density), 1.0, atol=0.03)
    np.testing.assert_allclose(density, 1.0, atol=0.25)


def test_tables_and_figures_say_what_is_left(boxed):
    ds, pairs = boxed.to_xarray(), boxed.matrix(bins=10, points=2048)
    assert ds["fraction"].values[-1] == boxed.fraction and ds["values"].shape == (2, 20, 2) and ds["design"].shape == (2, 20, 2)
    np.testing.assert_allclose(ds["values"].values[0], ds["design"].values[0], atol=1e-12)
    density, least = pairs["density"].values, pairs["least_implausibility"].values
    np.testing.assert_allclose(np.nanmean(density[0, 1]), boxed.fraction, rtol=1e-6)
    # The bin of a in 0 to 0.2, b in -0.4 to -0.2: three quarters of its length in a, all of it in b.
    np.testing.assert_allclose(density[0, 1, 5, 3], 0.75, atol=0.2)
    np.testing.assert_array_equal(density[0, 1], density[1, 0].T)
    assert least[0, 1, 5, 3] < 0.5 and 4 < least[0, 1, 9, 3] < 20 and np.isnan(density[0, 0]).all()
    np.testing.assert_allclose(pairs["edges"].values, np.linspace(-1, 1, 11) * np.ones((2, 1)), atol=1e-6)
    bands = boxed.envelopes(boxed.problem)
    assert bands["p"].shape == (2, 3, 1, 1) and np.ptp(bands["p"].values[1]) < np.ptp(bands["p"].values[0])
    figures = (plots.fractions(ds), plots.targets(ds), plots.matrix(pairs, truth={"a": 0.2, "b": -0.3}), plots.envelopes(bands, "p"))
    assert all(isinstance(figure, Figure) for figure in figures)
    with pytest.raises(ValueError, match="a parameter of this dataset"):
        plots.matrix(pairs, names=["c"])


@pytest.mark.parametrize(("options", "words"), [
    ({"cutoff": 0.0}, "a cutoff above 0"), ({"cutoff": np.nan}, "a cutoff above 0"), ({"valmax": 2}, "valmax of 0 to 1"),
    ({"waves": 0}, "one wave or more"), ({"mean": "cubic"}, "a mean of constant"), ({"least": 0.0}, "least in 0 to 1"),
    ({"runs_a_wave": 4}, "5 runs or more"), ({"mean": "quadratic", "runs_a_wave": 7}, "8 runs or more"),
    ({"stop": ("never",)}, '"settled" and "certain"'), ({"discrepancy": {"p": -1.0}}, "of zero or more"),
    ({"points": 1000}, "power of two")])
def test_mistakes_are_said(options, words):
    with pytest.raises(ValueError, match=words):  # before any run
        history_match(Problem(space(), FunctionForward(never), streams(p=0.2, q=-0.3)), **(SMALL | options))
    with pytest.raises(KeyError, match="discrepancies of the streams"):
        targets_of(streams(p=1.0), {"r": 1.0})
    with pytest.raises(ValueError, match="1 to 200 observed values"):
        targets_of(Observations({"p": Stream(np.zeros((1, 201)), 1.0)}))
