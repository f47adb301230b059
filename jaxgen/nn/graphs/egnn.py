"""EGNN, an E(n)-equivariant network of points, as the equivariant diffusion model for molecules has it.

Satorras et al. 2021, https://arxiv.org/abs/2102.09844; Hoogeboom et al. 2022, https://arxiv.org/abs/2203.17003, and
their code. Every atom exchanges messages with every other; positions move only along differences of positions, by
numbers that depend on distances and features:

    (1)  m_ij = phi_e(h_i, h_j, d_ij^2, d_ij^2 of the input),   h_i <- h_i + phi_h(h_i, sum_j e_ij m_ij / Z)
    (2)  x_i <- x_i + sum_j (x_i - x_j) / (d_ij + c) phi_x(h_i, h_j, d_ij^2, ..) / Z

All pairs of N atoms are computed, padding too: the cost grows with the square of the largest molecule.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.core.arrays import masked
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Dense

Dtype = Any
Atoms = Float[Array, "batch atoms _features"]
Places = Float[Array, "batch atoms space"]
Pairs = Float[Array, "batch atoms atoms _pairs"]


def distances(x: Places, constant: float = 1.0) -> tuple[Pairs, Pairs]:
  """(squared distances [B, N, N, 1], differences divided by the distance plus a constant [B, N, N, 3])."""
  away = x[:, :, None] - x[:, None]
  square = jnp.sum(away**2, axis=-1, keepdims=True)
  return square, away / (jnp.sqrt(square + 1e-8) + constant)


class Pair(nn.Module):
  """Two layers of (h_i, h_j, distances of the pair): dense, SiLU, dense, SiLU."""

  hidden: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, h: Atoms, known: Pairs) -> Pairs:
    count = h.shape[1]
    ways = [jnp.broadcast_to(a, (len(h), count, count, h.shape[-1])) for a in (h[:, :, None], h[:, None])]
    y = jnp.concatenate([*ways, known.astype(h.dtype)], axis=-1)
    dense = partial(Dense, self.hidden, dtype=self.dtype, param_dtype=self.param_dtype)
    return nn.silu(dense(name="out")(nn.silu(dense(name="in")(y))))


class Messages(nn.Module):
  """(1): new features of every atom.

  Attributes:
    norm: Z.
    attention: e_ij = sigmoid(dense(m_ij)); else 1.
  """

  hidden: int
  norm: float
  attention: bool
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, h: Atoms, known: Pairs, pairs: Bool[Array, "batch atoms atoms 1"]) -> Atoms:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    m = Pair(self.hidden, name="pair", **dtypes)(h, known)
    if self.attention:
      m = m * nn.sigmoid(Dense(1, name="attention", **dtypes)(m))
    total = jnp.sum(jnp.where(pairs, m, 0), axis=2) / self.norm
    y = nn.silu(Dense(self.hidden, name="in", **dtypes)(jnp.concatenate([h, total], axis=-1)))
    return h + Dense(self.hidden, name="out", **dtypes)(y)


class Moves(nn.Module):
  """(2): new positions of every atom.

  Attributes:
    norm: Z.
    reach: phi_x is reach times tanh; None: it is not bounded.
  """

  hidden: int
  norm: float
  reach: float | None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Places, h: Atoms, away: Pairs, known: Pairs, pairs: Bool[Array, "batch atoms atoms 1"]
  ) -> Places:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    small = nn.initializers.variance_scaling(1e-6, "fan_avg", "uniform")  # the authors' gain is 0.001
    weight = Dense(1, False, small, name="out", **dtypes)(Pair(self.hidden, name="pair", **dtypes)(h, known))
    weight = weight if self.reach is None else self.reach * jnp.tanh(weight)
    return x + jnp.sum(jnp.where(pairs, away * weight.astype(x.dtype), 0), axis=2) / self.norm


class EGNN(nn.Module):
  """The network of noisy molecules: positions and features, a time, and properties if it is conditioned on any.

  Attributes:
    hidden: number of features of an atom, and of a message.
    depth: number of blocks, each of `layers` times (1) and once (2).
    layers: see `depth`.
    attention: messages are weighted.
    tanh: moves are bounded, by 15 each.
    norm: Z of sums over atoms.
    constant: c of (2).
  """

  hidden: int = 256
  depth: int = 9
  layers: int = 1
  attention: bool = True
  tanh: bool = True
  norm: float = 1.0
  constant: float = 1.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    z: Float[Array, "batch atoms values"],
    t: Float[Array, "batch"],
    told: Float[Array, "batch properties"] | None = None,
    index: Array | None = None,
    *,
    mask: Bool[Array, "batch atoms"],
  ) -> Float[Array, "batch atoms values"]:
    """Its output: the first three values are equivariant and have mean 0, the others are invariant.

    Args:
      z: positions [.., 3] and features of every atom.
      t: times, 0 .. 1.
      told: properties of every molecule.
      index: changes nothing; there is no dropout.
      mask: which atoms are there; for padding the output is 0.

    Raises:
      UserError: atoms without features, or no block.
    """
    check_sizes("EGNN", hidden=self.hidden, depth=self.depth, layers=self.layers)
    if z.shape[-1] < 4:
      raise UserError(f"EGNN takes three positions and one or more features of an atom, not {z.shape[-1]} values")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    z = masked(z, mask)
    x, features = z[..., :3], z.shape[-1] - 3
    every = lambda v: jnp.broadcast_to(v[:, None], (*z.shape[:2], v.shape[-1])).astype(z.dtype)
    h = jnp.concatenate([z[..., 3:], every(t[:, None])] + ([] if told is None else [every(told)]), axis=-1)
    inputs = h.shape[-1]
    h = Dense(self.hidden, name="embedding", **dtypes)(h)
    pairs = (mask[:, :, None] & mask[:, None] & ~jnp.eye(z.shape[1], dtype=bool))[..., None]
    first, start = distances(x)[0], x
    for i in range(self.depth):
      square, away = distances(x, self.constant)
      known = jnp.concatenate([square, first], axis=-1)
      for j in range(self.layers):
        h = masked(Messages(self.hidden, self.norm, self.attention, name=f"block_{i}_messages_{j}", **dtypes)(
          h, known, pairs), mask)  # fmt: skip
      moves = Moves(self.hidden, self.norm, 15.0 if self.tanh else None, name=f"block_{i}_moves", **dtypes)
      x = masked(moves(x, h, away, known, pairs), mask)
    # As many as went in, of which time and properties are left out, as in the authors' files.
    h = Dense(inputs, name="readout", **dtypes)(h)[..., :features]
    return jnp.concatenate([centred(x - start, mask), masked(h, mask).astype(z.dtype)], axis=-1)


def centred(x: Places, mask: Bool[Array, "batch atoms"]) -> Places:
  """x minus its mean over the atoms; 0 for padding."""
  there = mask[..., None]
  mean = jnp.sum(x, axis=1, keepdims=True, where=there) / jnp.maximum(jnp.sum(there, axis=1, keepdims=True), 1)
  return jnp.where(there, x - mean, 0)
