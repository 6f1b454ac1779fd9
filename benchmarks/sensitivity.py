"""Does a cheap screening keep what matters? Morris at 690 runs against Sobol at 17,920, DALEC with water at three real sites.

Sites: FR-Pue (evergreen oak), DK-Sor (beech), FI-Hyy (pine); 33 free parameters with CARDAMOM's priors, which span up to six
decades. Outputs of NEE and latent heat, each: the mean flux, and its skill 1 / (2 - NSE) against the observations, which is 1 for a
perfect run and goes to 0 for bad ones. The skill stands in for the RMSD because the RMSD has hardly a variance under these priors: a
turnover rate times a pool gives fluxes of hundreds of gC m-2 d-1 in a few runs, which decide every index (intervals of Sobol's total
index of 0.5). What becomes of the RMSD itself is in the table too, without a target.

* The reference: Sobol's total index; the *top ten* are the ten parameters with the largest, of any of the outputs. `screened` with its
  defaults is to keep all of them from 690 runs (20 trajectories). That is one design, with seed 0; figures of ten designs say how much of
  it is luck. How many it keeps has to be read with it: keeping all 33 is no screening.
* The same by bounds from exact derivatives at 64 points.
* Seconds per 10,000 runs of ten years in daily steps, metrics included, compiled before.
* Analysis of a series: indices of first, total and second order with their intervals of the 948 values that were observed at FR-Pue,
  beside SALib, which takes an output at a time: timed for three and scaled.

Seconds are those of the processor. What was tried on the way, ten designs each: trajectories that SALib picks for their spread (20 of 60
at FR-Pue and FI-Hyy, 20 of 200 at FR-Pue) and grids of six or eight levels (FR-Pue) made no difference beyond the luck of designs;
`screened(least=0.1)` keeps about 22 instead of 25 parameters, and one in three designs loses one of the top ten instead of one in ten.
"""

import time

import harness
import numpy as np

SITES = ("FR-Pue", "DK-Sor", "FI-Hyy")
FLUXES = ("nee", "latent_heat")
TEN_YEARS = 3652.5  # days
TOP = 10


def skill(series):
    """1 / (2 - NSE), from 0 to 1 (Nossent and Bauwens 2012)."""
    from landcal_jax.metrics import nse

    return 1.0 / (2.0 - nse(series))


def scalars(problem):
    """The problem of skill, mean and RMSD of both fluxes, one stream each."""
    from landcal_jax.metrics import Metric, mean, rmsd, with_metrics

    metrics = {}
    for flux in FLUXES:
        metrics |= {f"{flux}_skill": Metric(flux, skill, units="1"), f"{flux}_mean": Metric(flux, mean), f"{flux}_rmsd": Metric(flux, rmsd)}
    return with_metrics(problem, metrics, key=0)


def top_ten(reference, outputs) -> set[str]:
    """Parameters that are among the ten with the largest total index for any of `outputs`."""
    first = (np.argsort(-reference["total"].sel(output=output).values)[:TOP] for output in outputs)
    return {str(name) for order in first for name in reference["parameter"].values[order]}


def clocked(call):
    """What `call` gives, and the processor's seconds."""
    begin = time.process_time()
    found = call()
    return found, time.process_time() - begin


