"""Global search: minima that a local solver misses, honest counts, failed runs, the operators of the genetic algorithm, resuming."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.members import FailedRuns, Ran
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.search import CMAES, EDGE, GeneticAlgorithm
from landcal_jax.solvers import SolveError, Status
from landcal_jax.solving import solve

GA, ES = GeneticAlgorithm(), CMAES(generations=300)
SOLVERS = {"ga": GeneticAlgorithm(population=16, generations=8), "cma-es": CMAES(generations=12)}


class Rastrigin:
    """2 J = sum x^2 + 10 (1 - cos 2 pi x): a minimum near each whole number, 11^n of them, the lowest of zero at zero."""

    def __call__(self, theta):
        x = theta["x"]
        return {"y": jnp.concatenate([x, jnp.sqrt(10.0) * 2**0.5 * jnp.sin(jnp.pi * x)])[None]}


class Rosenbrock:
    """The banana, 2 J = (1 - a)^2 + 100 (b - a^2)^2, of which nothing runs where a is above `fails`."""

    def __init__(self, fails=np.inf):
        self.fails = fails

    def __call__(self, theta):
        a = jnp.where(theta["a"] > self.fails, jnp.nan, theta["a"])
        return {"y": jnp.stack([a, 10 * (theta["b"] - a**2)])[None]}


def rastrigin(n=3):
    space = ParameterSpace({"x": Parameter.uniform(-5.12 * np.ones(n), 5.12 * np.ones(n), default=3.2 * np.ones(n), dims="axis")},
                           coords={"axis": [str(i) for i in range(n)]})
    return Problem(space, FunctionForward(Rastrigin()), Observations({"y": Stream(np.zeros(2 * n), 0.3)}))


def rosenbrock(fails=np.inf):
    space = ParameterSpace({"a": Parameter.uniform(-2.0, 2.0, default=-1.2), "b": Parameter.uniform(-1.0, 3.0)})
    return Problem(space, FunctionForward(Rosenbrock(fails)), Observations({"y": Stream([1.0, 0.0], 0.1)}))


class Wave:
    """sin(k t) seen at 20 times: J has a minimum for every few waves more or less."""

    def __call__(self, theta):
        return {"y": jnp.sin(theta["k"] * jnp.arange(20.0) / 2 + theta["phase"])[None]}


def wave():
    space = ParameterSpace({"k": Parameter.uniform(0.2, 4.0, default=1.0), "phase": Parameter.normal(0.0, 0.5)})
    return Problem(space, FunctionForward(Wave()), Observations({"y": Stream(Wave()({"k": 3.1, "phase": 0.3})["y"], 0.1)}))


def answer(problem, solver, **options):
    return solve(problem, solver, **{"key": 0, "progress": False} | options)


RASTRIGIN, ROSENBROCK, WAVE = rastrigin(), rosenbrock(), wave()


# ------------------------------------------------------------------------------------------------------------- many minima


@pytest.mark.parametrize(("solver", "near"), [
    (GeneticAlgorithm(population=60, generations=60), 0.05), (CMAES(population=150, sigma=1.0), 1e-6)], ids=["ga", "cma-es"])
def test_the_lowest_of_a_thousand_minima_is_found(solver, near):
    local = answer(RASTRIGIN, LevenbergMarquardt())
    assert np.abs(local.theta["x"]).min() > 1.5  # stays where it begins, at 3.2
    for seed in range(3):
        result = answer(RASTRIGIN, solver, key=seed)
        assert np.abs(result.theta["x"]).max() < near and result.cost < local.cost / 10
        np.testing.assert_allclose(result.cost, RASTRIGIN.cost(result.z), rtol=1e-10)


@pytest.mark.parametrize(("solver", "above"), [(GeneticAlgorithm(population=40, generations=80), 0.05), (CMAES(), 1e-7)],
                         ids=["ga", "cma-es"])
def test_the_banana_is_walked_to_its_end(solver, above):
    lowest = answer(ROSENBROCK, LevenbergMarquardt()).cost
    result = answer(ROSENBROCK, solver)
    assert lowest - 1e-9 < result.cost < lowest + above
    assert float(ROSENBROCK.cost(ROSENBROCK.space.default_z)) > 300


@pytest.mark.parametrize("solver", [GA, CMAES(population=20, sigma=1.0, generations=40)], ids=["ga", "cma-es"])
def test_a_hybrid_ends_where_neither_half_does(solver):
    cold = answer(WAVE, LevenbergMarquardt())
    assert abs(cold.theta["k"] - 3.1) > 0.5 and cold.cost > 100
    found = answer(WAVE, solver)
    result = answer(WAVE, LevenbergMarquardt(), z0=found)
    np.testing.assert_allclose(result.theta["k"], 3.1, atol=1e-3)
    assert result.status is Status.CONVERGED and result.cost <= found.cost < 0.2 * cold.cost
    np.testing.assert_allclose(result.history["y"][0], found.terms["y"], rtol=1e-9)
    # The other way round: a search keeps what it starts from if it finds nothing lower.
    again = answer(WAVE, SOLVERS["ga"], z0=result)
    assert again.cost <= result.cost * (1 + 1e-12) and len(laplace(WAVE, again).z) == 1000


# ------------------------------------------------------------------------------------------------------------ counts and keys


@pytest.mark.parametrize("elite", [0, 1, 5])
def test_the_elite_is_not_run_again(elite):
    result = answer(ROSENBROCK, GeneticAlgorithm(population=12, generations=7, elite=elite))
    assert result.counts == {"forward": 12 + 6 * (12 - elite), "gradient": 0, "jvp": 0}
    assert result.status is Status.SEARCHED and "no lower minimum" in result.status.sentence
    assert len(result.history["y"]) == 7 and (np.diff(sum(result.history.values())) <= 1e-12).all()
    assert result.details["members_z"].shape == (12, 2) and np.isfinite(result.details["members_cost"]).all()
    if elite:
        np.testing.assert_allclose(result.details["members_cost"].min(), result.cost, rtol=1e-12)
    for z, cost in zip(result.details["members_z"], result.details["members_cost"], strict=True):
        np.testing.assert_allclose(ROSENBROCK.cost(jnp.asarray(z)), cost, rtol=1e-10)


def test_runs_of_cma_es_are_its_generations_and_the_first_guess():
    result = answer(ROSENBROCK, CMAES(population=9, generations=7))
    assert result.counts == {"forward": 1 + 7 * 9, "gradient": 0, "jvp": 0} and result.status is Status.MAX_STEPS
    end = answer(ROSENBROCK, CMAES())
    assert end.status is Status.COLLAPSED and "tolfun" in str(end.details["stopped_by"])
    assert end.counts["forward"] == 1 + 6 * len(end.history["y"])
    assert (np.diff(sum(end.history.values())) <= 1e-12).all()
    loose = answer(ROSENBROCK, CMAES(tolerance=1e-2))
    assert len(loose.history["y"]) < len(end.history["y"]) and end.cost < loose.cost < end.cost + 0.1


@pytest.mark.parametrize("name", SOLVERS)
def test_the_first_guess_runs_where_it_is(name):
    # Far out, where no gene can be: it is the best of the first generation if it is the lowest.
    best = answer(ROSENBROCK, LevenbergMarquardt())
    result = answer(ROSENBROCK, SOLVERS[name], z0=best, max_steps=1)
    np.testing.assert_array_equal(result.z, best.z)
    np.testing.assert_allclose(result.cost, best.cost, rtol=1e-12)
    state = SOLVERS[name].init(ROSENBROCK, jnp.array([7.0, -6.5]), jax.random.key(0))
    np.testing.assert_array_equal(SOLVERS[name].ask(ROSENBROCK, state)[0], [7.0, -6.5])


@pytest.mark.parametrize("name", SOLVERS)
def test_the_same_key_gives_the_same_bits_and_none_is_refused(name):
    one, same, other = (answer(RASTRIGIN, SOLVERS[name], key=key) for key in (3, 3, 4))
    np.testing.assert_array_equal(one.z, same.z)
    assert not np.array_equal(one.z, other.z)
    with pytest.raises(ValueError, match="(?s)seed or key.*key=None"):
        answer(RASTRIGIN, SOLVERS[name], key=None)


@pytest.mark.parametrize("done", [1, 5])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_search_goes_on_from_its_checkpoint_with_the_same_bits(name, done, tmp_path):
    solver, file = SOLVERS[name], tmp_path / "state.npz"
    whole = answer(RASTRIGIN, solver)
    answer(RASTRIGIN, solver, checkpoint=file, max_steps=done, throw=False)
    result = answer(RASTRIGIN, solver, checkpoint=file)
    finished = answer(RASTRIGIN, solver, checkpoint=file)
    for found in (result, finished):
        np.testing.assert_array_equal(found.z, whole.z)
        assert found.counts == whole.counts and found.status is whole.status
        for part in whole.history:
            np.testing.assert_array_equal(found.history[part], whole.history[part])
        for part, value in whole.details.items():
            np.testing.assert_array_equal(found.details[part], value)


def test_cma_es_can_be_asked_twice_and_go_back():
    # pycma cannot: what is asked for follows from the state alone, whatever was done with others.
    solver = CMAES(generations=9)
    states = [solver.init(ROSENBROCK, jnp.zeros(2), jax.random.key(0))]
    asked = []
    for _ in range(4):
        asked.append(np.asarray(solver.ask(ROSENBROCK, states[-1])))
        predicted = ROSENBROCK.ensemble(asked[-1])
        ran = Ran(jnp.asarray(asked[-1]), predicted, np.ones(len(asked[-1]), bool), len(asked[-1]), 0)
        states.append(solver.tell(ROSENBROCK, states[-1], ran))
    for state, members in zip(reversed(states[:4]), reversed(asked), strict=True):
        np.testing.assert_array_equal(solver.ask(ROSENBROCK, state), members)
        np.testing.assert_array_equal(solver.ask(ROSENBROCK, state), members)


ALONE = """
import os, sys, warnings
import numpy as np
import jax.numpy as jnp
import landcal_jax as lc

