"""NUTS: the linear-Gaussian posterior in closed form, resuming with the same bits, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import metropolis, sampling
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.diagnostics import diagnose
from landcal_jax.forward import FunctionForward
from landcal_jax.hamiltonian import Coordinates, straightened
from landcal_jax.metropolis import adaptive_metropolis
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem, costs
from landcal_jax.sampling import _notes, bends, ended, nuts, starts

N, TIMES, DAYS = 6, 30, 4.0
HIDDEN = np.array([3, 4, 11, 12, 13, 20])


@pytest.fixture(scope="module")
def oracle():
    """Full B; R of errors with exponential correlation in time, over a record with gaps."""
    drawn = LinearGaussian.random(jax.random.key(5), n=N, m=TIMES)
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    sd = np.sqrt(np.diag(drawn.R))[seen]
    R = sd[:, None] * sd * np.exp(-np.abs(seen[:, None] - seen) / DAYS)
    return LinearGaussian(drawn.A[seen], drawn.x_b, drawn.B, drawn.y[seen], R)


@pytest.fixture(scope="module")
def problem(oracle):
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    A, y, sd = np.full((TIMES, N), 1e6), np.full(TIMES, np.nan), np.full(TIMES, np.nan)
    A[seen], y[seen], sd[seen] = oracle.A, oracle.y, np.sqrt(np.diag(oracle.R))
    prior = Parameter.normal(np.asarray(oracle.x_b), np.ones(N), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(N)]}, covariance=oracle.B)
    time = np.datetime64("2001-01-01") + np.arange(TIMES)
    stream = Stream(y, sd, correlation=ExponentialCorrelation(DAYS), time=time)
    return Problem(space, FunctionForward(lambda theta: {"y": (jnp.asarray(A) @ theta["x"])[None]}), Observations({"y": stream}))


@pytest.fixture(scope="module")
def posterior(problem):
    return nuts(problem, problem.space.default_z, draws=500, key=1, progress=False)


def test_mean_and_covariance_are_those_of_the_closed_form(oracle, posterior):
    x, P = posterior.matrix(), np.asarray(oracle.posterior_covariance())
    d = np.linalg.solve(np.linalg.cholesky(P), (x - np.asarray(oracle.posterior_mean())).T)
    # 2000 draws of antithetic chains: at least as good as that many independent ones, five standard errors are allowed.
    assert np.abs(d.mean(axis=1)).max() < 5 / np.sqrt(2000)
    assert np.abs(np.cov(d) - np.eye(N)).max() < 5 * np.sqrt(2 / 1000)


def test_details_tell_of_the_run(problem, posterior):
    details = posterior.details
    assert posterior.chains == 4 and posterior.z.shape == (2000, N)
    np.testing.assert_allclose(details["log_density"][::500], [float(problem.log_density(z)) for z in posterior.z[::500]], rtol=1e-12)
    assert not details["diverging"].any() and np.all(2.0 ** details["tree_depth"] > details["steps"])
    assert 0.85 < details["acceptance"].mean() < 0.95 and "warning" not in details
    assert details["gradient"] == details["gradient_warmup"] + details["steps"].sum()
    found = diagnose(posterior)
    assert found.passed, str(found)


def interrupted(module, after, monkeypatch, call):
    """Make `call`, kill it after so many rounds, and make it again."""
    advance = module._Run.advance

    def until(self):
        if self.done == after:
            raise KeyboardInterrupt
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "advance", until)
        with pytest.raises(KeyboardInterrupt):
            call()
    return call()


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 3, 12, 22])
def test_a_killed_run_ends_with_the_same_bits(problem, posterior, tmp_path, monkeypatch, after):
    file = tmp_path / "nuts.npz"
    again = interrupted(sampling, after, monkeypatch, lambda: nuts(
        problem, problem.space.default_z, draws=500, key=1, progress=False, checkpoint=file, checkpoint_seconds=0.0))
    np.testing.assert_array_equal(again.z, posterior.z)
    for name in ("steps", "log_density", "gradient", "forward", "step"):
        np.testing.assert_array_equal(again.details[name], posterior.details[name])


def test_a_checkpoint_of_another_run_is_refused(problem, tmp_path):
    file = tmp_path / "nuts.npz"
    options = {"draws": 5, "warmup": 1, "progress": False, "checkpoint": file}
    nuts(problem, problem.space.default_z, key=1, **options)
    with pytest.raises(ValueError, match="of another run"):
        nuts(problem, problem.space.default_z, key=2, **options)


def test_adaptive_metropolis_has_the_same_posterior_for_many_more_runs(oracle, problem, posterior, tmp_path, monkeypatch):
    options = {"draws": 400, "thin": 20, "key": 2, "progress": False}
    slow = interrupted(metropolis, 5, monkeypatch, lambda: adaptive_metropolis(
        problem, problem.space.default_z, checkpoint=tmp_path / "walk.npz", checkpoint_seconds=0.0, **options))
    plain = adaptive_metropolis(problem, problem.space.default_z, **options)
    np.testing.assert_array_equal(slow.z, plain.z)
    x, P = slow.matrix(), np.asarray(oracle.posterior_covariance())
    d = np.linalg.solve(np.linalg.cholesky(P), (x - np.asarray(oracle.posterior_mean())).T)
    effective = float(diagnose(slow).table["ess_bulk"].min())
    assert effective > 400 and 0.15 < slow.details["acceptance"] < 0.5
    assert np.abs(d.mean(axis=1)).max() < 5 / np.sqrt(effective)
    assert np.abs(np.cov(d) - np.eye(N)).max() < 5 * np.sqrt(2 / effective)
    assert slow.details["forward"] > 4 * 16000
    runs = posterior.details["gradient"] / float(diagnose(posterior).table["ess_bulk"].min())
    assert runs < slow.details["forward"] / effective


def test_starts_are_wide_but_have_a_sane_cost(problem, oracle):
    """On a Gaussian as wide as asked; where J rises much faster, pulled in until it does not."""
    centre, covariance = np.zeros(N), np.eye(N)
    z, runs = starts(problem, centre, np.linalg.cholesky(covariance), 64, jax.random.key(0))
    rise = costs(problem, z) - costs(problem, centre[None])
    assert z.shape == (64, N) and runs > 64
    assert rise.max() < 0.5 * 1.5**2 * (N + 3 * np.sqrt(2 * N)) and rise.max() > 0.5 * N


def test_coordinates_bend_and_come_back():
    rng = np.random.default_rng(0)
    z, bend = rng.normal(0, 3, (50, 4)), np.array([0.15, 0.0, 0.15, 0.15])
    where = Coordinates(jnp.asarray(rng.standard_normal(4)), jnp.asarray(np.eye(4) + 0.1 * rng.standard_normal((4, 4))), jnp.asarray(bend))
    u = where.u(jnp.asarray(z))
    np.testing.assert_allclose(where.z(u), z, rtol=1e-12, atol=1e-12)
    x = 1.5
    np.testing.assert_allclose(straightened(jnp.asarray([x + 0.15 * x**5, -x - 0.15 * x**5]), 0.15), [x, -x], rtol=1e-14)
    volume = np.linalg.slogdet(np.asarray(jax.jacobian(where.z)(u[0])))[1] - np.linalg.slogdet(np.asarray(where.root))[1]
    np.testing.assert_allclose(where.log_volume(u[0]), volume, rtol=1e-10)


def test_only_parameters_with_flat_priors_are_bent():
    space = ParameterSpace({
        "rate": Parameter.log_uniform(0.1, 10.0), "sd": Parameter.normal(0.0, 1.0), "share": Parameter.uniform(0.0, 1.0)})
    flat = Problem(space, FunctionForward(lambda theta: {"y": theta["rate"][None, None]}), Observations({"y": Stream([2.0], 1.0)}))
    assert (bends(flat) > 0).tolist() == [True, False, True]


@pytest.mark.slow
def test_a_product_that_data_determine_is_sampled_right():
    """y = log(a b) with flat priors of log a and log b in 0 to 1: of the difference s - d only the prior is known, exactly triangular."""
    space = ParameterSpace({name: Parameter.log_uniform(1.0, np.e) for name in "ab"})
    forward = FunctionForward(lambda theta: {"y": jnp.log(theta["a"] * theta["b"])[None, None]})
    problem = Problem(space, forward, Observations({"y": Stream([1.0], 0.05)}))
    found = nuts(problem, jnp.zeros(2), draws=500, key=3, progress=False)
    a, b = np.log(found.matrix().T)
    effective = float(diagnose(found).table["ess_bulk"].min())
    assert effective > 400
    # a + b = 1 to 0.05, and along that line a is uniform in 0 to 1.
    assert abs(np.std(a + b) / 0.05 - 1) < 5 / np.sqrt(2 * effective)
    share = np.sort(a)
    assert np.abs(share - (np.arange(share.size) + 0.5) / share.size).max() < 1.95 / np.sqrt(effective)
    assert abs(np.std(a - b) * np.sqrt(3) - 1) < 5 / np.sqrt(effective)


def test_what_is_refused(problem):
    with pytest.raises(ValueError, match="target_accept"):
        nuts(problem, problem.space.default_z, target_accept=1.0, progress=False)
    with pytest.raises(ValueError, match="finite J"):
        nuts(problem, jnp.full(N, jnp.nan), posterior=laplace_of(problem, jnp.full(N, jnp.nan)), progress=False)
    external = problem.with_forward(BlackBoxForward(
        lambda theta: {"y": np.zeros((1, TIMES))}, observations=problem.observations, workers=1))
    with pytest.raises(TypeError, match="smc"):
        nuts(external, problem.space.default_z, progress=False)


@pytest.mark.parametrize("covariance", [np.ones((N, N)), np.diag([1.0] * (N - 1) + [0.0]), np.full((N, N), np.nan)])
@pytest.mark.parametrize("sampler", [nuts, adaptive_metropolis])
def test_a_gaussian_without_spread_in_some_direction_is_no_start(problem, sampler, covariance):
    z = problem.space.default_z
    flat = Posterior(problem, z[None], z, jnp.asarray(covariance), "an ensemble", gaussian=True)
    with pytest.raises(ValueError, match="spread in every direction(.|\n)*laplace"):
        sampler(problem, z, posterior=flat, progress=False)


def looks(*rhats):
    """R-hat at the rounds after which the ensemble is looked at."""
    return np.column_stack([[n for n in range(60) if sampling._is_look(n)][: len(rhats)], rhats])


def test_warm_up_ends_where_chains_agree_or_come_no_nearer():
    # Rounds 2 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40.
    assert not ended(looks(2.0, 1.05)) and not ended(looks(2.0, 1.5, 1.4, 1.3, 1.2))
    assert ended(looks(2.0, 1.5, 1.4, 1.3, 1.05))
    falling, still = [3.0, 2.6, 2.4, 2.2, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3], [3.0, 2.0] + [1.2] * 10
    assert not ended(looks(*falling)) and not ended(looks(*still[:9]))
    assert ended(looks(*still[:11]))
    assert ended(looks(*np.linspace(3, 1.2, 16)))


def test_a_warm_up_that_did_not_agree_is_a_warning():
    assert "warning" not in _notes(6, looks(2.0, 1.5, 1.4, 1.3, 1.05), None)
    found = _notes(14, looks(*[1.3] * 10), None)
    assert "did not agree after 14 rounds (R-hat 1.30" in found["warning"] and found["note"] == found["warning"]
    assert "too few" in _notes(1, np.zeros((0, 2)), 1)["note"]


def laplace_of(problem, z):
    return Posterior(problem, z[None], z, jnp.eye(N), "a Gaussian", gaussian=True)


@pytest.mark.slow
def test_copies_of_a_mode_a_period_later_are_drawn_in_their_proportions():
    """A phase that is known to 0.01 in turns of 10, log-uniform over three turns: each turn has the share 1 / day of its prior."""
    space = ParameterSpace({"day": Parameter.log_uniform(10.0, 40.0), "free": Parameter.normal(0.0, 1.0)})

    def waves(theta):
        angle = 2 * jnp.pi * theta["day"] / 10.0
        return {"y": jnp.stack([jnp.cos(angle), jnp.sin(angle)])[None]}

    angle = 2 * np.pi * 14.0 / 10.0
    data = Observations({"y": Stream(np.array([[np.cos(angle), np.sin(angle)]]), 2 * np.pi * 0.01 / 10.0)})
    problem = Problem(space, FunctionForward(waves), data)
    z = space.whiten({"day": 24.0, "free": 0.0})
    found = nuts(problem, z, draws=500, key=4, progress=False, periods={"day": 10.0})
    day = np.asarray(found.theta()["day"])
    assert np.abs((day % 10.0) - 4.0).max() < 0.06 and abs(np.std(day % 10.0) / 0.01 - 1) < 0.15
    shares, wanted = np.bincount((day // 10).astype(int), minlength=4)[1:] / 2000, 1 / np.array([14.0, 24.0, 34.0])
    wanted = wanted / wanted.sum()
    assert np.abs(shares - wanted).max() < 4 * np.sqrt(0.25 / 2000)
    assert diagnose(found).passed
    np.testing.assert_allclose(found.details["log_density"][:5], [float(problem.log_density(z)) for z in found.z[:5]], rtol=1e-9)
    with pytest.raises(ValueError, match="periods above zero"):
        nuts(problem, z, progress=False, periods={"day": -1.0})


def test_what_no_chain_can_start_from_is_refused(problem, posterior):
    with pytest.raises(TypeError, match="(?s)a Posterior to start from.*ndarray"):
        nuts(problem, problem.space.default_z, posterior=np.zeros(N))
    with pytest.raises(ValueError, match="a number of draws"):
        nuts(problem, problem.space.default_z, draws=20.0)
    with pytest.raises(ValueError, match="a tree one deep"):
        nuts(problem, problem.space.default_z, max_tree_depth=0)
    fewer = Problem(ParameterSpace({"a": Parameter.normal(0.0, 1.0)}), FunctionForward(lambda theta: {"y": theta["a"][None, None]}),
                    Observations({"y": Stream([1.0], 1.0)}))
    with pytest.raises(ValueError, match="(?s)1 free parameters.*one of 6"):
        nuts(fewer, jnp.zeros(1), posterior=posterior)


def test_the_folder_of_a_checkpoint_is_made_before_the_work(problem, tmp_path):
    nuts(problem, problem.space.default_z, draws=20, warmup=4, key=1, progress=False, checkpoint=tmp_path / "runs" / "site" / "chains.npz")
    assert (tmp_path / "runs" / "site" / "chains.npz").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        nuts(problem, problem.space.default_z, draws=20, warmup=4, key=1, progress=False, checkpoint=tmp_path / "file" / "chains.npz")
