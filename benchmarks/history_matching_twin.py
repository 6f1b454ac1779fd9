"""Ten waves of history matching on twins of DALEC with water at a real site: is the truth kept, what is left, how long does it take?

Each twin, at FR-Pue, has another truth and other noise: the free parameters are drawn about those of a temperate forest with half of the
prior's standard deviation, the others are known. NEE and latent heat are observed where they are at the site, with a model error of
half of their spread. Two or nine metrics (RMSD of both; sink or peak, spring and autumn slopes of both; the initial stock of litter),
with the targets and errors that `with_metrics` gives; 6 or 15 parameters; ten runs a parameter in each wave, 600 or 1500 in all.
Asked is:

* seconds of ten waves from nothing, of the first twin of each case: model runs, emulators, what is left, and all compilation;
* in how many of the 20 twins (five of each case) the truth is kept through all waves, and what is left;
* what share of what is left passes by a run of the model itself, without emulators (first twin of each case, 256 points);
* what of the draws of NUTS from the posterior of the same series (first twin, 6 parameters, 9 metrics) is kept, and how much wider what
  is left is, parameter by parameter: metrics know less than series, and a region has no preferences;
* mogp-emulator 0.7.2 (optional extra `peers`) on the very same runs, emulators with its defaults (maximum a posteriori, 15 starts of
  L-BFGS-B, squared exponential) and its HistoryMatching on 1e5 points of the prior: what is left, is the truth kept, and
  its seconds over those of ours for the same: emulators and what is left, given the runs, compiled. An emulator of 120 runs takes it
  4 s, one of 300 runs and 15 parameters 70 s, so that it gets all ten waves of the first case only, three of the second, and the first of
  those with 15 parameters. With NumPy 2.4 it neither draws starts nor gives gradients, since it puts arrays of one element where
  numbers belong: `mended` makes numbers of them, no more. Its first start is at zero: those it draws, from priors of the least and
  largest distance of the runs, are at lengths near the least, where of random designs it learns nothing (of 60 runs of a smooth function
  of six inputs R2 is below zero, and all of the prior is left) and from zero R2 is 1. So one start alone would do as well; its seconds
  are given beside.

autoemulate, the other independent package, needs PyTorch and was not tried. Real data: catalogue site FR-Pue, see `landcal_jax.data`.
"""

import contextlib
import io
import time

import harness
import numpy as np

SIX = ("canopy_efficiency", "lma", "autotrophic_fraction", "foliar_fraction", "water_use_efficiency", "litter_0")
FIFTEEN = (*SIX, "decomposition_rate", "litter_turnover", "som_turnover", "temperature_exponent", "leaf_lifespan", "labile_fraction",
           "root_fraction", "radiation_evaporation", "foliar_0")
# Free parameters, nine metrics or two, and how many waves mogp-emulator gets.
CASES = {"6 parameters, 2 metrics": (SIX, False, 10), "6 parameters, 9 metrics": (SIX, True, 3),
         "15 parameters, 2 metrics": (FIFTEEN, False, 1), "15 parameters, 9 metrics": (FIFTEEN, True, 1)}


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


