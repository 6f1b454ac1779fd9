"""Other packages find the minimum and the posterior of our problem, and our solvers what they find, with runs counted alike."""

import importlib.util
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import peer_methods  # noqa: E402
import peers  # noqa: E402
from peer_methods import Counted  # noqa: E402

from landcal_jax.gradient import LevenbergMarquardt  # noqa: E402
from landcal_jax.solving import solve  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore:divide by zero:RuntimeWarning")


def needs(package):
    """Skip a test where a peer is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(package) is None,
                              reason=f"{package} is not installed: pip install 'landcal_jax[peers]' to compare with it")


@pytest.fixture(scope="module")
def exam():
    return peers.linear(4, 16)


def found(exam, method, budget, seed=0):
    """What a peer finds: J above the minimum, errors of its mean in sd, ratios of its sd to the exact, and the counter."""
    counted = Counted(exam.problem, exam.minimum + peers.ENOUGH)
    end = method.find(exam, counted, seed, budget)
    above, sd = float(exam.problem.cost(jnp.asarray(end.z))) - exam.minimum, np.sqrt(np.diag(exam.covariance))
    if end.mean is None:
        return above, None, None, counted
    return above, (end.mean - exam.mean) / sd, np.sqrt(np.diag(end.covariance)) / sd, counted


def test_counts_tell_how_often_the_model_ran_and_when_it_was_good_enough(exam):
    counted = Counted(exam.problem, exam.minimum + peers.ENOUGH)
    Z = np.random.default_rng(0).standard_normal((5, 4))
    np.testing.assert_allclose(counted.costs(Z), [float(exam.problem.cost(jnp.asarray(z))) for z in Z], rtol=1e-12)
    assert (counted.runs, counted.reached) == (5, None)
    counted.adjoint(exam.mean, np.ones(16))
    counted.tangents(exam.mean, np.eye(4))
    assert counted.runs == 5 + peer_methods.GRADIENT_RUNS + 4
    counted.modelled(exam.mean)
    counted.residual(exam.mean)
    assert counted.reached == 5 + peer_methods.GRADIENT_RUNS + 4 + 1
    np.testing.assert_array_equal(counted.best, exam.mean)


def test_moments_by_importance_sampling_are_those_in_closed_form(exam):
    minimum = solve(exam.problem, LevenbergMarquardt(), progress=False)
    mean, covariance, effective = peers.moments(exam.problem, minimum, 4000)
    sd = np.sqrt(np.diag(exam.covariance))
    assert effective > 2000
    np.testing.assert_allclose((mean - exam.mean) / sd, 0, atol=4 / np.sqrt(effective))
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)) / sd, 1, atol=4 / np.sqrt(2 * effective))


@needs("adao")
@pytest.mark.parametrize("name", ["ADAO", "ADAO, BFGS"])
def test_adao_ends_with_the_exact_posterior(exam, name):
    above, errors, ratios, counted = found(exam, peers.PEERS[name], 200)
    assert above < 1e-8
    np.testing.assert_allclose(errors, 0, atol=1e-4)
    np.testing.assert_allclose(ratios, 1, rtol=1e-6)
    assert counted.runs <= 200 and counted.reached <= 60


@needs("dfols")
def test_dfo_ls_ends_with_the_exact_posterior_from_few_runs(exam):
    above, errors, ratios, counted = found(exam, peers.PEERS["DFO-LS"], 200)
    assert above < 1e-10
    np.testing.assert_allclose(errors, 0, atol=1e-5)
    np.testing.assert_allclose(ratios, 1, rtol=1e-4)
    assert counted.reached <= 20


@needs("cma")
def test_cmaes_is_as_fast_as_pycma(exam):
    ours = [found(exam, peers.OURS["CMAES"], 400, seed)[3].reached for seed in range(4)]
    theirs = [found(exam, peers.PEERS["pycma"], 400, seed)[3].reached for seed in range(4)]
    assert abs(np.log(np.median(ours) / np.median(theirs))) < np.log(1.4)


@needs("spotpy")
def test_sce_ua_comes_near_the_minimum_and_keeps_to_the_budget(exam):
    above, _, _, counted = found(exam, peers.PEERS["SCE-UA, 4 complexes"], 800)
    assert above < 0.05
    assert counted.runs == 800


@needs("spotpy")
def test_dream_gives_the_posterior_with_option_2_and_its_chains_only():
    exam = peers.linear(2, 16)
    spread = {name: np.exp(np.mean(np.log(found(exam, peers.PEERS[name], 2000)[2]))) for name in ("DREAM", *peers.TRAPS)}
    assert abs(np.log(spread["DREAM"])) < 0.15
    assert 1.2 < spread["DREAM, long, option 6"] < 1.65  # the square root of two
    assert spread["DREAM, long, database"] > 1.2


@needs("iterative_ensemble_smoother")
def test_es_mda_of_either_has_the_exact_moments_to_sampling_error(exam):
    members = 249
    for name in ("ESMDA", "ESMDA, plain draws", "ES-MDA (ies)"):
        ends = [found(exam, peers.OURS.get(name) or peers.PEERS[name], 1000, seed) for seed in range(3)]
        assert np.sqrt(np.mean([errors**2 for _, errors, _, _ in ends])) < 3 / np.sqrt(members), name
        assert abs(np.mean(np.log([ratios for _, _, ratios, _ in ends]))) < 3 / np.sqrt(2 * members), name
        assert all(counted.runs <= 1000 for *_, counted in ends)


@pytest.mark.parametrize("name", ["LevenbergMarquardt", "ETKI"])
def test_ours_end_with_the_exact_posterior(exam, name):
    above, errors, ratios, counted = found(exam, peers.OURS[name], 1000)
    assert above < 1e-6
    np.testing.assert_allclose(errors, 0, atol=1e-3)
    np.testing.assert_allclose(ratios, 1, rtol=1e-3)
    assert counted.runs <= 1000


def test_score_says_what_the_seeds_reached(exam):
    score = peers.score(peers.OURS["ETKI"], exam, 2, 200)
    assert score.above <= score.worst < 1e-10
    assert score.mean < 1e-10
    assert np.isnan(score.reached)
    assert score.sd == pytest.approx(1, abs=1e-10)
    assert score.cpu > 0
