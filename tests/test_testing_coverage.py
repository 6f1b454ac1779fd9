"""Coverage over twins against what is known: exact posteriors have uniform ranks, wrong ones have not; kills, failures, processes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import plot_coverage
from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.plot_style import number_text
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.rank_statistics import UniformBand, effective_draws, normalised_ranks, proportion_interval, thinned
from landcal_jax.testing_coverage import coverage, verdict

TWINS = 100
QUIET = {"progress": False, "key": 3}


class Linear(eqx.Module):
    """y = A x, as a module that another process can import."""

    A: jax.Array

    def __call__(self, theta):
        return {"y": (self.A @ theta["x"])[None]}


def linear(A, stream):
    """Parameters x with standard deviations 1, 2, ... and correlation 0.5 between neighbours, observed as A x."""
    n = A.shape[1]
    sd = 1.0 + np.arange(n)
    B = sd[:, None] * sd * 0.5 ** np.abs(np.arange(n)[:, None] - np.arange(n))
    prior = Parameter.normal(np.zeros(n), np.ones(n), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(n)]}, covariance=B)
    return Problem(space, FunctionForward(Linear(jnp.asarray(A))), Observations({"y": stream}))


@pytest.fixture(scope="module")
def problem():
    A = np.random.default_rng(0).normal(size=(12, 4))
    return linear(A, Stream(np.zeros(12), np.linspace(0.5, 2.0, 12)))


@eqx.filter_jit
def drawn(problem, key, scale=1.0):
    """Exact draws of the posterior of a linear problem, and its centre and covariance; `scale` multiplies its standard deviations."""
    r, G = problem.jacobian(jnp.zeros(problem.space.size))
    covariance = jnp.linalg.inv(G.T @ G)
    centre = -covariance @ G.T @ r
    white = jax.random.normal(key, (300, problem.space.size))
    return centre + scale * white @ jnp.linalg.cholesky(covariance).T, centre, scale**2 * covariance


def exact(problem, key):
    return Posterior(problem, *drawn(problem, key), "exact", gaussian=True, details={"forward": 7, "note": "in words"})


def too_narrow(problem, key):
    return drawn(problem, key, 0.5)[0]


def prior(problem, key):
    return problem.space.sample(key, 300)


def with_sigma(problem, factor):
    """The same observations with standard deviations `factor` times theirs."""
    streams = {name: Stream(stream.values, stream.sigma * factor, mask=stream.mask) for name, stream in problem.observations.items()}
    return problem.with_observations(problem.observations.with_streams(streams))


def taken_for_half(problem, key):
    return exact(with_sigma(problem, 0.5), key)


def taken_for_triple(problem, key):
    return exact(with_sigma(problem, 3.0), key)


def failing(problem, key):
    if float(problem.observations["y"].values[0, 0]) > 1.0:
        raise RuntimeError("no minimum was found")
    return drawn(problem, key)[0]


# ----------------------------------------------------------------------------------------------------------- what is right, and wrong


def test_an_exact_posterior_has_uniform_ranks_and_covers(problem):
    ds = coverage(problem, exact, twins=TWINS, **QUIET)
    assert ds["rank"].dims == ("twin", "quantity") and ds.sizes["quantity"] == 5
    assert (ds["p_chi_square"] > 0.01).all() and (ds["p_ecdf"] > 0.01).all()
    np.testing.assert_allclose(ds["parameters_coverage"], ds["level"], atol=4 * ds["parameters_coverage_error"].max())
    # Ten intervals of 95 %: one may miss, or two.
    assert ((ds["coverage_low"] < ds["level"]) & (ds["coverage_high"] > ds["level"])).sum() >= 8
    for what in ("predicted", "observed"):
        near = np.abs(ds[f"{what}_coverage"] - ds["level"]) < 4 * ds[f"{what}_coverage_error"]
        assert near.all(), ds[f"{what}_coverage"]
    assert "agree with uniform ones" in verdict(ds)[0] and len(verdict(ds)) == 3
    assert ds.attrs["failed"] == 0 and (ds["detail"].sel(name="forward") == 7).all() and ds.sizes["name"] == 1
    # The truths are draws of the prior, and the posterior says where they are within its own errors.
    np.testing.assert_allclose(ds["truth"].std("twin"), 1.0, atol=4 / np.sqrt(2 * TWINS))
    assert abs(float((((ds["truth"] - ds["mean"]) / ds["sd"]) ** 2).mean()) - 1) < 0.2


@pytest.mark.parametrize("posterior_of, word", [(taken_for_half, "narrow"), (taken_for_triple, "wide")])
def test_a_wrong_error_of_the_observations_is_seen(problem, posterior_of, word):
    ds = coverage(problem, posterior_of, twins=TWINS, **QUIET)
    ranked = ds["p_ecdf"].sel(quantity=ds["parameter"].values)
    assert ranked.min() < 0.01
    share = float(ds["parameters_coverage"].sel(level=0.9))
    assert share < 0.8 if word == "narrow" else share > 0.95
    assert any(f"too {word}" in sentence for sentence in verdict(ds)[:-2])


def test_bare_draws_that_are_too_narrow_are_seen_in_ranks_and_bands(problem):
    ds = coverage(problem, too_narrow, twins=60, **QUIET)
    # Half the standard deviation: intervals of 90 % hold what is within 0.82 standard deviations.
    assert abs(float(ds["parameters_coverage"].sel(level=0.9)) - 0.59) < 0.06
    assert abs(float(ds["predicted_coverage"].sel(level=0.9, stream="y")) - 0.59) < 0.08
    assert (ds["p_ecdf"] < 0.01).all()


def test_the_prior_taken_for_the_posterior_is_seen_by_the_rank_of_J_alone(problem):
    ds = coverage(problem, prior, twins=60, predictions=False, **QUIET)
    assert (ds["p_chi_square"].sel(quantity=ds["parameter"].values) > 0.01).all()
    assert float(ds["p_chi_square"].sel(quantity="J")) < 1e-6 and "predicted_coverage" not in ds
    assert any(sentence.startswith("J: ranks are not uniform") and "too high" in sentence for sentence in verdict(ds))


@pytest.mark.slow
def test_correlated_errors_taken_for_white_are_seen_in_the_mean_of_a_flux():
    time = np.datetime64("2020-01-01") + np.arange(60)
    problem = linear(np.ones((60, 1)), Stream(np.zeros(60), 1.0, correlation=ExponentialCorrelation(5.0), time=time))

    def white(problem, key):
        stream = Stream(problem.observations["y"].values, 1.0, time=time)
        return drawn(problem.with_observations(Observations({"y": stream})), key)[0]

    right = coverage(problem, lambda problem, key: drawn(problem, key)[0], twins=60, predictions=False, **QUIET)
    wrong = coverage(problem, white, twins=60, predictions=False, **QUIET)
    assert (right["p_chi_square"] > 0.01).all()
    # The mean of 60 days counts for 7 of them.
    assert float(wrong["parameters_coverage"].sel(level=0.9)) < 0.6 < 0.8 < float(right["parameters_coverage"].sel(level=0.9))


def test_errors_in_proportion_to_the_flux_cover():
    """A flux of 5 with 0.1 + 30 %, 200 values: R goes by the flux of the truth, not by what was observed of it (41 % of 90 %, once)."""
    problem = linear(np.ones((200, 1)), Stream(np.zeros(200), 0.01, model_error=ModelError(0.1, proportional=0.3)))
    ds = coverage(problem, exact, twins=TWINS, truth=lambda key: 5.0 * jnp.ones(1), **QUIET)
    assert float(ds["parameters_coverage"].sel(level=0.9)) == pytest.approx(0.9, abs=3 * 0.03)
    for what in ("predicted", "observed"):
        assert float(ds[f"{what}_coverage"].sel(level=0.9, stream="y")) == pytest.approx(0.9, abs=3 * 0.03)
    from_prior = coverage(problem, exact, twins=TWINS, predictions=False, **QUIET)
    assert (from_prior["p_ecdf"] > 0.01).all()


# ----------------------------------------------------------------------------------------------------- store, processes, failures


def test_a_store_goes_on_where_it_was_and_belongs_to_one_run(problem, tmp_path):
    whole = coverage(problem, exact, twins=8, **QUIET)
    coverage(problem, exact, twins=3, store=tmp_path, **QUIET)
    asked = []

    def counted(problem, key):
        asked.append(key)
        return exact(problem, key)

    counted.__qualname__ = exact.__qualname__
    again = coverage(problem, counted, twins=8, store=tmp_path, **QUIET)
    assert len(asked) == 5 and len(list(tmp_path.iterdir())) == 8
    assert again.drop_vars("seconds").identical(whole.drop_vars("seconds"))
    with pytest.raises(ValueError, match="another run"):
        coverage(problem, exact, twins=3, store=tmp_path, key=4, progress=False)
    with pytest.raises(ValueError, match="another run"):
        coverage(problem, prior, twins=3, store=tmp_path, **QUIET)


def test_processes_give_the_same_numbers(problem):
    serial = coverage(problem, exact, twins=4, **QUIET)
    parallel = coverage(problem, exact, twins=4, processes=2, **QUIET)
    assert parallel.drop_vars("seconds").identical(serial.drop_vars("seconds"))


def test_what_a_process_cannot_import_is_refused(problem):
    with pytest.raises(ValueError, match="another process can import"):
        coverage(problem, lambda problem, key: exact(problem, key), twins=2, processes=2, **QUIET)


def test_failures_are_counted_and_tried_again(problem, tmp_path):
    ds = coverage(problem, failing, twins=40, store=tmp_path, **QUIET)
    failed = (ds["failure"] != "").values
    assert 0 < failed.sum() == ds.attrs["failed"] < 40
    assert np.isnan(ds["rank"].values[failed]).all() and np.isfinite(ds["rank"].values[~failed]).all()
    assert verdict(ds)[0].startswith(f"{failed.sum()} of 40 twins failed, the first with: RuntimeError: no minimum")
    again = coverage(problem, failing, twins=40, store=tmp_path, **QUIET)
    assert again.drop_vars("seconds").identical(ds.drop_vars("seconds"))


def test_what_never_works_is_said_at_once(problem):
    asked = []

    def broken(problem, key):
        asked.append(key)
        return jnp.zeros(3)

    with pytest.raises(RuntimeError, match="two or more draws z"):
        coverage(problem, broken, twins=50, **QUIET)
    assert len(asked) == 3


@pytest.mark.parametrize("wrong", [{"twins": 0}, {"levels": (1.0,)}, {"levels": ()}, {"truth": "posterior"}, {"processes": 0}])
def test_arguments_out_of_range(problem, wrong):
    with pytest.raises(ValueError, match="Expected"):
        coverage(problem, exact, **QUIET, **wrong)


def test_truths_of_ones_own_are_taken(problem):
    ds = coverage(problem, exact, twins=4, truth=lambda key: 0.1 * jnp.ones(4), **QUIET)
    np.testing.assert_allclose(ds["truth"], 0.1)


# ------------------------------------------------------------------------------------------------------------------------ statistics


def test_ranks_are_uniform_whatever_the_number_of_draws():
    rng = np.random.default_rng(1)
    ranks = np.array([normalised_ranks(rng.normal(size=(int(rng.integers(1, 6)), 1)), rng.normal(size=1), rng)[0] for _ in range(4000)])
    assert UniformBand(4000).p_value(ranks) > 0.01
    assert np.histogram(ranks, 4, (0, 1))[0] == pytest.approx(1000, abs=110)
    # Ties, as of draws that stand on a bound, are broken at random.
    assert np.ptp([normalised_ranks(np.zeros((9, 1)), np.zeros(1), rng)[0] for _ in range(200)]) > 0.9


def test_draws_of_a_slow_chain_are_thinned():
    rng = np.random.default_rng(0)
    white, slow = rng.normal(size=(2, 4, 500)), np.zeros((4, 500))
    for day in range(1, 500):
        slow[:, day] = 0.9 * slow[:, day - 1] + np.sqrt(1 - 0.81) * white[1, :, day]
    both = np.stack([white[0].ravel(), slow.ravel()], axis=1)
    # An AR(1) of 0.9 has (1 - 0.9) / (1 + 0.9) of its draws.
    assert effective_draws(both, 4) == pytest.approx(2000 / 19, rel=0.35)
    assert effective_draws(both[:, :1], 4) > 1500
    assert effective_draws(np.ones((100, 1)), 1) == 100
    assert thinned(2000, 105.7, 200).size == 105 and thinned(2000, 900, 200).size == 200
    assert np.ptp(np.diff(thinned(2000, 105.7, 200))) <= 1
    assert list(thinned(300, 0.2, 200)) == [150]


def test_the_band_holds_whole_curves_of_uniform_ranks():
    band, rng = UniformBand(150), np.random.default_rng(5)
    low, high = band.limits(0.9)
    samples = np.sort(rng.random((1000, 150)), axis=1)
    curves = np.array([np.searchsorted(sample, band.points, side="right") / 150 for sample in samples])
    inside = ((curves >= low) & (curves <= high)).all(axis=1)
    assert 0.87 < inside.mean() < 0.94
    p = np.array([band.p_value(sample) for sample in samples])
    assert 0.07 < (p < 0.1).mean() < 0.13
    assert band.p_value(0.3 + 0.4 * rng.random(150)) < 1e-3


def test_the_interval_of_a_proportion_is_wilsons():
    low, high = proportion_interval(np.array([180, 200]), 200)
    # Its ends are where the share is 1.96 standard deviations of the binomial away.
    for end in (low[0], high[0]):
        assert abs(end - 0.9) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / 200), rel=1e-6)
    assert high[1] == pytest.approx(1.0) and low[1] < 0.99


def test_weights_are_told(problem):
    weighted = problem.with_observations(Observations({
        name: eqx.tree_at(lambda stream: stream.weight, stream, jnp.full_like(stream.weight, 0.5))
        for name, stream in problem.observations.items()}))
    assert "Weights temper the likelihood" in verdict(coverage(weighted, exact, twins=3, **QUIET))[0]
    assert not any("Weights" in sentence for sentence in verdict(coverage(problem, exact, twins=3, **QUIET)))


# --------------------------------------------------------------------------------------------------------------------------- figures


def test_figures_show_every_quantity(problem, tmp_path):
    ds = coverage(problem, exact, twins=40, **QUIET)
    ranks = plot_coverage.ranks(ds)
    titles = [axis.get_title(loc="left").split("\n") for axis in ranks.axes]
    assert [name for name, _ in titles] == [str(name) for name in ds["quantity"].values]
    assert all(p == f"p = {number_text(float(value), 2)}" for (_, p), value in zip(titles, ds["p_chi_square"].values, strict=True))
    assert len(plot_coverage.ecdf(ds).axes[0].lines) >= 5
    chart = plot_coverage.chart({"exact": ds, "again": ds})
    labels = [text.get_text() for text in chart.axes[0].get_yticklabels()]
    assert "exact" in labels and "again" in labels
    for name, figure in {"ranks": ranks, "chart": chart}.items():
        figure.savefig(tmp_path / f"{name}.png")
