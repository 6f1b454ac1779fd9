"""4DEnVar and ensemble Kalman solvers where models are curved, bounded, or fail; what they say of themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ESMDA, ETKI, UnscentedKalmanInversion
from landcal_jax.ensemble_space import weights
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.solvers import SolveError, Status
from landcal_jax.solving import solve

TIME = jnp.arange(12.0)
TRUTH = {"a": 3.2, "k": 0.12}


class Decay:
    """y = a exp(-k t), NaN where k is above `fails`: a model that crashes in a region."""

    def __init__(self, fails=np.inf):
        self.fails = fails

    def __call__(self, theta):
        k = jnp.where(theta["k"] > self.fails, jnp.nan, theta["k"])
        return {"y": (theta["a"] * jnp.exp(-k * TIME))[None]}


def decay(fails=np.inf, sigma=0.05, truth=TRUTH):
    space = ParameterSpace({"a": Parameter.log_normal(2.0, 0.4), "k": Parameter.uniform(0.02, 0.5, default=0.2)})
    stream = Stream(Decay()(truth)["y"], sigma)
    return Problem(space, FunctionForward(Decay(fails)), Observations({"y": stream}))


def answer(problem, solver, **options):
    return solve(problem, solver, **{"key": 0, "progress": False} | options)


DECAY, FAILING = decay(), decay(fails=0.3)  # a third of the prior fails
MAP = answer(DECAY, LevenbergMarquardt())
SOLVERS = {
    "4denvar": FourDEnVar(size=30), "iterated": IterativeFourDEnVar(size=30), "transform": IterativeFourDEnVar(size=30, scaling=None),
    "eki": EKI(size=100), "etki": ETKI(size=60), "esmda": ESMDA(size=100, inflations=6), "unscented": UnscentedKalmanInversion()}


# ---------------------------------------------------------------------------------------------- the quadratic of the ensemble


@pytest.mark.parametrize(("m", "k"), [(30, 6), (5, 9), (7, 7)])
@pytest.mark.parametrize("damping", [1.0, 60.0])
def test_weights_are_those_of_the_normal_equations(m, k, damping):
    rng = np.random.default_rng(0)
    Y, d = rng.standard_normal((m, k)), rng.standard_normal(m)
    curvature = damping * np.eye(k) + Y.T @ Y
    found = weights(Y, d, damping)
    np.testing.assert_allclose(found.w, np.linalg.solve(curvature, Y.T @ d), rtol=1e-9, atol=1e-12)
    # The form in the space of the observations, as published.
    np.testing.assert_allclose(found.w, Y.T @ np.linalg.solve(damping * np.eye(m) + Y @ Y.T, d), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.root @ found.root, np.linalg.inv(curvature), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.root, found.root.T, atol=1e-14)


def textbook(members, problem, damping=1.0, inflation=1.0):
    """4DEnVar written out for control vectors z (member, 2) of the decay: analysis and covariance."""
    mean = members.mean(axis=0)
    h, centre = (np.asarray(problem.ensemble(Z)["y"])[:, 0] / 0.05 for Z in (members, mean[None]))
    scale = inflation / np.sqrt(len(members) - 1)
    X, Y = scale * (members - mean).T, scale * (h - centre).T
    inverse = np.linalg.inv(damping * np.eye(len(members)) + Y.T @ Y)
    d = np.asarray(problem.observations["y"].values)[0] / 0.05 - centre[0]
    return mean + X @ inverse @ Y.T @ d, X @ inverse @ X.T


@pytest.mark.parametrize("options", [{}, {"minimiser": "L-BFGS"}, {"damping": 50.0}, {"damping": 50.0, "minimiser": "L-BFGS"},
                                     {"inflation": 1.4}, {"root": "cholesky"}], ids=str)
def test_4denvar_is_the_textbook(options):
    members = DECAY.space.sample(jax.random.key(4), 9)
    result = answer(DECAY, FourDEnVar(members=members, **options), throw=False)
    about = {name: value for name, value in options.items() if name in ("damping", "inflation")}
    analysis, covariance = textbook(np.asarray(members), DECAY, **about)
    np.testing.assert_allclose(result.z, analysis, rtol=1e-6)
    np.testing.assert_allclose(result.details["posterior_covariance"], covariance, rtol=1e-8)
    from_mean = result.details["posterior"] - analysis
    np.testing.assert_allclose(from_mean.T @ from_mean / 8, covariance, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(result.cost, DECAY.cost(result.z), rtol=1e-10)
    assert result.counts["forward"] == 11 and len(result.history["y"]) == 2
    np.testing.assert_allclose(result.history["y"][0], DECAY.terms(members.mean(axis=0))["y"], rtol=1e-10)


def test_a_taper_of_one_is_none_and_of_zero_leaves_a_parameter_alone():
    members = DECAY.space.sample(jax.random.key(4), 9)
    plain = answer(DECAY, FourDEnVar(members=members))
    full = answer(DECAY, FourDEnVar(members=members, localisation={"y": np.ones((2, 1, 12))}))
    np.testing.assert_allclose(full.z, plain.z, rtol=1e-10)
    np.testing.assert_allclose(full.details["posterior_z"], plain.details["posterior_z"], rtol=1e-9)
    taper = np.ones((2, 1, 12))
    taper[1] = 0.0
    local = answer(DECAY, FourDEnVar(members=members, localisation={"y": taper}))
    np.testing.assert_allclose(local.z[0], plain.z[0], rtol=1e-10)
    np.testing.assert_allclose(local.z[1], members[:, 1].mean(), rtol=1e-10)
    np.testing.assert_allclose(local.details["posterior_z"][:, 1], members[:, 1], rtol=1e-10)
    # A parameter that sees the first half alone has the analysis of a problem with that half alone.
    half = np.where(np.arange(12) < 6, 1.0, 0.0) * np.ones((2, 1, 1))
    masked = DECAY.with_observations(Observations({"y": DECAY.observations["y"].split(np.arange(12) < 6)[0]}))
    expected = answer(masked, FourDEnVar(members=members))
    found = answer(DECAY, FourDEnVar(members=members, localisation={"y": half}))
    np.testing.assert_allclose(found.z, expected.z, rtol=1e-9)
    with pytest.raises(ValueError, match=r"(?s)taper of y of shape \(2, 1, 12\).*shape \(2, 12\)"):
        answer(DECAY, FourDEnVar(localisation={"y": np.ones((2, 12))}))
    with pytest.raises(ValueError, match="(?s)streams y.*tapers of gpp"):
        answer(DECAY, FourDEnVar(localisation={"gpp": 1.0}))


# --------------------------------------------------------------------------------------------------- bounds, and what is reached


def test_in_physical_space_the_analysis_can_leave_the_bounds_and_in_z_it_cannot():
    # From fast decay the slopes are small, and the way to a slow one looks longer than it is.
    problem, rng = decay(truth={"a": 3.2, "k": 0.05}), np.random.default_rng(1)
    members = np.column_stack([rng.uniform(2, 3, 30), rng.uniform(0.2, 0.5, 30)])
    result = answer(problem, FourDEnVar(members=members, space="physical"))
    assert result.status is Status.OUT_OF_BOUNDS and "bounds" in str(result)
    assert result.details["analysis"][1] < 0.02
    # z is finite, and stands for the nearest point inside, where J was taken.
    assert np.isfinite(result.z).all()
    np.testing.assert_allclose(result.theta["k"], 0.02, rtol=1e-6)
    np.testing.assert_allclose(result.cost, problem.cost(result.z), rtol=1e-9)
    outside = int(result.details["posterior_outside"])
    assert outside == (result.details["posterior"][:, 1] < 0.02).sum() and 0 < outside < 30
    assert len(result.details["posterior_z"]) == 30 - outside and np.isfinite(result.details["posterior_z"]).all()
    assert f"{outside} of 30 members outside the bounds left out" in from_ensemble(problem, result).method
    inside = answer(problem, FourDEnVar(size=30))
    assert inside.status is not Status.OUT_OF_BOUNDS and 0.02 < inside.theta["k"] < 0.5
    theta = from_ensemble(problem, inside).theta()
    assert (theta["k"] > 0.02).all() and (theta["a"] > 0).all()


def test_physical_members_are_taken_as_published_and_those_outside_the_bounds_refused():
    members = np.array([[1.5, 0.1], [2.5, 0.15], [3.0, 0.3], [4.0, 0.12], [2.0, 0.2]])
    result = answer(DECAY, FourDEnVar(members=members, space="physical"), key=None)
    assert result.counts["forward"] == 7
    np.testing.assert_allclose(result.history["y"][0], DECAY.terms(DECAY.space.whiten({"a": 2.6, "k": 0.174}))["y"], rtol=1e-8)
    with pytest.raises(ValueError, match="k"):
        answer(DECAY, FourDEnVar(members=members + np.array([0, 0.3]), space="physical"))
    with pytest.raises(ValueError, match=r"(?s)members \(member, 2\).*shape \(5, 1\)"):
        answer(DECAY, FourDEnVar(members=members[:, :1]))
    with pytest.raises(ValueError, match="(?s)finite members.*1 with NaN"):
        answer(DECAY, FourDEnVar(members=np.where(members == 1.5, np.nan, members)))


def test_observations_that_the_ensemble_cannot_reach_are_said():
    good = answer(DECAY, FourDEnVar(size=30))
    assert good.status is Status.ANALYSIS and good.details["outside_envelope"] == 0
    beyond = answer(decay(truth={"a": 30.0, "k": 0.05}), FourDEnVar(size=30))
    assert beyond.status is Status.OUT_OF_SPAN and "details['span']" in beyond.status.sentence
    assert beyond.details["outside_envelope"] > 0.5 and "beyond all members" in str(beyond.details["span"])
    assert beyond.details["distance"] > beyond.details["farthest_member"] and "farther out" in str(beyond.details["span"])
    # What no combination of decays explains: an oscillation.
    wave = DECAY.observations["y"].with_values(DECAY.observations["y"].values + 0.5 * jnp.cos(jnp.pi * TIME))
    odd = answer(DECAY.with_observations(Observations({"y": wave})), FourDEnVar(size=3))
    assert odd.details["span_chi_square"] > 50 and "no combination" in str(odd.details["span"])
    few = answer(DECAY, FourDEnVar(size=2), throw=False)
    assert few.status in (Status.SUBSPACE, Status.OUT_OF_SPAN)
    assert "2 members span 1 of 2 directions" in str(few.details["span"])


# ------------------------------------------------------------------------------------------------------------------ iteration


@pytest.mark.parametrize("start", [None, [2.5, 2.0], [-2.5, -2.0]], ids=str)
def test_iterated_4denvar_reaches_the_minimum_of_the_exact_cost(start):
    result = answer(DECAY, SOLVERS["iterated"], z0=None if start is None else jnp.array(start))
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(result.z, MAP.z, atol=1e-4)
    np.testing.assert_allclose(result.cost, MAP.cost, rtol=1e-7)
    assert (np.diff(sum(result.history.values())) <= 0).all()
    posterior, exact = from_ensemble(DECAY, result), laplace(DECAY, MAP, draws=1)
    np.testing.assert_allclose(posterior.covariance, exact.covariance, rtol=0.01)
    np.testing.assert_allclose(np.cov(posterior.z, rowvar=False), posterior.covariance, rtol=1e-10)
    np.testing.assert_allclose(np.mean(posterior.z, axis=0), result.z, rtol=1e-10)
    # Two directions, whatever the size of the ensemble; the first bundle with its centre.
    batches = len(result.history["y"]) // 2
    assert result.counts["forward"] == 1 + 2 * (batches + 1) + 7 * batches


def test_single_loop_stops_where_the_iterated_goes_on():
    once, transform = (answer(DECAY, SOLVERS[name]) for name in ("4denvar", "transform"))
    assert once.cost > 1.05 * MAP.cost
    assert abs(transform.cost - MAP.cost) < 0.1 * (once.cost - MAP.cost)


def test_a_hybrid_starts_where_an_ensemble_has_ended():
    first = answer(DECAY, SOLVERS["4denvar"])
    result = answer(DECAY, LevenbergMarquardt(), z0=first.z)
    np.testing.assert_allclose(result.cost, MAP.cost, rtol=1e-8)
    np.testing.assert_allclose(result.history["y"][0], first.terms["y"], rtol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- failing runs


@pytest.mark.parametrize("rule", ["leave out", "pull in"])
@pytest.mark.parametrize("name", SOLVERS)
def test_runs_that_fail_are_no_part_of_the_analysis(name, rule):
    result = answer(FAILING, SOLVERS[name], failed=FailedRuns(rule, limit=0.7))
    assert result.status >= 0 and np.isfinite(result.cost)
    assert np.isfinite(result.details["posterior_z"]).all()
    background = sum(values[0] for values in result.history.values())
    assert result.cost < 0.1 * background
    if name in ("iterated", "transform"):
        np.testing.assert_allclose(result.z, MAP.z, atol=1e-4 if name == "iterated" else 0.05)
    whole = answer(DECAY, SOLVERS[name])
    assert whole.details["failed_runs"] == 0
    if name in ("4denvar", "eki", "etki", "esmda"):
        assert result.details["failed_runs"] > 3


def test_members_left_out_are_left_out_of_the_moments():
    members = FAILING.space.sample(jax.random.key(4), 12)
    good = np.asarray(jax.vmap(FAILING.space.physical)(members)["k"]) <= 0.3
    assert 3 < good.sum() < 12
    result = answer(FAILING, FourDEnVar(members=members), throw=False)
    mean = np.asarray(members.mean(axis=0))  # the background that was run
    h, centre = (np.asarray(DECAY.ensemble(Z)["y"])[:, 0] / 0.05 for Z in (members[good], mean[None]))
    X, Y = (np.asarray(members)[good] - mean).T, (h - centre).T
    d = np.asarray(DECAY.observations["y"].values)[0] / 0.05 - centre[0]
    w = np.linalg.solve((good.sum() - 1) * np.eye(good.sum()) + Y.T @ Y, Y.T @ d)
    np.testing.assert_allclose(result.z, mean + X @ w, rtol=1e-8)
    assert result.details["failed_runs"] == (~good).sum() and len(result.details["posterior_z"]) == good.sum()


class Growth(Decay):
    """The decay with a rate of minus forty where k is above 0.45: y is of the size of 1e190, and finite."""

    def __call__(self, theta):
        return {"y": (theta["a"] * jnp.exp(jnp.where(theta["k"] > 0.45, 40.0, -theta["k"]) * TIME))[None]}


GROWING = DECAY.with_forward(FunctionForward(Growth()))


@pytest.mark.parametrize("name", SOLVERS)
def test_a_run_that_blows_up_without_an_overflow_hides_none_of_the_others(name):
    result = answer(GROWING, SOLVERS[name])
    assert (result.theta["k"] < 0.2) and result.details["failed_runs"] == 0
    background = sum(values[0] for values in result.history.values())
    assert result.cost < (0.3 if name == "4denvar" else 0.1) * background
    if name == "transform":
        np.testing.assert_allclose(result.z, MAP.z, atol=0.05)
    if name not in ("iterated", "unscented"):  # whose members lie close to the first guess
        assert result.details["left_out"] > 0
        assert answer(DECAY, SOLVERS[name]).details["left_out"] == 0


def test_an_unscented_mean_that_overshoots_ends_as_failed():
    # From fast decay the slopes are small, and the first step goes far into growth, where y is 1e200 and finite.
    space = ParameterSpace({"a": Parameter.normal(2.0, 0.5), "k": Parameter.normal(1.0, 0.5)})
    forward = FunctionForward(lambda theta: {"y": (theta["a"] * jnp.exp(-jnp.minimum(theta["k"], 40 * theta["k"]) * TIME))[None]})
    problem = Problem(space, forward, Observations({"y": Stream(3.2 * jnp.exp(-0.01 * TIME), 1e-4)}))
    result = answer(problem, UnscentedKalmanInversion(), throw=False)
    assert result.status is Status.RUN_FAILED and result.counts["forward"] < 100


def test_a_member_that_blows_up_is_as_good_as_absent():
    members = DECAY.space.sample(jax.random.key(4), 12).at[3:5, 1].set(2.0)
    bad = np.asarray(jax.vmap(DECAY.space.physical)(members)["k"]) > 0.45
    assert bad.sum() == 2
    result, failing = (answer(problem, FourDEnVar(members=members), throw=False) for problem in (GROWING, decay(fails=0.45)))
    np.testing.assert_allclose(result.z, failing.z, rtol=1e-10)
    assert result.details["left_out"] == failing.details["left_out"] == bad.sum()
    assert result.details["failed_runs"] == 0 and failing.details["failed_runs"] == bad.sum()


def test_an_analysis_whose_run_fails_is_an_error_that_keeps_what_was_found():
    members = jnp.array([[0.0, 0.1], [0.4, -0.2], [-0.5, -0.6], [0.2, 0.3]])
    problem = decay(fails=0.35, truth={"a": 3.2, "k": 0.49})
    with pytest.raises(SolveError) as caught:
        answer(problem, FourDEnVar(members=members))
    result = caught.value.result
    assert result.status is Status.RUN_FAILED and np.isfinite(result.details["analysis"]).all() and result.counts["forward"] == 6
    assert "posterior_z" not in result.details and "run at the analysis" in str(caught.value)


def test_too_many_failed_members_are_refused_with_the_region():
    with pytest.raises(RuntimeError, match=r"(?s)at most 10% of the members.*at k 0\.3.*pull in"):
        answer(FAILING, SOLVERS["4denvar"], failed=FailedRuns(limit=0.1))


# -------------------------------------------------------------------------------------------------- posteriors, keys, checkpoints


@pytest.mark.parametrize("name", ["eki", "etki", "esmda", "unscented"])
def test_kalman_ensembles_are_near_the_posterior(name):
    result = answer(DECAY, SOLVERS[name])
    exact = laplace(DECAY, MAP, draws=1)
    sd = np.sqrt(np.diag(exact.covariance))
    posterior = from_ensemble(DECAY, result)
    assert result.status is Status.ANALYSIS
    assert (np.abs(result.z - MAP.z) / sd < 1.0).all()
    assert ((np.std(posterior.z, axis=0) / sd > 0.6) & (np.std(posterior.z, axis=0) / sd < 1.7)).all()
    # The prior, in standard deviations of the posterior, is 20 wide: most of the way is made.
    bands = posterior.predictive()
    assert bands["y"].sizes["quantile"] == 3 and np.isfinite(bands["y"]).all()


@pytest.mark.parametrize("name", ["eki", "etki"])
def test_before_the_end_members_are_no_posterior(name):
    result = answer(DECAY, SOLVERS[name], max_steps=2)
    assert result.status is Status.MAX_STEPS and result.details["time"] < 1
    with pytest.raises(ValueError, match="(?s)ends with a posterior ensemble.*largest number of steps"):
        from_ensemble(DECAY, result)
    with pytest.raises(ValueError, match="(?s)solver of another kind, converged.*laplace"):
        from_ensemble(DECAY, MAP)


@pytest.mark.parametrize("name", ["4denvar", "iterated", "eki", "etki", "esmda"])
def test_the_same_key_gives_the_same_and_none_is_refused(name):
    one, same = (answer(DECAY, SOLVERS[name], key=3) for _ in range(2))
    np.testing.assert_array_equal(one.z, same.z)
    assert name == "iterated" or not np.array_equal(one.z, answer(DECAY, SOLVERS[name], key=4).z)
    with pytest.raises(ValueError, match="(?s)seed or key.*key=None"):
        answer(DECAY, SOLVERS[name], key=None)


def test_given_members_without_perturbations_need_no_key():
    members = DECAY.space.sample(jax.random.key(4), 20)
    one = answer(DECAY, ETKI(members=members), key=None)
    np.testing.assert_array_equal(one.z, answer(DECAY, ETKI(members=members), key=5).z)
    with pytest.raises(ValueError, match="seed or key"):
        answer(DECAY, EKI(members=members), key=None)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_goes_on_from_its_checkpoint_with_the_same_bits(name, tmp_path):
    whole = answer(DECAY, SOLVERS[name])
    file = tmp_path / "state.npz"
    answer(DECAY, SOLVERS[name], checkpoint=file, max_steps=1, throw=False)
    result = answer(DECAY, SOLVERS[name], checkpoint=file)
    np.testing.assert_array_equal(result.z, whole.z)
    assert result.counts == whole.counts and result.status is whole.status
    for part in whole.history:
        np.testing.assert_array_equal(result.history[part], whole.history[part])
    for part, value in whole.details.items():
        np.testing.assert_array_equal(result.details[part], value)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ESMDA(inflations=(4.0, 4.0)), r"(?s)sum to one.*0\.5"), (lambda: ESMDA(inflations=()), "sum to one"),
    (lambda: EKI(to="mode"), "minimum"), (lambda: FourDEnVar(space="theta"), "'physical'"), (lambda: FourDEnVar(damping=0.0), "damping"),
    (lambda: FourDEnVar(minimiser="newton"), "L-BFGS"), (lambda: IterativeFourDEnVar(scaling=0.0), "scaling"),
    (lambda: FourDEnVar(minimiser="L-BFGS", localisation={}), "closed form")])
def test_wrong_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
