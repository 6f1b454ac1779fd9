"""Identifiability against closed forms of the linear-Gaussian case, rules that information obeys, and what DALEC's data cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from test_problem import linear_problem

import landcal_jax as lc
from landcal_jax import plot_identifiability
from landcal_jax.forward import FunctionForward
from landcal_jax.identifying import identifiability, sentences, subset_index, table
from landcal_jax.information import collinearity_index
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem

DAYS = np.datetime64("2001-01-01") + np.arange(40)


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(3), n=5, m=9)


@pytest.fixture(scope="module")
def closed(oracle):
    """Prior and posterior covariance in x, as arrays."""
    return np.asarray(oracle.B), np.asarray(oracle.posterior_covariance())


def linear(matrices, streams, priors=None, **space):
    """A Problem whose stream `name` is matrices[name] x, with a standard normal prior of each x unless told otherwise."""
    n = len(next(iter(matrices.values()))[0])
    priors = priors or {f"x{i}": Parameter.normal(0.0, 1.0) for i in range(n)}

    def function(theta):
        x = jnp.stack([theta[name] for name in priors])
        return {name: (jnp.asarray(matrix) @ x)[None] for name, matrix in matrices.items()}

    return Problem(ParameterSpace(priors, **space), FunctionForward(function), Observations(streams))


def two_streams(seed=0, n=4):
    """Streams `a`, correlated in time and with gaps, and `b`, independent; and their dense R."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(40)
    values[[3, 4, 17, 30]] = np.nan
    matrices = {"a": rng.standard_normal((40, n)), "b": rng.standard_normal((6, n)) * [1.0, 1.0, 0.0, 0.0][:n]}
    streams = {"a": Stream(values, 0.7, time=DAYS, model_error=0.4, correlation=ExponentialCorrelation(5.0)),
               "b": Stream(np.zeros(6), 0.5, weight=2.0)}
    seen = np.flatnonzero(np.isfinite(values))
    R = {"a": (0.7**2 + 0.4**2) * np.exp(-np.abs(seen[:, None] - seen) / 5.0), "b": 0.25 / 2.0 * np.eye(6)}
    F = {name: (rows := matrices[name][seen] if name == "a" else matrices[name]).T @ np.linalg.solve(R[name], rows) for name in R}
    return matrices, streams, F


@pytest.fixture(scope="module")
def pair():
    matrices, streams, F = two_streams()
    problem = linear(matrices, streams)
    return problem, identifiability(problem, jnp.zeros(4)), F


# -------------------------------------------------------------------------------------------------------------- closed forms


def test_variance_information_and_correlation_are_the_closed_forms(oracle, closed):
    B, P = closed
    ds = identifiability(linear_problem(oracle), jnp.full(5, 0.3))
    sd, prior_sd = np.sqrt(np.diag(P)), np.sqrt(np.diag(B))
    np.testing.assert_allclose(ds["variance_reduction"], 1 - (sd / prior_sd) ** 2, rtol=1e-10)
    np.testing.assert_allclose(ds["sd_ratio"], sd / prior_sd, rtol=1e-10)
    np.testing.assert_allclose(ds["parameter_information"], np.log(prior_sd / sd), rtol=1e-10)
    np.testing.assert_allclose(ds["correlation"], P / np.outer(sd, sd), atol=1e-10)
    entropy = 0.5 * (np.linalg.slogdet(B)[1] - np.linalg.slogdet(P)[1])
    np.testing.assert_allclose([ds.attrs["information"], ds.attrs["information_bits"] * np.log(2)], entropy, rtol=1e-10)
    # Rodgers (2000): A = I - P B^-1, here with each x in its prior standard deviation; its trace is the degrees of freedom.
    averaging = (np.eye(5) - P @ np.linalg.inv(B)) / prior_sd[:, None] * prior_sd
    np.testing.assert_allclose(ds["averaging_kernel"], averaging, atol=1e-10)
    np.testing.assert_allclose(ds.attrs["degrees_of_freedom"], np.trace(averaging), rtol=1e-10)
    np.testing.assert_allclose(ds["parameter_degrees_of_freedom"].sum(), np.trace(averaging), rtol=1e-10)
    assert ds["parameter_information"].attrs["units"] == "nat"
    # 90 % intervals in physical units, which are those of the Gaussian.
    np.testing.assert_allclose(ds["upper"] - ds["lower"], 2 * 1.6448536 * sd, rtol=1e-7)
    np.testing.assert_allclose(ds["prior_upper"] - ds["prior_lower"], 2 * 1.6448536 * prior_sd, rtol=1e-7)


