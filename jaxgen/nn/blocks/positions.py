"""Positions of tokens: as vectors that are added, as rotations, or as biases of attention.

    Sinusoidal, Learned   modules, (x [B, T, F], positions [#B, T], length) -> x plus a vector for each position; all
                          positions are below `length`
    rotary                (x [B, T, H, d], positions [#B, T]) -> rotated queries or keys
    Relative              a module, (queries [#B, T], keys [K]) -> bias of the attention's logits [#B, H, T, K]

Positions count from 0. They are 1 x T if they are the same in every example.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from jaxgen.core.arrays import wide, wide_dtype
from jaxgen.core.errors import UserError

Dtype = Any
Positions = Int[Array, "#batch tokens"]
Tokens = Float[Array, "batch tokens features"]


def sinusoids(
  positions: Num[Array, "*shape"], features: int, *, interleaved: bool = True, dtype: Dtype = jnp.float32
) -> Float[Array, "*shape {features}"]:
  """Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.

  Features 2 i and 2 i + 1 are sin and cos of position / 10000^(2 i / features). If not `interleaved`, all sines come
  before all cosines, as in Marian.
  """
  j = np.arange(features)
  angle = positions[..., None].astype(dtype) / jnp.asarray(10_000.0 ** (2 * (j // 2) / features), dtype)
  sin, cos = jnp.sin(angle[..., 0::2]), jnp.cos(angle[..., 1::2])
  both = jnp.concatenate([sin, cos], axis=-1)
  return both if not interleaved else both[..., np.argsort(np.concatenate([j[0::2], j[1::2]]))]


def over_grid(
  rows: Num[Array, "rows"], columns: Num[Array, "columns"], features: int, dtype: Dtype = jnp.float32
) -> Float[Array, "tokens {features}"]:
  """A vector for each place of a grid, row by row, as in DiT's code: Peebles and Xie 2022, section 3.2.

  The first half of the features are the column's `sinusoids`, sines before cosines, the second half the row's.

  Raises:
    UserError: features that do not divide by 4.
  """
  if features % 4:
    raise UserError(
      f"positions on a grid are sines and cosines of rows and columns, and {features} features do not "
      "divide by 4: choose another width"
    )
  shape = (rows.shape[0], columns.shape[0], features // 2)
  half = lambda at: sinusoids(at, features // 2, interleaved=False, dtype=dtype)
  both = jnp.broadcast_to(half(columns)[None], shape), jnp.broadcast_to(half(rows)[:, None], shape)
  return jnp.concatenate(both, axis=-1).reshape(-1, features)


class Sinusoidal(nn.Module):
  """x + `sinusoids`."""

  interleaved: bool = True

  @nn.compact
  def __call__(self, x: Tokens, positions: Positions, length: int) -> Tokens:
    dtype = wide_dtype(x.dtype)
    return x + sinusoids(positions, x.shape[-1], interleaved=self.interleaved, dtype=dtype).astype(x.dtype)


class Learned(nn.Module):
  """x + a learned vector for each position.

  Attributes:
    length: number of positions.
    offset: number of unused rows at the start of the table; 2 in BART.
  """

  length: int
  offset: int = 0
  table_init: Any = nn.initializers.normal(0.02)
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, positions: Positions, length: int) -> Tokens:
    """Raises a UserError if there are more tokens than positions."""
    if length > self.length:
      raise UserError(f"a sequence of {length} tokens, and the network has {self.length} positions: cut it shorter")
    table = self.param("table", self.table_init, (self.offset + self.length, x.shape[-1]), self.param_dtype)
    return x + table[positions + self.offset].astype(x.dtype)


def rotary(
  x: Float[Array, "batch tokens heads d"],
  positions: Positions,
  *,
  period: float = 10_000.0,
  interleaved: bool = True,
) -> Float[Array, "batch tokens heads d"]:
  """Rotates pair i of the features of queries or keys by the angle position * period^(-2 i / d).

  Their products then depend only on the difference of positions. Su et al. 2021, https://arxiv.org/abs/2104.09864,
  section 3.2.2.

  Args:
    interleaved: pair i is features 2 i and 2 i + 1, as in the paper; otherwise features i and i + d / 2, as in GPT-NeoX
      and LLaMA.
  """
  d, dtype = x.shape[-1], wide_dtype(x.dtype)
  if d % 2:
    raise UserError(f"rotary positions turn pairs of features, and a head has {d}: choose heads of even width")
  angle = positions[..., None].astype(dtype) * jnp.asarray(period ** (-np.arange(0, d, 2) / d), dtype)
  sin, cos = jnp.sin(angle)[:, :, None], jnp.cos(angle)[:, :, None]
  pairs = x.reshape(*x.shape[:-1], d // 2, 2) if interleaved else jnp.stack(jnp.split(x, 2, axis=-1), axis=-1)
  a, b = wide(pairs[..., 0]), wide(pairs[..., 1])
  turned = (a * cos - b * sin, b * cos + a * sin)
  turned = jnp.stack(turned, axis=-1).reshape(x.shape) if interleaved else jnp.concatenate(turned, axis=-1)
  return turned.astype(x.dtype)


def relative_bucket(
  distance: Int[Array, "*shape"], *, buckets: int = 32, most: int = 128, bidirectional: bool = True
) -> Int[Array, "*shape"]:
  """The bucket, 0 .. buckets - 1, of a distance, the key's position minus the query's.

  Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1, as in their code. If attention is bidirectional,
  half of the buckets are for keys after the query; otherwise such keys share bucket 0 with the query's own position. In
  each direction, half of the buckets are for single distances; the others are on a logarithmic scale up to `most`, and
  the last is for all larger distances.
  """
  first = jnp.zeros_like(distance)
  if bidirectional:
    buckets //= 2
    first, distance = jnp.where(distance > 0, buckets, 0), jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  single = buckets // 2
  # The first distance of each further bucket. Rounding must not change it if it is an integer.
  edges = single * (most / single) ** (np.arange(1, buckets - single) / (buckets - single))
  edges = np.concatenate([np.arange(1, single + 1), np.ceil(edges - 1e-4)]).astype(np.int32)
  return first + jnp.sum(distance[..., None] >= edges, axis=-1)


class Relative(nn.Module):
  """A learned bias of each head for each bucket of distances; one table serves all layers."""

  heads: int
  bidirectional: bool = True
  buckets: int = 32
  most: int = 128
  table_init: Any = nn.initializers.normal(0.02)
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, queries: Positions, keys: Int[Array, "keys"]) -> Float[Array, "#batch {self.heads} tokens keys"]:
    table = self.param("table", self.table_init, (self.buckets, self.heads), self.param_dtype)
    distance = keys - queries[..., None]
    bucket = relative_bucket(distance, buckets=self.buckets, most=self.most, bidirectional=self.bidirectional)
    return jnp.moveaxis(table[bucket], -1, 1)