@contextlib.contextmanager
def mended():
    """mogp-emulator 0.7.2 as it was before NumPy 2.4, which refuses arrays of one element for numbers."""
    import sys

    import scipy.stats
    from mogp_emulator import GaussianProcess, Priors

    module, prior = sys.modules[GaussianProcess.__module__], Priors.InvGammaPrior
    slope, sample = module.logdet_deriv, prior.sample_x

    def number(*arguments):
        found = slope(*arguments)
        return found.item() if np.size(found) == 1 else found

    module.logdet_deriv, prior.sample_x = number, lambda self: float(scipy.stats.invgamma.rvs(a=self.shape, scale=self.scale))
    try:
        # It also makes NumPy raise for good where numbers overflow, and prints what it skips.
        with np.errstate(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        module.logdet_deriv, prior.sample_x = slope, sample


def mogp(history, waves: int, truth, points: int, starts: int) -> tuple[float, bool, float]:
    """What is left after these waves, whether the truth is kept, and seconds, by mogp-emulator on the runs of `history`."""
    import mogp_emulator
    from scipy.special import ndtr

    np.random.seed(0)  # its starts are drawn from the global generator
    x = 2 * np.random.default_rng(0).random((points, history.problem.space.size)) - 1
    at = 2 * ndtr(np.asarray(truth))[None] - 1
    begin, kept = time.perf_counter(), True
    for wave in history.waves[:waves]:
        inputs, values = wave.judge.processes.x, wave.judge.processes.y
        for column, k in enumerate(np.flatnonzero(wave.judge.used)):
            process = mogp_emulator.GaussianProcess(inputs, values[:, column], nugget="adaptive")
            process = mogp_emulator.fit_GP_MAP(process, n_tries=starts, theta0=np.zeros(process.n_params))
            target = [float(history.targets.values[k]), float(history.targets.variance[k])]
            for where in ("points", "truth"):
                these = x if where == "points" else at
                if len(these):
                    matcher = mogp_emulator.HistoryMatching(obs=target, expectations=process.predict(these), threshold=history.cutoff)
                    inside = np.asarray(matcher.get_NROY(), int)
                    x, kept = (x[inside], kept) if where == "points" else (x, kept and len(inside) == 1)
    return len(x) / points, kept, time.perf_counter() - begin


def again(history, waves: int, seed: int) -> float:
    """Seconds of emulators and of what is left, given the runs of these waves, with all compiled."""
    import dataclasses

    after = dataclasses.replace(history, waves=())
    begin = time.perf_counter()
    for number, wave in enumerate(history.waves[:waves]):
        after = after.told(wave.z, wave.values, key=1000 * seed + number)
    return time.perf_counter() - begin


def passing(history, points: int) -> float:
    """The share of what is left whose own run is within the cutoff of all targets."""
    from landcal_jax.implausibility import implausibility, values_of

    z = history.draws(points, key=0)
    values = values_of(history.problem.observations, history.problem.ensemble(z))
    return (implausibility(values, 0.0, history.targets) <= history.cutoff).all(axis=1).mean()


def against_nuts(bench, history, series, truth, draws: int) -> None:
    """What of the posterior is kept, and how much wider what is left is, for each parameter."""
    import landcal_jax as lc

    posterior = lc.nuts(series, truth, chains=2, draws=draws, warmup=draws, key=0, progress=False)
    bench.figure("draws of NUTS that are kept", history.kept(np.asarray(posterior.z)).mean(), "1")
    width = history.draws(1000).std(axis=0) / np.asarray(posterior.z).std(axis=0)
    for name, ratio in zip(series.space.labels, width, strict=True):
        bench.figure(f"{name}: spread of what is left / of the posterior", ratio, "1")


def draw(folder, case: str, history, series, truth) -> None:
    """What is left by wave and by pairs of parameters, the targets, and the series of each wave."""
    from landcal_jax import plot_history_matching as plots

    ds, space = history.to_xarray(), history.problem.space
    true = dict(zip(space.labels, np.asarray(space.flatten(space.physical(truth))).tolist(), strict=True))
    figures = {"fractions": plots.fractions(ds), "targets": plots.targets(ds), "matrix": plots.matrix(history.matrix(), truth=true),
               "envelopes": plots.envelopes(history.envelopes(series), "nee")}
    for name, figure in figures.items():
        figure.savefig(folder / f"history_matching_{case.replace(', ', '_').replace(' ', '_')}_{name}.png", dpi=120)


def first_twin(bench, case: str, history, series, truth, seconds: float) -> None:
    """The figures of the first twin of a case, whose ten waves took `seconds`."""
    waves = 1 if bench.quick else CASES[case][2]
    print(f"{case}\n{history}", flush=True)
    bench.figure(f"{case}: ten waves from nothing", seconds, "s", "< 300")
    bench.figure(f"{case}: percent of the prior left", 100 * history.fraction, "%")
    bench.figure(f"{case}: its standard error", 100 * history.fraction_error, "%")
    bench.figure(f"{case}: share of it that passes by the model itself", passing(history, 256), "1")
    ours = again(history, waves, 0)
    points = 10_000 if bench.quick else 100_000
    with mended():
        fraction, stays, theirs = mogp(history, waves, truth, points, 15)
        once = mogp(history, waves, truth, points, 1)[2]
    left = history.waves[waves - 1].cloud.fraction
    bench.figure(f"{case}: percent left after wave {waves}, ours", 100 * left, "%")
    bench.figure(f"{case}: percent left after wave {waves}, mogp-emulator", 100 * fraction, "%")
    bench.figure(f"{case}: mogp-emulator keeps the truth", stays, "1")
    bench.figure(f"{case}: emulators and points up to wave {waves}, ours", ours, "s")
    bench.figure(f"{case}: mogp-emulator's seconds / ours", theirs / ours, "1", ">= 10")
    bench.figure(f"{case}: mogp-emulator's seconds with one start / ours", once / ours, "1")
    if case == "6 parameters, 9 metrics":
        against_nuts(bench, history, series, truth, 500)
    if bench.figures_folder is not None:
        draw(bench.figures_folder, case, history, series, truth)


def main() -> None:
    """All cases; the comparisons with their first twins."""
    bench = harness.Benchmark("history_matching_twin", __doc__, cores=None, cache=False)
    from landcal_jax.history_matching import history_match

    base, kept, all_twins = base_problem(), 0, 0
    waves, twins = (2, 1) if bench.quick else (10, 5)
    for case, (names, nine, _) in list(CASES.items())[: 1 if bench.quick else None]:
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
                first_twin(bench, case, history, series, truth, seconds)
        bench.figure(f"{case}: percent left, median of {twins} twins", 100 * np.median(left), "%")
        bench.figure(f"{case}: largest implausibility of a truth", max(largest), "1")
    bench.figure("twins that keep the truth", kept, f"of {all_twins}", ">= 19")
    bench.finish()


if __name__ == "__main__":
    main()
