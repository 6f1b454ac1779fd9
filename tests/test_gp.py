"""Gaussian processes against dense algebra, refits, finite differences and scikit-learn; refusals; coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import qmc

from landcal_jax import gp_fitting
from landcal_jax.gp import KERNELS, GaussianProcesses, _conditioned


def smooth(x):
    """Two outputs of three inputs, of which the third matters to none."""
    return np.column_stack([np.sin(2.0 * x[:, 0]) + 0.5 * x[:, 1] ** 2, 10.0 * x[:, 0] + 3.0 * np.cos(3.0 * x[:, 1])])


@pytest.fixture(scope="module")
def runs():
    x = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    return x, smooth(x)


@pytest.fixture(scope="module")
def fitted(runs):
    return GaussianProcesses.fit(*runs, mean="linear", key=1)


def matern52(distance):
    return (1 + np.sqrt(5) * distance + 5 / 3 * distance**2) * np.exp(-np.sqrt(5) * distance)


def dense(processes, output, x):
    """Mean, variance and covariance of the runs by the textbook, in units of y, from the hyperparameters of `processes`."""
    lengths, signal = np.asarray(processes.lengths[output]), float(processes.signal[output]) ** 2
    runs, y = processes.x, processes.y[:, output]

    def covariance(a, b):
        return signal * matern52(np.linalg.norm((a[:, None] - b[None]) / lengths, axis=2))

    K = covariance(runs, runs) + np.diag(
        gp_fitting.JITTER * signal + processes.noise[:, output] ** 2)
    H, h, k = np.column_stack([np.ones(len(runs)), runs]), np.column_stack([np.ones(len(x)), x]), covariance(x, runs)
    Ki = np.linalg.inv(K)
    precision = H.T @ Ki @ H
    b = np.linalg.solve(precision, H.T @ Ki @ y)
    r = h - k @ Ki @ H
    mean = h @ b + k @ Ki @ (y - H @ b)
    variance = signal * (1 + gp_fitting.JITTER) - np.einsum("ij,jk,ik->i", k, Ki, k)
    variance = variance + np.einsum("ij,ji->i", r, np.linalg.solve(precision, r.T))
    return mean, variance


@pytest.fixture(scope="module")
def noisy(runs):
    """With noise, so that covariances can be inverted plainly."""
    return GaussianProcesses.fit(*runs, noise=[0.05, 0.5])


def test_prediction_is_that_of_dense_algebra(noisy):
    x = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    mean, variance = noisy.predict(x)
    for output in range(2):
        expected, spread = dense(noisy, output, x)
        assert np.allclose(mean[:, output], expected, rtol=1e-8)
        assert np.allclose(variance[:, output], spread, rtol=1e-6)


def test_joint_covariance_has_the_variances_on_its_diagonal_and_is_one_of_conditioning(noisy):
    x = np.random.default_rng(2).uniform(-1, 1, (4, 3))
    mean, covariance = noisy.joint(x)
    single, variance = noisy.predict(x, nugget=False)
    assert np.allclose(mean, single)
    jitter = gp_fitting.JITTER * np.asarray(noisy.signal) ** 2
    assert np.allclose(np.diagonal(covariance, axis1=1, axis2=2).T, variance + jitter, rtol=1e-6)
    # What one sees at the first point, noisily, changes the variance at the second by cov^2 / (var + noise).
    noise = 0.3 * np.sqrt(np.asarray(variance[0]))
    seen = noisy.updated(x[:1], np.asarray(mean[:1]), noise=noise).predict(x[1:2], nugget=False)[1][0]
    total = covariance[:, 0, 0] + noise**2
    assert np.allclose(seen, variance[1] - covariance[:, 0, 1] ** 2 / total, rtol=1e-3)


def test_scikit_learn_gives_the_same(runs):
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    x, y = runs
    processes = GaussianProcesses.fit(x, y, mean="constant", noise=0.1)
    lengths, signal = np.asarray(processes.lengths[0]), float(processes.signal[0]) ** 2
    kernels = gaussian_process.kernels
    kernel = kernels.ConstantKernel(signal) * kernels.Matern(lengths, nu=2.5) + kernels.ConstantKernel(1e6 * signal)
    peer = gaussian_process.GaussianProcessRegressor(kernel, alpha=0.1**2, optimizer=None).fit(x, y[:, 0])
    points = np.random.default_rng(3).uniform(-1, 1, (9, 3))
    mean, variance = processes.predict(points)
    expected, deviation = peer.predict(points, return_std=True)
    # A flat prior of the constant is the limit of a wide one.
    assert np.allclose(mean[:, 0], expected, atol=1e-4)
    assert np.allclose(np.sqrt(variance[:, 0]), deviation, rtol=1e-3)


def test_restricted_likelihood_and_its_slope_are_those_of_contrasts(runs):
    x, y = runs
    H = jnp.asarray(np.column_stack([np.ones(50), x]))
    rng = np.random.default_rng(4)
    A = rng.normal(size=(50, 50))
    K, y = jnp.asarray(A @ A.T + 5 * np.eye(50)), jnp.asarray(y[:, 0])
    # The likelihood of contrasts Z'y with Z'H = 0 (Patterson & Thompson 1971), up to 1/2 log det H'H.
    Z = jnp.linalg.svd(H)[0][:, 4:]

    def of_contrasts(K):
        return 0.5 * jnp.linalg.slogdet(Z.T @ K @ Z)[1] + 0.5 * (Z.T @ y) @ jnp.linalg.solve(Z.T @ K @ Z, Z.T @ y)

    offset = 0.5 * jnp.linalg.slogdet(H.T @ H)[1]
    assert np.isclose(gp_fitting.restricted(K, H, y), of_contrasts(K) + offset, rtol=1e-12)
    assert np.allclose(jax.grad(gp_fitting.restricted)(K, H, y), jax.grad(of_contrasts)(K), atol=1e-12)


@pytest.mark.parametrize("size", [5, 64, 96, 200])
def test_inverse_of_the_factor(size):
    A = np.random.default_rng(size).normal(size=(size, size))
    K = A @ A.T + np.eye(size)
    assert np.allclose(gp_fitting.inverse_factor(jnp.asarray(K)), np.linalg.inv(np.linalg.cholesky(K)), atol=1e-12)


def test_leaving_one_out_is_refitting_without_it(fitted, runs):
    x, y = runs
    mean, variance = fitted.leave_one_out()
    for left in (0, 17):
        others = np.arange(50) != left
        # Same hyperparameters and scales, other runs.
        arrays = [array[:50][others] for array in (fitted.scaled_x, fitted.scaled_y, fitted.scaled_noise)]
        padded = [jnp.pad(array, ((0, 15), (0, 0))) for array in arrays]
        without = _conditioned(fitted.hyperparameters, fitted.log_posterior, (*padded, jnp.arange(64) < 49), fitted.x_scale,
                               fitted.y_scale, fitted.kernel, fitted.mean)
        expected, spread = without.predict(x[left])
        assert np.allclose(mean[left], expected, rtol=1e-6)
        assert np.allclose(variance[left], spread, rtol=1e-5)
    assert (1 - np.mean((y - mean) ** 2, axis=0) / y.var(axis=0) > 0.98).all()


def test_a_deterministic_function_is_interpolated(runs):
    x, y = runs
    processes = GaussianProcesses.fit(x, y, noise=0.0)
    mean, variance = processes.predict(x)
    assert np.abs(mean - y).max() < 1e-4 * np.ptp(y)
    assert np.sqrt(variance).max() < 1e-3 * np.ptp(y)
    assert np.array_equal(processes.nugget, [0.0, 0.0])


def test_inputs_that_do_not_matter_get_long_lengths(fitted):
    lengths = np.asarray(fitted.lengths)
    assert (lengths[:, 2] > 3 * lengths[:, :2].min(axis=1)).all()


@pytest.mark.parametrize("mean", ["linear", "quadratic"])
def test_what_the_mean_function_can_say_is_exact(mean):
    rng = np.random.default_rng(5)
    x, points = rng.uniform(-1, 1, (40, 4)), rng.uniform(-3, 3, (10, 4))
    slopes, curvature = rng.normal(size=4), rng.normal(size=(4, 4))

    def function(x):
        square = np.einsum("ij,jk,ik->i", x, curvature, x) if mean == "quadratic" else 0.0
        return (7.0 + x @ slopes + square)[:, None]

    predicted, _ = GaussianProcesses.fit(x, function(x), mean=mean, noise=0.0).predict(points)
    assert np.allclose(predicted, function(points), atol=1e-6)


def test_gradient_is_that_of_finite_differences(fitted):
    x, direction = jnp.array([0.2, -0.4, 0.1]), jnp.array([0.5, -0.3, 0.8])
    slopes = jax.jvp(fitted.predict, (x,), (direction,))[1]
    ahead, behind = (fitted.predict(x + h * direction) for h in (1e-4, -1e-4))
    for slope, above, below in zip(slopes, ahead, behind, strict=True):
        assert np.allclose(slope, (above - below) / 2e-4, rtol=1e-4)
    # At a run too, where the distance has no slope.
    assert np.isfinite(jax.jacobian(lambda x: fitted.predict(x)[1])(jnp.asarray(fitted.x[3]))).all()


def test_points_in_batches_are_those_one_by_one(fitted):
    x = np.random.default_rng(6).uniform(-1, 1, (5000, 3))
    mean, variance = fitted.predict(x)
    assert mean.shape == variance.shape == (5000, 2)
    single = [fitted.predict(point) for point in x[[0, 2047, 2048, 4999]]]
    assert np.allclose(mean[jnp.array([0, 2047, 2048, 4999])], [m for m, _ in single], rtol=1e-10)
    assert np.allclose(variance[jnp.array([0, 2047, 2048, 4999])], [v for _, v in single], rtol=1e-6)


def test_more_runs_with_the_same_hyperparameters(fitted, runs):
    x = np.random.default_rng(7).uniform(-1, 1, (30, 3))
    more = fitted.updated(x, smooth(x))
    assert more.x.shape == (80, 3)
    assert np.allclose(more.y, np.concatenate([runs[1], smooth(x)]))
    assert np.array_equal(more.lengths, fitted.lengths)
    assert (more.predict(x)[1] < fitted.predict(x)[1]).all()


def test_outputs_may_be_chosen(fitted):
    one = fitted.only([1])
    assert np.allclose(one.predict(np.zeros(3))[0][0], fitted.predict(np.zeros(3))[0][1])
    assert one.y.shape == (50, 1)


def test_noise_that_is_fitted_or_given_is_found_again():
    rng = np.random.default_rng(8)
    x = rng.uniform(-1, 1, (150, 2))
    y = (np.sin(3 * x[:, :1]) + x[:, 1:] + 0.2 * rng.normal(size=(150, 1))) * 50
    fitted = GaussianProcesses.fit(x, y, mean="constant")
    assert 0.8 < float(fitted.nugget[0]) / 10.0 < 1.2
    given = GaussianProcesses.fit(x, y, mean="constant", noise=10.0)
    points = rng.uniform(-0.9, 0.9, (300, 2))
    truth = 50 * (np.sin(3 * points[:, :1]) + points[:, 1:])
    for mean, variance in (fitted.predict(points, nugget=False), given.predict(points)):
        inside = np.abs(mean - truth) < 1.96 * np.sqrt(variance)
        assert 0.85 < inside.mean() <= 1.0
        assert np.sqrt(np.mean((mean - truth) ** 2)) < 5.0


def test_intervals_hold_what_they_promise():
    """30 functions drawn from a process of Matern 5/2 with lengths of 0.8 and 2, fitted in one batch to 40 runs each."""
    rng = np.random.default_rng(9)
    x = rng.uniform(-1, 1, (240, 2))
    K = matern52(np.linalg.norm((x[:, None] - x[None]) / [0.8, 2.0], axis=2))
    y = 5.0 + np.linalg.cholesky(K + 1e-9 * np.eye(240)) @ rng.normal(size=(240, 30))
    processes = GaussianProcesses.fit(x[:40], y[:40], mean="constant", noise=0.0, searches=2)
    mean, variance = processes.predict(x[40:])
    inside = np.abs(y[40:] - mean) < 1.96 * np.sqrt(variance)
    assert 0.92 < inside.mean() < 0.97
    assert np.all(np.abs(np.median(np.log(np.asarray(processes.lengths) / [0.8, 2.0]), axis=0)) < 0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "lengths", "mean", "noise"), [
    (20, [1.0, 1.0], "constant", 0.0), (40, [1.0, 1.0, 2.0, 4.0], "linear", 0.0), (60, [1.0, 1.5, 2.0, 3.0, 4.0, 4.0], "linear", None),
    (60, [0.8, 0.8, 20.0, 20.0, 20.0, 20.0], "linear", None), (40, [0.8, 2.0], "constant", 0.1)])
def test_intervals_of_few_runs_hold_what_they_promise(runs, lengths, mean, noise):
    """200 processes, ten designs; the values at random points of the whole cube, its corners included."""
    rng, inside = np.random.default_rng(5), []
    for _ in range(10):
        x = np.concatenate([2 * qmc.LatinHypercube(len(lengths), rng=rng).random(runs) - 1, rng.uniform(-1, 1, (100, len(lengths)))])
        K = matern52(np.linalg.norm((x[:, None] - x[None]) / lengths, axis=2))
        y = np.linalg.cholesky(K + 1e-9 * np.eye(len(x))) @ rng.normal(size=(len(x), 20))
        seen = y[:runs] + (noise or 0.0) * rng.normal(size=(runs, 20))
        processes = GaussianProcesses.fit(x[:runs], seen, mean=mean, noise=noise, searches=2)
        middle, variance = processes.predict(x[runs:], nugget=False)
        inside.append(np.abs(y[runs:] - middle) < 1.96 * np.sqrt(variance))
    assert 0.93 < np.mean(inside) < 0.97


def test_widening_is_that_of_finite_differences(runs):
    x, y = runs
    noise = 0.05
    K, H = KERNELS["matern52"](), np.column_stack([np.ones(50), x])
    found = gp_fitting.Hyperparameters(jnp.array([0.9, 1.4, 6.0]), jnp.asarray(0.8), jnp.zeros(()))
    point = np.log([0.9, 1.4, 6.0, 0.8])
    data = jnp.asarray(x), jnp.asarray(y[:, 0]), jnp.full(50, noise**2), jnp.ones(50, bool)

    def covariance(p):
        h = gp_fitting.Hyperparameters(jnp.exp(p[:3]), jnp.exp(p[3]), jnp.zeros(()))
        return np.asarray(gp_fitting.covariance(K, h, gp_fitting.differences(data[0]), data[2], data[3]))

    def projected(p):
        inverse = np.linalg.inv(covariance(p))
        return inverse - inverse @ H @ np.linalg.solve(H.T @ inverse @ H, H.T @ inverse)

    def left_out(p):
        Q = projected(p)
        return np.stack([y[:, 0] - Q @ y[:, 0] / np.diag(Q), 1.0 / np.diag(Q) - noise**2])

    steps = 1e-4 * np.eye(4)
    slopes = np.stack([(left_out(point + h) - left_out(point - h)) / 2e-4 for h in steps])
    Q, slopes_of_K = projected(point), [(covariance(point + h) - covariance(point - h)) / 2e-4 for h in steps]
    information = np.array([[0.5 * np.trace(Q @ a @ Q @ b) for b in slopes_of_K] for a in slopes_of_K])
    # Of the prior: b C_l / length_l, and a standard deviation of two.
    spacing = 50 ** (-1 / 3)
    curvature = spacing * 3.2 * spacing * np.ptp(x, axis=0) / np.exp(point[:3])
    information += np.diag([*curvature, 0.0]) + 0.25 * np.eye(4)
    variance = left_out(point)[1]
    R, V = (np.sum(s * np.linalg.solve(information, s) / by) for s, by in ((slopes[:, 0], 1.0), (slopes[:, 1], variance)))
    expected = np.exp((2.0 * R + V) / np.sum(variance))
    assert 1.05 < expected < 2.0
    assert gp_fitting.widening(K, "linear", found, *data, fit_nugget=False) == pytest.approx(expected, rel=1e-5)


def test_prior_of_lengths_is_that_of_the_paper():
    """t^a exp(-b t) of inverse lengths with a = 0.2, b = N^(-1/n) (a + n), C = N^(-1/n) range (Gu 2019), times the slope of exp."""
    x = jnp.asarray(np.random.default_rng(3).uniform(-1, 2, (27, 3)))
    present = jnp.arange(27) < 27
    lengths, nugget = np.array([0.5, 2.0, 30.0]), 0.01
    t = np.sum(np.ptp(x, axis=0) / 3.0 / lengths) + nugget
    expected = t**0.2 * np.exp(-3.2 / 3.0 * t) / np.prod(lengths)
    h = gp_fitting.Hyperparameters(jnp.asarray(lengths), jnp.ones(()), jnp.asarray(nugget))
    assert float(gp_fitting.log_prior(h, x, present)) == pytest.approx(np.log(expected), rel=1e-12)


def test_friedmans_function_is_learned_and_its_five_idle_inputs_are_seen():
    """Friedman (1991, Annals of Statistics 19, 1): ten inputs, of which five do nothing; 100 runs."""
    def friedman(x):
        u = 0.5 * (1 + x)
        return (10 * np.sin(np.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4])[:, None]

    rng = np.random.default_rng(12)
    x, points = 2 * qmc.LatinHypercube(10, rng=rng).random(100) - 1, rng.uniform(-1, 1, (1000, 10))
    processes = GaussianProcesses.fit(x, friedman(x))
    mean, variance = processes.predict(points)
    assert 1 - np.mean((friedman(points) - mean) ** 2) / friedman(points).var() > 0.95
    assert 0.9 < np.mean(np.abs(friedman(points) - mean) < 1.96 * np.sqrt(variance)) <= 1.0
    lengths = np.asarray(processes.lengths[0])
    # The fourth and fifth are what the linear mean says.
    assert lengths[5:].min() > 3 * lengths[:3].max()


def test_pure_noise_is_learned_as_noise():
    rng = np.random.default_rng(10)
    x, y = rng.uniform(-1, 1, (60, 4)), rng.normal(size=(60, 2))
    processes = GaussianProcesses.fit(x, y)
    mean, variance = processes.leave_one_out()
    assert (1 - np.mean((y - mean) ** 2, axis=0) / y.var(axis=0) < 0.2).all()
    assert 0.9 < np.mean(np.abs(y - mean) < 1.96 * np.sqrt(variance)) <= 1.0


def test_same_key_same_hyperparameters(runs):
    x, y = runs
    first, second = (GaussianProcesses.fit(x, y[:, :1], key=3) for _ in range(2))
    assert np.array_equal(first.lengths, second.lengths)


@pytest.mark.parametrize(("change", "words"), [
    (lambda x, y: (x, np.where(np.arange(50)[:, None] == 3, np.nan, y)), "1 of 50 runs"),
    (lambda x, y: (x[:10], y), r"\(10, 3\) and \(50, 2\)"),
    (lambda x, y: (x[:5], y[:5]), "at least 6 runs"),
    (lambda x, y: (x * [1, 0, 1], y), "column 1"),
    (lambda x, y: (x, y * [0, 1]), "column 0"),
    (lambda x, y: (x, y[:, 0]), "shape"),
])
def test_what_cannot_be_fitted_is_refused(runs, change, words):
    with pytest.raises(ValueError, match=words):
        GaussianProcesses.fit(*change(*runs))


def test_unknown_words_and_wrong_noise_are_refused(runs):
    for wrong in ({"mean": "cubic"}, {"kernel": "rbf"}, {"noise": -1.0}, {"noise": np.ones(3)}):
        with pytest.raises(ValueError, match="Expected"):
            GaussianProcesses.fit(*runs, **wrong)
    assert set(KERNELS) == {"matern52", "matern32", "squared_exponential"}


def test_runs_that_are_there_twice_without_noise_still_have_a_factor(runs):
    x, y = (np.concatenate([array, array[:5]]) for array in runs)
    mean, _ = GaussianProcesses.fit(x, y, noise=0.0).predict(x[:5])
    assert np.allclose(mean, y[:5], atol=1e-3)


def test_points_of_another_size_are_refused(fitted):
    with pytest.raises(ValueError, match=r"\(point, 3\)"):
        fitted.predict(np.zeros((4, 2)))
