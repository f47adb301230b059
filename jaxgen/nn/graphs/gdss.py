"""The score networks of GDSS: Jo et al. 2022, https://arxiv.org/abs/2202.02514, and their code.

Features X [B, N, F] and a weighted adjacency matrix A [B, N, N] are noisy; `ScoreX` and `ScoreA` are of both. Graph
convolutions (Kipf and Welling 2017, https://arxiv.org/abs/1609.02907) are

    (1)  D^-1/2 (A + I) D^-1/2 X W + b,   D = max(1, the sums of A + I's rows)

and the attention of `ScoreA` (Baek et al. 2021, https://arxiv.org/abs/2102.11533) has one head for each part of the
queries and keys, both (1), for each power or channel of A. All pairs of N nodes are computed, padding too.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.core.arrays import masked
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.attention import Index, head_width
from jaxgen.nn.blocks.layers import Dense

Dtype = Any
Features = Float[Array, "batch nodes _features"]
Matrix = Float[Array, "batch nodes nodes"]
Matrices = Float[Array, "batch nodes nodes _channels"]
Mask = Bool[Array, "batch nodes"]
glorot = nn.initializers.glorot_uniform()


class GraphConv(nn.Module):
  """(1)."""

  features: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Features, A: Matrix) -> Features:
    A = jnp.where(jnp.eye(A.shape[1], dtype=bool), 1, A)
    root = jnp.maximum(jnp.sum(A, axis=-1), 1) ** -0.5
    Y = Dense(self.features, False, glorot, name="dense", dtype=self.dtype, param_dtype=self.param_dtype)(X)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
    return jnp.einsum("bij,bjf->bif", root[:, :, None] * A * root[:, None], Y) + bias.astype(Y.dtype)


class ELUs(nn.Module):
  """Dense layers with ELU between them.

  Attributes:
    depth: number of dense layers.
    hidden: features between them.
    features: features of the output.
  """

  depth: int
  hidden: int
  features: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch *places features"]) -> Float[Array, "batch *places {self.features}"]:
    dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
    for i in range(self.depth - 1):
      x = nn.elu(dense(self.hidden, name=f"dense_{i}")(x))
    return dense(self.features, name=f"dense_{self.depth - 1}")(x)


class GraphAttention(nn.Module):
  """Of one matrix: (values [B, N, out], tanh of the scores' mean over heads, symmetric [B, N, N])."""

  width: int
  out: int
  heads: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Features, A: Matrix) -> tuple[Features, Matrix]:
    conv = partial(GraphConv, dtype=self.dtype, param_dtype=self.param_dtype)
    d = head_width(self.width, self.heads)
    q, k = (conv(self.width, name=name)(X, A).reshape(*X.shape[:2], self.heads, d) for name in ("query", "key"))
    # The authors divide by the root of the values' width, not of a head's.
    scores = jnp.tanh(jnp.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(self.out))
    mean = jnp.mean(scores, axis=1)
    return conv(self.out, name="value")(X, A), (mean + mean.swapaxes(1, 2)) / 2


class AttentionLayer(nn.Module):
  """Attention along each channel of the matrices, and networks that mix the channels."""

  width: int
  features: int
  channels: int
  heads: int
  depth: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Features, As: Matrices, mask: Mask) -> tuple[Features, Matrices]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    count = As.shape[-1]
    attend = lambda i: GraphAttention(self.width, self.features, self.heads, name=f"attention_{i}", **dtypes)
    values, scores = zip(*(attend(i)(X, As[..., i]) for i in range(count)), strict=True)
    hidden = 2 * max(count, self.channels)
    X = ELUs(2, hidden, self.features, name="values", **dtypes)(jnp.concatenate(values, axis=-1))
    pairs = jnp.concatenate([jnp.stack(scores, axis=-1), As], axis=-1)
    As = ELUs(self.depth, hidden, self.channels, name="scores", **dtypes)(pairs)
    return jnp.tanh(masked(X, mask)), masked(As + As.swapaxes(1, 2), mask[:, :, None] & mask[:, None])


def powers(A: Matrix, count: int) -> Matrices:
  """A, A^2, .."""
  found = [A]
  for _ in range(count - 1):
    found.append(jnp.matmul(found[-1], A))
  return jnp.stack(found, axis=-1)


class ScoreX(nn.Module):
  """`ScoreNetworkX`: graph convolutions with tanh, all of whose features are read at the end.

  Attributes:
    depth: number of convolutions.
    width: features of a node.
  """

  depth: int = 3
  width: int = 32
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Features, A: Matrix, t: Float[Array, "batch"], index: Index = None, *, mask: Mask) -> Features:
    """Of X's shape, 0 where no node is.

    Args:
      X: noisy features.
      A: noisy adjacency matrices.
      t: times, which change nothing: the authors' networks are not told any.
      index: changes nothing; there is no dropout.
      mask: which nodes are there.
    """
    check_sizes("ScoreX", depth=self.depth, width=self.width)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    found = [X]
    for i in range(self.depth):
      found.append(jnp.tanh(GraphConv(self.width, name=f"conv_{i}", **dtypes)(found[-1], A)))
    every = jnp.concatenate(found, axis=-1)
    return masked(ELUs(3, 2 * every.shape[-1], X.shape[-1], name="out", **dtypes)(every), mask)


class ScoreA(nn.Module):
  """`ScoreNetworkA`: attention along powers of A, all of whose channels are read at the end.

  Attributes:
    depth: number of layers, 2 or more.
    width: features of a node, and of queries and keys in the first layer.
    attention: features of queries and keys in the other layers.
    heads: of the attention.
    mixing: dense layers of the networks that mix channels.
    powers, hidden, last: channels of the matrices: before the layers, between them, and of the last one.
  """

  depth: int = 5
  width: int = 32
  attention: int = 32
  heads: int = 4
  mixing: int = 2
  powers: int = 2
  hidden: int = 8
  last: int = 4
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Features, A: Matrix, t: Float[Array, "batch"], index: Index = None, *, mask: Mask) -> Matrix:
    """Symmetric, 0 on the diagonal and where no node is.

    Args:
      X: noisy features.
      A: noisy adjacency matrices.
      t: times, which change nothing: the authors' networks are not told any.
      index: changes nothing; there is no dropout.
      mask: which nodes are there.

    Raises:
      UserError: fewer than two layers.
    """
    check_sizes("ScoreA", width=self.width, attention=self.attention, powers=self.powers, mixing=self.mixing)
    if self.depth < 2:
      raise UserError(f"ScoreA has a first and a last layer, and this has {self.depth}: give it 2 or more")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    As = powers(A, self.powers)
    found = [As]
    for i in range(self.depth):
      attention = self.width if i == 0 else self.attention
      channels = self.last if i == self.depth - 1 else self.hidden
      layer = AttentionLayer(attention, self.width, channels, self.heads, self.mixing, name=f"layer_{i}", **dtypes)
      X, As = layer(X, As, mask)
      found.append(As)
    every = jnp.concatenate(found, axis=-1)
    score = ELUs(3, 2 * every.shape[-1], 1, name="out", **dtypes)(every)[..., 0]
    away = ~jnp.eye(A.shape[1], dtype=bool)
    return masked(score, mask[:, :, None] & mask[:, None] & away)