def screening(bench, site: str, problem, designs: int):
    """Figures of one site; returns the results, for figures."""
    import landcal_jax as lc

    runs = 35 * (64 if bench.quick else 512)
    reference, seconds = clocked(lambda: lc.sobol(problem, runs=runs, key=0, second_order=False))
    bench.figure(f"{site}: Sobol, {reference.attrs['runs']} runs", seconds, "s")
    found = [lc.morris(problem, runs=690, key=seed) for seed in range(designs)]
    slopes, seconds = clocked(lambda: lc.gradient_sensitivity(problem, runs=16 if bench.quick else 64, key=0))
    for measure, target in (("skill", "<= 0"), ("rmsd", None)):
        outputs = [f"{flux}_{each}" for flux in FLUXES for each in (measure, "mean")]
        top = top_ten(reference, outputs)
        kept = [set(lc.screened(problem.space, ds.sel(output=outputs)).labels) for ds in found]
        lost = [top - each for each in kept]
        name = f"{site}, {measure} and mean"
        bench.figure(f"{name}: in the top ten", len(top), "1")
        bench.figure(f"{name}: of these not kept by Morris", len(lost[0]), "1", target)
        bench.figure(f"{name}: kept by Morris, of {problem.space.size}", len(kept[0]), "1")
        bench.figure(f"{name}: kept, mean of {designs} designs", np.mean([len(each) for each in kept]), "1")
        bench.figure(f"{name}: designs of {designs} that lose none", sum(not each for each in lost), "1")
        share = [float(reference["total"].sel(output=outputs, parameter=name).max()) for each in lost for name in each]
        bench.figure(f"{name}: largest total index of any that is lost", max(share, default=0.0), "1")
        by_slopes = set(lc.screened(problem.space, slopes.sel(output=outputs)).labels)
        bench.figure(f"{name}: not kept by derivatives", len(top - by_slopes), "1")
        bench.figure(f"{name}: kept by derivatives", len(by_slopes), "1")
    bench.figure(f"{site}: derivatives at {slopes.attrs['runs']} points, compiled in it", seconds, "s")
    return reference, found[0], slopes


def speed(bench, site: str, problem, days: int) -> None:
    """Seconds per 10,000 ten-year runs of a problem whose runs have `days` days."""
    import jax

    number = 512 if bench.quick else 4096
    Z = np.asarray(problem.space.sample(jax.random.key(0), number))
    problem.ensemble(Z[:256])
    _, seconds = clocked(lambda: problem.ensemble(Z))
    bench.figure(f"{site}: 10,000 ten-year daily runs", seconds * 10_000 / number * TEN_YEARS / days, "s")


def series(bench, problem) -> None:
    """Analysis of many outputs, beside SALib."""
    from SALib.analyze import sobol as salib

    import landcal_jax as lc
    from landcal_jax.sensitivity_indices import sobol_indices

    rows, n = 16 if bench.quick else 128, problem.space.size
    ds = lc.sobol(problem, runs=rows * (2 * n + 2), key=0, mean="month", second_order=True, resamples=2, keep_runs=True)
    # As many columns as values were observed at this site; what they hold does not matter for the time.
    values = np.resize(ds["value"].values.T, (int(problem.observations.count), ds.sizes["run"])).T
    _, seconds = clocked(lambda: sobol_indices(values, n, second_order=True, seed=1, resamples=100, level=0.95))
    said = {"num_vars": n, "names": list(problem.space.labels), "bounds": [[0.0, 1.0]] * n}
    own = min(clocked(lambda output=output: salib.analyze(said, values[:, output], seed=1))[1] for output in range(3))
    bench.figure(f"analysis of {values.shape[1]} outputs", seconds, "s", "< 60")
    bench.figure(f"the same by SALib, one of them times {values.shape[1]}", own * values.shape[1], "s")


def main() -> None:
    """Run all sites, and print figures."""
    bench = harness.Benchmark("sensitivity", __doc__, cores=None)
    import landcal_jax as lc

    for number, site in enumerate(SITES[:1] if bench.quick else SITES):
        problem = lc.site_experiment(site).problem
        metrics = scalars(problem)
        speed(bench, site, metrics, int(problem.forward.sites.lengths[0]))
        results = screening(bench, site, metrics, 2 if bench.quick else 10)
        if number == 0:
            series(bench, problem)
        if bench.figures_folder is not None:
            draw(bench, site, problem, *results)
    bench.finish()


def draw(bench, site: str, problem, reference, found, slopes) -> None:
    """Bars, Morris' plane, seasons and active directions of one site."""
    import landcal_jax as lc
    from landcal_jax import plot_sensitivity

    chosen = [f"{flux}_{each}" for flux in FLUXES for each in ("skill", "mean")]
    seasons = lc.morris(problem, runs=690, key=0, mean="season")
    figures = {"sobol": plot_sensitivity.bars(reference, chosen), "morris": plot_sensitivity.morris_plane(found, "nee_skill"),
               "derivatives": plot_sensitivity.subspace(slopes, "nee_skill"), "seasons": plot_sensitivity.by_output(seasons)}
    for name, figure in figures.items():
        figure.savefig(bench.figures_folder / f"{name}_{site}.png", dpi=150)


if __name__ == "__main__":
    main()
