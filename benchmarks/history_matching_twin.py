"""Ten waves of history matching on twins of DALEC with water at a real site: is the truth kept, what is left, how long does it take?

Each twin, at FR-Pue, has another truth and other noise: the free parameters are drawn about those of a temperate forest with half of the
prior's standard deviation, the others are known. NEE and latent heat are observed where they are at the site, with a model error of
half of their spread. Two or nine metrics (RMSD of both; sink or peak, spring and autumn slopes of both; the initial stock of litter),
with the targets and errors that `with_metrics` gives; 6 or 15 parameters; ten runs a parameter in each wave, 600 or 1500 in all.
Asked is:

* seconds of ten waves from nothing, of the first twin of each case, compilation included;
* in how many of the 20 twins (five of each case) the truth is kept through all waves, and what is left;
* what of the draws of NUTS from the posterior of the same series (first twin, 6 parameters) is kept, and how much wider what is left is;
* mogp-emulator (optional extra `peers`) on the very same runs: its emulators (maximum a posteriori by Nelder-Mead, squared exponential,
  adaptive nugget) and its HistoryMatching on 1e5 points of the prior: what is left, is the truth kept, and seconds for emulators and points
  alone, beside all seconds of ours.

Real data: catalogue site FR-Pue, see `landcal_jax.data`.
"""

import time

import harness
import numpy as np

SIX = ("canopy_efficiency", "lma", "autotrophic_fraction", "foliar_fraction", "water_use_efficiency", "litter_0")
FIFTEEN = (*SIX, "decomposition_rate", "litter_turnover", "som_turnover", "temperature_exponent", "leaf_lifespan", "labile_fraction",
           "root_fraction", "radiation_evaporation", "foliar_0")
CASES = {"6 parameters, 2 metrics": (SIX, False), "6 parameters, 9 metrics": (SIX, True),
         "15 parameters, 2 metrics": (FIFTEEN, False), "15 parameters, 9 metrics": (FIFTEEN, True)}


def metrics_of(nine: bool):
    """The metrics by name."""
    from landcal_jax import metrics as m

    pair = {"nee_rmsd": m.Metric("nee", m.rmsd), "le_rmsd": m.Metric("latent_heat", m.rmsd)}
    if not nine:
        return pair
    return pair | {
        "nee_sink": m.Metric("nee", m.sink()), "nee_spring": m.Metric("nee", m.spring_slope), "nee_autumn": m.Metric("nee", m.autumn_slope),
        "le_peak": m.Metric("latent_heat", m.peak()), "le_spring": m.Metric("latent_heat", m.spring_slope),
        "le_autumn": m.Metric("latent_heat", m.autumn_slope), "litter_stock": m.Metric(m.Stock("litter"), m.initial, units="gC m-2")}


def base_problem():
    """The problem of the site with all parameters but the fifteen at the values of the forest."""
    import landcal_jax as lc
    from landcal_jax.experiment import TRUTH

    problem = lc.site_experiment("FR-Pue").problem
    space = problem.space.fix(**{name: value for name, value in TRUTH.items() if name in problem.space.names and name not in FIFTEEN})
    return lc.Problem(space, problem.forward, problem.observations)


def twin_of(base, names, nine: bool, seed: int):
    """(problem of the series, problem of its metrics, z of the truth)."""
    import jax

    import landcal_jax as lc
    from landcal_jax import testing
    from landcal_jax.experiment import TRUTH

    space = base.space.fix(**{name: TRUTH[name] for name in FIFTEEN if name not in names})
    problem = lc.Problem(space, base.forward, base.observations)
    centre = space.whiten(space.default_theta | {name: np.asarray(TRUTH[name]) for name in names})
    of_z, of_noise = jax.random.split(jax.random.key(seed))
    truth = centre + 0.5 * jax.random.normal(of_z, centre.shape)
    made = testing.twin(problem, truth, key=of_noise)
    given = metrics_of(nine)
    stock = {name: float(made.theta["litter_0"]) for name in given if name == "litter_stock"}
    errors = {name: 0.1 * value for name, value in stock.items()}
    return made.problem, lc.with_metrics(made.problem, given, targets=stock, sigma=errors), truth


