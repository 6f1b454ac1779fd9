"""A Problem inside a model of your own in numpyro: six sites whose respiration shares a distribution that is estimated too.

    R = r10 * q10 ** ((T - 10) / 10)        r10 of each site from LogNormal(mu, tau), q10 the same everywhere

The priors of a Problem are fixed. A prior with parameters of its own is written in numpyro; the Problem brings the model, the
observations with their gaps and errors, and derivatives: everything of J but its prior goes into `numpyro.factor`. A site with four
measurements then learns from the others: compare the two columns of the table.

    python examples/hierarchical.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import landcal_jax as lc
from landcal_jax.forward import FunctionForward

SITES = ("fen", "bog", "heath", "dune", "beech", "spruce")
COUNTS = np.array([60, 60, 60, 60, 4, 4])  # measurements at each site
MU, TAU, Q10, ERROR = np.log(2.0), 0.3, 2.2, 0.5  # the truth of this twin; fluxes in gC m-2 d-1


def make_problem(seed: int = 0) -> tuple[lc.Problem, np.ndarray]:
    """The six sites as one Problem, and the true r10 of each."""
    rng = np.random.default_rng(seed)
    temperature = rng.uniform(0.0, 25.0, (len(SITES), COUNTS.max()))
    r10 = np.exp(MU + TAU * rng.standard_normal(len(SITES)))
    flux = r10[:, None] * Q10 ** ((temperature - 10) / 10) + ERROR * rng.standard_normal(temperature.shape)
    flux[np.arange(COUNTS.max()) >= COUNTS[:, None]] = np.nan

    def respiration(theta):
        return {"respiration": theta["r10"][:, None] * theta["q10"] ** ((jnp.asarray(temperature) - 10) / 10)}

    space = lc.ParameterSpace({
        "r10": lc.Parameter.log_normal(2.0, 2.0, dims="site", units="gC m-2 d-1", description="respiration at 10 degC"),
        "q10": lc.Parameter.log_normal(2.0, 0.3, description="factor for ten degrees")}, coords={"site": SITES})
    stream = lc.Stream(flux, ERROR, units="gC m-2 d-1")
    return lc.Problem(space, FunctionForward(respiration), lc.Observations({"respiration": stream}, sites=SITES)), r10


def hierarchical(problem: lc.Problem) -> None:
    """The user's model: mu and tau have priors, r10 is drawn from them, and the Problem says how likely the observations are."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(0.5))
    q10 = numpyro.sample("q10", dist.LogNormal(np.log(2.0), 0.3))
    # Not r10 from LogNormal(mu, tau): with few data that is a funnel, in which samplers stick. Standard deviates are none.
    with numpyro.plate("site", len(SITES)):
        deviate = numpyro.sample("deviate", dist.Normal(0.0, 1.0))
    r10 = numpyro.deterministic("r10", jnp.exp(mu + tau * deviate))
    terms = problem.terms(problem.space.whiten({"r10": r10, "q10": q10}))
    numpyro.factor("observations", -sum(value for name, value in terms.items() if name != "prior"))


def main() -> None:
    """Sample both models and print them beside the truth."""
    lc.configure()
    problem, truth = make_problem()
    kernel = NUTS(hierarchical, target_accept_prob=0.9)
    chains = MCMC(kernel, num_warmup=500, num_samples=500, num_chains=2, chain_method="vectorized", progress_bar=False)
    chains.run(jax.random.key(1), problem)
    together = chains.get_samples()

    result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False)
    alone = lc.nuts(problem, result, draws=500, key=1, progress=False)
    print(lc.diagnose(alone).sentences[0], "\n")

    print(f"{'site':8} {'data':>4} {'truth':>6}  {'each site alone':>15}  {'together':>15}")
    apart = np.asarray(alone.theta()["r10"])
    for i, site in enumerate(SITES):
        one, other = (f"{np.mean(values):.2f} +- {np.std(values):.2f}" for values in (apart[:, i], np.asarray(together["r10"])[:, i]))
        print(f"{site:8} {COUNTS[i]:4d} {truth[i]:6.2f}  {one:>15}  {other:>15}")
    for name, true in (("mu", MU), ("tau", TAU), ("q10", Q10)):
        values = np.asarray(together[name])
        print(f"{name:4} truth {true:.2f}, posterior {values.mean():.2f} +- {values.std():.2f}")


if __name__ == "__main__":
    main()
