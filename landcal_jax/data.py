"""The catalogue of public data behind `landcal calibrate --site NAME`: what, from where, under which licence.

Every file is pinned to a commit of its public repository and to a SHA256 checksum; none is part of this package. A
file is taken from the folder that the environment variable LANDCAL_DATA names, where it exists there, and is
otherwise downloaded into the user's cache folder, once. Listed are the sites that have both observed fluxes of CalLMIP
Phase 1 and daily drivers: drivers measured at the tower (DifferLand, nine years with daily extremes of temperature)
where they exist, otherwise those of a reanalysis (FluxDataKit).
"""

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import sha256
from landcal_jax.io.model_data import align, drivers, fluxes
from landcal_jax.io.readers.callmip_flux import CALLMIP, FLUXNET2015, LICENCE, PLUMBER2, read_callmip
from landcal_jax.io.readers.differland import DIFFERLAND, DIFFERLAND_LICENCE, read_differland
from landcal_jax.io.readers.fluxdatakit import FLUXDATAKIT, FLUXDATAKIT_LICENCE, WFDEI, read_fluxdatakit

DOUGLAS2025 = ("Douglas, N., Quaife, T. and Bannister, R. (2025): Exploring a hybrid ensemble-variational data "
               "assimilation technique (4DEnVar) with a simple ecosystem carbon model. Environmental Modelling and "
               "Software 186, 106361. https://doi.org/10.1016/j.envsoft.2025.106361")

GITHUB = "https://raw.githubusercontent.com"
CALLMIP_URL = f"{GITHUB}/callmip-org/Phase1/4101e36679de42789fbd600f4ee69d0cf16b78fc/Data/Phase1b"
DIFFERLAND_URL = f"{GITHUB}/JianingFang/DifferLand_v1.0/d951012a562be079e42f6182d959f9caab158b2f/drivers"
FLUXDATAKIT_URL = f"{GITHUB}/geco-bern/FluxDataKit/84c183812bf7ed4a9d925042e2bf67490e1b0512/data/p_model_drivers"
DOUGLAS_URL = (f"{GITHUB}/NatalieDouglas/4DEnVar/b01c7c85df94b77150f18ca6cfb9041b8540e970/"
               "ToyCarbonModel_GitHub_Final")


class DataNotFound(RuntimeError):
    """A file of the catalogue is neither on this machine nor to be had from its source."""


@dataclass(frozen=True)
class Source:
    """One public file: `path` below the data folder, the pinned `url`, checksum, size, licence and citation."""

    path: str
    url: str
    sha256: str
    bytes: int
    licence: str
    citation: str

    def record(self) -> dict[str, str]:
        """What an output file says about this input, ready for JSON."""
        return {"file": Path(self.path).name, "sha256": self.sha256, "source": self.url, "license": self.licence,
                "citation": self.citation}


