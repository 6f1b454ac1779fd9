"""The compiled peer: builds `dalec400.c` with the machine's C compiler and calls it on NumPy arrays.

The library lies in `benchmarks/_build`, named by the checksum of the source, the compiler and its options, so that it
is rebuilt when one of them changes and two processes never write the same half-made file.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from landcal_jax.errors import complain

SOURCE = Path(__file__).with_name("dalec400.c")
BUILD = Path(__file__).with_name("_build")
OPTIONS = ("-O3", "-march=native", "-shared", "-fPIC")
N_POOLS, N_PREPARED = 6, 6


class CompiledRun(NamedTuple):
    """What one run of the compiled model gives."""

    pools: np.ndarray  # (n + 1, 6) gC m-2
    nee: np.ndarray  # (n,) gC m-2 d-1, positive to the atmosphere
    gpp: np.ndarray  # (n,) gC m-2 d-1
    lai: np.ndarray  # (n,) m2 m-2


def compiler() -> str | None:
    """Return the C compiler of this machine: the environment variable `CC`, or `cc`, or None."""
    return shutil.which(os.environ.get("CC", "cc"))


def build() -> Path:
    """Compile the source, unless that was done before, and return the library's path."""
    cc = compiler()
    if cc is None:
        raise FileNotFoundError(complain(
            "a C compiler called `cc`", "none on the search path",
            "install one (Debian: `apt-get install gcc`) or name it by the environment variable CC"))
    version = subprocess.run([cc, "--version"], capture_output=True, text=True, check=True).stdout
    checksum = hashlib.sha256(f"{SOURCE.read_text()}{version}{OPTIONS}{os.uname().machine}".encode()).hexdigest()
    library = BUILD / f"dalec400-{checksum[:16]}.so"
    if not library.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            fresh = Path(folder) / library.name
            result = subprocess.run([cc, *OPTIONS, "-o", fresh, SOURCE, "-lm"], capture_output=True, text=True)
            if result.returncode:
                raise RuntimeError(complain(
                    f"`cc {' '.join(OPTIONS)}` to compile {SOURCE.name}", result.stderr.strip()[-2000:],
                    "another compiler, named by the environment variable CC"))
            fresh.replace(library)
    return library


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class Dalec400:
    """Model 400 at one site: `met` (n, 7), `latitude` [degrees], `deltat` [d]; called with parameters (23,).

    The arrays of results are made once and written again by each call, so that a benchmark times the model and not
    the allocation; copy what has to outlive the next call. `hoisted=True` takes the variant that computes once, here,
    what only the drivers decide.
    """

    def __init__(self, met: np.ndarray, latitude: float, deltat: float, *, hoisted: bool = False):
        self._library = ctypes.CDLL(str(build()))
        for name in ("dalec400", "dalec400_prepare", "dalec400_hoisted"):
            getattr(self._library, name).restype = None
        self.met = np.array(met, dtype=np.float64, order="C")[:, :7].copy()
        n = len(self.met)
        self.run = CompiledRun(np.empty((n + 1, N_POOLS)), np.empty(n), np.empty(n), np.empty(n))
        results = [_pointer(array) for array in self.run]
        size, latitude, deltat = ctypes.c_long(n), ctypes.c_double(latitude), ctypes.c_double(deltat)
        if hoisted:
            self._prepared = np.empty((n, N_PREPARED))
            self._library.dalec400_prepare(_pointer(self.met), size, latitude, _pointer(self._prepared))
            self._function = self._library.dalec400_hoisted
            self._before = (_pointer(self.met), _pointer(self._prepared), size)
            self._after = (deltat, *results)
        else:
            self._function = self._library.dalec400
            self._before = (_pointer(self.met), size)
            self._after = (latitude, deltat, *results)

    def __call__(self, parameters: np.ndarray) -> CompiledRun:
        """Run the model with `parameters` (23,) in CARDAMOM's order."""
        parameters = np.ascontiguousarray(parameters, dtype=np.float64)
        if parameters.shape != (23,):
            raise ValueError(complain("23 parameters", f"an array of shape {parameters.shape}",
                                      "one vector a call, initial pools last"))
        self._function(*self._before, _pointer(parameters), *self._after)
        return self.run
