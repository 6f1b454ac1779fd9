"""What `diagnose` says of chains that agree, that disagree, that are short, that diverge and that are cut off."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.diagnostics import diagnose
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_draws
from landcal_jax.problem import Problem

CHAINS, DRAWS = 4, 500


@pytest.fixture(scope="module")
def problem():
    space = ParameterSpace({"rate": Parameter.normal(2.0, 0.5), "pool": Parameter.normal(10.0, 2.0)})
    return Problem(space, FunctionForward(lambda theta: {"y": theta["rate"][None, None]}), Observations({"y": Stream([2.0], 1.0)}))


def chains_of(problem, z, **details):
    details = {"log_density": np.zeros(z.shape[0] * z.shape[1])} | details
    return from_draws(problem, z.reshape(-1, z.shape[2]), method="test", chains=len(z), details=details)


def independent(seed=0):
    return np.random.default_rng(seed).standard_normal((CHAINS, DRAWS, 2))


def test_independent_draws_pass(problem):
    found = diagnose(chains_of(problem, independent()))
    assert found.passed and len(found.sentences) == 1 and "4 chains of 500 draws agree" in found.sentences[0]
    assert np.all(found.table["rhat"] < 1.01)
    assert np.all(np.abs(found.table["ess_bulk"] / (CHAINS * DRAWS) - 1) < 0.2)
    assert list(found.table["parameter"].values) == ["rate", "pool"]
    # In units of the parameter: z = 0.5 about 2, and 2 about 10.
    np.testing.assert_allclose(found.table["mean"], [2.0, 10.0], atol=0.2)
    np.testing.assert_allclose(found.table["mcse_mean"], np.array([0.5, 2.0]) / np.sqrt(CHAINS * DRAWS), rtol=0.15)


def test_what_the_sampler_warned_of_is_no_agreement(problem):
    found = diagnose(chains_of(problem, independent(), warning="The chains of the warm-up did not agree."))
    assert not found.passed and found.sentences[0] == "The chains of the warm-up did not agree."


def test_agreement_of_chains_from_one_place_says_nothing_of_other_modes(problem):
    found = diagnose(chains_of(problem, independent(), starts="about one minimum of J"))
    assert found.passed and "agree" in found.sentences[0] and "smc(problem)" in found.sentences[1]


def test_a_chain_of_known_memory_has_its_effective_size(problem):
    """An AR(1) chain of coefficient a is worth (1 - a) / (1 + a) of its draws."""
    a, noise, z = 0.6, independent(1), np.zeros((CHAINS, DRAWS, 2))
    for i in range(1, DRAWS):
        z[:, i] = a * z[:, i - 1] + np.sqrt(1 - a**2) * noise[:, i]
    found = diagnose(chains_of(problem, z))
    np.testing.assert_allclose(found.table["ess_bulk"], CHAINS * DRAWS * (1 - a) / (1 + a), rtol=0.25)


def test_a_chain_in_another_mode_is_named(problem):
    z = independent()
    z[2, :, 1] += 5
    found = diagnose(chains_of(problem, z))
    assert not found.passed
    assert "Chains disagree" in found.sentences[0] and "above 1.01 for pool 1." in found.sentences[0]
    assert "smc(problem)" in found.sentences[0]


def test_short_chains_say_how_many_draws_would_do(problem):
    found = diagnose(chains_of(problem, independent()[:, :50]))
    assert not found.passed
    said = next(sentence for sentence in found.sentences if "bulk" in sentence)
    draws = int(said.split("draws=")[1].split()[0])
    assert 80 <= draws <= 200


def test_divergences_are_placed(problem):
    z = independent()
    diverging = z[:, :, 0] > 2.0
    found = diagnose(chains_of(problem, z, diverging=diverging.ravel()))
    said = next(sentence for sentence in found.sentences if "diverged" in sentence)
    assert f"{diverging.sum()} of 2000" in said and "in rate" in said and "target_accept" in said
    assert found.table.attrs["divergences"] == diverging.sum()


def test_trees_that_are_cut_off_are_reported(problem):
    z = independent()
    depth = np.where(np.arange(CHAINS * DRAWS) % 4 == 0, 6, 3)
    found = diagnose(chains_of(problem, z, tree_depth=depth, max_tree_depth=6))
    assert "25% of the draws" in found.sentences[-1] and "Allow 8" in found.sentences[-1]


def test_one_chain_is_told_to_get_company(problem):
    found = diagnose(chains_of(problem, independent()[:1]))
    assert not found.passed and "run four" in found.sentences[0]


@pytest.mark.parametrize("still", [slice(None), 2])
def test_a_parameter_that_does_not_move_is_named_and_nothing_is_warned(problem, still):
    z = independent()
    z[still, :, 1] = 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose(chains_of(problem, z))
    assert not found.passed
    where = "all chains" if still == slice(None) else "1 of 4 chains"
    assert "did not move" in found.sentences[0] and f"pool had one value in {where}" in found.sentences[0]
    assert np.isnan(found.table["rhat"].values[1]) and np.isfinite(found.table["rhat"].values[0])


def test_four_chains_of_which_nothing_moves_are_not_called_one(problem):
    found = diagnose(chains_of(problem, np.zeros((CHAINS, DRAWS, 2))))
    assert not found.passed and "rate, pool had one value" in found.sentences[0]
    assert not any("One chain" in sentence for sentence in found.sentences)


def test_particles_and_draws_by_weights_are_no_chain(problem):
    draws, weights = independent().reshape(-1, 2), np.linspace(1, 2, CHAINS * DRAWS)
    particles = from_draws(problem, draws, method="particles", details={
        "log_density": np.zeros(len(draws)), "log_evidence": 0.0, "note": "9 powers"})
    weighted = from_draws(problem, draws, method="weighted", weights=weights, details={"log_density": np.zeros(len(draws))})
    for posterior, said in ((particles, "9 powers"), (weighted, "resampled by their weights")):
        with pytest.raises(ValueError, match=f'no order(.|\n)*details(.|\n)*{said}'):
            diagnose(posterior)


def test_a_gaussian_has_no_chains(problem):
    from landcal_jax.laplace import laplace

    with pytest.raises(ValueError, match="draws of Markov chains"):
        diagnose(laplace(problem, jnp.zeros(2), draws=10))


def test_printing_shows_the_slowest_first(problem):
    z = independent()
    z[:, 1:, 1] = z[:, :-1, 1]
    z[:, :, 1] = np.repeat(z[:, ::10, 1], 10, axis=1)
    lines = str(diagnose(chains_of(problem, z))).splitlines()
    assert "ess_bulk" in lines[0]
    assert next(line for line in lines if line.startswith(("pool", "rate"))).startswith("pool")
