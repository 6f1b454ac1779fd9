"""The posterior of DALEC with water at FR-Pue, all 33 parameters: is it sampled well, how fast, and what do approximations get wrong?

The problem is that of `site_experiment("FR-Pue")`, calibrated, with the model error that the calibration estimated. Methods on
the same density:

* `nuts`: four chains, started and preconditioned from Laplace, with R-hat and effective sample sizes of every parameter;
* `adaptive_metropolis`: four chains of a random walk, effective samples per second and per model run, of the slowest parameter, beside
  those of NUTS; once from the same starts with the same first covariance, and once as CARDAMOM has to begin it, from the middle of the
  prior with small steps that know nothing of the posterior;
* `control`: both on a Gaussian of as many dimensions, each with the exact covariance: what the two can differ by at best;
* `laplace` and `smc` (from half-way between the prior and Laplace): error of their 5 %, 50 % and 95 % quantiles against NUTS, in
  posterior standard deviations of z, mean and largest over the parameters.

Two CPU devices, among which chains are divided. Seconds are of the wall, compilation included, and beside them those of the
processor: on an idle machine with two cores the wall takes a little more than half of these. Days of phenology, which have the same effect
a year later, are compared within the year about the minimum of J.

The target of a hundred times more effective samples per second than adaptive Metropolis is missed where the walk is given what NUTS is
given, Laplace's centre and covariance, and no implementation could reach it: a random walk of the best size has an efficiency of 0.33 / n
in n dimensions (Gelman, Roberts & Gilks 1996), one sample in a hundred runs here, and a trajectory of three gradients, each of which
costs three runs, would gain a factor of eleven. `control` has what is left of that on a Gaussian. Begun as CARDAMOM has to begin it,
the walk is not in the posterior after all its runs (R-hat above 2): effective samples are then of no use to compare by.

What was tried, on the way to these figures (gradients are of one chain; effective sample sizes of the slowest parameter):

* NUTS of numpyro with its own adaptation of a dense metric from Laplace, four chains, 400 + 200 draws, trees of depth 8: stopped
  after nine minutes.
* A metric pooled over 32 chains of HMC: the step size goes down to 0.05 of a standard deviation. The local curvature (Gauss-Newton) in
  these coordinates has two eigenvalues above 100 (median 503 and 175) whose directions turn along the posterior: ridges on which a
  turnover rate times a pool, and a photosynthetic efficiency times leaf area, are known.
* Straightening the ridges by a quadratic shear of the stiff directions, fitted to local curvatures: none (511 instead of 503), the
  directions turn too far to be a graph over the others.
* Bending each z towards Phi(z), in which products of parameters with log-uniform priors are straight: 97 instead of
  503 for Phi(z) + 0.05 z; z = x + 0.1 x^5, which needs no iteration, 112. All of the way, x = Phi(z), is worse than none: bounds
  are in the way.
"""

import dataclasses
import time

import harness
import numpy as np

QUANTILES = (0.05, 0.5, 0.95)
SEASON = ("onset_day", "fall_day")
YEAR = 365.25


def folded(problem, posterior, centre) -> np.ndarray:
    """Draws of z (draw, n) with days of phenology moved by whole years to the one that is nearest to `centre` (n,)."""
    import jax
    import jax.numpy as jnp

    space = problem.space
    theta, middle = posterior.theta(), space.physical(jnp.asarray(centre))
    days = {name: theta[name] - YEAR * jnp.round((theta[name] - middle[name]) / YEAR) for name in SEASON if name in space.names}
    return np.asarray(jax.vmap(space.whiten)(theta | days))


