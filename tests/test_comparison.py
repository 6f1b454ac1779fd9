"""Solvers side by side: what is reported stays within the budget, and everything in it can be checked by hand."""


import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

from landcal_jax import plot_comparison
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.comparison import RUN_EQUIVALENTS, ByDifferences, Hybrid, compare, latin_hypercube, table
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt, MultiStart, Optax
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.solving import solve
from landcal_jax.testing import twin

TIME = jnp.arange(12.0)
LM = LevenbergMarquardt()


class Decay:
    """Two streams of a decay, a exp(-k t) and its double; NaN where k is above `fails`."""

    def __init__(self, fails=np.inf):
        self.fails = fails

    def __call__(self, theta):
        k = jnp.where(theta["k"] > self.fails, jnp.nan, theta["k"])
        y = (theta["a"] * jnp.exp(-k * TIME))[None]
        return {"y": y, "double": 2 * y}


def decay(fails=np.inf):
    space = ParameterSpace({"a": Parameter.log_normal(2.0, 0.4), "k": Parameter.uniform(0.02, 0.5, default=0.2)})
    streams = {"y": Stream(np.where(np.arange(12) == 3, np.nan, 0.0), 0.05, units="g"), "double": Stream(np.zeros(12), 0.2, units="g")}
    return Problem(space, FunctionForward(Decay(fails)), Observations(streams))


PROBLEM = decay()
TWIN = twin(PROBLEM, PROBLEM.space.whiten({"a": 3.2, "k": 0.12}), key=1)
SOLVERS = {
    "LM": LM, "differences": ByDifferences(LM), "many": MultiStart(LM, number=3, candidates=20),
    "4DEnVar": lambda budget: FourDEnVar(size=budget - 2) if budget > 25 else None, "EKI": EKI(size=15),
    "hybrid": Hybrid(IterativeFourDEnVar(size=10), LM, runs=25)}
BUDGETS = (15, 30, 100)


def compared(cases=TWIN, solvers=None, budgets=BUDGETS, **options):
    return compare(cases, solvers or SOLVERS, budgets, **{"first_guesses": 3, "key": 0, "progress": False} | options)


@pytest.fixture(scope="module")
def ds():
    return compared()


def test_no_budget_is_exceeded_and_what_is_missing_says_why(ds):
    assert ds["runs"].dims == ("solver", "budget", "guess")
    spent = ds["runs"].fillna(0)
    assert (spent <= ds["budget"]).all() and float(spent.max()) == 100
    for name in ("z", "cost", "terms", "rmse", "reduction", "counts", "seconds"):
        dims = [dim for dim in ds[name].dims if dim not in ds["runs"].dims]
        xr.testing.assert_equal(ds[name].isnull().any(dims), ds["runs"].isnull())
    # Twenty candidates and three starts are more than the smallest budget; 4DEnVar was not given one.
    assert ds["cost"].sel(budget=15, solver=["many", "4DEnVar"]).isnull().all()
    assert (ds["sentence"].sel(budget=15, solver="many") == "no state yet: the first needs 23 run equivalents").all()
    assert (ds["sentence"].sel(budget=15, solver="4DEnVar") == "no solver for this budget").all()
    assert ds["cost"].sel(budget=[30, 100]).notnull().all()
    assert (ds["sentence"].sel(budget=15, solver="LM") == "the budget was spent before the end").all()
    assert (ds["status"].sel(budget=100, solver="LM") == "converged").all()


def test_work_is_that_of_the_method(ds):
    """LM: a run at the start, then each iteration a run with a tangent a parameter and seven trials: 10 for two parameters."""
    runs = ds["runs"].sel(solver=["LM", "differences"])
    assert (runs.sel(budget=15) == 11).all() and (runs.sel(budget=30) == 21).all()
    at = ds["counts"].sel(budget=30)
    assert at.sel(solver="LM").values.tolist() == [[17, 0, 4]] * 3
    assert at.sel(solver="differences").values.tolist() == [[21, 0, 0]] * 3
    np.testing.assert_allclose(ds["z"].sel(solver="LM"), ds["z"].sel(solver="differences"), atol=1e-4)
    # 4DEnVar: its members, their mean, and the analysis.
    assert ds["counts"].sel(solver="4DEnVar", budget=100, kind="forward").values.tolist() == [100] * 3
    other = compared(solvers={"LM": LM}, budgets=(30,), weights=RUN_EQUIVALENTS | {"jvp": 4})
    assert (other["runs"] == 17).all() and (other["counts"].sel(kind="jvp") == 2).all()


