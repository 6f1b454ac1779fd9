"""The three settings of JAX that decide whether a calibration on a CPU is exact and quick.

A `lax.scan` over a land model becomes an XLA loop whose body is many tiny operations. XLA compiles such a loop into
one native function only below a size threshold; with the threshold raised, an exact gradient of a land model costs
about twice its forward run instead of twenty times. The option is read when JAX first computes something, so it has
to be set at the top of a script. Importing landcal_jax sets nothing.
"""

import os
from pathlib import Path

import jax
import platformdirs

from landcal_jax.errors import complain

LOOP_OPTION = "xla_cpu_small_while_loop_byte_threshold=1000000000"


def configure(*, double: bool = True, cache: str | Path | None = "user") -> None:
    """Set JAX up for calibration; call it once, before the first computation.

    It turns on float64 (`double`), native loops on the CPU (adds `LOOP_OPTION` to the environment variable
    `XLA_FLAGS`, keeping what stands there) and a persistent compilation cache, so that a second process starts in a
    fraction of the time. `cache` is a folder, `"user"` for the user's cache folder, or None for no cache; the
    environment variable `JAX_COMPILATION_CACHE_DIR` goes before it.

    Raises RuntimeError when JAX has computed something already and the loop option is not set: it would be ignored.
    """
    jax.config.update("jax_enable_x64", double)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_small_while_loop_byte_threshold" not in flags:
        if jax._src.xla_bridge.backends_are_initialized():
            raise RuntimeError(complain(
                "landcal_jax.configure() before the first use of JAX", "JAX has started its backend already",
                "call landcal_jax.configure() directly after the imports (restart the kernel of a notebook)"))
        options = f"--xla_backend_extra_options={LOOP_OPTION}"
        if "--xla_backend_extra_options=" in flags:
            options = flags.replace("--xla_backend_extra_options=", f"{options},")
            flags = ""
        os.environ["XLA_FLAGS"] = f"{flags} {options}".strip()
    if cache is not None:
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            folder = platformdirs.user_cache_path("landcal_jax") / "xla" if cache == "user" else Path(cache)
            jax.config.update("jax_compilation_cache_dir", str(folder))
        # JAX keeps what took a second; a calibration compiles a dozen functions that take half of that.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