def quantile_error(reference: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Error of each quantile of each parameter (quantile, n) over the standard deviation of the reference."""
    return np.abs(np.quantile(z, QUANTILES, axis=0) - np.quantile(reference, QUANTILES, axis=0)) / reference.std(axis=0)


def timed(call):
    """What `call` gives, seconds on the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    found = call()
    return found, time.perf_counter() - wall, time.process_time() - processor


def speed(bench, name, posterior, wall, processor) -> tuple[float, float]:
    """Figures of one sampler; effective samples per second of the processor, and per thousand model runs."""
    import landcal_jax as lc

    diagnosis = lc.diagnose(posterior)
    print(f"\n{name}\n{diagnosis}\n", flush=True)
    table, details = diagnosis.table, posterior.details
    target = name == "NUTS"
    least, runs = float(table["ess_bulk"].min()), int(details["forward"]) + int(details["gradient"])
    bench.figure(f"{name}: largest R-hat", float(table["rhat"].max()), "1", "< 1.01" if target else None)
    bench.figure(f"{name}: smallest bulk ESS", least, "1", "> 400" if target else None)
    bench.figure(f"{name}: smallest tail ESS", float(table["ess_tail"].min()), "1", "> 400" if target else None)
    bench.figure(f"{name}: wall, compilation included", wall, "s", "< 300" if target else None)
    bench.figure(f"{name}: processor", processor, "s", "< 600" if target else None)
    bench.figure(f"{name}: compiling", float(details["seconds_compile"]), "s")
    bench.figure(f"{name}: warm-up", float(details["seconds_warmup"]), "s")
    bench.figure(f"{name}: model runs (gradients for NUTS)", runs, "1")
    if target:
        bench.figure(f"{name}: divergences", table.attrs["divergences"], "1")
        bench.figure(f"{name}: leapfrog steps a draw", float(np.mean(details["steps"])), "1")
    return least / processor, 1000 * least / runs


def control(bench, dimension: int) -> None:
    """Effective samples per model run of both samplers on N(0, I / 2), started in it and scaled by it."""
    import jax.numpy as jnp

    import landcal_jax as lc

    space = lc.ParameterSpace({f"x{number}": lc.Parameter.normal(0.0, 1.0) for number in range(dimension)})
    forward = lc.FunctionForward(lambda theta: {"y": jnp.stack(list(theta.values()))[None]})
    problem = lc.Problem(space, forward, lc.Observations({"y": lc.Stream(np.zeros(dimension), 1.0)}))
    z, draws, rate = jnp.zeros(dimension), 50 if bench.quick else 1000, {}
    rate["NUTS"] = lc.nuts(problem, z, draws=draws, key=0, progress=False)
    rate["adaptive Metropolis"] = lc.adaptive_metropolis(problem, z, draws=draws, thin=dimension, warmup=0, key=0, progress=False)
    for name, posterior in rate.items():
        details, table = posterior.details, lc.diagnose(posterior).table
        runs = int(details["gradient"] - details.get("gradient_warmup", 0)) if name == "NUTS" else int(details["forward"])
        rate[name] = 1000 * float(table["ess_bulk"].min()) / runs
        bench.figure(f"Gaussian of {dimension} dimensions, {name}: ESS per thousand model runs", rate[name], "1")
    ratio = rate["NUTS"] / rate["adaptive Metropolis"]
    bench.figure(f"Gaussian of {dimension} dimensions, NUTS over adaptive Metropolis: ESS per model run", ratio, "1")


def main() -> None:
    """Calibrate, sample by all methods, print figures."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    bench = harness.Benchmark("sampling", __doc__, cores=None, cache=False)
    import landcal_jax as lc
    from landcal_jax.smc import smc

    done = lc.calibrate(lc.site_experiment("FR-Pue"), seed=0, progress=False)
    problem, z = done.experiment.problem.spread(), np.asarray(done.result.z)
    draws = 50 if bench.quick else 1500
    found, *seconds = timed(lambda: lc.nuts(
        problem, z, draws=draws, warmup=4 if bench.quick else None, target_accept=0.9, key=0, posterior=done.posterior))
    walks = {}
    per_second, per_run = speed(bench, "NUTS", found, *seconds)
    bench.figure("NUTS: ESS per processor second", per_second, "s-1")
    uninformed = dataclasses.replace(done.posterior, centre=np.zeros_like(z), covariance=0.1**2 * np.eye(z.size))
    for name, start in {"adaptive Metropolis": done.posterior, "adaptive Metropolis from the prior": uninformed}.items():
        walk, *seconds = timed(lambda start=start: lc.adaptive_metropolis(
            problem, start.centre, draws=50 if bench.quick else 500, thin=10 if bench.quick else 200, key=0, posterior=start))
        walk_second, walk_run = speed(bench, name, walk, *seconds)
        bench.figure(f"{name}: ESS per processor second", walk_second, "s-1")
        bench.figure(f"NUTS over {name}: ESS per second", per_second / walk_second, "1", ">= 100")
        bench.figure(f"NUTS over {name}: ESS per model run", per_run / walk_run, "1")
        walks[name] = walk
    reference = folded(problem, found, z)
    others = {"Laplace": done.posterior, **walks}
    others["SMC"], wall, processor = timed(lambda: smc(problem, near=z, particles=128 if bench.quick else None, key=0))
    bench.figure("SMC: wall", wall, "s")
    bench.figure("SMC: processor", processor, "s")
    for name, posterior in others.items():
        error = quantile_error(reference, folded(problem, posterior, z))
        bench.figure(f"{name}: quantile error, mean", float(error.mean()), "sd")
        bench.figure(f"{name}: quantile error, largest", float(error.max()), "sd")
    control(bench, z.size)
    bench.finish()


if __name__ == "__main__":
    main()
