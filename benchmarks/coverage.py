"""Do posteriors say what they should? Simulation-based calibration over twins of DALEC with water at a real site.

Drivers and observed days are those of FR-Pue in 2007 and 2008 (162 days of NEE, 655 of latent heat); errors have standard deviations of
0.6 gC m-2 d-1 and 10 W m-2. Each twin draws a truth from the prior, then observations; each method gives its posterior, in which the
truth has a rank (`landcal_jax.testing.coverage`).

The prior is narrow, and truths are drawn from it: log-normal by 10 to 30 % about the temperate forest of the package's twin
experiments, phenology by eight days. Under the prior of CARDAMOM many truths are dead or dying forests, and days of the year
have three equal modes: that tests whether a sampler finds modes, which is another question, and makes the ranks of every
method say only that. Free are the 21 parameters whose variance two years of both fluxes lower by 30 % or more on average
(Gauss-Newton at 24 truths): the others would have uniform ranks by the prior alone. Of the product of soil carbon and its decay the
pool is fixed, and so are lifespans, whose lower bound of one year this truth lies close to.

Cases: R as it is; R taken for half or twice what it is (variances); errors with a memory of five days taken for white, of the
same size. In the last three, also what error estimation recovers: `estimate_errors` followed by Laplace, and NUTS with size and
memory of the errors among the parameters. Methods are the same in each twin of a case: same truths, same observations.

NUTS: 16 chains of 50 draws after the ensemble's warm-up, ranked by as many as are independent (200 at most). With a correct sampler each of
21 p-values is below 0.01 in one run of a hundred, so that the smallest is in one of five; the band of the ECDF of every quantity is in
the figures. `--store FOLDER` keeps every twin, so that the same command goes on after a kill.
"""

import functools
from pathlib import Path

import harness
import numpy as np

CASES = {  # name: (errors of the twins have memory, what is taken for R)
    "R right": (False, "right"), "R taken for half": (False, "half"), "R taken for twice": (False, "double"),
    "memory taken for none": (True, "white")}
ESTIMATING = ("errors estimated, Laplace", "errors sampled, NUTS")
TRUE_SIZE = {"nee": 0.597, "latent_heat": 9.95}  # model error alone; measurement is the rest of 0.6 and 10


def options(parser) -> None:
    """Options of this script."""
    parser.add_argument("--twins", type=int, default=200, help="twins of the case with the right R")
    parser.add_argument("--wrong", type=int, default=100, help="twins of each other case")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--store", type=Path, metavar="DIR", help="keep twins there, and go on from those that are")
    parser.add_argument("--case", action="append", choices=list(CASES), help="these alone")
    parser.add_argument("--method", action="append", help="these alone")


def run(bench: harness.Benchmark, case: str, method: str):
    """All twins of one case by one method."""
    import coverage_cases as cases

    from landcal_jax.testing import coverage

    memory, taken = CASES[case]
    given = bench.arguments
    twins = 3 if bench.quick else given.twins if case == "R right" else given.wrong
    folder = None if given.store is None else given.store / f"{case}, {method}".replace(", ", "-").replace(" ", "_")
    posterior_of = functools.partial(cases.posterior, method=method, taken=taken)
    return coverage(cases.problem(memory), posterior_of, twins=twins, key=2026, store=folder, processes=given.processes)


def tell(bench: harness.Benchmark, case: str, method: str, ds) -> None:
    """The figures of one case and method."""
    from landcal_jax.testing import verdict

    words = f"{case}, {method}"
    print(f"{words}: {' '.join(verdict(ds))}", flush=True)
    judged = {"target": "> 0.01"} if (case, method) == ("R right", "NUTS") else {}
    chi, band = ds["p_chi_square"].sel(quantity=ds["parameter"].values), ds["p_ecdf"].sel(quantity=ds["parameter"].values)
    bench.figure(f"{words}: smallest p of 21 rank histograms", chi.min(), "1", **judged)
    bench.figure(f"{words}: parameters with p < 0.01 by histogram", (chi < 0.01).sum(), "1")
    bench.figure(f"{words}: parameters with p < 0.01 by ECDF", (band < 0.01).sum(), "1")
    bench.figure(f"{words}: p of the rank of J", ds["p_chi_square"].sel(quantity="J"), "1")
    for level in ds["level"].values:
        error = float(ds["parameters_coverage_error"].sel(level=level))
        bench.figure(f"{words}: {level:.0%} intervals, parameters (+- {error:.3f})", ds["parameters_coverage"].sel(level=level), "1")
        for stream in ds["stream"].values:
            for what, which in (("predicted", "truth"), ("observed", "new days")):
                bench.figure(f"{words}: {level:.0%} bands, {stream} {which}", ds[f"{what}_coverage"].sel(level=level, stream=stream), "1")
    bench.figure(f"{words}: failed twins", ds.attrs["failed"], "1")
    bench.figure(f"{words}: seconds a twin", ds["seconds"].median(), "s")
    for name in ds["name"].values if method in ESTIMATING else ():
        stream, _, what = str(name).rpartition("_model_error" if str(name).endswith("_model_error") else "_error_days")
        if stream in TRUE_SIZE:
            low, middle, high = np.nanquantile(ds["detail"].sel(name=name), [0.05, 0.5, 0.95])
            bench.figure(f"{words}: {name}, median over twins (90 %: {low:.3g} to {high:.3g})", middle, "as the stream, or days")


def main() -> None:
    """All cases and methods, one after the other."""
    bench = harness.Benchmark("coverage", __doc__, cores=None, cache=True, options=options)
    import coverage_cases as cases

    import landcal_jax

    # Each call begins new processes: all but the first find there what NUTS takes a minute to compile.
    landcal_jax.configure(cache="user")
    given, found = bench.arguments, {}
    for case in given.case or CASES:
        methods = [name for name in cases.METHODS if case != "R right" or name not in ESTIMATING]
        for method in methods if given.method is None else [name for name in methods if name in given.method]:
            found[case, method] = run(bench, case, method)
            tell(bench, case, method, found[case, method])
    if bench.figures_folder is not None:
        draw(bench.figures_folder, found)
    bench.finish()


def draw(folder: Path, found) -> None:
    """Rank histograms and ECDF of each case by NUTS, and the coverage of all methods by case."""
    from landcal_jax import plot_coverage

    for case in dict.fromkeys(case for case, _ in found):
        name = case.replace(" ", "_")
        table = {method: ds for (of, method), ds in found.items() if of == case}
        plot_coverage.chart(table).savefig(folder / f"coverage_{name}.png", dpi=150)
        for method in {"NUTS", "Laplace"} & set(table):
            plot_coverage.ranks(table[method]).savefig(folder / f"ranks_{name}_{method}.png", dpi=150)
            plot_coverage.ecdf(table[method]).savefig(folder / f"ecdf_{name}_{method}.png", dpi=150)


if __name__ == "__main__":
    main()
