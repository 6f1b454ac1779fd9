"""A file format of your own, read with one function.

Your files need not look like those of any network. A reader is a function from a path to one call of
`landcal_jax.io.normalise`, which converts the units, turns fill values into NaN, labels each step by its start, refuses what cannot
be, and says what it did. Afterwards everything works with your files as with those of FLUXNET:

    python examples/own_reader.py                                                # makes tower.txt and reads it
    landcal inspect tower.txt --reader examples/own_reader.py:read_mine
    landcal calibrate --forcing met.txt --flux tower.txt --reader examples/own_reader.py:read_mine
"""

from pathlib import Path

import numpy as np
import pandas as pd

import landcal_jax as lc


def read_mine(path):
    """Half-hours of a tower: the end of each step, CO2 flux in umol m-2 s-1, its quality (0 is measured), temperature in K."""
    table = pd.read_csv(path, sep="\t")
    return lc.io.normalise(
        {
            # name of the normal form: (values, unit in the file, name in the file)
            "nee": lc.io.Column(table["Fc"], "umol m-2 s-1", "Fc"),
            "nee_filled": (table["quality"] > 0, "1"),
            "temperature": lc.io.Column(table["T"], "K", "T"),
        },
        time=table["end of step"], label="end", fills=[-999.0],
        path=path, site="XX-Own", latitude=46.1, longitude=11.3, source="my tower", license="mine",
    )


def make_file(path):
    """Two days that look like a forest in June, with a gap of two hours."""
    hours = np.arange(96) / 2
    light = np.clip(np.sin(np.pi * (hours % 24 - 5) / 14), 0, None)
    flux = np.where((hours >= 30) & (hours < 32), -999.0, np.round(3 - 18 * light, 3))
    pd.DataFrame({
        "end of step": pd.date_range("2005-06-01 00:30", periods=96, freq="30min"), "Fc": flux, "quality": (hours % 24 < 3).astype(int),
        "T": np.round(285 + 8 * light, 2)}).to_csv(path, sep="\t", index=False)


if __name__ == "__main__":
    path = Path("tower.txt")
    make_file(path)
    ds = lc.io.read(path, reader=read_mine)
    print(ds.attrs["history"], "\n")
    print(lc.io.daily(ds)["nee"].to_series().round(3).to_string())
