"""Microcanonical chains: tuned, counted, the same for the same key, and honest about the mode they sit in and about kinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gradient_solvers import toy
from test_smc import PROBLEM, external, free_errors, model

from landcal_jax import microcanonical
from landcal_jax.diagnostics import diagnose
from landcal_jax.microcanonical import _notes, mclmc
from landcal_jax.parameters import Parameter

MODE = jnp.array([0.7, 0.5])


@pytest.fixture(scope="module")
def posterior():
    return mclmc(PROBLEM, MODE, draws=500, key=0, progress=False)


def test_chains_agree_on_the_mode_they_began_in(posterior):
    a, b = posterior.matrix().T
    assert posterior.chains == 4 and posterior.z.shape == (2000, 2)
    assert (a > 0).all()
    # In that mode a^2 and b are as good as Gaussian.
    np.testing.assert_allclose([a.mean(), a.std(), b.mean(), b.std()], [1.0, 0.05, 0.5, 0.1], rtol=0.1)
    assert float(diagnose(posterior).table["rhat"].max()) < 1.02


def test_details_count_and_tell(posterior):
    details = posterior.details
    steps = 4 * 500 * details["thin"]
    assert details["gradient"] >= 4 + 2 * (4 * 1500 + steps)
    assert details["failed"] == 0
    assert 1e-5 < details["energy_variance"] < 4 * 5e-4
    assert "unadjusted" in details["note"]
    np.testing.assert_allclose(details["log_density"][:5], jax.vmap(PROBLEM.log_density)(posterior.z[:5]), rtol=1e-9)


def test_the_same_key_gives_the_same_draws(posterior):
    again = mclmc(PROBLEM, MODE, draws=500, key=0, progress=False)
    np.testing.assert_array_equal(again.z, posterior.z)


def test_a_run_that_was_cut_goes_on_and_ends_with_the_same_bits(posterior, tmp_path, monkeypatch):
    file, shown = tmp_path / "chains.npz", microcanonical._Run.shown

    def cut(run):
        if run.done == 7:
            raise KeyboardInterrupt
        return shown(run)

    monkeypatch.setattr(microcanonical._Run, "shown", cut)
    with pytest.raises(KeyboardInterrupt):
        mclmc(PROBLEM, MODE, draws=500, key=0, progress=False, checkpoint=file)
    monkeypatch.undo()
    tuned, starts = microcanonical._tune, []
    monkeypatch.setattr(microcanonical, "_tune", lambda *args: starts.append(args) or tuned(*args))
    again = mclmc(PROBLEM, MODE, draws=500, key=0, progress=False, checkpoint=file)
    assert not starts
    np.testing.assert_array_equal(again.z, posterior.z)
    assert again.details["gradient"] == posterior.details["gradient"]
    with pytest.raises(ValueError, match="one of another run"):
        mclmc(PROBLEM, MODE, draws=500, key=1, progress=False, checkpoint=file)


@pytest.mark.slow
def test_free_errors_are_sampled():
    found = mclmc(free_errors(), jnp.array([0.7, 0.5, 0.0]), chains=2, draws=200, key=0, progress=False)
    a, b, _ = found.matrix().T
    assert found.z.shape == (400, 3) and (a > 0).all()
    np.testing.assert_allclose([np.median(a), np.median(b)], [1.0, 0.5], rtol=0.1)


def test_a_large_bias_is_a_warning():
    assert "warning" not in _notes(5e-4, 0, 10)
    found = _notes(5e-3, 3, 10)
    assert found["warning"].startswith("The energy varies 10 times") and "3 steps left" in found["note"]


def test_what_cannot_be_sampled_is_refused():
    one = toy(lambda theta: (theta["a"],), [1.0], a=Parameter.normal(0.0, 1.0))
    with pytest.raises(ValueError, match="two parameters"):
        mclmc(one, jnp.zeros(1), progress=False)
    with pytest.raises(TypeError, match="mclmc"):
        mclmc(external(model), MODE, progress=False)
