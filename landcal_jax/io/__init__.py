"""Readers of the field's files. Whatever the format, one site is one Dataset in the same normal form.

    import landcal_jax as lc
    ds = lc.io.read("FLX_FI-Hyy_FLUXNET2015_FULLSET_HH_1996-2014_1-4.csv", latitude=61.85, longitude=24.29)
    print(ds.attrs["history"])       # what was recognised, masked, corrected: a sentence a line, with counts
    drivers = lc.io.read_forcing(...)  # daily, complete: what a model runs on
    fluxes = lc.io.read_flux(...)      # daily, NaN where nothing was observed: what is calibrated against

`landcal_jax.io.normal` describes the normal form, and how to read a format of your own with one function;
`landcal_jax.io.quantities` lists names and units; `landcal_jax.io.formats` the formats.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
