"""Do the uncertainties of a calibration hold? Twins of DALEC with water, whose truth is known.

Each twin (`landcal_jax.twin_experiment`, another seed: other weather, gaps and noise) is calibrated from 16 starts with the
default solver and given its Laplace posterior (Gauss-Newton). Counted is how often 90 % intervals hold what they
should hold 90 % of:

* the true value of each free parameter (phenology days modulo 365.25 d), interval from the draws;
* the noise-free truth of NEE and latent heat, on the calibrated and on the held-out days, band of `Posterior.predictive`
  without observation error;
* the held-out noisy observations, band with observation error.

Beside it: the excess cost (1 for a Gaussian posterior), and the same bands from draws that are run through the model.

What was tried: a split normal whose width along each axis of the curvature is measured on J (Geweke 1989). Its draws have
an excess cost near 1, but its intervals of the parameters hold the truth in 72 % only, since the posterior is curved:
single intervals of the plain Laplace hold, joint draws of it do not. Bands from draws of the plain Laplace are several
times too wide for NEE. So bands are propagated by the tangent-linear model, and the report warns of the draws.
"""

import harness
import numpy as np


def coverage(bands, name, values, where) -> float:
    """Share of `values` (site, n) inside the outer quantiles of the band `name`, where `where` is true."""
    low, high = bands[name].values[0], bands[name].values[-1]
    return float(((low <= values) & (values <= high))[where].mean())


def one_twin(seed: int, starts: int) -> dict[str, float]:
    """All shares of one twin."""
    import landcal_jax as lc
    from landcal_jax.calibration import default_solver

    experiment = lc.twin_experiment(seed)
    done = lc.calibrate(experiment, default_solver(number=starts), seed=seed, progress=False)
    problem, posterior = done.experiment.problem, done.posterior
    space = problem.space
    low, high = np.quantile(posterior.matrix(), [0.05, 0.95], axis=0)
    truth = np.asarray(space.flatten(experiment.truth))
    season = np.isin(space.labels, ["onset_day", "fall_day"])
    # A day of the year is the same a year later: take the turn that is nearest to the MAP.
    turns = np.round((np.asarray(space.flatten(done.result.theta)) - truth) / 365.25)
    truth = np.where(season, truth + 365.25 * turns, truth)
    shares = {"parameters": float(((low <= truth) & (truth <= high)).mean()), "excess cost": posterior.excess_cost()}
    true = problem.predict(space.whiten(experiment.truth))
    for how, bands in {"": posterior.predictive(), " (draws run)": posterior.predictive(seed, draws=200)}.items():
        for name, stream in problem.observations.items():
            held = experiment.held_out[name]
            late = np.arange(stream.mask.shape[1]) >= np.argmax(np.asarray(held.mask)[0])
            shares[f"{name}, truth, calibrated days{how}"] = coverage(bands, name, np.asarray(true[name]), ~late[None])
            shares[f"{name}, truth, held-out days{how}"] = coverage(bands, name, np.asarray(true[name]), late[None])
            shares[f"{name}, held-out observations{how}"] = coverage(
                bands, f"{name}_total", np.asarray(held.values), np.asarray(held.mask))
            shares[f"{name}, width of the band{how}"] = float((bands[name].values[-1] - bands[name].values[0]).mean())
    return shares


def main() -> None:
    """Run the twins and print shares over all of them."""
    bench = harness.Benchmark("twin_coverage", __doc__, cores=None, cache=True)
    rows = [one_twin(seed, 4 if bench.quick else 16) for seed in range(1 if bench.quick else 20)]
    targets = {"parameters": ">= 0.85", "nee, held-out observations": ">= 0.85", "latent_heat, held-out observations": ">= 0.85"}
    for name in rows[0]:
        unit = "gC m-2 d-1" if name.startswith("nee, width") else "W m-2" if "width" in name else "1"
        bench.figure(name, np.mean([row[name] for row in rows]), unit, targets.get(name))
    bench.finish()


if __name__ == "__main__":
    main()
