"""What a result says in plain words: one function for every Dataset that has findings.

    print("\\n".join(lc.sentences(lc.morris(problem, runs=690, key=0))))
"""

import json
from typing import TYPE_CHECKING

from landcal_jax.errors import complain

if TYPE_CHECKING:
    import xarray


def sentences(ds: "xarray.Dataset") -> list[str]:
    """The findings of a Dataset in plain words, with what to do: of sensitivity, scorecards, identifiability and what to observe next.

    They stand in `ds.attrs["sentences"]` as JSON, in files too. Raises ValueError for a Dataset without them.
    """
    if "sentences" not in ds.attrs:
        raise ValueError(complain("a Dataset of scorecard, sensitivity, identifiability, expected_posterior or rank_observations",
                                  "one without sentences", "keep its attrs (xarray.set_options(keep_attrs=True))"))
    return json.loads(ds.attrs["sentences"])
