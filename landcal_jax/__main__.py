"""`python -m landcal_jax` is `landcal`, also where the command is on no path."""

from landcal_jax.cli import main

if __name__ == "__main__":
    main()