def test_spectrum_solves_the_generalised_eigenproblem(oracle, closed):
    B, _ = closed
    ds = identifiability(linear_problem(oracle), jnp.zeros(5))
    A, R = np.asarray(oracle.A), np.asarray(oracle.R)
    prior_sd = np.sqrt(np.diag(B))
    for value, vector in zip(ds["eigenvalue"].values, ds["eigenvector"].values, strict=True):
        x = vector * prior_sd
        np.testing.assert_allclose(B @ A.T @ np.linalg.solve(R, A @ x), value * x, atol=1e-9 * ds["eigenvalue"].values[0])
        np.testing.assert_allclose(x @ np.linalg.solve(B, x), 1.0, rtol=1e-10)
    assert (np.diff(ds["eigenvalue"]) <= 0).all()


def test_streams_with_correlated_errors_gaps_and_weights_count_right(pair):
    problem, ds, F = pair
    np.testing.assert_allclose(ds["sensitivity_product"], np.stack([F["a"], F["b"]]), rtol=1e-9, atol=1e-9)
    left = np.linalg.inv(np.eye(4) + F["a"] + F["b"])
    for name, other in (("a", "b"), ("b", "a")):
        alone, without = (np.linalg.inv(np.eye(4) + F[key]) for key in (name, other))
        one = ds.sel(stream=name)
        np.testing.assert_allclose(one["reduction_alone"], 1 - np.diag(alone), atol=1e-12)
        np.testing.assert_allclose(one["reduction_lost"], np.diag(without) - np.diag(left), atol=1e-12)
        np.testing.assert_allclose(one["sd_without"], np.sqrt(np.diag(without) / np.diag(left)), rtol=1e-10)
        np.testing.assert_allclose(one["stream_information_alone"], -0.5 * np.linalg.slogdet(alone)[1], rtol=1e-10)
        np.testing.assert_allclose(one["stream_degrees_of_freedom"], np.trace(F[name] @ left), rtol=1e-10)
    assert ds["count"].values.tolist() == [36, 6]
    np.testing.assert_allclose(ds["influence"] * ds["count"], ds["stream_degrees_of_freedom"])


def test_correlated_errors_leave_a_mean_as_many_values_as_are_effective():
    days = 4.0
    C = np.exp(-np.abs(np.arange(40)[:, None] - np.arange(40)) / days)
    effective = np.ones(40) @ np.linalg.solve(C, np.ones(40))
    stream = Stream(np.zeros(40), 2.0, time=DAYS, correlation=ExponentialCorrelation(days))
    ds = identifiability(linear({"y": np.ones((40, 1))}, {"y": stream}), jnp.zeros(1))
    np.testing.assert_allclose(ds["eigenvalue"], [effective / 4.0], rtol=1e-10)
    assert effective < 10


# ------------------------------------------------------------------------------------------------------------- additivity


def test_information_adds_as_theory_says(pair):
    _, ds, _ = pair
    total, alone, lost = ds.attrs["information"], ds["stream_information_alone"].values, ds["stream_information_lost"].values
    np.testing.assert_allclose([alone[0] + lost[1], alone[1] + lost[0]], total, rtol=1e-12)  # the chain rule
    assert max(alone) < total < sum(alone) and (lost < alone).all()
    np.testing.assert_allclose(ds["stream_degrees_of_freedom"].sum(), ds.attrs["degrees_of_freedom"], rtol=1e-12)
    np.testing.assert_allclose(ds["mode_degrees_of_freedom"].sum(), ds.attrs["degrees_of_freedom"], rtol=1e-12)
    np.testing.assert_allclose(0.5 * np.log1p(ds["eigenvalue"]).sum(), total, rtol=1e-12)
    assert (ds["reduction_alone"] <= ds["variance_reduction"] + 1e-12).all()
    assert (ds["reduction_lost"] >= -1e-12).all() and (ds["influence"] < 1).all()