@dataclass(frozen=True)
class Site:
    """A site with fluxes and drivers; `igbp` is its land cover (FLUXNET2015), `coordinates` dates DifferLand files."""

    name: str
    igbp: str
    flux: Source
    forcing: Source
    coordinates: Source | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files that `load_site` reads."""
        return tuple(source for source in (self.flux, self.forcing, self.coordinates) if source is not None)


def _callmip(name: str, size: int, checksum: str) -> Source:
    name = f"{name}_FLUXNET2015_Flux.nc"
    return Source(f"flux_daily/callmip_phase1/{name}", f"{CALLMIP_URL}/{name}", checksum, size, LICENCE,
                  "\n".join((FLUXNET2015, PLUMBER2, CALLMIP)))


def _differland(name: str, size: int, checksum: str) -> Source:
    return Source(f"flux_daily/differland/{name}", f"{DIFFERLAND_URL}/{name}", checksum, size, DIFFERLAND_LICENCE,
                  "\n".join((FLUXNET2015, DIFFERLAND)))


def _fluxdatakit(name: str, size: int, checksum: str) -> Source:
    return Source(f"flux_daily/fluxdatakit/{name}", f"{FLUXDATAKIT_URL}/{name}", checksum, size, FLUXDATAKIT_LICENCE,
                  "\n".join((FLUXDATAKIT, WFDEI)))


def _douglas(name: str, size: int, checksum: str) -> Source:
    return Source(f"envar/douglas2025/{name}", f"{DOUGLAS_URL}/{name}", checksum, size,
                  "none stated: linked to, never redistributed", DOUGLAS2025)


COORDINATES = _differland("site_coords.csv", 967, "f340dea00f90d54484cd6cec4e35b1b163445b5e2c120645bbfd8c6a3ba9d3ce")

_SITES = (
    Site("AU-How", "WSA",
         _callmip("AU-How_daily_aggregated_2003-2014", 145076,
                  "2f790f44aeb48b859b623e8d811fbc343b24360c8c52f96d10ab329e041a6abb"),
         _differland("AU-How.nc", 733129, "6beb2311869d85ce97c5b656103ed1c92d8fed12a56befea344d40d285138831"),
         COORDINATES),
    Site("DE-Tha", "ENF",
         _callmip("DE-Tha_daily_aggregated_1998-2014", 203784,
                  "f3a94a443158fd96f9806088ba8aa42eedf3382dacb03c7c5a1c5a4693e2defe"),
         _differland("DE-Tha.nc", 733337, "e76b227de0478523c158f3272b50daea95e5f577949b93a334577d47ef06dc8e"),
         COORDINATES),
    Site("DK-Sor", "DBF",
         _callmip("DK-Sor_daily_aggregated_1997-2014", 215076,
                  "f60b0bc3f54109ac96da0e1ad12f98ce030662eaba725d6b51ed55df304f74b7"),
         _fluxdatakit("DK-Sor.rds", 489523,
                      "1395777086c0d6019691376f9f66bca6f9220f244517ae1303481d05440e4d29")),
    Site("FI-Hyy", "ENF",
         _callmip("FI-Hyy_daily_aggregated_1996-2014", 227184,
                  "78171254dd3b0b3995c9c7ac46f6d81f17a81c2d860be4db844dea6b9aeaf0fb"),
         _differland("FI-Hyy.nc", 733129, "5a3df71b9dd3562e5d3206844425ad12260734e86c870c214efdb5b430c764b8"),
         COORDINATES),
    Site("FR-Pue", "EBF",
         _callmip("FR-Pue_daily_aggregated_2000-2014", 180232,
                  "581c0d5737dee45eb964c0958689046ec3df9441823bb8221a73c5e749bd933d"),
         _differland("FR-Pue.nc", 733129, "2d2ee2dc0ce67e7f0247e59dc7bd39b9d29ada544d7191e87d6c07ce997e8edd"),
         COORDINATES),
    Site("IT-Noe", "CSH",
         _callmip("IT-Noe_daily_aggregated_2004-2014", 134352,
                  "8bd4da590c14fcb4e2fdc3115e159e24335616df72af37375c2bcb4195eba640"),
         _fluxdatakit("IT-Noe.rds", 232563,
                      "1bcc4a2d17a6e579de2b187f70164d7000261e041e4b831a74002b0d7a86aea3")),
    Site("NL-Loo", "ENF",
         _callmip("NL-Loo_daily_aggregated_1997-2013", 203484,
                  "e48b48c9b0d7a92af32345e66bddb92282fc4f8c7c3325a983c7794377ccdac4"),
         _differland("NL-Loo.nc", 733129, "352c6ca99e01e9b301768e1a57b7f48d21f9d40edbe087819704a0783ffbc953"),
         COORDINATES),
    Site("RU-Fyo", "ENF",
         _callmip("RU-Fyo_daily_aggregated_2003-2014", 145044,
                  "bd18725a81bbf813db63affdc891114411d04bf53871376e66f4633ec5db9ab8"),
         _differland("RU-Fyo.nc", 733129, "742ad944dfb67c045eccd093afd4aabae6529f8f0404f9b6b4c2176026b98e52"),
         COORDINATES),
    Site("US-SRG", "GRA",
         _callmip("US-SRG_daily_aggregated_2009-2014", 74876,
                  "3a5a85be10fb5fdf30e620455356daed427561f689b4702e3951d346aa131979"),
         _differland("US-SRG.nc", 733337, "e2c9f8158a5c944b9fee9d39e7c46273a103dbdf7b2ce05b7de0bfb9ddc53e5c"),
         COORDINATES),
)

# The toy carbon model of Douglas et al. (2025), for the benchmark of ensemble-variational methods.
DOUGLAS_FILES = (
    _douglas("forcing.npy", 9736, "f2b51749fb771f01df9d9a7d9f87efc45196be961fa8bceb4146f7c224e77fc4"),
    _douglas("ideal_ensemble_200_C2.npy", 6528, "5a979f3639228031caabda7b32d9b0b0d1e49fafd06380f9a12fa281540af267"),
    _douglas("ideal_ensemble_50.npy", 1728, "578306fdcf22b366dccc93e70d47359345c9a81428852ab3cfa63d21456feb9e"),
    _douglas("ideal_ensemble_50_B.npy", 1728, "bf82476505e2b56ac475503c534355c0d5c9a9ea54ccfcf72ee781f476386533"),
)


def sites() -> list[Site]:
    """The sites of the catalogue, in alphabetical order."""
    return list(_SITES)


def find_site(name: str) -> Site:
    """Return the site called `name`, such as "FI-Hyy", in any case; ValueError with close matches otherwise."""
    known = {site.name.lower(): site for site in _SITES}
    if name.strip().lower() in known:
        return known[name.strip().lower()]
    close = [known[match].name for match in difflib.get_close_matches(name.strip().lower(), known, n=3, cutoff=0.5)]
    names = ", ".join(site.name for site in _SITES)
    raise ValueError(complain(f"a site of the catalogue ({names})", repr(name),
                              (f"did you mean {' or '.join(close)}? Otherwise " if close else "")
                              + "give your own files with --forcing and --flux"))


def cache_folder() -> Path:
    """Where downloads are kept: the folder `data` in this user's cache folder for landcal_jax."""
    return platformdirs.user_cache_path("landcal_jax") / "data"


