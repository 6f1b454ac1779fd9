"""What observations would tell before they are taken: against the posterior once they are, and against all choices there are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_identifiability import dalec_twin, linear, words_of

from landcal_jax import plot_identifiability
from landcal_jax.design import expected_posterior, rank_observations
from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.identifying import identifiability, sentences
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import AbstractOperator
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(3), n=5, m=9)


def split_oracle(oracle, rows):
    """The oracle with a diagonal R, of which `rows` are observed."""
    R = jnp.diag(jnp.diag(oracle.R))
    return LinearGaussian(oracle.A[rows], oracle.x_b, oracle.B, oracle.y[rows], R[np.ix_(rows, rows)])


def test_expected_posterior_is_the_posterior_once_the_data_are_taken(oracle):
    old, new, both = (split_oracle(oracle, np.arange(9)[part]) for part in (slice(0, 4), slice(4, 9), slice(0, 9)))
    sigma = np.sqrt(np.diag(oracle.R))
    prior = Parameter.normal(np.asarray(oracle.x_b), np.ones(5), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": list("abcde")}, covariance=oracle.B)
    sums = np.array([[1.0, 1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0, 0.0]])

    def function(theta):
        return {"old": old(theta["x"])[None], "new": new(theta["x"])[None], "sums": (jnp.asarray(sums) @ theta["x"])[None]}

    problem = Problem(space, FunctionForward(function), Observations({"old": Stream(oracle.y[:4], sigma[:4])}))
    candidate, output = Stream(np.full(5, 7.0), sigma[4:]), Stream([0.0, 0.0], 1.0, units="gC m-2", description="a sum")
    ds = expected_posterior(problem, jnp.zeros(5), {"new": candidate}, outputs={"sums": output})
    before, after = (np.asarray(one.posterior_covariance()) for one in (old, both))
    prior_sd = np.sqrt(np.diag(oracle.B))
    np.testing.assert_allclose(ds["sd_before"], np.sqrt(np.diag(before)) / prior_sd, rtol=1e-9)
    np.testing.assert_allclose(ds["sd_after"], np.sqrt(np.diag(after)) / prior_sd, rtol=1e-9)
    np.testing.assert_allclose(ds["sd_alone"], np.sqrt(np.diag(new.posterior_covariance())) / prior_sd, rtol=1e-9)
    gained = 0.5 * (np.linalg.slogdet(before)[1] - np.linalg.slogdet(after)[1])
    np.testing.assert_allclose([ds.attrs["information"], float(ds["information_alone"][0])], gained, rtol=1e-9)
    for when, P in (("before", before), ("after", after)):
        np.testing.assert_allclose(ds[f"sums_sd_{when}"][0], np.sqrt(np.diag(sums @ P @ sums.T)), rtol=1e-9)
    assert ds["sums_sd_after"].attrs["units"] == "gC m-2"
    assert "new (5 values) would add" in sentences(ds)[0] and "The spread of sums by parameters would fall from" in sentences(ds)[1]
    # The same by taking the data, whatever they are.
    taken = identifiability(problem.with_observations(Observations(
        {"old": problem.observations["old"], "new": Stream(oracle.y[4:], sigma[4:])})), jnp.zeros(5))
    np.testing.assert_allclose(taken["sd_ratio"], ds["sd_after"], rtol=1e-9)


def test_errors_in_proportion_are_those_of_what_is_predicted():
    """The values of a stream that is not yet observed do not matter, also where its error would be a share of them."""
    matrices = {"old": np.array([[1.0, 0.0]]), "new": np.array([[3.0, 0.0], [0.0, 4.0]])}
    problem = linear(matrices, {"old": Stream([0.0], 1.0)}, {f"x{i}": Parameter.normal(10.0, 1.0) for i in range(2)})
    for values in ([0.0, 0.0], [500.0, -500.0]):
        ds = expected_posterior(problem, jnp.zeros(2), {"new": Stream(values, 0.1, model_error=ModelError(0.0, proportional=0.2))})
        variance = 0.01 + (0.2 * np.array([30.0, 40.0])) ** 2
        np.testing.assert_allclose(ds["sd_after"], 1 / np.sqrt([2 + 9 / variance[0], 1 + 16 / variance[1]]), rtol=1e-10)


@pytest.fixture(scope="module")
def candidates():
    """Six candidates of three values each: of four parameters, with a copy of the best one among them."""
    rng = np.random.default_rng(5)
    matrices = {"now": rng.standard_normal((2, 4))} | {name: rng.standard_normal((3, 4)) for name in "pqrst"}
    matrices["copy"] = matrices["p"]
    matrices["sum"] = np.array([[1.0, 1.0, 0.0, 0.0]])
    streams = {name: Stream(np.zeros(len(matrix)), 0.3 if name in ("p", "copy") else 0.5) for name, matrix in matrices.items()}
    problem = linear(matrices, {"now": streams.pop("now")})
    information = {name: matrices[name].T @ matrices[name] / float(stream.sigma[0, 0]) ** 2 for name, stream in streams.items()}
    now = np.eye(4) + matrices["now"].T @ matrices["now"] * 4
    streams.pop("sum")
    return problem, streams, information, now


def test_greedy_ranking_takes_the_best_of_every_step(candidates):
    problem, streams, information, now = candidates
    ds = rank_observations(problem, jnp.zeros(4), streams)

    def gain(names):
        return 0.5 * np.linalg.slogdet(np.linalg.solve(now, now + sum(information[name] for name in names)))[1]

    taken = list(ds["taken"].values[1:])
    assert sorted(taken) == sorted(streams) and ds["taken"].values[0] == ""
    for step, name in enumerate(taken):
        so_far = gain(taken[:step]) if step else 0.0
        gains = {other: gain([*taken[:step], other]) - so_far for other in streams if other not in taken[:step]}
        assert name == max(gains, key=gains.__getitem__)
        np.testing.assert_allclose([float(ds["gain_of"].isel(step=step + 1).sel(candidate=other)) for other in gains],
                                   list(gains.values()), rtol=1e-8)
    np.testing.assert_allclose(ds["total"][-1], gain(taken), rtol=1e-10)
    np.testing.assert_allclose(ds["gain"].sum(), ds["total"][-1])
    assert (np.diff(ds["gain"].values[1:]) <= 1e-12).all()  # returns diminish: information is submodular
    best = max(gain(names) for names in itertools.combinations(streams, 3))
    assert float(ds["total"][3]) >= (1 - np.exp(-1)) * best
    np.testing.assert_allclose(ds["sd"][0], np.sqrt(np.diag(np.linalg.inv(now))), rtol=1e-10)
    # p and its copy are the same to rounding: one of them comes first, and the sentence of the other says why it gains little.
    assert "the others tell most of it" in next(line for line in sentences(ds) if {"p", "copy"} - {taken[0]} & set(line.split()[1:2]))


def test_ranking_for_some_parameters_or_for_a_prediction(candidates):
    problem, streams, information, now = candidates

    def covariance(name):
        return np.linalg.inv(now + information[name]) if name else np.linalg.inv(now)

    some = rank_observations(problem, jnp.zeros(4), streams, number=1, parameters=["x1", "x3"])
    inside = np.ix_([1, 3], [1, 3])
    gains = [0.5 * np.log(np.linalg.det(covariance("")[inside]) / np.linalg.det(covariance(name)[inside])) for name in streams]
    np.testing.assert_allclose(some["gain_of"][1], gains, rtol=1e-9)
    mean = rank_observations(problem, jnp.zeros(4), streams, number=1, criterion="A")
    shares = [1 - np.trace(covariance(name)) / np.trace(covariance("")) for name in streams]
    np.testing.assert_allclose(mean["gain_of"][1], shares, rtol=1e-9)
    output = {"sum": Stream([0.0], 1.0)}
    row = np.array([1.0, 1.0, 0.0, 0.0])
    prediction = rank_observations(problem, jnp.zeros(4), streams, number=1, criterion="A", outputs=output)
    shares = [1 - row @ covariance(name) @ row / (row @ covariance("") @ row) for name in streams]
    np.testing.assert_allclose(prediction["gain_of"][1], shares, rtol=1e-9)
    assert "mean variance of sum" in sentences(prediction)[0]


class Wood(AbstractOperator):
    """Wood carbon at the end of the record [gC m-2]."""

    variables = ("state",)

    def __call__(self, run):
        return run.state.wood[:, -1:]


def test_one_inventory_sees_the_wood_that_fluxes_do_not():
    problem, z = dalec_twin()
    inventory = {"wood": Stream([0.0], 500.0, Wood(), units="gC m-2")}
    expected = expected_posterior(problem, z, inventory, outputs=inventory)
    assert float(expected["sd_before"].sel(parameter="wood_0")) > 0.95 and float(expected["sd_after"].sel(parameter="wood_0")) < 0.3
    # One value of error e: the variance after it is v e^2 / (v + e^2), exactly.
    variance = float(expected["wood_sd_before"][0, 0]) ** 2
    np.testing.assert_allclose(expected["wood_sd_after"][0, 0], np.sqrt(variance * 500.0**2 / (variance + 500.0**2)), rtol=1e-6)
    ranked = rank_observations(problem, z, inventory | {"more_gpp": problem.observations["gpp"]}, parameters=["wood_0"])
    assert ranked["taken"].values[1] == "wood"


def test_figures_of_designs(candidates):
    problem, streams, _, _ = candidates
    names = words_of(plot_identifiability.expected(expected_posterior(problem, jnp.zeros(4), streams)))
    assert {"x0", "today", "with p, q, r, s, t, copy"} <= set(names)
    ranked = rank_observations(problem, jnp.zeros(4), streams)
    figure = plot_identifiability.ranking(ranked)
    widths = [bar.get_width() for bar in figure.axes[0].containers[1]]
    np.testing.assert_allclose(widths, ranked["gain"].values[1:] / np.log(2))
    assert f"1. {ranked['taken'].values[1]}" in words_of(figure)


def test_what_cannot_be_designed_is_said(candidates):
    problem, streams, _, _ = candidates
    z = jnp.zeros(4)
    cases = [
        (dict(criterion="E"), 'criterion "D"'), (dict(parameters=["y"]), "labels among x0"), (dict(parameters=[]), "labels among x0"),
        (dict(number=9), "1 to 6 candidates"), (dict(outputs=streams), 'criterion "A" for outputs')]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            rank_observations(problem, z, streams, **wrong)
    with pytest.raises(ValueError, match="one stream or more"):
        expected_posterior(problem, z, {})
