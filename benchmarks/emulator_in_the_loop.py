"""Calibration through an emulator: how near to the optimum of the model itself, by how many model runs, and are its intervals right?

Twins on the forcing and gaps of FR-Pue: DALEC with water, seven free parameters, the others fixed, daily NEE and latent heat with the
errors R of the site; a truth is drawn from the middle of the prior. The emulator expands each series into principal components. It
starts from 10 runs a parameter, in a Latin hypercube over the prior, and goes on in turns: the MAP and draws of the posterior through
the emulator are run by the model and join the runs, of which the best by their true J are learned from. It ends when its MAP has moved
by less than `SETTLED` posterior standard deviations. The error of the emulator is in J from the first turn on.

* How far the MAP through the emulator is from that of the model (Levenberg-Marquardt with exact derivatives, from the truth and from
  the end of the emulator), in posterior standard deviations of the model (Gauss-Newton), the largest of all parameters.
* Model runs that ETKI, ESMDA and the iterated 4DEnVar need until the J of their best member or mean is as low, or in all where they
  never get there, over those of the emulator.
* How often 90 % intervals of the posterior through the emulator hold the truth.
"""

import harness
import numpy as np

SITE, FREE = "FR-Pue", ("autotrophic_fraction", "foliar_fraction", "leaf_lifespan", "canopy_efficiency", "lma", "water_use_efficiency",
                        "som_turnover")
SETTLED, MOST_TURNS = 0.1, 12


def twin(seed: int):
    """The problem and z of its truth."""
    import jax

    import landcal_jax as lc
    from landcal_jax.experiment import TRUTH
    from landcal_jax.testing import twin

    problem = lc.site_experiment(SITE).problem
    known = {name: value for name, value in TRUTH.items() if name in problem.space.names and name not in FREE}
    problem = lc.Problem(problem.space.fix(**known).only(*FREE), problem.forward, problem.observations)
    truth = 0.5 * problem.space.sample(jax.random.key(seed), 1)[0]
    made = twin(problem, truth, key=seed)
    return made.problem, np.asarray(truth)


def through_emulator(problem, seed: int):
    """MAP (n,), covariance (n, n) and the number of model runs."""
    import jax.numpy as jnp

    import landcal_jax as lc
    from landcal_jax.problem import costs

    rng, n = np.random.default_rng(seed), problem.space.size
    Z = lc.latin_hypercube(problem, 10 * n, key=seed)
    values, before, sd = problem.ensemble(Z), None, None
    for turn in range(MOST_TURNS):
        J = of_runs(problem, Z, values)
        best = np.argsort(np.nan_to_num(J, nan=np.inf))[: 10 * n]
        emulator = lc.emulate(problem, Z[best], {name: array[best] for name, array in values.items()}, mean="linear", key=turn)
        fast = problem.with_forward(emulator)
        starts = np.asarray(Z[best[:3]])
        ends = [lc.solve(fast, lc.LBFGS(), z0=jnp.asarray(z), throw=False, progress=False) for z in starts]
        z = np.asarray(min(ends, key=lambda end: float(sum(end.terms.values()))).z)
        covariance = np.asarray(lc.laplace(fast, jnp.asarray(z), curvature="hessian").covariance) if _convex(fast, z) else 0.01 * np.eye(n)
        sd = np.sqrt(np.diag(covariance))
        moved = np.inf if before is None else np.max(np.abs(z - before) / sd)
        print(f"turn {turn}: {len(Z)} runs, best J {np.nanmin(J):.1f}, J there {float(fast.cost(jnp.asarray(z))):.1f} "
              f"({float(costs(problem, z[None])[0]):.1f} of the model), moved {moved:.2f}", flush=True)
        if moved < SETTLED:
            break
        before = z
        root = np.linalg.cholesky(covariance)
        more = np.concatenate([z[None], z + 2.0 * rng.standard_normal((2 * n, n)) @ root.T])
        new = problem.ensemble(more)
        Z = np.concatenate([Z, more])
        values = {name: np.concatenate([values[name], new[name]]) for name in values}
    return z, covariance, len(Z), emulator


