"""Priors, the whitening maps against closed forms and SciPy, and the structure of a ParameterSpace."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.transforms import log_ndtr, quantile_of_log

EXTREME = np.array([-40.0, -30.0, -12.0, -6.0, -1e-3, 0.0, 1e-3, 2.0, 8.0, 9.0, 20.0, 30.0, 40.0])
GRID = np.linspace(-6.0, 6.0, 25)

# name -> (parameter, the same prior in SciPy)
FAMILIES = {
    "normal": (Parameter.normal(3.0, 2.0), scipy.stats.norm(3.0, 2.0)),
    "log_normal": (Parameter.log_normal(3.0, 0.5), scipy.stats.lognorm(0.5, scale=3.0)),
    "uniform": (Parameter.uniform(-1.0, 4.0), scipy.stats.uniform(-1.0, 5.0)),
    "uniform_from_zero": (Parameter.uniform(0.0, 4.0), scipy.stats.uniform(0.0, 4.0)),
    "log_uniform": (Parameter.log_uniform(1e-4, 10.0), scipy.stats.loguniform(1e-4, 10.0)),
    "bounded": (Parameter.share_of_range(5.0, 0.0, 10.0), scipy.stats.truncnorm(-1.25, 1.25, 5.0, 4.0)),
    "skew": (Parameter.bounded(3.0, 4.0, 2.0, 12.0), scipy.stats.truncnorm(-0.25, 2.25, 3.0, 4.0)),
    "flat": (Parameter.bounded(5.0, 1e5, 0.0, 10.0), scipy.stats.uniform(0.0, 10.0)),
    "sharp": (Parameter.bounded(5.0, 0.05, 0.0, 10.0), scipy.stats.norm(5.0, 0.05)),
    "above": (Parameter.bounded(1.0, 2.0, 0.0, np.inf), scipy.stats.truncnorm(-0.5, np.inf, 1.0, 2.0)),
    "below": (Parameter.bounded(1.0, 2.0, -np.inf, 1.5), scipy.stats.truncnorm(-np.inf, 0.25, 1.0, 2.0)),
    "mean_outside": (Parameter(dist.TruncatedNormal(20.0, 1.0, low=0.0, high=10.0)),
                     scipy.stats.truncnorm(-20.0, -10.0, 20.0, 1.0)),
    "half_normal": (Parameter(dist.HalfNormal(2.0)), scipy.stats.halfnorm(scale=2.0)),
    "gumbel": (Parameter(dist.Gumbel(0.0, 1.0)), scipy.stats.gumbel_r(0.0, 1.0)),
}
SPACE = ParameterSpace({name: parameter for name, (parameter, _) in FAMILIES.items()})
INDEX = {name: i for i, name in enumerate(FAMILIES)}
NAMED = [name for name in FAMILIES if name != "gumbel"]  # all but the generic prior, which rounds beyond |z| = 8


def flat_physical(space, z):
    return space.flatten(space.physical(z))


@pytest.fixture(scope="module")
def extremes():
    """theta, slope and curvature of every family at extreme z, (z, family)."""

    @jax.jit
    @jax.vmap
    def run(z):
        def f(z):
            return flat_physical(SPACE, z * jnp.ones(SPACE.size))

        def slope(z):
            return jax.jvp(f, (z,), (1.0,))

        (value, first), (_, second) = jax.jvp(slope, (z,), (1.0,))
        return value, first, second, jax.jacrev(f)(z)

    return [np.asarray(part) for part in run(jnp.asarray(EXTREME))]


@pytest.mark.parametrize("name", FAMILIES)
def test_quantiles_are_those_of_scipy(name):
    inner = np.abs(GRID) <= 4
    z = GRID[inner]
    theta = np.asarray(flat_physical(SPACE, np.repeat(GRID[:, None], SPACE.size, axis=1)))[inner, INDEX[name]]
    expected = FAMILIES[name][1].ppf(scipy.stats.norm.cdf(z))
    spread = np.ptp(expected)
    np.testing.assert_allclose(theta, expected, rtol=2e-9 if name != "flat" else 1e-7, atol=1e-9 * spread)


def test_sampled_moments_are_those_of_the_priors():
    theta = flat_physical(SPACE, SPACE.sample(jax.random.key(0), 20_000))
    sd = SPACE.flatten(SPACE.prior_sd)
    for name, i in INDEX.items():
        reference = FAMILIES[name][1]
        np.testing.assert_allclose(sd[i], reference.std(), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(theta[:, i].mean(), reference.mean(), atol=4 * reference.std() / 140, err_msg=name)


def test_extreme_z_stays_finite_inside_and_monotonic(extremes):
    low, high = SPACE.bounds()
    value, first, second, reverse = extremes
    for array in (value, first, second, reverse):
        assert np.isfinite(array).all()
    assert (value >= low).all() and (value <= high).all()
    assert (np.diff(value, axis=0) >= 0).all()
    np.testing.assert_allclose(first, reverse, rtol=1e-10, atol=1e-300)
    inside = np.abs(EXTREME) <= 30
    columns = [INDEX[name] for name in NAMED]
    assert (first[inside][:, columns] > 0).all(), "a parameter sticks to its bound"


def slope_closed_form(name, theta, z):
    """d theta / dz = N(z) / p(theta), in logs of SciPy where the densities underflow."""
    reference = FAMILIES[name][1]
    return np.exp(scipy.stats.norm.logpdf(z) - reference.logpdf(theta))


@pytest.mark.parametrize("name", NAMED)
def test_gradient_is_the_ratio_of_densities(name, extremes):
    inside = np.abs(EXTREME) <= 30
    z, theta, first = EXTREME[inside], extremes[0][inside, INDEX[name]], extremes[1][inside, INDEX[name]]
    tolerance = {"flat": 1e-6, "sharp": 1e-8, "mean_outside": 1e-8}.get(name, 1e-9)
    np.testing.assert_allclose(first, slope_closed_form(name, theta, z), rtol=tolerance)


def test_distance_from_a_bound_keeps_its_digits(extremes):
    at = list(EXTREME).index(-30.0)
    theta = extremes[0][at]
    small = np.exp(scipy.stats.norm.logcdf(-30.0))
    np.testing.assert_allclose(theta[INDEX["uniform_from_zero"]], 4.0 * small, rtol=1e-10)
    mass = scipy.stats.norm.cdf(1.25) - scipy.stats.norm.cdf(-1.25)
    np.testing.assert_allclose(theta[INDEX["bounded"]], 4.0 * small * mass / scipy.stats.norm.pdf(1.25), rtol=1e-10)


def test_gradient_at_zero_and_finite_differences():
    step = 1e-5
    z = np.repeat(np.array([-3.0, -1e-7, 0.0, 1e-7, 1.5])[:, None], SPACE.size, axis=1)
    run = jax.jit(jax.vmap(lambda z: jax.jvp(lambda z: flat_physical(SPACE, z), (z,), (jnp.ones(SPACE.size),))))
    difference = (run(z + step)[0] - run(z - step)[0]) / (2 * step)
    np.testing.assert_allclose(run(z)[1], difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_whiten_is_the_inverse(name):
    z = GRID
    full = np.repeat(z[:, None], SPACE.size, axis=1)
    theta = SPACE.physical(full)
    error = np.abs(np.asarray(SPACE.whiten(theta))[:, INDEX[name]] - z)
    # Close to a bound that is not zero theta itself has no more digits: half a unit in its last place is the limit.
    rounding = np.spacing(np.abs(np.asarray(theta[name])) + 1e-300)
    slope = slope_closed_form(name, np.asarray(theta[name]), z)
    inner = np.abs(z) <= 4
    assert error[inner].max() < 1e-9
    if name == "gumbel":  # its quantile function sees Phi(z), rounded near 1
        rounding = np.maximum(rounding, slope * 1.2e-16 / scipy.stats.norm.pdf(z))
    assert (error < 1e-9 + 3 * rounding / slope).all()
    if name in ("normal", "log_normal"):
        assert error.max() < 1e-13


def test_bounds_themselves_have_a_finite_z_that_maps_back():
    low, high = (np.asarray(side) for side in SPACE.bounds())
    theta = SPACE.default_theta | {"uniform": high[INDEX["uniform"]], "bounded": high[INDEX["bounded"]],
                                   "log_uniform": low[INDEX["log_uniform"]], "skew": low[INDEX["skew"]]}
    z = SPACE.whiten(theta)
    assert np.isfinite(z).all()
    again = SPACE.physical(z)
    for name in ("uniform", "bounded", "log_uniform", "skew"):
        np.testing.assert_allclose(again[name], theta[name], rtol=1e-15)


def test_log_probabilities_and_quantiles_in_the_far_tail():
    x = np.array([-300.0, -40.0, -31.0, -29.0, -20.0, -5.0, 0.0, 5.0])
    log_p = jax.jit(log_ndtr)(jnp.asarray(x))
    np.testing.assert_allclose(log_p, scipy.stats.norm.logcdf(x), rtol=2e-14, atol=2e-16)
    y, slope = jax.jit(lambda p: jax.jvp(quantile_of_log, (p,), (jnp.ones(len(x) - 1),)))(log_p[:-1])
    np.testing.assert_allclose(y, x[:-1], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(slope, np.exp(scipy.stats.norm.logcdf(x) - scipy.stats.norm.logpdf(x))[:-1], rtol=1e-9)


def test_single_precision_has_no_nan_and_stays_inside():
    columns = np.array([INDEX[name] for name in FAMILIES])
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), SPACE)

    def run(z):
        return flat_physical(single, z * jnp.ones(SPACE.size, jnp.float32))

    z = jnp.asarray([-40, -14, -9, 0, 5.7, 14, 40], jnp.float32)
    value, slope = jax.jit(jax.vmap(lambda z: jax.jvp(run, (z,), (jnp.float32(1),))))(z)
    low, high = single.bounds()
    assert value.dtype == jnp.float32
    assert np.isfinite(value[:, columns]).all() and np.isfinite(slope).all()
    assert (value >= low).all() and (value <= high).all()


# ---------------------------------------------------------------------- structure


@pytest.fixture(scope="module")
def space():
    return ParameterSpace(
        {"lma": Parameter.log_normal([90.0, 200.0], 0.3, dims="pft", units="g m-2", description="leaf mass"),
         "k": Parameter.log_uniform(1e-4, 1e-1, units="d-1"),
         "q10": Parameter.normal(np.full((2, 3), 2.0), 0.5, dims=("pft", "site"))},
        coords={"pft": ["DBF", "ENF"], "site": ["a", "b", "c"]})


def test_labels_shapes_and_flat_order(space):
    assert space.size == 9
    assert space.labels[:4] == ("lma[DBF]", "lma[ENF]", "k", "q10[DBF,a]") and space.labels[-1] == "q10[ENF,c]"
    theta = space.default_theta
    assert {name: value.shape for name, value in theta.items()} == {"lma": (2,), "k": (), "q10": (2, 3)}
    vector = jnp.arange(9.0)
    np.testing.assert_array_equal(space.flatten(space.unflatten(vector)), vector)
    np.testing.assert_array_equal(space.unflatten(vector)["q10"], np.arange(3.0, 9.0).reshape(2, 3))
    np.testing.assert_allclose(space.physical(space.default_z)["lma"], [90.0, 200.0], rtol=1e-14)
    np.testing.assert_allclose(space.prior_median["k"], np.sqrt(1e-5), rtol=1e-14)
    np.testing.assert_array_equal(space.bounds()[1][:3], [np.inf, np.inf, 0.1])
    assert "q10" in str(space) and "log normal: median 90 to 200, sd of log 0.3" in str(space)


def test_members_lead_and_vmap_agrees(space):
    z = space.sample(jax.random.key(1), 4)
    assert z.shape == (4, 9)
    by_axis, by_vmap = space.physical(z), jax.jit(jax.vmap(space.physical))(z)
    for name in by_axis:
        np.testing.assert_allclose(by_axis[name], by_vmap[name], rtol=1e-13)
    np.testing.assert_allclose(space.whiten(by_axis), z, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(space.whiten))(by_vmap), z, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(space.flatten))(by_vmap), space.flatten(by_axis), rtol=1e-13)


def test_other_prior_values_do_not_recompile():
    traces = []

    @jax.jit
    def run(space, z):
        traces.append(1)
        return space.physical(z)

    def make(mean, high, location):
        return ParameterSpace({"a": Parameter.normal(mean, 1.0), "b": Parameter.bounded(1.0, 2.0, 0.0, high),
                               "c": Parameter(dist.Gumbel(location, 1.0))})

    first, second = run(make(1.0, 3.0, 0.0), jnp.zeros(3)), run(make(2.0, 4.0, 1.0), jnp.zeros(3))
    assert len(traces) == 1
    assert first["a"] == 1.0 and second["a"] == 2.0 and second["c"] > first["c"]


def test_prior_values_can_be_differentiated(space):
    gradient = jax.grad(lambda space, z: space.physical(z)["lma"].sum())(space, jnp.full(9, 0.3))
    numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient.transforms)]
    assert all(np.isfinite(leaf).all() for leaf in numbers) and any((leaf != 0).any() for leaf in numbers)


def test_many_parameters_cost_no_more_operations_than_a_few():
    def count(n):
        make = [lambda: Parameter.share_of_range(5.0, 0.0, 10.0), lambda: Parameter.log_uniform(1e-3, 1.0),
                lambda: Parameter.uniform(0.0, 2.0), lambda: Parameter.normal(0.0, 1.0)]
        space = ParameterSpace({f"p{i}": make[i % 4]() for i in range(n)})
        text = jax.jit(lambda space, z: flat_physical(space, z)).lower(space, jnp.zeros(n)).as_text()
        return space, {word: text.count(word) for word in ("exponential", "log", "divide", "select")}

    (_, few), (space, many) = count(8), count(300)
    assert few == many
    z = np.asarray(space.sample(jax.random.key(2), 1))[0]
    np.testing.assert_allclose(space.whiten(space.physical(z)), z, atol=1e-9)
    assert space.labels == tuple(f"p{i}" for i in range(300))


def test_fix_free_and_only(space):
    fixed = space.fix("k", lma=[100.0, 150.0])
    assert fixed.names == ("q10",) and fixed.size == 6 and set(fixed.fixed) == {"k", "lma"}
    theta = fixed.physical(jnp.ones(6))
    np.testing.assert_array_equal(theta["lma"], [100.0, 150.0])
    np.testing.assert_allclose(theta["q10"], 2.5)
    np.testing.assert_array_equal(theta["k"], space.default_theta["k"])
    np.testing.assert_allclose(fixed.whiten(theta), 1.0)
    np.testing.assert_allclose(fixed.whiten({"q10": theta["q10"]}), 1.0)
    again = fixed.free("lma")
    assert again.names == ("lma", "q10") and set(again.fixed) == {"k"}
    np.testing.assert_array_equal(again.default_theta["lma"], [90.0, 200.0])
    one = space.fix(**{"lma[ENF]": 210.0})
    assert one.size == 8 and "lma[ENF]" not in one.labels and one.fixed == {"lma[ENF]": 210.0}
    assert float(one.physical(jnp.zeros(8))["lma"][1]) == 210.0
    assert space.only("k", "lma[DBF]").labels == ("lma[DBF]", "k")
    assert "fixed at 210 (1 of 2)" in str(one)
    gradient = jax.grad(lambda z: one.physical(z)["lma"].sum())(jnp.zeros(8))
    assert float(gradient[0]) > 0 and (np.asarray(gradient[1:]) == 0).all()


def test_full_covariance_is_the_closed_form():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    covariance, mean = root @ root.T + np.eye(3), np.array([1.0, 5.0, -3.0])
    space = ParameterSpace({"a": Parameter.normal(mean[:2], 9.0, dims="layer"), "b": Parameter.normal(mean[2], 9.0)},
                           coords={"layer": [1, 2]}, covariance=covariance)
    z = rng.normal(size=(5, 3))
    expected = mean + z @ np.linalg.cholesky(covariance).T
    np.testing.assert_allclose(flat_physical(space, z), expected, rtol=1e-13)
    np.testing.assert_allclose(space.whiten(space.physical(z)), z, atol=1e-13)
    np.testing.assert_allclose(space.flatten(space.prior_sd), np.sqrt(np.diag(covariance)), rtol=1e-10)
    part = space.fix(b=0.0)
    np.testing.assert_allclose(flat_physical(part, z[:, :2]),
                               mean[:2] + z[:, :2] @ np.linalg.cholesky(covariance[:2, :2]).T, rtol=1e-13)
    np.testing.assert_allclose(flat_physical(part.free("b"), z), expected, rtol=1e-13)


def test_copula_keeps_marginals_and_gives_the_rank_correlation():
    correlation = np.array([[1.0, 0.7], [0.7, 1.0]])
    space = ParameterSpace({"a": Parameter.uniform(0.0, 1.0), "b": Parameter.log_uniform(1.0, 100.0)},
                           correlation=correlation)
    z = space.sample(jax.random.key(3), 20_000)
    theta = space.physical(z)
    rank = scipy.stats.spearmanr(theta["a"], theta["b"]).statistic
    np.testing.assert_allclose(rank, 6 / np.pi * np.arcsin(0.35), atol=0.02)
    assert scipy.stats.kstest(np.log10(theta["b"]) / 2, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(space.whiten(theta), z, atol=1e-8)
    assert "correlated prior" in str(space)


def test_parameters_come_back_as_they_were_given(space):
    again = ParameterSpace(space.parameters, space.coords)
    assert jax.tree.structure(again) == jax.tree.structure(space)
    for one, two in zip(jax.tree.leaves(again), jax.tree.leaves(space), strict=True):
        np.testing.assert_array_equal(one, two)
    assert isinstance(space.parameters["k"].prior, dist.LogUniform)
    expanded = Parameter(dist.Normal(0.0, 1.0).expand([2]), dims="pft")
    assert expanded.prior_shape == (2,) and (expanded.low == -np.inf).all()


# ---------------------------------------------------------------------- mistakes

MISTAKES = {
    "default outside": (lambda: Parameter.uniform(0.0, 1.0, default=2.0), "inside the bounds 0 and 1.*2.0"),
    "default named": (lambda: Parameter.uniform(0.0, 1.0, 2.0, description="turnover"), "description 'turnover'"),
    "default on bound": (lambda: Parameter.bounded(0.0, 1.0, 0.0, 1.0), "inside the bounds"),
    "sd": (lambda: Parameter.normal(0.0, 0.0), "sd > 0"),
    "sd of one": (lambda: Parameter.normal([0.0, 1.0], [1.0, -2.0], dims="pft"), r"sd = .*-2.0.* in element \[1\]"),
    "low high": (lambda: Parameter.uniform(2.0, 1.0), "low < high"),
    "not finite": (lambda: Parameter.bounded(1.0, np.nan, 0.0, 2.0), "a finite sd"),
    "infinite uniform": (lambda: Parameter.uniform(0.0, np.inf), "a finite high"),
    "default nan": (lambda: Parameter.normal(1.0, 1.0).__class__(dist.Normal(0.0, 1.0), default=np.nan), "inside the"),
    "log of negative": (lambda: Parameter.log_uniform(-1.0, 1.0), "low > 0 for a log-uniform"),
    "median": (lambda: Parameter.log_normal(-1.0, 1.0), "median > 0"),
    "far mean": (lambda: Parameter(dist.TruncatedNormal(99.0, 1.0, low=0.0, high=1.0)), "at most 30 sd outside"),
    "no icdf": (lambda: Parameter(dist.VonMises(0.0, 1.0)), "VonMises without one"),
    "vector": (lambda: Parameter(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))), "event shape"),
    "discrete": (lambda: Parameter(dist.Poisson(1.0)), "continuous"),
    "no prior": (lambda: Parameter(3.0), "a numpyro distribution.*float"),
    "shapes": (lambda: Parameter.normal([1.0, 2.0], [1.0, 2.0, 3.0], dims="pft"), "arrays of one shape"),
    "no dims": (lambda: Parameter.normal([1.0, 2.0], 1.0), "name the dims"),
    "no coords": (lambda: ParameterSpace({"a": Parameter.normal(0.0, 1.0, dims="pft")}), "coords for the dims .*pft"),
    "length": (lambda: ParameterSpace({"a": Parameter.normal([0.0, 1.0], 1.0, dims="pft")}, {"pft": ["x"] * 1}),
               r"shape \(1,\).*'a'"),
    "labels": (lambda: ParameterSpace({"a": Parameter.normal(0.0, 1.0)}, {"pft": ["x", "x"]}), "repeated"),
    "nothing": (lambda: ParameterSpace({}), "at least one parameter"),
    "name": (lambda: ParameterSpace({"a[1]": Parameter.normal(0.0, 1.0)}), "a parameter name"),
    "no parameter": (lambda: ParameterSpace({"a": 3.0}), "a Parameter for 'a'"),
    "both": (lambda: two(covariance=np.eye(2), correlation=np.eye(2)), "both"),
    "bounded B": (lambda: ParameterSpace({"a": Parameter.uniform(0.0, 1.0)}, covariance=[[1.0]]), "Gaussian priors"),
    "shape of B": (lambda: ParameterSpace({"a": Parameter.normal(0.0, 1.0)}, covariance=np.eye(2)), r"shape \(1, 1\)"),
    "diagonal": (lambda: ParameterSpace({"a": Parameter.normal(0.0, 1.0)}, correlation=[[2.0]]), "1 on its diagonal"),
    "indefinite": (lambda: two(correlation=[[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
    "asymmetric": (lambda: two(correlation=[[1.0, 0.2], [0.1, 1.0]]), r"0.2 for \(a, b\)"),
    "unknown fix": (lambda: two().fix("aa"), "Try: +a"),
    "fix outside": (lambda: two().fix(b=7.0), "b fixed inside its bounds 0 and 1"),
    "fix shape": (lambda: two().fix(b=[0.1, 0.2]), "to fix 'b' at"),
    "fix all": (lambda: two().fix("a", "b"), "at least one free"),
    "whiten outside": (lambda: two().whiten({"a": 0.0, "b": 1.5}), "(?s)b between its bounds 0 and 1.*1.5"),
    "whiten nan": (lambda: two().whiten({"a": np.nan, "b": 0.5}), "a between its bounds"),
    "whiten missing": (lambda: two().whiten({"a": 0.0}), "a value for parameter 'b'"),
    "whiten unknown": (lambda: two().whiten({"a": 0.0, "b": 0.5, "c": 1.0}), "also 'c'"),
    "whiten shape": (lambda: ParameterSpace({"a": Parameter.normal(0.0, 1.0, dims="p")}, {"p": ["x"]}).whiten(
        {"a": 1.0}), "parameter 'a' with the dims"),
    "whiten fixed": (lambda: two().fix(b=0.5).whiten({"a": 0.0, "b": 0.6}), "the fixed b at its value"),
    "length of z": (lambda: two().physical(jnp.zeros(3)), "a vector .* with 2 entries"),
}


def two(**arguments):
    return ParameterSpace({"a": Parameter.normal(0.0, 1.0), "b": Parameter.uniform(0.0, 1.0)}, **arguments)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_has_its_sentence(mistake):
    call, sentence = MISTAKES[mistake]
    with pytest.raises(ValueError, match=f"(?s){sentence.removeprefix('(?s)')}") as caught:
        call()
    text = str(caught.value)
    assert "Expected:" in text and "Got:" in text and "Try:" in text


def test_inside_jit_a_value_outside_of_its_bounds_is_nan():
    z = jax.jit(two().whiten)({"a": 0.0, "b": 1.5})
    assert np.isnan(z[1]) and z[0] == 0.0


def test_a_weakly_typed_vector_keeps_its_digits():
    # jnp.full with a Python number is float64 for JAX only as long as nothing else has a say.
    space = ParameterSpace({"a": Parameter.uniform(0.0, 1.0, default=0.5), "b": Parameter.log_normal(2.0, 0.3)})
    weak, strong = jnp.full(2, 0.1), jnp.array([0.1, 0.1])
    assert weak.weak_type and not strong.weak_type
    for name, value in space.physical(strong).items():
        assert float(space.physical(weak)[name]) == float(value)
    assert space.physical([0, 0])["a"] == 0.5