def test_streams_about_different_parameters_add_exactly():
    matrices = {"a": np.array([[2.0, 0.0]]), "b": np.array([[0.0, 3.0]])}
    ds = identifiability(linear(matrices, {name: Stream([0.0], 1.0) for name in matrices}), jnp.zeros(2))
    np.testing.assert_allclose(ds["stream_information_alone"].sum(), ds.attrs["information"], rtol=1e-12)
    np.testing.assert_allclose(ds["stream_information_lost"], ds["stream_information_alone"], rtol=1e-12)
    np.testing.assert_allclose(ds["reduction_alone"], [[0.8, 0.0], [0.0, 0.9]], atol=1e-12)
    np.testing.assert_allclose(ds.attrs["information_bits"], 0.5 * np.log2(50), rtol=1e-12)
    assert "0 bits are told by more than one stream." in sentences(ds)


# ------------------------------------------------------------------------------------------------------------- invariance


def test_units_of_parameters_and_observations_do_not_matter(pair):
    _, ds, _ = pair
    matrices, streams, _ = two_streams()
    scale = np.array([1.0, 1e3, 1e-2, 7.0])
    priors = {f"x{i}": Parameter.normal(5.0, factor) for i, factor in enumerate(scale)}
    streams["b"] = Stream(np.zeros(6), 50.0, weight=2.0)
    scaled = linear({"a": matrices["a"] / scale, "b": 100 * matrices["b"] / scale}, streams, priors)
    other = identifiability(scaled, jnp.zeros(4))
    for name in ("eigenvalue", "variance_reduction", "averaging_kernel", "correlation", "reduction_alone", "collinearity_index"):
        np.testing.assert_allclose(other[name], ds[name], atol=1e-9, rtol=1e-9)


def test_a_correlated_prior_counts_the_same_however_the_parameters_are_ordered(oracle):
    """Another order is another square root of B: z differs, what is said of each parameter does not."""
    turned = LinearGaussian(oracle.A[:, ::-1], oracle.x_b[::-1], oracle.B[::-1, ::-1], oracle.y, oracle.R)
    ds, other = (identifiability(linear_problem(one), jnp.zeros(5)) for one in (oracle, turned))
    for name in ("variance_reduction", "parameter_degrees_of_freedom"):
        np.testing.assert_allclose(other[name].values[::-1], ds[name], rtol=1e-9)
    np.testing.assert_allclose(other["eigenvalue"], ds["eigenvalue"], rtol=1e-9)
    np.testing.assert_allclose(np.abs(other["eigenvector"].values[:, ::-1]), np.abs(ds["eigenvector"]), atol=1e-9)


# ------------------------------------------------------------------------------------------------------------- low rank


def test_leading_directions_by_products_are_those_of_the_jacobian(pair):
    problem, ds, _ = pair
    limit = float(np.sqrt(np.prod(ds["eigenvalue"].values[2:])))
    low = identifiability(problem, jnp.zeros(4), threshold=limit)
    np.testing.assert_allclose(low["eigenvalue"], ds["eigenvalue"][:3], rtol=1e-9)
    np.testing.assert_allclose(np.abs(low["eigenvector"]), np.abs(ds["eigenvector"][:3]), atol=1e-7)
    missing, bound = ds.attrs["information_bits"] - low.attrs["information_bits"], 0.5 * np.log2(1 + limit)
    assert 0 < missing < bound and (low["variance_reduction"] <= ds["variance_reduction"] + 1e-12).all()
    assert f"eigenvalue above {limit:g}: each of the others would bring less than {bound:.2g} bits" in sentences(low)[1]
    # With all directions above the threshold nothing is lost, of any stream (`b` sees two parameters, and those it has none).
    whole = identifiability(problem, jnp.zeros(4), threshold=1e-6)
    for name in ("variance_reduction", "reduction_alone", "sd_without", "stream_degrees_of_freedom", "correlation"):
        np.testing.assert_allclose(whole[name], ds[name], rtol=1e-8, atol=1e-9)


