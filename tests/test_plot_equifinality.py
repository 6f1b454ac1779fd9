"""The figure of equifinality: what it shows and refuses, draws without spread, and densities at the bounds of priors."""

import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import plot_equifinality
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem

PROBLEM = Problem(
    ParameterSpace({name: Parameter.uniform(0.0, 1.0) for name in "ab"}),
    FunctionForward(lambda theta: {"y": (theta["a"] + theta["b"]).reshape(1, 1)}), Observations({"y": Stream(np.zeros((1, 1)), 1.0)}))


def posterior(z):
    return Posterior(PROBLEM, jnp.asarray(z), jnp.zeros(2), jnp.eye(2), "draws")


DRAWS = np.random.default_rng(0).standard_normal((2000, 2))


def test_no_density_goes_over_the_bounds_of_a_prior():
    """Draws that are uniform between the bounds have a density that is level up to them."""
    figure = plot_equifinality.matrix({"prior": posterior(DRAWS)})
    line = figure.axes[0].lines[0]
    x, density = line.get_xdata(), line.get_ydata()
    assert 0.0 <= x.min() and x.max() <= 1.0 and figure.axes[0].get_xlim()[0] >= 0.0
    assert density.min() > 0.8 * density.max()
    at = np.linspace(-0.5, 1.5, 4001)
    inside = plot_equifinality._density(np.asarray(posterior(DRAWS).matrix())[:, :1], at[None], np.array([[0.0], [1.0]]))
    assert np.trapezoid(inside, at) == pytest.approx(1.0, abs=2e-3) and inside[(at < 0) | (at > 1)].max() == 0.0


def test_seven_posteriors_at_most_and_one_at_least():
    few = posterior(DRAWS[:60])
    figure = plot_equifinality.matrix({f"p{number}": few for number in range(7)})
    assert len(figure.axes[0].lines) == 7
    for number in (0, 8):
        with pytest.raises(ValueError, match="from one to 7 posteriors"):
            plot_equifinality.matrix({f"p{label}": few for label in range(number)})
    with pytest.raises(ValueError, match="draws that are finite"):
        plot_equifinality.matrix({"lost": posterior(np.full((5, 2), np.nan))})


@pytest.mark.parametrize("z", [np.zeros((50, 2)), np.outer(DRAWS[:50, 0], np.ones(2)), np.c_[DRAWS[:50, 0], np.zeros(50)], DRAWS[:2]],
                         ids=["point", "line", "one without spread", "two draws"])
def test_draws_without_spread_are_points_and_lines(z, tmp_path):
    figure = plot_equifinality.matrix({"thin": posterior(z), "wide": posterior(DRAWS[:100])}, truth={"a": 0.5, "b": 0.5})
    figure.savefig(tmp_path / "matrix.png")
    flat = [text.get_text() for text in figure.axes[1].texts].count("no spread")
    assert flat == int((z.std(axis=0) < 1e-12).any())
