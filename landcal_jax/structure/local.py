"""Candidates of one site: a bias of a driver, or of the observations of a stream, at one of several sites alone.

Each site is run with its own drivers, so that such a bias moves the predictions there and nowhere else: its direction is that of the same
bias at all sites, zero at the others, and no run is made for it. These candidates are tested, and share their prior chance, among
themselves, so that many sites do not drown what is wrong at all of them.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.observations import Observations
from landcal_jax.structure.expansions import Expansion

BIASES = ("driver", "observation")
"""The classes of candidates that may be there at one site alone."""


def local_candidates(candidates: Sequence, observations: Observations) -> tuple[tuple, tuple[tuple[int, int], ...]]:
    """Of `signals.Candidate` those of one site each, and the place of the candidate at all sites and of the site of each, (place, site).

    Only of sites that have values which count, and only where there are several such: of one they would be the same candidates twice.
    """
    counts = {name: (np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)).any(axis=1)
              for name, stream in observations.items()}
    anywhere = np.logical_or.reduce([*counts.values()])
    found, places = [], []
    for place, candidate in enumerate(candidates):
        seen = counts[candidate.group[1]] if candidate.kind == "observation" else anywhere
        if candidate.kind not in BIASES or seen.sum() < 2:
            continue
        for n in np.flatnonzero(seen):
            site = observations.sites[n]
            found.append(replace(candidate, name=f"{site}: {candidate.name}", group=(*candidate.group, site), site=site,
                                 words=f"{candidate.words} at {site}", detail=f"{candidate.detail} at {site}"))
            places.append((place, int(n)))
    return tuple(found), tuple(places)


def local_directions(D: np.ndarray, places: Sequence[tuple[int, int]], sites: np.ndarray) -> np.ndarray:
    """Directions (m, candidate) at all sites, followed by those of one site each; `sites` (m,): the site of each row."""
    if not places:
        return D
    of, at = np.array(places).T
    return np.concatenate([D, np.where(sites[:, None] == at, D[:, of], 0.0)], axis=1)


def at_site(expansion: Expansion, site: int) -> Expansion:
    """The expansion with drivers and predictions changed at this site alone."""
    def kept(values: Array) -> Array:
        return jnp.zeros_like(values).at[site].set(values[site])

    return Expansion(jax.tree.map(kept, expansion.drivers), expansion.coefficients, jax.tree.map(kept, expansion.predictions))
