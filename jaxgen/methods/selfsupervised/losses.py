"""Losses of two views' embeddings, as functions of arrays [B, D]; B is the global batch of the whole mesh.

Unit vectors are made here; networks give vectors of any length. Nothing here stops a gradient: the methods do.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.arrays import unit, wide

Rows = Float[Array, "batch features"]
Scalar = Float[Array, ""]


def nt_xent(a: Rows, b: Rows, tau: float) -> Scalar:
  """SimCLR's loss, in nats per view: Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1 and Algorithm 1.

  Each of the 2 B views is classified: its partner against the other 2 B - 2, with logits cosine / tau. With all
  embeddings equal it is log(2 B - 1).
  """
  z = unit(jnp.concatenate([a, b]))
  n = len(a)
  logits = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, z @ z.T / tau)
  partner = jnp.roll(jnp.arange(2 * n), n)
  positive = jnp.sum(z * z[partner], axis=-1) / tau
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - positive)


def info_nce(q: Rows, k: Rows, negatives: Float[Array, "queue features"], tau: float) -> Scalar:
  """MoCo's loss, in nats per query: He et al. 2020, https://arxiv.org/abs/1911.05722, eq. 1.

  Query i tells key i from the K negatives. With all embeddings equal it is log(K + 1).
  """
  q, k, negatives = unit(q), unit(k), unit(negatives)
  logits = jnp.concatenate([jnp.sum(q * k, axis=-1, keepdims=True), q @ negatives.T], axis=1) / tau
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[:, 0])


def info_nce_in_batch(q: Rows, k: Rows, tau: float) -> Scalar:
  """MoCo v3's loss: Chen et al. 2021, https://arxiv.org/abs/2104.02057, Algorithm 1, 2 tau times nats per query.

  The negatives are the other examples' keys.
  """
  logits = unit(q) @ unit(k).T / tau
  return 2 * tau * jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(q))))


def squared_distance(p: Rows, z: Rows) -> Scalar:
  """BYOL's loss of one view, 2 - 2 cos(p, z): Grill et al. 2020, https://arxiv.org/abs/2006.07733, eq. 2."""
  return jnp.mean(jnp.sum((unit(p) - unit(z)) ** 2, axis=-1))


def negative_cosine(p: Rows, z: Rows) -> Scalar:
  """SimSiam's: Chen and He 2021, https://arxiv.org/abs/2011.10566, eq. 1."""
  return -jnp.mean(jnp.sum(unit(p) * unit(z), axis=-1))


def barlow_twins(a: Rows, b: Rows, weight: float, eps: float = 1e-5) -> Scalar:
  """Zbontar et al. 2021, https://arxiv.org/abs/2103.03230, eq. 1: a sum over the D^2 correlations, as in the paper.

  Args:
    a, b: the views' embeddings.
    weight: lambda, the weight of the entries off the diagonal.
    eps: added to the variances, as batch normalisation in the authors' code does.
  """
  standard = lambda z: (z - z.mean(0)) / jnp.sqrt(z.var(0) + eps)
  c = standard(wide(a)).T @ standard(wide(b)) / len(a)
  on = jnp.eye(len(c), dtype=bool)
  return jnp.sum(jnp.where(on, (c - 1) ** 2, weight * c**2))


def vicreg(a: Rows, b: Rows, weights: Sequence[float] = (25.0, 25.0, 1.0), eps: float = 1e-4) -> Scalar:
  """Bardes et al. 2022, https://arxiv.org/abs/2105.04906, eqs. 1 to 6, as in the authors' code (Algorithm 1).

  Args:
    a, b: the views' embeddings.
    weights: of invariance (mean squared difference), variance (mean hinge of the standard deviations below 1, half of
      it for each view) and covariance (sum of the squared covariances over D).
    eps: added to the variances.
  """
  a, b = wide(a), wide(b)
  n, d = a.shape

  def hinge(z: Rows) -> Scalar:
    return jnp.mean(jax.nn.relu(1 - jnp.sqrt(z.var(0, ddof=1) + eps))) / 2

  def covariance(z: Rows) -> Scalar:
    z = z - z.mean(0)
    c = z.T @ z / (n - 1)
    return jnp.sum(jnp.where(jnp.eye(d, dtype=bool), 0, c) ** 2) / d

  invariance, variance, others = weights
  return (
    invariance * jnp.mean((a - b) ** 2) + variance * (hinge(a) + hinge(b)) + others * (covariance(a) + covariance(b))
  )


def self_distillation(
  student: Sequence[Rows],
  teacher: Sequence[Rows],
  center: Float[Array, "features"],
  tau: float,
  teacher_tau: float | Scalar,
) -> Scalar:
  """DINO's, in nats: Caron et al. 2021, https://arxiv.org/abs/2104.14294, eqs. 1 to 3 and Algorithm 1.

  The mean cross-entropy of the student's distribution of one view and the centred and sharpened teacher's of another.
  """
  targets = [jax.nn.softmax((wide(t) - center) / teacher_tau) for t in teacher]
  logs = [jax.nn.log_softmax(wide(s) / tau) for s in student]
  pairs = [(t, s) for i, t in enumerate(targets) for j, s in enumerate(logs) if i != j]
  return sum(-jnp.mean(jnp.sum(t * s, axis=-1)) for t, s in pairs) / len(pairs)