def test_hundreds_of_parameters_take_their_leading_directions_alone():
    n = 400
    rng = np.random.default_rng(1)
    seen, weak = rng.standard_normal((30, n)) / 5, rng.standard_normal((5, n)) / 5
    streams = {"flux": Stream(np.zeros(30), 0.3), "stock": Stream(np.zeros(5), 0.5), "void": Stream([1.0, np.nan], 1.0)}
    matrices = {"flux": seen, "stock": weak, "void": np.zeros((2, n))}
    prior = {"x": Parameter.normal(np.zeros(n), 1.0, dims="pixel")}
    forward = FunctionForward(lambda theta: {name: (jnp.asarray(matrix) @ theta["x"])[None] for name, matrix in matrices.items()})
    problem = Problem(ParameterSpace(prior, coords={"pixel": [str(i) for i in range(n)]}), forward, Observations(streams))
    ds = identifiability(problem, jnp.zeros(n))
    assert ds.sizes["mode"] == 35 and "Only 35 of 400 directions were taken" in sentences(ds)[1]
    F = seen.T @ seen / 0.09 + weak.T @ weak / 0.25
    covariance = np.linalg.inv(np.eye(n) + F)
    np.testing.assert_allclose(ds["variance_reduction"], 1 - np.diag(covariance), atol=1e-8)
    np.testing.assert_allclose(ds.attrs["information"], -0.5 * np.linalg.slogdet(covariance)[1], rtol=1e-8)
    np.testing.assert_allclose(ds["reduction_alone"].sel(stream="void"), 0.0, atol=1e-12)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(ds["correlation"], covariance / np.outer(sd, sd), atol=1e-8)
    assert ds.attrs["degrees_of_freedom"] < 35
    assert len(plot_identifiability.constrained(ds).axes[0].get_yticklabels()) == 40


# ------------------------------------------------------------------------------------------- collinearity, flags and sentences


def test_collinearity_of_a_pair_is_by_the_angle_between_its_columns():
    angle = np.deg2rad(5.0)
    matrix = np.array([[1.0, np.cos(angle), 0.0], [0.0, np.sin(angle), 0.0], [0.0, 0.0, 1.0]]) * [3.0, 20.0, 2.0]
    ds = identifiability(linear({"y": matrix}, {"y": Stream(np.zeros(3), 1.0)}), jnp.zeros(3))
    expected = 1 / np.sqrt(1 - np.cos(angle))
    np.testing.assert_allclose(ds["collinearity_index"].values[0, 1:], [expected, 1.0], rtol=1e-6)
    np.testing.assert_allclose(np.diag(ds["collinearity_index"]), 1.0)
    np.testing.assert_allclose([subset_index(ds, ["x0", "x1"]), subset_index(ds, ["x0", "x1", "x2"])], expected, rtol=1e-6)
    np.testing.assert_allclose(subset_index(ds, ["x0", "x2"], ["y"]), 1.0, rtol=1e-9)
    np.testing.assert_allclose(ds["sensitivity"], [[3 / np.sqrt(3), 20 / np.sqrt(3), 2 / np.sqrt(3)]], rtol=1e-9)
    # The more sensitive of the two is kept among those that the data alone tell apart.
    assert ds["told_apart"].values.tolist() == [False, True, True]
    with pytest.raises(ValueError, match="labels among x0, x1 and x2"):
        subset_index(ds, ["x9"])


def test_a_parameter_that_is_not_seen_has_an_infinite_index():
    assert collinearity_index(np.diag([1.0, 0.0]), [0, 1]) == np.inf
    assert collinearity_index(np.ones((2, 2)), [0, 1]) == np.inf
    assert collinearity_index(np.diag([1.0, 0.0]), [0]) == 1.0


def test_a_correlation_of_the_prior_is_no_word_of_the_data():
    """Two parameters that go together in the prior and that nothing sees: the data are not accused of it."""
    priors = {name: Parameter.normal(0.0, 1.0) for name in "abc"}
    correlation = np.eye(3) + 0.95 * (np.eye(3, k=1) + np.eye(3, k=-1)) * np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    problem = linear({"y": np.array([[0.0, 0.0, 3.0]])}, {"y": Stream([0.0], 1.0)}, priors, correlation=correlation)
    ds = identifiability(problem, jnp.zeros(3))
    assert float(ds["correlation"][0, 1]) == pytest.approx(0.95) and float(ds["prior_correlation"][0, 1]) == pytest.approx(0.95)
    assert "apart: correlation" not in "\n".join(sentences(ds))