def mogp(history, truth, points: int) -> tuple[float, bool, float]:
    """What is left, whether the truth is kept, and seconds, by mogp-emulator on the runs of `history`."""
    import mogp_emulator
    from scipy.special import ndtr

    begin, kept = time.perf_counter(), True
    x = 2 * np.random.default_rng(0).random((points, history.problem.space.size)) - 1
    at = 2 * ndtr(np.asarray(truth))[None] - 1
    for wave in history.waves:
        u, values = 0.5 * (wave.judge.processes.x + 1), wave.judge.processes.y
        for column, k in enumerate(np.flatnonzero(wave.judge.used)):
            # From a start that is given and without its gradient: with NumPy 2.4, version 0.7.2 has neither.
            process = mogp_emulator.GaussianProcess(2 * u - 1, values[:, column], nugget="adaptive")
            process = mogp_emulator.fit_GP_MAP(process, n_tries=1, theta0=np.zeros(process.n_params), method="Nelder-Mead")
            target = [float(history.targets.values[k]), float(history.targets.variance[k])]
            for where in ("points", "truth"):
                these = x if where == "points" else at
                if len(these):
                    matcher = mogp_emulator.HistoryMatching(obs=target, expectations=process.predict(these), threshold=history.cutoff)
                    inside = np.asarray(matcher.get_NROY(), int)
                    x, kept = (x[inside], kept) if where == "points" else (x, kept and len(inside) == 1)
    return len(x) / points, kept, time.perf_counter() - begin


def against_nuts(bench, history, series, truth, draws: int) -> None:
    """What of the posterior is kept, and how much wider what is left is, for each parameter."""
    import landcal_jax as lc

    posterior = lc.nuts(series, truth, chains=2, draws=draws, warmup=draws, key=0, progress=False)
    bench.figure("draws of NUTS that are kept", history.kept(np.asarray(posterior.z)).mean(), "1")
    width = history.draws(1000).std(axis=0) / np.asarray(posterior.z).std(axis=0)
    for name, ratio in zip(series.space.labels, width, strict=True):
        bench.figure(f"{name}: spread of what is left / of the posterior", ratio, "1")


def main() -> None:
    """All cases; the comparisons with their first twins."""
    bench = harness.Benchmark("history_matching_twin", __doc__, cores=None, cache=False)
    from landcal_jax.history_matching import history_match

    base, kept, all_twins = base_problem(), 0, 0
    waves, twins = (2, 1) if bench.quick else (10, 5)
    for case, (names, nine) in list(CASES.items())[: 1 if bench.quick else None]:
        left, largest = [], []
        for seed in range(twins):
            series, problem, truth = twin_of(base, names, nine, seed)
            begin = time.perf_counter()
            history = history_match(problem, waves=waves, stop=(), points=1024 if bench.quick else 2048, progress=False, key=seed)
            seconds = time.perf_counter() - begin
            scores = history.scores(np.asarray(truth)[None])
            kept, all_twins = kept + bool((scores <= history.cutoff).all()), all_twins + 1
            left.append(history.fraction)
            largest.append(scores.max())
            if seed == 0:
                print(f"{case}\n{history}")
                bench.figure(f"{case}: ten waves from nothing", seconds, "s", "< 300")
                bench.figure(f"{case}: percent of the prior left", 100 * history.fraction, "%")
                bench.figure(f"{case}: its standard error", 100 * history.fraction_error, "%")
                fraction, stays, other = mogp(history, truth, 10_000 if bench.quick else 100_000)
                bench.figure(f"{case}: mogp-emulator, percent left", 100 * fraction, "%")
                bench.figure(f"{case}: mogp-emulator keeps the truth", stays, "1")
                bench.figure(f"{case}: mogp-emulator's seconds / ours", other / seconds, "1", ">= 10")
                if case == "6 parameters, 9 metrics":
                    against_nuts(bench, history, series, truth, 500)
        bench.figure(f"{case}: percent left, median of {twins} twins", 100 * np.median(left), "%")
        bench.figure(f"{case}: largest implausibility of a truth", max(largest), "1")
    bench.figure("twins that keep the truth", kept, f"of {all_twins}", ">= 19")
    bench.finish()


if __name__ == "__main__":
    main()
