"""T2T-ViT: tokens-to-token vision Transformer.

Yuan et al. 2021, https://arxiv.org/abs/2101.11986, section 3 and Table 1, as in the authors' code
(https://github.com/yitu-opensource/T2T-ViT). Pictures become tokens in three soft splits into patches that overlap,
with a small Transformer, or Performer (Choromanski et al. 2020, https://arxiv.org/abs/2009.14794), between them.

    T2TViT(**SIZES["t-14"])                                21,541,070 parameters on 224 x 224 pictures, 1000 classes
    T2TViT(64, 4, 4, 128, splits=CIFAR, classes=10)        32x32 pictures: 16 x 16 tokens, then 8 x 8
    T2TViT(64, 4, 4, 128, splits=DIGITS, classes=10)       8x8 pictures: 8 x 8 tokens, then 4 x 4
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.attention import MLP, Attention, Block, Blocks, Index, Tokens, attend, normal
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.blocks.projections import separately
from jaxgen.nn.vision.vit import Pictures, positions

Dtype = Any
Split = tuple[int, int, int]  # side of a patch, stride, padding

IMAGENET = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
CIFAR = ((3, 2, 1), (3, 2, 1), (3, 1, 1))
DIGITS = ((3, 1, 1), (3, 2, 1), (3, 1, 1))

# Parameters are for 224 x 224 pictures and 1000 classes. They include the positions and the Performer's random
# directions, which are not trained. The files that the authors publish were trained with scale = 1 / sqrt(width).
SIZES = {
  "7": dict(width=256, depth=7, heads=4, hidden=512),  # 4,310,222
  "10": dict(width=256, depth=10, heads=4, hidden=512),  # 5,889,230
  "12": dict(width=256, depth=12, heads=4, hidden=512),  # 6,941,902
  "14": dict(width=384, depth=14, heads=6, hidden=1152),  # 21,545,550
  "19": dict(width=448, depth=19, heads=7, hidden=1344),  # 39,177,422
  "24": dict(width=512, depth=24, heads=8, hidden=1536),  # 64,105,934
  "t-14": dict(width=384, depth=14, heads=6, hidden=1152, token="transformer"),  # 21,541,070
  "t-19": dict(width=448, depth=19, heads=7, hidden=1344, token="transformer"),  # 39,172,942
  "t-24": dict(width=512, depth=24, heads=8, hidden=1536, token="transformer"),  # 64,101,454
}


def soft_split(x: Pictures, split: Split) -> Float[Array, "batch rows columns features"]:
  """Overlapping patches, each flattened to a vector: channel by channel, each channel row by row; eq. 3."""
  side, stride, padding = split
  rows, columns = ((size + 2 * padding - side) // stride + 1 for size in x.shape[1:3])
  if rows < 1 or columns < 1:
    raise UserError(
      f"a map of {x.shape[1]} x {x.shape[2]} has no patch of {side} x {side}: give larger pictures, or other splits"
    )
  x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  shifts = lambda count: [slice(i, i + stride * (count - 1) + 1, stride) for i in range(side)]
  x = jnp.stack([x[:, s] for s in shifts(rows)], axis=-1)
  x = jnp.stack([x[:, :, s] for s in shifts(columns)], axis=-1)
  return x.reshape(*x.shape[:3], -1)


def sinusoids(count: int, width: int) -> Float[np.ndarray, "{count} {width}"]:
  """Vaswani et al. 2017, section 3.5: sines in the even features, cosines in the odd ones."""
  feature = np.arange(width)
  angle = np.arange(count)[:, None] / 10_000 ** (2 * (feature // 2) / width)
  return np.where(feature % 2, np.cos(angle), np.sin(angle))


class TokenTransformer(nn.Module):
  """Attention with one head, whose width differs from the input's, and an MLP. The residual path has the values instead
  of the input.

  Attributes:
    width: features of an output token.
  """

  width: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, index: Index = None) -> Float[Array, "batch tokens {self.width}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    y = LayerNorm(1e-5, name="norm_attention", **dtypes)(x)
    y = Dense(3 * self.width, use_bias=False, kernel_init=separately(normal, 3), name="qkv", **dtypes)(y)
    q, k, v = jnp.split(y, 3, axis=-1)
    y = attend(*(p[:, :, None] for p in (q, k, v)), scale=x.shape[-1] ** -0.5)[:, :, 0]
    x = v + Dense(self.width, kernel_init=normal, name="out", **dtypes)(y)
    y = LayerNorm(1e-5, name="norm_mlp", **dtypes)(x)
    return x + MLP(self.width, kernel_init=normal, name="mlp", **dtypes)(y, index)


class TokenPerformer(nn.Module):
  """`TokenTransformer` with attention that is linear in the number of tokens: Choromanski et al. 2020, eq. 5.

  exp(q k) is the mean of phi(q) phi(k), phi(x) = exp(w x - |x|^2 / 2), over random directions w. These are drawn once
  and not trained. Training uses dropout with rate 0.1, as in the authors' code.
  """

  width: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, index: Index = None) -> Float[Array, "batch tokens {self.width}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    count = self.width // 2
    drop = Dropout(0.1)
    y = LayerNorm(1e-5, name="norm_attention", **dtypes)(x)
    y = Dense(3 * self.width, kernel_init=separately(normal, 3), name="kqv", **dtypes)(y)
    k, q, v = jnp.split(wide(y), 3, axis=-1)
    orthogonal = nn.initializers.orthogonal(count**0.5)
    w = self.param("directions", orthogonal, (count, self.width), self.param_dtype)
    w = jax.lax.stop_gradient(w).astype(k.dtype)
    phi = lambda x: jnp.exp(x @ w.T - jnp.square(x).sum(-1, keepdims=True) / 2) / count**0.5
    k, q = phi(k), phi(q)
    y = q @ (k.swapaxes(1, 2) @ v) / (jnp.sum(q * k.sum(1, keepdims=True), -1, keepdims=True) + 1e-8)
    x = v.astype(x.dtype) + drop(Dense(self.width, kernel_init=normal, name="out", **dtypes)(y), index)
    y = LayerNorm(1e-5, name="norm_mlp", **dtypes)(x)
    return x + drop(MLP(self.width, kernel_init=normal, name="mlp", **dtypes)(y), index)


class T2TViT(nn.Module):
  """T2T-ViT for classification; the head sees the class token.

  Attributes:
    width: number of features of a token of the backbone.
    hidden: width of its MLPs' hidden layers.
    token: the layer between the soft splits.
    token_width: features of a token between the soft splits.
    splits: side, stride and padding of each soft split.
    scale: the factor of attention's logits in the backbone; by default 1 / sqrt(width / heads).
    dropout: dropout rate in the backbone: after positions are added, of each branch's output and of the MLPs' hidden
      layers.
    attention_dropout: dropout rate of attention weights in the backbone.
    drop_path: stochastic depth's rate at the last block.
  """

  width: int
  depth: int
  heads: int
  hidden: int
  token: Literal["performer", "transformer"] = "performer"
  token_width: int = 64
  splits: Sequence[Split] = IMAGENET
  scale: float | None = None
  classes: int = 1000
  dropout: float = 0.0
  attention_dropout: float = 0.0
  drop_path: float = 0.0
  remat: bool = False
  unroll: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    self.head = Dense(self.classes, kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)

  @nn.compact
  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.width}"]:
    """The class token, normalised."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    token = {"performer": TokenPerformer, "transformer": TokenTransformer}[self.token]
    x = soft_split(x.astype(self.dtype), self.splits[0])
    for i, split in enumerate(self.splits[1:]):
      batch, rows, columns, features = x.shape
      x = token(self.token_width, name=f"token_{i}", **dtypes)(x.reshape(batch, -1, features), index)
      x = soft_split(x.reshape(batch, rows, columns, -1), split)
    x = Dense(self.width, kernel_init=normal, name="project", **dtypes)(x).reshape(len(x), -1, self.width)

    first = self.param("class_token", normal, (1, self.width), self.param_dtype)
    x = jnp.concatenate([jnp.broadcast_to(first.astype(x.dtype), (len(x), *first.shape)), x], axis=1)
    fixed = lambda key, shape, dtype: jnp.asarray(sinusoids(*shape), dtype)
    table = positions(self, x.shape[1], self.width, self.param_dtype, fixed)
    x = Dropout(self.dropout)(x + jax.lax.stop_gradient(table).astype(x.dtype), index)
    block = partial(
      Block,
      self.heads,
      self.hidden,
      qkv_bias=False,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      eps=1e-5,
      attention=partial(Attention, scale=self.scale),
      kernel_init=normal,
      **dtypes,
    )
    x = Blocks(block, self.depth, self.drop_path, self.remat, self.unroll, name="encoder")(x, index)
    return LayerNorm(1e-5, name="norm", **dtypes)(x)[:, 0]

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits."""
    return self.head(self.features(x, index))
