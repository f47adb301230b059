"""CaiT: class-attention in image Transformers.

Touvron et al. 2021, https://arxiv.org/abs/2103.17239: LayerScale (section 2), class-attention (section 3), and as in
the authors' code talking heads in the blocks of patches (Shazeer et al. 2020, https://arxiv.org/abs/2003.02436).
Table 3 has the sizes.

    CaiT(**SIZES["XXS-24"])                11,956,264 parameters on pictures of 224 x 224 and for 1000 classes
    CaiT(2, 64, 4, 4, classes=10)          8x8 digits in patches of 2x2
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core import spread
from jaxgen.core.arrays import wide
from jaxgen.nn.blocks.attention import MLP, Attention, Block, Blocks, Index, Tokens, head_width, normal
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.blocks.residual import LayerScale
from jaxgen.nn.vision.vit import PatchEmbedding, Pictures, positions, uniform

Dtype = Any
Weights = Float[Array, "batch heads queries keys"]

# LayerScale starts at `layer_scale`. Parameters are for 224 x 224 pictures and 1000 classes, M-48's for 448 x 448.
SIZES = {
  "XXS-24": dict(patch=16, width=192, depth=24, heads=4, layer_scale=1e-5),  # 11,956,264
  "XXS-36": dict(patch=16, width=192, depth=36, heads=4, layer_scale=1e-5),  # 17,299,720
  "XS-24": dict(patch=16, width=288, depth=24, heads=6, layer_scale=1e-5),  # 26,560,648
  "XS-36": dict(patch=16, width=288, depth=36, heads=6, layer_scale=1e-6),  # 38,557,432
  "S-24": dict(patch=16, width=384, depth=24, heads=8, layer_scale=1e-5),  # 46,916,200
  "S-36": dict(patch=16, width=384, depth=36, heads=8, layer_scale=1e-6),  # 68,220,712
  "S-48": dict(patch=16, width=384, depth=48, heads=8, layer_scale=1e-6),  # 89,525,224
  "M-24": dict(patch=16, width=768, depth=24, heads=16, layer_scale=1e-5),  # 185,850,088
  "M-36": dict(patch=16, width=768, depth=36, heads=16, layer_scale=1e-6),  # 270,929,512
  "M-48": dict(patch=16, width=768, depth=48, heads=16, layer_scale=1e-6),  # 356,460,520
}


class TalkingHeads(nn.Module):
  """Linear maps that mix the attention's heads, one before the softmax and one after."""

  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, weights: Weights) -> Weights:
    options = dict(kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)
    dense = Dense(weights.shape[1], name="dense", **options)
    return jnp.moveaxis(dense(jnp.moveaxis(weights, 1, -1)), -1, 1)


class TalkingHeadsAttention(nn.Module):
  """`nn.blocks.attention.Attention` with talking heads; Shazeer et al., section 4."""

  heads: int
  qkv_bias: bool = True
  dropout: float = 0.0
  kernel_init: Any = normal
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, index: Index = None) -> Tokens:
    dtypes, width = dict(dtype=self.dtype, param_dtype=self.param_dtype), x.shape[-1]
    x = spread.over_devices(x)  # heads that talk are not cut over `tensor`
    options = dict(use_bias=self.qkv_bias, kernel_init=self.kernel_init, **dtypes)
    q, k, v = Projections(3, self.heads, head_width(width, self.heads), name="qkv", **options)(x)
    logits = TalkingHeads(name="before", **dtypes)(jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5)
    weights = jax.nn.softmax(wide(logits))
    weights = TalkingHeads(name="after", **dtypes)(weights)
    y = jnp.einsum("bhqk,bkhd->bqhd", Dropout(self.dropout)(weights, index), v)
    return spread.joined(Dense(width, kernel_init=self.kernel_init, name="out", **dtypes)(y.reshape(x.shape)))


class ClassAttentionBlock(nn.Module):
  """A block that changes only the class token, which attends to itself and to the patches; section 3, eq. 5 to 9."""

  heads: int
  hidden: int
  layer_scale: float
  eps: float
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, token: Float[Array, "batch 1 width"], patches: Tokens, index: Index = None
  ) -> Float[Array, "batch 1 width"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = partial(LayerNorm, self.eps, **dtypes)
    scale = partial(LayerScale, self.layer_scale, self.param_dtype)
    u = norm(name="norm_attention")(jnp.concatenate([token, patches], axis=1))
    y = Attention(self.heads, kernel_init=normal, name="attention", **dtypes)(u[:, :1], u, index=index)
    token = token + scale(name="scale_attention")(y)
    y = MLP(self.hidden, kernel_init=normal, name="mlp", **dtypes)(norm(name="norm_mlp")(token), index)
    return token + scale(name="scale_mlp")(y)


class CaiT(nn.Module):
  """CaiT for classification. The head sees the class token, which enters only in the last blocks.

  Attributes:
    patch: side of a patch, in pixels.
    width: number of features of a token.
    depth: number of blocks in which patches attend to patches.
    class_depth: number of blocks in which the class token attends to them.
    layer_scale: initial gain of LayerScale.
    dropout: dropout rate of each branch's output and of the MLPs' hidden layers, in the blocks of patches.
    attention_dropout: dropout rate of attention weights, in the blocks of patches.
    drop_path: stochastic depth's rate, the same in all blocks of patches (section 5.1).
  """

  patch: int
  width: int
  depth: int
  heads: int
  class_depth: int = 2
  layer_scale: float = 1e-5
  classes: int = 1000
  dropout: float = 0.0
  attention_dropout: float = 0.0
  drop_path: float = 0.0
  eps: float = 1e-6
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
    hidden = 4 * self.width
    x = PatchEmbedding(self.width, self.patch, uniform, name="patches", **dtypes)(x)
    x = x.reshape(len(x), -1, self.width)
    x = x + positions(self, x.shape[1], self.width, self.param_dtype).astype(x.dtype)
    x = Dropout(self.dropout)(x, index)
    block = partial(
      Block,
      self.heads,
      hidden,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      layer_scale=self.layer_scale,
      eps=self.eps,
      attention=TalkingHeadsAttention,
      kernel_init=normal,
      **dtypes,
    )
    x = Blocks(block, self.depth, (self.drop_path,) * self.depth, self.remat, self.unroll, name="encoder")(x, index)

    token = self.param("class_token", normal, (1, self.width), self.param_dtype)
    token = jnp.broadcast_to(token.astype(x.dtype), (len(x), 1, self.width))
    for i in range(self.class_depth):
      block = ClassAttentionBlock(self.heads, hidden, self.layer_scale, self.eps, name=f"class_block_{i}", **dtypes)
      token = block(token, x, index)
    return LayerNorm(self.eps, name="norm", **dtypes)(token)[:, 0]

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits."""
    return self.head(self.features(x, index))
