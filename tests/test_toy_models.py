"""The toy models: OptIC against an independent integration, the linear-Gaussian oracle against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

from landcal_jax.forward import FunctionForward
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.models.optic import ACTIVE, BOUNDS, SEED_PRODUCTION, Optic, generate_forcing, optic, parameters
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem

FLIPPING = ACTIVE | {"k1": 0.4}
run = jax.jit(optic)


def published_tendency(x, f, theta):
    p1, p2, k1, k2 = theta.values()
    return np.array([f * x[0] * x[1] / ((x[0] + p1) * (x[1] + p2)) + SEED_PRODUCTION - k1 * x[0],
                     k1 * x[0] - k2 * x[1]])


def runge_kutta_in_numpy(theta, forcing, initial):
    trajectory = [np.asarray(initial, float)]
    for f in forcing:
        x = trajectory[-1]
        a = published_tendency(x, f, theta)
        b = published_tendency(x + a / 2, f, theta)
        c = published_tendency(x + b / 2, f, theta)
        d = published_tendency(x + c, f, theta)
        trajectory.append(x + (a + 2 * b + 2 * c + d) / 6)
    return np.array(trajectory)


@pytest.fixture(scope="module")
def forcing():
    return generate_forcing(seed=0, n=600)


@pytest.mark.parametrize("theta", [ACTIVE, FLIPPING], ids=["active", "flipping"])
def test_optic_is_the_published_scheme(theta, forcing):
    found = run(theta, forcing)
    assert found.shape == (601, 2)
    np.testing.assert_allclose(found, runge_kutta_in_numpy(theta, forcing, (1.0, 1.0)), rtol=1e-12)


def test_optic_solves_its_differential_equation(forcing):
    # Over pieces of constant forcing, by another method; RK4 at this step is good to about 1e-5.
    x = np.array([2.0, 3.0])
    for f in forcing[:30]:
        piece = solve_ivp(lambda _, x, f: published_tendency(x, f, ACTIVE), (0, 1), x, args=(f,), rtol=1e-10)
        x = piece.y[:, -1]
    np.testing.assert_allclose(run(ACTIVE, forcing[:30], (2.0, 3.0))[-1], x, rtol=1e-4)


def test_optic_has_two_regimes(forcing):
    steady = jnp.ones(3000)
    ends = {}
    for name, theta in (("active", ACTIVE), ("flipping", FLIPPING)):
        for initial in ((1.0, 1.0), (0.05, 0.05)):
            end = np.asarray(run(theta, steady, initial)[-1])
            np.testing.assert_allclose(published_tendency(end, 1.0, theta), 0.0, atol=1e-8)
            ends[name, initial[0]] = end
    np.testing.assert_allclose(ends["active", 1.0], ends["active", 0.05])
    assert ends["flipping", 1.0][0] > 20 * ends["flipping", 0.05][0]
    biomass = run(FLIPPING, forcing)[:, 0]
    assert biomass.min() < 0.05
    assert biomass.max() > 5.0
    assert run(ACTIVE, forcing)[50:, 0].min() > 1.0


def test_optic_has_exact_derivatives(forcing):
    def mean_biomass(theta):
        return optic(theta, forcing)[:, 0].mean()

    gradient = jax.jit(jax.grad(mean_biomass))(ACTIVE)
    tangent = jax.jit(lambda theta, towards: jax.jvp(mean_biomass, (theta,), (towards,))[1])
    for name in ACTIVE:
        towards = {other: float(other == name) for other in ACTIVE}
        np.testing.assert_allclose(gradient[name], tangent(ACTIVE, towards), rtol=1e-12)
        up, down = (run(ACTIVE | {name: ACTIVE[name] * (1 + h)}, forcing)[:, 0].mean() for h in (1e-5, -1e-5))
        np.testing.assert_allclose(gradient[name], (up - down) / (2e-5 * ACTIVE[name]), rtol=1e-5)


def test_optic_is_finite_over_its_bounds(forcing):
    corners = np.stack(np.meshgrid(*BOUNDS.values(), indexing="ij"), axis=-1).reshape(-1, 4)
    members = dict(zip(BOUNDS, corners.T, strict=True))

    def end(theta):
        return jnp.sum(optic(theta, forcing))

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(end)))(members)
    assert np.isfinite(values).all()
    for name in BOUNDS:
        assert np.isfinite(gradients[name]).all()
    assert (jax.vmap(run, (0, None))(members, forcing) > 0).all()


def test_optic_forward_function(forcing):
    model = Optic(forcing, initial=(4.0, 9.0))
    streams = model(ACTIVE)
    np.testing.assert_array_equal(streams["biomass"], run(ACTIVE, forcing, (4.0, 9.0))[None, :, 0])
    np.testing.assert_array_equal(streams["soil"], run(ACTIVE, forcing, (4.0, 9.0))[None, :, 1])
    with pytest.raises(ValueError, match="two initial pools"):
        Optic(forcing, initial=(1.0,))
    with pytest.raises(ValueError, match="(?s)p1, p2, k1, k2.*give k2"):
        optic({"p1": 1.0, "p2": 1.0, "k1": 0.2}, forcing)


def test_optic_has_a_parameter_table():
    table = parameters()
    assert tuple(table) == tuple(ACTIVE)
    for name, parameter in table.items():
        assert (parameter.low, parameter.high) == BOUNDS[name]
        assert parameter.default == ACTIVE[name]


def test_generated_forcing_is_a_lognormal_autoregression():
    log_forcing = np.log(generate_forcing(seed=1, n=40000))
    assert log_forcing[0] == 0.0
    np.testing.assert_allclose(log_forcing.std(), 0.5, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(log_forcing[1:], log_forcing[:-1])[0, 1], np.exp(-0.1), rtol=0.01)
    np.testing.assert_array_equal(generate_forcing(seed=1, n=50), generate_forcing(seed=1, n=80)[:50])


@pytest.mark.parametrize(("case", "truth", "prior_rmse"), [
    ("ideal_ensemble_50", (1.0, 1.0, 0.2, 0.1), (2.9567, 5.2514)),
    ("ideal_ensemble_50", (1.04, 1.35, 0.23, 0.08), (2.2819, 5.9045)),
    ("ideal_ensemble_50_B", (2.44, 2.45, 0.11, 0.031), (5.1978, 16.3685)),
    ("ideal_ensemble_50", (2.44, 2.45, 0.11, 0.011), (6.0035, 57.6521)),
    ("ideal_ensemble_200_C2", (0.77, 2.73, 0.033, 0.025), (13.7199, 24.0158)),
], ids=["reference", "A", "B", "C1", "C2"])
def test_optic_reproduces_the_published_prior(case, truth, prior_rmse, data_dir):
    folder = data_dir / "envar/douglas2025"
    published = np.load(folder / "forcing.npy")
    observed = run(dict(zip(ACTIVE, truth, strict=True)), published[:1200])[200:]
    mean = dict(zip(ACTIVE, np.load(folder / f"{case}.npy").mean(axis=1), strict=True))
    found = run(mean, published[200:1200], observed[0])
    np.testing.assert_allclose(np.sqrt(np.mean((found - observed) ** 2, axis=0)), prior_rmse, rtol=2e-5)


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(0), n=4, m=9)


def test_oracle_minimises_its_cost(oracle):
    mean = oracle.posterior_mean()
    np.testing.assert_allclose(jax.grad(oracle.cost)(mean), 0.0, atol=1e-11)
    np.testing.assert_allclose(oracle.posterior_covariance(), np.linalg.inv(jax.hessian(oracle.cost)(mean)), rtol=1e-10)


def test_oracle_is_the_joint_gaussian_conditioned(oracle):
    # Brute force: the joint covariance of (x, y), inverted as a whole.
    A, B, R = (np.asarray(part) for part in (oracle.A, oracle.B, oracle.R))
    joint = np.block([[B, B @ A.T], [A @ B, A @ B @ A.T + R]])
    precision = np.linalg.inv(joint)
    covariance = np.linalg.inv(precision[:4, :4])
    mean = oracle.x_b - covariance @ precision[:4, 4:] @ (oracle.y - A @ oracle.x_b)
    np.testing.assert_allclose(oracle.posterior_covariance(), covariance, rtol=1e-10)
    np.testing.assert_allclose(oracle.posterior_mean(), mean, rtol=1e-10)
    evidence = multivariate_normal(np.asarray(A @ oracle.x_b), joint[4:, 4:]).logpdf(np.asarray(oracle.y))
    np.testing.assert_allclose(oracle.log_evidence(), evidence, rtol=1e-12)


def test_oracle_draws_correlated_errors_and_consistent_observations():
    problem = LinearGaussian.random(jax.random.key(1), n=3, m=60)
    assert problem.B[0, 1] > 0.0
    assert problem.R[0, 1] > 0.0
    # At the posterior mean, 2 J is chi-squared with m = 60 degrees of freedom.
    assert abs(2 * problem.cost(problem.posterior_mean()) - 60) < 4 * np.sqrt(2 * 60)
    again = LinearGaussian.random(jax.random.key(1), n=3, m=60)
    np.testing.assert_array_equal(problem.y, again.y)


def test_oracle_is_a_problem(oracle):
    # The same J by another road: full B through the parameter space, correlated R through a stream.
    names = [f"x{index}" for index in range(4)]
    space = ParameterSpace(
        {name: Parameter.normal(mean, 1.0) for name, mean in zip(names, oracle.x_b.tolist(), strict=True)},
        covariance=oracle.B)
    stream = Stream(oracle.y, jnp.sqrt(jnp.diag(oracle.R)), time=np.datetime64("2001-01-01") + np.arange(9),
                    correlation=ExponentialCorrelation(3.0))
    forward = FunctionForward(lambda theta: {"y": oracle(jnp.stack([theta[name] for name in names]))[None]})
    problem = Problem(space, forward, Observations({"y": stream}))
    z = jnp.array([0.3, -1.2, 0.8, 2.0])
    x = space.flatten(space.physical(z))
    np.testing.assert_allclose(problem.cost(z), oracle.cost(x), rtol=1e-12)
    at_mean = space.whiten(space.unflatten(oracle.posterior_mean()))
    np.testing.assert_allclose(jax.grad(problem.cost)(at_mean), 0.0, atol=1e-11)


def test_oracle_refuses_wrong_shapes(oracle):
    with pytest.raises(ValueError, match=r"(?s)R of shape \(9, 9\).*diagonal"):
        LinearGaussian(oracle.A, oracle.x_b, oracle.B, oracle.y, jnp.ones(9))
    with pytest.raises(ValueError, match=r"matrix A \(m, n\)"):
        LinearGaussian(oracle.y, oracle.x_b, oracle.B, oracle.y, oracle.R)