def test_the_findings_say_what_to_do():
    """Two parameters of which only the sum is seen, one that is not seen at all, one at its bound and seen well."""
    priors = {"lma": Parameter.normal(0.0, 1.0), "efficiency": Parameter.normal(0.0, 1.0), "wood": Parameter.normal(0.0, 1.0),
              "lifespan": Parameter.uniform(0.0, 1.0)}
    matrices = {"gpp": np.array([[20.0, 20.0, 0.1, 0.0]]), "respiration": np.array([[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 200.0]])}
    problem = linear(matrices, {"gpp": Stream([0.0], 1.0), "respiration": Stream([0.0, 0.0], 1.0)}, priors)
    ds = identifiability(problem, problem.space.whiten({"lma": 0.0, "efficiency": 0.0, "wood": 0.0, "lifespan": 0.995}))
    said = "\n".join(sentences(ds))
    assert "lma and efficiency are told apart by neither stream: correlation -1.00, raising one and lowering the other" in said
    assert "Not seen by any stream (variance reduced by less than 10%): wood. Their posterior is their prior: fix them" in said
    assert "At a bound: lifespan (upper)." in said
    assert "respiration alone brings" in said and "the spread grows for lifespan" in said
    assert "Without the prior the data tell apart 2 of 4 parameters at a time" in said
    assert ds["unconstrained"].values.tolist() == [False, False, True, False]
    assert ds["at_bound"].values.tolist() == ["", "", "", "upper"]
    rows = table(ds).set_index("parameter")
    assert rows.loc["wood", "unconstrained"] and rows.loc["lifespan", "map"] == pytest.approx(0.995)
    # Near its bound the lifespan moves little with z: 200 units of it are 2.9 there.
    assert rows.loc["lifespan", "alone: respiration"] == pytest.approx(0.8932, abs=1e-4) and rows.loc["lifespan", "alone: gpp"] == 0


def test_what_the_data_have_moved_is_not_called_unseen():
    """exp(rate) observed at -4 drives `rate` far down, where nothing depends on it any more; `wood` is not seen at all."""
    priors = {"rate": Parameter.normal(0.0, 1.0), "wood": Parameter.normal(0.0, 1.0)}
    forward = FunctionForward(lambda theta: {"y": jnp.exp(theta["rate"])[None, None] + 0 * theta["wood"]})
    problem = Problem(ParameterSpace(priors), forward, Observations({"y": Stream([-4.0], 1.0)}))
    result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False)
    ds = identifiability(problem, result)
    assert ds["unconstrained"].all() and float(ds["displacement"][0]) < -1 and float(ds["displacement"][1]) == 0
    unseen, moved = sentences(ds)[2:4]
    assert unseen.startswith("Not seen by any stream") and ": wood." in unseen
    assert moved.startswith("Moved by the data") and f"rate ({float(result.z[0]):+.1f})" in moved and "wood" not in moved
    # A point that is no solution says nothing of that kind.
    assert ": rate and wood." in sentences(identifiability(problem, result.z))[2]


def test_dataset_survives_a_file(pair, tmp_path):
    _, ds, _ = pair
    ds.to_netcdf(tmp_path / "identifiability.nc")
    with xr.open_dataset(tmp_path / "identifiability.nc") as read:
        assert sentences(read) == sentences(ds)
        plot_identifiability.streams(read)
    assert all({"long_name", "units"} <= set(ds[name].attrs) for name in ds.data_vars if ds[name].dtype.kind == "f")


# ------------------------------------------------------------------------------------------------------------------- DALEC


def dalec_twin():
    """Problem and true z of two years of DALEC2, with streams of GPP and NEE."""
    experiment = lc.twin_experiment(seed=0, years=2, held_out_years=0, model=lc.models.Dalec2())
    problem = experiment.problem
    nee = problem.observations["nee"]
    gpp = Stream(np.where(nee.mask, 0.0, np.nan), 0.6, Pick("gpp"), units="gC m-2 d-1")
    problem = problem.with_observations(Observations({"gpp": gpp, "nee": nee}, sites=problem.observations.sites))
    return problem, problem.space.whiten(experiment.truth)


@pytest.fixture(scope="module")
def dalec():
    return identifiability(*dalec_twin())


def test_gpp_alone_does_not_see_respiration(dalec):
    """As in the twin of Pinnington et al. (2020, GMD 13, 55), where daily GPP leaves the dark respiration of leaves at its prior."""
    respiring = ["decomposition_rate", "litter_turnover", "som_turnover", "temperature_exponent", "litter_0", "som_0", "root_0", "wood_0",
                 "root_turnover", "wood_turnover", "root_fraction"]
    np.testing.assert_allclose(dalec["reduction_alone"].sel(stream="gpp", parameter=respiring), 0.0, atol=1e-10)
    seen = ["litter_turnover", "litter_0", "temperature_exponent"]
    assert (dalec["reduction_alone"].sel(stream="nee", parameter=seen) > 0.5).all()
    assert (dalec["sd_without"].sel(stream="nee", parameter=seen) > 1.4).all()
    without = next(line for line in sentences(dalec) if line.startswith("gpp alone"))
    assert "temperature_exponent" not in without.split(";")[0]


