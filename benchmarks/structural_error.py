"""Does the structural report name the error of a model? Twins of DALEC with water, each with an error planted in it.

Truth: daily NEE and latent heat of six years of generated weather, 60 % of the days observed, errors 0.6 gC m-2 d-1 and 10 W m-2. Ten
draws of each case: weather, gaps and noise change with the seed. The model is calibrated from 4 starts with the default solver and
examined (`landcal_jax.structure.examine`) with its default alarm, and the same candidates for all cases. Counted is

* without an error: how often the report is quiet, that is raises no alarm of any kind;
* without one at three sites of two years each, which share their parameters and differ in weather: the same;
* with respiration that has an optimum of temperature (calibrated: exponential), with water stress that the calibrated model lacks, and
  with radiation given to it that is 2 MJ m-2 d-1 too high, or 3 at one of the three sites: how often the top finding names the
  planted error, and the site.

With `--others`, cases without a target: subtler, or such that parameters can take them up. Radiation that is 15 % too high, or
temperature that is 2 K too high, leave no trace in these data: canopy efficiency and evaporation per radiation take up the first,
the second moves a reference that turnover rates follow; J is that of the right forcing to a tenth, and a quiet report is the right
one. A bias of precipitation can hardly be told from one of latent heat, which the report says.

What was tried: ordering candidates by their t alone names the wrong one of similar candidates where the error is large (the model is
not linear from its own optimum to that of the truth), so the likely ones are calibrated anew. Without a prior on the size of
coefficients, parameters that hardly matter win with absurd ones.
"""

import collections

import harness


def one_draw(case, seed: int):
    """(findings, J) of one twin."""
    from structural_cases import problem_of

    import landcal_jax as lc
    from landcal_jax import structure
    from landcal_jax.calibration import default_solver

    problem = problem_of(case, seed)
    result = lc.solve(problem, default_solver(number=4), key=seed, progress=False)
    return structure.examine(problem, result, seed=seed), result.cost


def shown(case, findings) -> str:
    """What a report says first, in a few words."""
    top = findings.top
    return "quiet" if top is None else " x ".join(top.numbers["group"]) if "group" in top.numbers else f"{top.kind} {top.subject}".strip()


def main() -> None:
    """Run all draws and count."""
    bench = harness.Benchmark("structural_error", __doc__, cores=None, cache=True, options=lambda parser: [
        parser.add_argument("--others", action="store_true", help="cases without a target too"),
        parser.add_argument("--draws", type=int, default=10, help="noise draws of each case"),
        parser.add_argument("--first", type=int, default=0, help="seed of the first draw"),
        parser.add_argument("--only", default="", help="cases with this in their name alone")])
    from structural_cases import OTHERS, TARGETED

    draws = 1 if bench.quick else bench.arguments.draws
    cases = (*TARGETED, *(OTHERS if bench.arguments.others else ()))
    for case in (each for each in cases if bench.arguments.only in each.name):
        said = []
        named = 0
        for seed in range(bench.arguments.first, bench.arguments.first + draws):
            findings, cost = one_draw(case, seed)
            said.append(shown(case, findings))
            named += findings.quiet if case.answer is None else findings.top is not None and case.answer(findings.top.numbers.get("group"))
            print(f"{case.name}, draw {seed}: J = {cost:.1f}: {said[-1]}", flush=True)
            if bench.figures_folder is not None and seed == bench.arguments.first:
                findings.write(bench.figures_folder / f"structure_{case.name.replace(' ', '_')}.html")
        what = "quiet" if case.answer is None else "named"
        bench.figure(f"{case.name}: {what}, of {draws}", named, "draws", ">= 8" if case in TARGETED and draws == 10 else None)
        print("   ", ", ".join(f"{words} {number}" for words, number in collections.Counter(said).most_common()), flush=True)
    bench.finish()


if __name__ == "__main__":
    main()