def test_a_hybrid_shares_one_budget(ds):
    """The first stage spends 25 runs or a batch more; then a run and iterations of ten are those of the second."""
    first = compared(solvers={"first": IterativeFourDEnVar(size=10)}, budgets=(25, 60))
    hybrid = ds.sel(solver="hybrid")
    gone = first["runs"].sel(solver="first")
    assert (hybrid["counts"].sel(budget=30, kind="jvp") == 0).all() and (gone.sel(budget=25) < 25).all()
    ends = hybrid["counts"].sel(budget=100)
    tangents = ends.sel(kind="jvp")
    assert (tangents > 0).all() and (tangents % 2 == 0).all()
    of_first = ends.sel(kind="forward") - 1 - 8 * tangents / 2
    assert ((of_first >= 25) & (of_first < 25 + 10)).all()
    np.testing.assert_allclose(hybrid["cost"].sel(budget=100), ds["cost"].sel(solver="LM", budget=100), rtol=1e-6)


def test_scores_are_those_computed_by_hand(ds):
    z, observations = ds["z"].sel(solver="LM", budget=15, guess=1).values, TWIN.problem.observations
    y, double = (np.asarray(observations[name].values)[0] for name in ("y", "double"))
    seen = np.arange(12) != 3

    def curve(z):
        return np.asarray(TWIN.problem.predict(jnp.asarray(z))["y"])[0]

    def rms(values):
        return np.sqrt(np.mean(values**2))

    one = ds.sel(solver="LM", budget=15, guess=1)
    np.testing.assert_allclose(one["rmse"], [rms((curve(z) - y)[seen]), rms(2 * curve(z) - double)], rtol=1e-12)
    before = rms((curve(ds["first_z"].values[1]) - y)[seen])
    np.testing.assert_allclose(one["reduction"].sel(stream="y"), 100 * (1 - rms((curve(z) - y)[seen]) / before), rtol=1e-10)
    truth, first = curve(TWIN.z), curve(ds["first_z"].values[1])
    less = 1 - rms((curve(z) - truth)[seen]) / rms((first - truth)[seen])
    np.testing.assert_allclose(one["reduction_truth"].sel(stream="y"), 100 * less, rtol=1e-10)
    np.testing.assert_allclose(one["cost"], TWIN.problem.cost(jnp.asarray(z)), rtol=1e-12)
    np.testing.assert_allclose(ds["truth_cost"], TWIN.problem.cost(TWIN.z), rtol=1e-12)
    np.testing.assert_allclose(one["parameter_error"], np.abs(z - TWIN.z), rtol=1e-12)
    jacobian = np.asarray(TWIN.problem.jacobian(TWIN.z)[1])
    sd = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    np.testing.assert_allclose(one["parameter_error_posterior"], np.abs(z - TWIN.z) / sd, rtol=1e-9)


def test_the_same_key_gives_the_same_and_another_does_not(ds):
    def without_time(ds):
        return ds.drop_vars("seconds")

    xr.testing.assert_identical(without_time(compared()), without_time(ds))
    other = compared(key=1, solvers={"EKI": SOLVERS["EKI"]})
    assert (other["z"] != ds["z"].sel(solver=["EKI"])).any()
    np.testing.assert_allclose(ds["first_z"], latin_hypercube(PROBLEM, 3, jax.random.key(0)))


def test_a_hypercube_has_one_guess_in_each_part_of_the_prior():
    Z = latin_hypercube(PROBLEM, 10, 3)
    cells = np.floor(10 * jax.scipy.stats.norm.cdf(Z)).astype(int)
    assert (np.sort(cells, axis=0) == np.arange(10)[:, None]).all()