def test_wood_is_not_seen_by_fluxes(dalec):
    flagged = set(dalec["parameter"].values[dalec["unconstrained"].values])
    assert {"wood_0", "wood_turnover"} <= flagged
    assert "wood_0" in next(line for line in sentences(dalec) if line.startswith("Not seen by any stream"))


# ------------------------------------------------------------------------------------------------------------------- figures


def words_of(figure):
    texts = [text.get_text() for axis in figure.axes for text in (*axis.texts, *axis.get_yticklabels(), *axis.get_xticklabels())]
    labels = [label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title(loc="left"))]
    return [*texts, *labels, *(text.get_text() for legend in figure.legends for text in legend.get_texts())]


def test_figures_of_what_is_seen(dalec, tmp_path):
    for name in ("spectrum", "streams", "constrained"):
        figure = getattr(plot_identifiability, name)(dalec)
        figure.savefig(tmp_path / f"{name}.png")
        assert {"onset_day", "wood_0"} <= set(words_of(figure))
    title = f"{dalec.attrs['degrees_of_freedom']:.1f} degrees of freedom for signal"
    assert title in " ".join(words_of(plot_identifiability.spectrum(dalec)))
    assert {"all streams", "gpp alone", "nee alone", "unconstrained"} <= set(words_of(plot_identifiability.constrained(dalec)))
    assert "Variance reduction (%)" in words_of(plot_identifiability.streams(dalec))
    few = words_of(plot_identifiability.streams(dalec, ["lma", "som_0"]))
    assert "lma" in few and "wood_0" not in few
    with pytest.raises(ValueError, match="a parameter of this dataset"):
        plot_identifiability.spectrum(dalec, ["lna"])
    with pytest.raises(ValueError, match="a variable `information`"):
        plot_identifiability.expected(dalec)


# -------------------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_done_is_said(pair):
    problem, _, _ = pair
    z = jnp.zeros(4)
    cases = [
        (lambda: identifiability(problem, jnp.zeros(3)), "z of shape"),
        (lambda: identifiability(problem, z, threshold=0.0), "a threshold above zero"),
        (lambda: identifiability(problem, z, unconstrained=0.0), "threshold `unconstrained`"),
        (lambda: identifiability(problem, z, correlated=1.0), "threshold `correlated`"),
        (lambda: sentences(xr.Dataset()), "without sentences")]
    for call, words in cases:
        with pytest.raises(ValueError, match=words):
            call()


def test_derivatives_that_are_not_finite_are_refused():
    priors = {"a": Parameter.normal(0.0, 1.0), "b": Parameter.normal(0.0, 1.0)}
    forward = FunctionForward(lambda theta: {"y": jnp.stack([theta["a"], jnp.sqrt(theta["b"])])[None]})
    problem = Problem(ParameterSpace(priors), forward, Observations({"y": Stream([0.0, 0.0], 1.0)}))
    for threshold, words in ((None, "finite derivatives of y"), (0.01, "finite tangents and adjoints")):
        with pytest.raises(ValueError, match=words):
            identifiability(problem, jnp.zeros(2), threshold=threshold)


def test_a_model_without_tangent_linear_is_told_what_works():
    class OnlyRuns(FunctionForward):
        @property
        def has_tangent(self):
            return False

    forward = OnlyRuns(lambda theta: {"y": theta["a"][None, None]})
    problem = Problem(ParameterSpace({"a": Parameter.normal(0.0, 1.0)}), forward, Observations({"y": Stream([0.0], 1.0)}))
    with pytest.raises(TypeError, match="finite_difference"):
        identifiability(problem, jnp.zeros(1))
    ds = identifiability(problem.finite_difference(), jnp.zeros(1))
    np.testing.assert_allclose(ds["variance_reduction"], 0.5, rtol=1e-6)


def test_free_errors_are_refused_with_what_works():
    problem = linear({"y": np.eye(2)}, {"y": Stream([0.0, 0.0], 1.0, model_error=0.5)})
    for threshold in (None, 0.01):
        with pytest.raises(TypeError, match="estimate_errors"):
            identifiability(problem.with_error_parameters(["y"]), jnp.zeros(3), threshold=threshold)
