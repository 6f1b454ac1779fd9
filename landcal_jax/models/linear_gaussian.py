"""The linear-Gaussian problem, whose posterior is known in closed form: the oracle of every solver and sampler.

    y = A x + e,   x ~ N(x_b, B),   e ~ N(0, R)
    J(x) = 1/2 (x - x_b)' B^-1 (x - x_b) + 1/2 (y - A x)' R^-1 (y - A x)

The posterior is N(m, P) with P = (B^-1 + A' R^-1 A)^-1 and m = x_b + P A' R^-1 (y - A x_b). B and R may be full.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_factor, cho_solve
from jax.typing import ArrayLike

from landcal_jax.errors import complain


class LinearGaussian(eqx.Module):
    """A linear model `A` (m, n) with prior N(`x_b`, `B`) and observations `y` (m,) of error covariance `R` (m, m).

    It is called like any forward function, `x -> A x`. float64 only: an oracle is more exact than what it judges.
    """

    A: Array
    x_b: Array
    B: Array
    y: Array
    R: Array

    def __init__(self, A: ArrayLike, x_b: ArrayLike, B: ArrayLike, y: ArrayLike, R: ArrayLike):
        self.A, self.x_b, self.B, self.y, self.R = (jnp.asarray(part, float) for part in (A, x_b, B, y, R))
        if self.A.dtype != jnp.float64:
            raise ValueError(complain(
                "float64", f"{self.A.dtype}", "call landcal_jax.configure() before the first use of JAX"))
        if self.A.ndim != 2:
            raise ValueError(complain("a matrix A (m, n)", f"shape {self.A.shape}", "give one row an observation"))
        m, n = self.A.shape
        wanted = {"x_b": (n,), "B": (n, n), "y": (m,), "R": (m, m)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(complain(
                    f"{name} of shape {shape}, as A is {self.A.shape}", f"shape {getattr(self, name).shape}",
                    "give variances as a diagonal matrix: jnp.diag(sd**2)"))

    @classmethod
    @eqx.filter_jit
    def random(cls, key: Array, n: int, m: int) -> "LinearGaussian":
        """Draw a well-conditioned problem of `n` parameters and `m` observations, with correlated B and R.

        Parameters have standard deviations between 0.5 and 2 and neighbour correlation 0.5; errors in R have standard
        deviations between 0.3 and 1 and correlation exp(-|i - j| / 3). y is drawn from the model: the truth from the
        prior, the errors from R.
        """
        of_normal, of_sd = jax.random.split(key)
        # Two draws, cut into parts: each call of a generator costs a second of compiling.
        A, x_b, z, e = jnp.split(jax.random.normal(of_normal, (m * n + 2 * n + m,)), (m * n, m * n + n, m * n + 2 * n))
        share = jax.random.uniform(of_sd, (n + m,))
        A = A.reshape(m, n) / jnp.sqrt(n)
        B = _covariance(0.5 + 1.5 * share[:n], 0.5)
        R = _covariance(0.3 + 0.7 * share[n:], jnp.exp(-1 / 3))
        y = A @ (x_b + jnp.linalg.cholesky(B) @ z) + jnp.linalg.cholesky(R) @ e
        return cls(A, x_b, B, y, R)

    def __call__(self, x: Array) -> Array:
        """What the model predicts for parameters `x` (n,): A x, (m,)."""
        return self.A @ x

    def cost(self, x: Array) -> Array:
        """J(x): half the squared departures from prior and observations, each in its covariance."""
        return 0.5 * _square(self.B, x - self.x_b) + 0.5 * _square(self.R, self.y - self(x))

    @eqx.filter_jit
    def posterior_mean(self) -> Array:
        """Mean of the posterior (n,), which is also the minimiser of `cost`."""
        return self.x_b + self._gain() @ (self.y - self(self.x_b))

    @eqx.filter_jit
    def posterior_covariance(self) -> Array:
        """Covariance of the posterior (n, n)."""
        kept = jnp.eye(self.x_b.size) - self._gain() @ self.A
        # Joseph's form: symmetric and positive definite whatever the rounding.
        return kept @ self.B @ kept.T + self._gain() @ self.R @ self._gain().T

    @eqx.filter_jit
    def log_evidence(self) -> Array:
        """Logarithm of the density of y with x integrated out: y ~ N(A x_b, A B A' + R)."""
        return jax.scipy.stats.multivariate_normal.logpdf(self.y, self(self.x_b), self._spread())

    def _spread(self) -> Array:
        return self.A @ self.B @ self.A.T + self.R

    def _gain(self) -> Array:
        """B A' (A B A' + R)^-1, (n, m)."""
        return cho_solve(cho_factor(self._spread()), self.A @ self.B).T


def _covariance(sd: Array, correlation: ArrayLike) -> Array:
    lag = jnp.abs(jnp.arange(sd.size)[:, None] - jnp.arange(sd.size))
    return sd[:, None] * sd * correlation**lag


def _square(covariance: Array, departure: Array) -> Array:
    return departure @ cho_solve(cho_factor(covariance), departure)
