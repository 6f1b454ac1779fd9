"""Small regions of the unit cube whose volume is known: is it found, and are the points uniform in them?"""

import numpy as np
import pytest
from scipy.special import gamma
from scipy.stats import kstest

from landcal_jax.nroy import begin, shrink


def radius(u):
    return np.sqrt(((u - 0.5) ** 2).sum(axis=1))


def ball(n, r):
    return np.pi ** (n / 2) / gamma(n / 2 + 1) * r**n


def boxes(u):
    """Two cubes far apart, of half widths 0.03 and 0.04."""
    return np.minimum(np.abs(u - 0.2).max(axis=1) / 0.03, np.abs(u - 0.75).max(axis=1) / 0.04)


def slab(u):
    """Thin and slanting: neighbours differ by 0.02 at most, and the first coordinate is anywhere in 0.1 to 0.9."""
    return np.maximum(np.abs(np.diff(u, axis=1)).max(axis=1), np.abs(u[:, 0] - 0.5) / 20)


def shell(u):
    return np.abs(radius(u) - 0.4)


REGIONS = {
    "ball": (radius, 6, 0.07, ball(6, 0.07)), "small ball of many": (radius, 12, 0.25, ball(12, 0.25)),
    "shell": (shell, 4, 0.002, ball(4, 0.402) - ball(4, 0.398)), "boxes": (boxes, 4, 1.0, 0.06**4 + 0.08**4),
    "slab": (slab, 5, 0.02, 0.8 * 0.04**4), "corner": (lambda u: u.max(axis=1), 5, 0.1, 1e-5),
}


@pytest.mark.parametrize("name", REGIONS)
def test_volumes_are_within_their_error_bars(name):
    score, n, cutoff, volume = REGIONS[name]
    clouds = [shrink(begin(n, points=2048, key=key), score, cutoff, key=key) for key in range(4)]
    found, errors = (np.array([getattr(cloud, what) for cloud in clouds]) for what in ("fraction", "fraction_error"))
    assert (errors < 0.25 * volume).all()
    # Errors of eight batches have seven degrees of freedom; that of the mean of four runs is the better test.
    assert (np.abs(found - volume) < 5 * errors).all()
    assert abs(found.mean() - volume) < 3.5 * np.sqrt((errors**2).mean() / 4)
    assert all((score(cloud.points) <= cutoff).all() for cloud in clouds)


def test_points_are_uniform_in_a_ball():
    # The share of the ball inside of a point is uniform; neighbours share parents, so that they count for less than they are.
    cloud = shrink(begin(6, points=2048, key=3), radius, 0.07, key=4, correlation=0.1)
    draws = cloud.draws(200, key=0)
    assert kstest((radius(draws) / 0.07) ** 6, "uniform").pvalue > 0.01
    assert len(np.unique(draws, axis=0)) == 200
    np.testing.assert_allclose(cloud.points.mean(axis=0), 0.5, atol=5 * 0.025 / np.sqrt(500))


def test_points_are_uniform_along_a_thin_slab_and_in_both_boxes():
    cloud = shrink(begin(5, points=2048, key=1), slab, 0.02, key=1)
    assert kstest((cloud.draws(150, key=0)[:, 0] - 0.1) / 0.8, "uniform").pvalue > 0.01
    cloud = shrink(begin(4, points=2048, key=1), boxes, 1.0, key=1)
    share = np.average(cloud.points[:, 0] > 0.5, weights=np.repeat(cloud.fractions, cloud.u.shape[1]))
    assert abs(share - 0.08**4 / (0.06**4 + 0.08**4)) < 0.1


def test_steps_that_slant_and_leave_the_cube_stay_uniform():
    # Reflected at the sides, such steps would not be symmetric: the slab through the corner came out six times too large.
    cloud = shrink(begin(3, points=4096, key=0), lambda u: np.abs(np.diff(u, axis=1)).max(axis=1), 0.02, key=2)
    # The volume is that of a walk of two steps of up to 0.02 that stays inside.
    rng = np.random.default_rng(0)
    walk = np.cumsum(np.column_stack([rng.random(400_000), rng.uniform(-0.02, 0.02, (400_000, 2))]), axis=1)
    volume = 0.04**2 * ((walk > 0) & (walk < 1)).all(axis=1).mean()
    assert abs(cloud.fraction - volume) < 4 * cloud.fraction_error < 0.3 * volume


def test_a_region_can_be_shrunk_in_stages():
    key = 5
    first = shrink(begin(4, points=2048, key=key), radius, 0.2, key=key)
    inside = lambda u: radius(u) <= 0.2  # noqa: E731
    second = shrink(first, lambda u: np.abs(u[:, 0] - 0.5), 0.05, inside=inside, key=key)
    assert (radius(second.points) <= 0.2).all()
    rng = np.random.default_rng(0)
    u = rng.random((2_000_000, 4)) * 0.4 + 0.3
    volume = 0.4**4 * ((radius(u) <= 0.2) & (np.abs(u[:, 0] - 0.5) <= 0.05)).mean()
    assert abs(second.fraction - volume) < 4 * second.fraction_error
    assert second.evaluations > first.evaluations


def test_nothing_is_found_where_nothing_is():
    cloud = shrink(begin(3, points=512, key=0), lambda u: 1.0 + radius(u), 0.9, key=0, least=1e-6)
    assert cloud.empty and cloud.fraction == 0.0 and cloud.fraction_error == 1e-6
    assert 1.0 < cloud.lowest < 1.01
    with pytest.raises(ValueError, match="a region with 10 points"):
        cloud.draws(10)
    plateau = shrink(begin(3, points=512, key=0), lambda u: np.ones(len(u)), 0.5, key=0)
    assert plateau.empty


def test_the_whole_cube_passes_without_a_step():
    cloud = shrink(begin(3, points=512, key=0), radius, 1.0, key=0)
    assert cloud.fraction == 1.0 and cloud.fraction_error == 0.0 and cloud.evaluations == 512


def test_the_same_key_gives_the_same_points():
    one, two = (shrink(begin(3, points=512, key=2), radius, 0.1, key=7) for _ in range(2))
    np.testing.assert_array_equal(one.u, two.u)
    assert not np.array_equal(one.u, shrink(begin(3, points=512, key=2), radius, 0.1, key=8).u)


@pytest.mark.parametrize(("what", "words"), [
    (lambda: begin(3, points=500), "a power of two"), (lambda: begin(40, points=512), "80 at least"),
    (lambda: shrink(begin(3, points=512), lambda u: np.full(len(u), np.nan), 1.0), "none of them NaN"),
    (lambda: shrink(begin(3, points=512), radius, 0.1, keep=1.0), "keep in 0.1 to 0.9")])
def test_mistakes_are_said(what, words):
    with pytest.raises(ValueError, match=words):
        what()
