from landcal_jax.configure import configure as configure