def test_failures_are_recorded_and_shown():
    """Members fail above k = 0.1, most of the prior; a start there fails at once."""
    failing = twin(decay(fails=0.1), PROBLEM.space.whiten({"a": 3.2, "k": 0.08}), key=1)
    Z = np.array([PROBLEM.space.whiten({"a": 3.0, "k": k}) for k in (0.07, 0.3)])
    ds = compared(failing, {"LM": LM, "EKI": EKI(size=15)}, first_guesses=Z, failed=FailedRuns(limit=0.2))
    assert ds["cost"].isnull().sel(budget=100).values.tolist() == [[False, True], [True, True]]
    said = ds["sentence"].sel(budget=100).values
    assert said[0, 1].startswith("failed: J is NaN or infinite at the start")
    assert "at most 20% of the members to fail" in said[1, 0]
    assert table(ds)["without"].tolist() == [1, 2]
    # What failed counts as the worst: of two solves, the median and the upper quartile are lost.
    assert table(ds).loc["LM", ["J", "J, 75 %"]].isna().all()
    plot_comparison.spread(ds, "cost")


def test_truths_that_cannot_be_told_apart():
    """Each parameter is compared with the nearest."""
    away = np.asarray(TWIN.z) + np.array([0.0, 2.0])
    ds = compared(TWIN.problem, {"LM": LM}, truth_z=np.stack([np.asarray(TWIN.z), away]), first_guesses=np.stack([TWIN.z, away]),
                  budgets=(5,))
    np.testing.assert_allclose(ds["parameter_error"], 0.0, atol=1e-12)
    assert float(ds["cost"].isel(guess=0).item()) < float(ds["cost"].isel(guess=1).item())


def test_several_cases_have_a_dimension():
    one, other = TWIN, twin(PROBLEM, key=5)
    ds = compared({"one": one, "other": other}, {"LM": LM})
    assert dict(ds.sizes)["case"] == 2 and ds["cost"].dims == ("case", "solver", "budget", "guess")
    alone = compared(other, {"LM": LM})
    np.testing.assert_array_equal(ds["cost"].sel(case="other"), alone["cost"])
    assert table(ds).index.tolist() == [("one", "LM"), ("other", "LM")]
    np.testing.assert_allclose(table(ds, 30).loc[("other", "LM"), "J"], alone["cost"].sel(budget=30).median())


def test_what_cannot_be_compared_is_refused_before_anything_runs():
    for budgets in ((), (100, 30), (0, 10), (10.5,)):
        with pytest.raises(ValueError, match="rising whole budgets"):
            compared(budgets=budgets)
    with pytest.raises(TypeError, match="a solver, Hybrid, ByDifferences, or a function"):
        compared(solvers={"LM": LevenbergMarquardt})
    with pytest.raises(ValueError, match=r"first_guesses of shape \(k, 2\)"):
        compared(first_guesses=np.zeros((3, 4)))
    with pytest.raises(ValueError, match="a weight for each of forward, gradient, jvp"):
        compared(weights={"forward": 1})


def test_names_and_budgets_that_are_not_there_are_refused(ds):
    with pytest.raises(TypeError, match=r"(?s)Expected: solvers by name.*Got:.*Try:.*\"LM\""):
        compared(solvers=[LM])
    with pytest.raises(TypeError, match="solvers by name"):
        compare(TWIN, {}, (10,))
    with pytest.raises(ValueError, match="(?s)one of the budgets 15, 30, 100.*Got: +50"):
        table(ds, 50)
    assert table(ds, 30.0).equals(table(ds, 30))
    with pytest.raises(ValueError, match="(?s)truth_z by case, of x.*also y"):
        compared({"x": PROBLEM}, {"LM": LM}, truth_z={"y": np.zeros(2)})
    with pytest.raises(ValueError, match="(?s)truth_z by case, of x.*ndarray"):
        compared({"x": PROBLEM}, {"LM": LM}, truth_z=np.zeros(2))
    with pytest.raises(TypeError, match="(?s)truth_z .*in z.*a mapping"):
        compared(PROBLEM, {"LM": LM}, truth_z={"y": np.zeros(2)})
    known = compared({"x": PROBLEM}, {"LM": LM}, truth_z={"x": np.ones(2)}, budgets=(5,))
    assert known["truth_z"].values.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("optimiser", [optax.lbfgs(), optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(9))])