def _convex(problem, z) -> bool:
    import jax
    import jax.numpy as jnp

    return bool(np.linalg.eigvalsh(np.asarray(jax.hessian(problem.cost)(jnp.asarray(z))))[0] > 0)


def of_runs(problem, Z, values):
    """J of runs that were made, (run,)."""
    import jax
    import jax.numpy as jnp

    def one(z, modelled):
        residuals = problem.observations.residuals(modelled)
        return 0.5 * sum(jnp.sum(part**2) for part in residuals.values()) + 0.5 * jnp.sum(z**2)

    return np.asarray(jax.vmap(one)(jnp.asarray(Z), {name: jnp.asarray(array) for name, array in values.items()}))


def true_map(problem, starts):
    """The lowest minimum of the model's own J from these starts, and its covariance."""
    import jax.numpy as jnp

    import landcal_jax as lc

    ends = [lc.solve(problem, lc.LevenbergMarquardt(), z0=jnp.asarray(z), progress=False, throw=False) for z in starts]
    best = min(ends, key=lambda end: float(sum(end.terms.values())))
    return np.asarray(best.z), float(sum(best.terms.values())), np.asarray(lc.laplace(problem, best).covariance)


def runs_of_ensembles(problem, target: float, seed: int) -> dict[str, tuple[int, float]]:
    """Model runs of each ensemble method until J is below `target`, and the lowest J that it showed."""
    import landcal_jax as lc

    solvers = {"ETKI": lc.ETKI(to="minimum"), "ESMDA": lc.ESMDA(), "iterated 4DEnVar": lc.IterativeFourDEnVar()}
    table = {}
    for name, solver in solvers.items():
        lowest = [np.inf]

        def watch(progress, lowest=lowest):
            lowest[0] = min(lowest[0], float(sum(progress.terms.values())))
            return lowest[0] <= target

        result = lc.solve(problem, solver, key=seed, progress=False, throw=False, watch=watch)
        table[name] = (int(result.counts.forward), min(lowest[0], float(sum(result.terms.values()))))
    return table


def main() -> None:
    """Run the twins and print the figures."""
    bench = harness.Benchmark("emulator_in_the_loop", __doc__, cores=1, cache=True)
    far, share, runs, ratios, inside = [], [], [], {}, []
    for seed in range(1 if bench.quick else 20):
        problem, truth = twin(seed)
        z, covariance, count, _ = through_emulator(problem, seed)
        exact, lowest, of_model = true_map(problem, [truth, z])
        sd = np.sqrt(np.diag(of_model))
        far.append(np.max(np.abs(z - exact) / sd))
        share.append(np.mean(np.sqrt(np.diag(covariance)) / sd))
        runs.append(count)
        inside.append(np.abs(z - truth) < 1.645 * np.sqrt(np.diag(covariance)))
        reached = float(of_runs(problem, z[None], problem.ensemble(z[None]))[0])
        print(f"seed {seed}: J {reached:.2f} through the emulator by {count} runs, {lowest:.2f} of the model; {far[-1]:.2f} sd", flush=True)
        if seed < 3:
            for name, (used, best) in runs_of_ensembles(problem, max(reached, lowest + 0.5 * problem.space.size), seed).items():
                print(f"  {name}: {used} runs to J {best:.2f}", flush=True)
                ratios.setdefault(name, []).append(used / count)
    bench.figure("MAP through the emulator, from that of the model: median of twins", np.median(far), "posterior sd", "<= 0.2")
    bench.figure("the same, largest of twins", np.max(far), "posterior sd", None)
    bench.figure("posterior sd through the emulator over that of the model", np.mean(share), "1", None)
    bench.figure("model runs of the emulator, median", np.median(runs), "runs", None)
    for name, each in ratios.items():
        bench.figure(f"runs of {name} over those of the emulator", np.median(each), "1", ">= 100")
    coverage = float(np.mean(inside))
    bench.figure("truth in 90 % intervals, emulator's error in J", coverage, "1", ">= 0.85")
    bench.finish()


if __name__ == "__main__":
    main()