lc.configure()
space = lc.ParameterSpace({"a": lc.Parameter.normal(1.0, 0.5), "b": lc.Parameter.normal(1.0, 0.5)})
forward = lc.FunctionForward(lambda theta: {"y": jnp.stack([theta["a"], theta["b"]])[None]})
problem = lc.Problem(space, forward, lc.Observations({"y": lc.Stream([2.0, 0.5], 0.1)}))
solver = lc.CMAES()
assert "cma" not in sys.modules
open("cma_signals.in", "w").write("{'maxiter': 1}")
ends = []
for draws in (0, 7):
    np.random.rand(draws)
    before = np.random.get_state()
    result = lc.solve(problem, solver, key=0, progress=False)
    after = np.random.get_state()
    assert (before[1] == after[1]).all() and before[2:] == after[2:]
    assert len(result.history["y"]) > 9
    ends.append(np.asarray(result.z))
np.testing.assert_array_equal(*ends)
assert "cma" in sys.modules and not [one for one in warnings.filters if "NeverTested" in str(one)]
print(sorted(os.listdir()))
"""


def test_cma_es_leaves_the_world_alone(tmp_path):
    # No log, no words, no signals from files, no filter for warnings, and the global random numbers where they were.
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['cma_signals.in']\n" and done.stderr == ""


# ---------------------------------------------------------------------------------------------------------------- failing runs


@pytest.mark.parametrize("rule", ["leave out", "pull in"])
@pytest.mark.parametrize("solver", [GeneticAlgorithm(population=40, generations=30), CMAES(generations=200)], ids=["ga", "cma-es"])
def test_runs_that_fail_are_counted_and_never_the_result(solver, rule):
    # The truth is a = 1, and nothing runs above 0.8: the minimum lies at the cliff.
    problem = rosenbrock(fails=0.8)
    result = answer(problem, solver, failed=FailedRuns(rule, limit=0.9))
    assert result.status >= 0 and 0.3 < result.theta["a"] <= 0.8
    np.testing.assert_allclose(result.cost, problem.cost(result.z), rtol=1e-10)
    # 2.16 at the cliff itself, from 300 at the first guess.
    assert result.cost < (2.17 if isinstance(solver, CMAES) else 30)
    assert result.details["failed_runs"] > 20
    if rule == "leave out" and isinstance(solver, GeneticAlgorithm):
        failed = ~np.isfinite(result.details["members_cost"])
        a = [ROSENBROCK.space.physical(jnp.asarray(z))["a"] for z in result.details["members_z"]]
        np.testing.assert_array_equal(failed, np.array(a) > 0.8)
    clean = answer(ROSENBROCK, SOLVERS["ga" if isinstance(solver, GeneticAlgorithm) else "cma-es"])
    assert clean.details["failed_runs"] == 0


@pytest.mark.parametrize("name", SOLVERS)
def test_where_nothing_runs_is_refused(name):
    problem = rosenbrock(fails=-3.0)
    with pytest.raises(RuntimeError, match="all of them"):
        answer(problem, SOLVERS[name])
    with pytest.raises(SolveError) as caught:
        answer(problem, SOLVERS[name], failed=FailedRuns(limit=1.0))
    result = caught.value.result
    assert result.status is Status.NOT_FINITE and result.counts["forward"] == result.details["failed_runs"] > 5


def test_members_that_were_pulled_in_are_kept_where_they_ran():
    problem = rosenbrock(fails=0.8)
    state = GA.init(problem, problem.space.default_z, jax.random.key(0))
    asked = np.asarray(GA.ask(problem, state))
    ran_at, finished = asked.copy(), np.ones(30, bool)
    ran_at[3], finished[7] = 0.1, False
    ran = Ran(jnp.asarray(ran_at), ROSENBROCK.ensemble(ran_at), finished, 31, 1)
    state = GeneticAlgorithm(generations=1).tell(problem, state, ran)
    np.testing.assert_array_equal(state.members[3], [0.1, 0.1])
    np.testing.assert_allclose(state.costs[3], ROSENBROCK.cost(jnp.array([0.1, 0.1])), rtol=1e-10)
    assert np.isinf(state.costs[7]) and np.isfinite(np.delete(state.costs, 7)).all()


# -------------------------------------------------------------------------------------------------------- operators and settings


def test_the_first_generation_is_a_latin_hypercube_with_the_first_guess():
    state = GeneticAlgorithm(population=21).init(RASTRIGIN, RASTRIGIN.space.default_z, jax.random.key(1))
    members = np.asarray(GA.ask(RASTRIGIN, state))
    np.testing.assert_array_equal(members[0], RASTRIGIN.space.default_z)
    # One of 20 in each twentieth of the range of each parameter.
    x = np.asarray(jax.vmap(RASTRIGIN.space.physical)(jnp.asarray(members[1:]))["x"])
    for column in x.T:
        np.testing.assert_array_equal(np.sort(np.floor((column + 5.12) / 10.24 * 20)), np.arange(20))


def test_crossover_stays_between_the_parents_and_within_the_bounds():
    rng = np.random.default_rng(0)
    low, high = np.array([0.2, EDGE, 0.5]), np.array([0.4, 0.3, 1 - EDGE])
    parents = np.broadcast_to(np.where(rng.random((20_000, 1, 3)) < 0.5, np.stack([low, high]), np.stack([high, low])), (20_000, 2, 3))
    plain = GeneticAlgorithm(blend=0.0)._crossed(parents, rng)
    assert (plain >= low).all() and (plain <= high).all()
    np.testing.assert_allclose(plain.mean(axis=0), (low + high) / 2, atol=0.005)
    wide = GeneticAlgorithm(blend=0.5)._crossed(parents, rng)
    assert (wide >= EDGE).all() and (wide <= 1 - EDGE).all()
    np.testing.assert_allclose((wide.min(axis=0), wide.max(axis=0)), [[0.1, 0, 0.25], [0.5, 0.45, 1]], atol=0.002)
    # Uniform over what is left within the bounds, not heaped up at the edge.
    np.testing.assert_allclose(wide.mean(axis=0), [0.3, 0.225, 0.625], atol=0.005)
    twins = np.broadcast_to(low, (5, 2, 3))
    np.testing.assert_allclose(GA._crossed(twins, rng), twins[:, 0])


@pytest.mark.parametrize("mutated", [1, 3])
def test_a_mutation_draws_its_genes_anew(mutated):
    rng = np.random.default_rng(0)
    parents = np.full((20_000, 4), 0.123)
    children = GeneticAlgorithm(mutated=mutated)._mutants(parents, rng)
    new = children != parents
    assert (new.sum(axis=1) == mutated).all()
    np.testing.assert_allclose(new.mean(axis=0), mutated / 4, atol=0.02)
    np.testing.assert_allclose(np.quantile(children[new], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)


def test_better_members_are_parents_more_often():
    # The chance to win a tournament of k: of two among four (7, 5, 3, 1) / 16; of one every member has the same.
    np.testing.assert_allclose(GeneticAlgorithm(tournament=2)._chances(4), np.array([7, 5, 3, 1]) / 16)
    np.testing.assert_allclose(GeneticAlgorithm(tournament=1)._chances(5), 0.2)
    # In generations: four children of five by crossover, no gene of a mutant but one is new, and no parent that failed.
    solver, rng = GeneticAlgorithm(population=12, elite=2, mutated=1, tournament=1), np.random.default_rng(0)
    members, costs = rng.standard_normal((12, 3)), np.arange(12.0)
    costs[:6] = np.inf
    for _ in range(20):
        bred, known = solver._bred(members, costs, rng)
        np.testing.assert_array_equal(bred[:2], members[[6, 7]])
        np.testing.assert_array_equal(known, [6.0, 7.0, *[np.nan] * 10])
        inherited = np.isclose(bred[2:, None], members).sum(axis=2)  # (child, member)
        assert (inherited.max(axis=1) == 2).sum() == 2 and (inherited[:, :6] < 2).all()
    alone = np.full(12, np.inf)
    alone[4] = 1.0
    bred, known = solver._bred(members, alone, rng)
    assert np.isfinite(known).sum() == 1 and (np.isclose(bred, members[4]).sum(axis=1)[1:] == 2).all()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: GeneticAlgorithm(population=1), "two members"), (lambda: GeneticAlgorithm(generations=0), "a generation"),
    (lambda: GeneticAlgorithm(elite=30), "elite"), (lambda: GeneticAlgorithm(crossover=1.2), "share of crossovers"),
    (lambda: GeneticAlgorithm(tournament=31), "tournament"), (lambda: GeneticAlgorithm(blend=-0.1), "blend"),
    (lambda: GeneticAlgorithm(mutated=0), "mutated"), (lambda: answer(ROSENBROCK, GeneticAlgorithm(mutated=3)), "at most 2 mutated"),
    (lambda: CMAES(sigma=0.0), "sigma"), (lambda: CMAES(tolerance=-1.0), "tolerance"), (lambda: CMAES(population=5), "six members"),
    (lambda: CMAES(generations=0), "generation"), (lambda: answer(rastrigin(1), CMAES()), "(?s)two parameters.*GeneticAlgorithm")])
def test_wrong_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_one_parameter_is_enough_for_the_genetic_algorithm():
    assert np.abs(answer(rastrigin(1), GA).theta["x"]).max() < 0.01