def test_a_line_search_whose_runs_nobody_counts_is_refused(optimiser):
    for entry in (Optax(optimiser), ByDifferences(Optax(optimiser)), Hybrid(LM, Optax(optimiser)), MultiStart(Optax(optimiser)),
                  lambda budget: Optax(optimiser)):
        with pytest.raises(ValueError, match=r"(?s)whose work is counted.*line search inside.*LBFGS\(\)"):
            compared(solvers={"LM": LM, "other": entry})
    counted = compared(solvers={"LBFGS": LBFGS(), "adam": Optax(optax.adam(0.1))}, budgets=(30,), first_guesses=1)
    assert counted["cost"].notnull().all()


@pytest.mark.parametrize("solver", [LBFGS(), LM, GaussNewton(dense_limit=1), Optax(optax.adam(0.1), steps_per_call=1)],
                         ids=["LBFGS", "LM", "conjugate gradients", "adam"])
def test_a_gradient_made_of_tangents_is_charged_as_these(solver):
    """Three tangents a Jacobian, one for each element of theta; c is fixed."""
    A, calls = np.array([[1.0, 2.0], [0.5, -1.0], [0.3, 0.2]]), {"run": 0, "tangent": 0}
    space = ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in "abc"}, fixed={"c": 1.0})
    observations = Observations({"y": Stream(A @ np.array([1.0, -1.0]), 0.3)})

    def model(theta):
        calls["run"] += 1
        return {"y": A @ np.array([theta["a"], theta["b"] + 0.1 * theta["b"] ** 2]) + 0 * theta["c"]}

    def tangent(theta, along):
        calls["tangent"] += 1
        return {"y": A @ np.array([along["a"], (1 + 0.2 * theta["b"]) * along["b"]])}

    problem = Problem(space, BlackBoxForward(model, observations=observations, tangent=tangent, workers=1), observations)
    result = solve(problem, solver, max_steps=3, progress=False)
    assert calls["tangent"] > 3 and result.counts["jvp"] == calls["tangent"] and result.counts["gradient"] == 0
    # The same parameters run once.
    assert result.counts["forward"] >= calls["run"]
    assert (compared(problem, {"one": solver}, (40,), first_guesses=1)["counts"].sel(kind="gradient") == 0).all()


def test_figures_draw(ds, tmp_path):
    for quantity in plot_comparison.ABOUT:
        figure = plot_comparison.against_runs(ds, quantity)
        assert len(figure.axes) == (2 if "stream" in ds[quantity].dims else 1)
        assert len(figure.axes[0].lines) == len(SOLVERS) + (quantity == "cost")
    plot_comparison.spread(ds).savefig(tmp_path / "spread.png")
    # At the smallest budget two solvers have nothing.
    plot_comparison.spread(ds, "cost", budget=15).savefig(tmp_path / "spread.png")
    plot_comparison.recovery(ds, budget=15).savefig(tmp_path / "recovery.png")
    plot_comparison.seconds(ds.isel(budget=[0])).savefig(tmp_path / "seconds.png")
    plot_comparison.seconds(ds, ["LM", "EKI"]).savefig(tmp_path / "seconds.png")
    recovery = plot_comparison.recovery(ds)
    middle = [line for line in recovery.axes[0].lines if line.get_marker() == "o"][0]
    np.testing.assert_allclose(middle.get_xdata(), TWIN.z)
    np.testing.assert_allclose(middle.get_ydata(), ds["z"].sel(solver="LM", budget=100).median("guess"))
    with pytest.raises(ValueError, match="one case"):
        plot_comparison.seconds(ds.expand_dims(case=["one", "other"]))
    with pytest.raises(ValueError, match="a known truth"):
        plot_comparison.recovery(ds.drop_vars("truth_z"))
    with pytest.raises(ValueError, match="a quantity of this dataset"):
        plot_comparison.against_runs(ds, "chi_square")
