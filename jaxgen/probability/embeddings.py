"""How vectors of a batch or a data set lie: whether pairs are close, whether all fill the sphere, how many dimensions.

Alignment and uniformity: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, eqs. 1 and 2 of section 4.1, with
alpha = 2 and t = 2. Vectors are normalised to unit length first. Where all are the same, a collapsed network's,
uniformity is 0 and both dimensions are 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.arrays import unit

Vectors = Float[Array, "n features"]


def alignment(a: Vectors, b: Vectors) -> Float[Array, ""]:
  """The mean squared distance of a pair of unit vectors: 0 where pairs are the same, 2 for unrelated ones."""
  return jnp.mean(jnp.sum((unit(a) - unit(b)) ** 2, axis=-1))


def uniformity(x: Vectors) -> Float[Array, ""]:
  """The logarithm of the mean of exp(-2 |a - b|^2) over pairs of different vectors: lower is more uniform."""
  z = unit(x)
  exponents = 4 * (z @ z.T) - 4  # -2 |a - b|^2 of unit vectors
  n = len(z)
  exponents = jnp.where(jnp.eye(n, dtype=bool), -jnp.inf, exponents)
  return jax.nn.logsumexp(exponents) - jnp.log(n * (n - 1.0))


def effective_dimension(x: Vectors) -> Float[Array, ""]:
  """The participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of E[z z^T], z of unit length.

  It needs no eigenvalues, so that a training step can afford it.
  """
  z = unit(x)
  gram = z @ z.T if len(z) < z.shape[1] else z.T @ z  # the same eigenvalues, but for zeros
  return jnp.trace(gram) ** 2 / jnp.sum(gram**2)


def effective_rank(x: Vectors) -> Float[Array, ""]:
  """exp of the entropy of the singular values' shares: Roy and Vetterli 2007, "The effective rank", definition 1.

  Of the vectors at unit length, as they are, so that it is 1 where all are the same.
  """
  s = jnp.linalg.svd(unit(x), compute_uv=False)
  p = s / s.sum()
  return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)))