def fetch(source: Source, *, progress: bool = False, base_url: str | None = None) -> Path:
    """Return the path of a file of the catalogue on this machine, its checksum verified.

    It is looked for in the folder that LANDCAL_DATA names, then in the cache folder, then downloaded (complete or not
    at all). `base_url`, or the environment variable LANDCAL_DATA_URL, names a mirror that keeps the same folders.

    Raises DataNotFound when the file cannot be had, ValueError when what was found has a wrong checksum.
    """
    folder = os.environ.get("LANDCAL_DATA")
    if folder:
        if not Path(folder).is_dir():
            raise ValueError(complain("a folder in the environment variable LANDCAL_DATA", f"no folder {folder}",
                                      "correct it, or unset it to download what is needed"))
        local = Path(folder) / source.path
        if local.is_file():
            found = sha256(local)
            if found != source.sha256:
                raise ValueError(_wrong_checksum(source, found, f"the file {local}", "remove it, or replace it by"))
            return local
    base_url = base_url or os.environ.get("LANDCAL_DATA_URL")
    url = f"{base_url.rstrip('/')}/{source.path}" if base_url else source.url
    return _download(source, url, progress)


def _wrong_checksum(source: Source, found: str, where: str, advice: str) -> str:
    return complain(f"{Path(source.path).name} with SHA256 {source.sha256}", f"{where} with SHA256 {found}",
                    f"{advice} {source.url}")


def _download(source: Source, url: str, progress: bool) -> Path:
    """Return the cached file, downloading it if it is not there; pooch verifies it before it gets its name."""
    import pooch
    import requests

    target, logger = cache_folder() / source.path, pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # pooch announces each download on stderr; a library stays silent
    try:
        return Path(pooch.retrieve(url, known_hash=f"sha256:{source.sha256}", fname=target.name, path=target.parent,
                                   downloader=pooch.HTTPDownloader(progressbar=progress)))
    except ValueError as error:
        match = re.search(r"but got '?([0-9a-f]{64})", str(error))
        if match is None:
            raise
        raise ValueError(_wrong_checksum(
            source, match[1], f"a download from {url}",
            "try again (a network that rewrites downloads can cause this), or fetch it by hand from")) from error
    except requests.exceptions.RequestException as error:
        status = getattr(error.response, "status_code", None)
        reason = f"HTTP status {status}" if status else type(error).__name__
        raise DataNotFound(complain(
            f"{target.name} ({source.bytes} bytes) on this machine or from {url}", f"no copy, and no download ({reason})",
            f"set LANDCAL_DATA to a folder that holds it as {source.path}; `landcal calibrate` without --site runs a twin experiment "
            "and needs no download")) from error
    finally:
        logger.setLevel(level)


def load_site(name: str, *, progress: bool = False,
              base_url: str | None = None) -> tuple[xr.Dataset, xr.Dataset, tuple[Source, ...]]:
    """Return drivers and observed fluxes of a site on the same days, and the files they come from.

    Both Datasets are in the normal form of `landcal_jax.io`; the days are those of the drivers.
    """
    site = find_site(name)
    paths = {source: fetch(source, progress=progress, base_url=base_url) for source in site.sources}
    if site.coordinates is None:
        forcing = drivers(read_fluxdatakit(paths[site.forcing]))
    else:
        forcing = drivers(read_differland(paths[site.forcing], coordinates=paths[site.coordinates]))
    flux = fluxes(read_callmip(paths[site.flux]))
    for dataset, source in ((forcing, site.forcing), (flux, site.flux)):
        dataset.attrs["source"] = f"{dataset.attrs['source']}, {source.url}"
    forcing, flux = align(forcing, flux)
    return forcing, flux, site.sources


def citation(sources: Iterable[Source]) -> str:
    """Return the text that a user of these files prints: each file with its licence, then each reference once."""
    sources = list(sources)
    files = [f"{Path(source.path).name}: {source.licence}\n  {source.url}" for source in sources]
    references = dict.fromkeys(line for source in sources for line in source.citation.split("\n"))
    return "\n".join(["Data", *files, "", "References", *references])
