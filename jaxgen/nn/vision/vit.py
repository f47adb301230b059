"""Vision Transformers: ViT and DeiT.

ViT: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, section 3.1 and Table 1; the sizes Ti and S are from
Steiner et al. 2021, https://arxiv.org/abs/2106.10270, Table 2. DeiT: Touvron et al. 2020,
https://arxiv.org/abs/2012.12877, section 4 (the distillation token) and Table 1.

    ViT(**SIZES["B/16"])                      86,567,656 parameters on pictures of 224 x 224 and for 1000 classes
    ViT(**DEIT["Ti"])                         5,910,800
    ViT(2, 64, 4, 4, classes=10)              8x8 digits in patches of 2x2
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Num

from jaxgen.core.arrays import wide_dtype
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.attention import MLP, Block, Blocks, Index, Tokens, attend, head_width, normal, xavier
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm, add_bias, matmul
from jaxgen.nn.blocks.positions import over_grid
from jaxgen.nn.blocks.projections import separately

Dtype = Any
Pictures = Float[Array, "batch height width channels"]

# PyTorch's default initialisation of a convolution, which DeiT and its successors use.
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# "Size/patch". Parameters are for 224 x 224 pictures, 1000 classes and a class token.
SIZES = {
  "Ti/16": dict(patch=16, width=192, depth=12, heads=3),  # 5,717,416
  "S/32": dict(patch=32, width=384, depth=12, heads=6),  # 22,878,952
  "S/16": dict(patch=16, width=384, depth=12, heads=6),  # 22,050,664
  "S/8": dict(patch=8, width=384, depth=12, heads=6),  # 22,055,272
  "B/32": dict(patch=32, width=768, depth=12, heads=12),  # 88,224,232
  "B/16": dict(patch=16, width=768, depth=12, heads=12),  # 86,567,656
  "B/8": dict(patch=8, width=768, depth=12, heads=12),  # 86,576,872
  "L/32": dict(patch=32, width=1024, depth=24, heads=16),  # 306,535,400
  "L/16": dict(patch=16, width=1024, depth=24, heads=16),  # 304,326,632
  "L/14": dict(patch=14, width=1024, depth=24, heads=16),  # 304,203,752
  "H/14": dict(patch=14, width=1280, depth=32, heads=16),  # 632,045,800
}
# DeiT with its distillation token. Without the token it is a ViT with another initialisation.
_DEIT = dict(distilled=True, patch_init=uniform, kernel_init=normal, head_init=normal)
DEIT = {
  "Ti": SIZES["Ti/16"] | _DEIT,  # 5,910,800
  "S": SIZES["S/16"] | _DEIT,  # 22,436,432
  "B": SIZES["B/16"] | _DEIT,  # 87,338,192
}


def resize_positions(
  table: Float[Array | np.ndarray, "old_tokens features"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Array, "new_tokens features"]:
  """A table of positions for another resolution: section 3.2 of ViT; interpolation as in timm.

  It is bicubic (Keys' kernel with a = -1/2), with a wider kernel if the new grid is coarser. The first rows, of class
  and distillation tokens, do not change.

  Args:
    old, new: rows and columns of patches.
  """
  first = table.shape[0] - old[0] * old[1]
  if not 0 <= first <= 2:
    raise UserError(f"a table of {table.shape[0]} positions is not of {old[0]} x {old[1]} patches and up to two tokens")
  table = jnp.asarray(table)
  grid = table[first:].reshape(*old, -1)
  grid = jax.image.resize(grid, (*new, grid.shape[-1]), "cubic", antialias=True)
  return jnp.concatenate([table[:first], grid.reshape(-1, grid.shape[-1])])


def taken_apart(x: Num[Array, "batch height width channels"], patch: int) -> Num[Array, "batch rows columns values"]:
  """Pictures as grids of patches, whose values are rows, columns and channels of pixels.

  `nn.blocks.modulation.put_together` is its inverse.

  Raises:
    UserError: the patch does not divide the picture's sides.
  """
  batch, height, width, channels = x.shape
  if height % patch or width % patch:
    raise UserError(
      f"pictures of {height} x {width} do not divide into patches of {patch} x {patch}: choose another patch, or "
      "resize them"
    )
  x = x.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
  return x.reshape(*x.shape[:3], -1)


class PatchEmbedding(nn.Module):
  """A linear map of each patch x patch square of pixels: a convolution with this stride and kernel size.

  Raises:
    UserError: the patch does not divide the picture's sides.
  """

  features: int
  patch: int
  kernel_init: Any = nn.initializers.lecun_normal()
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Pictures) -> Float[Array, "batch rows columns {self.features}"]:
    shape = (self.patch, self.patch, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return add_bias(matmul(taken_apart(x, self.patch), kernel.reshape(-1, self.features)), bias)


def grid_positions(rows: int, columns: int, tokens: int) -> Any:
  """An initialiser of a table of fixed positions: zeros for so many tokens, then sines and cosines of the grid.

  As in MAE: He et al. 2021, https://arxiv.org/abs/2111.06377, section 3.
  """

  def init(key: Array, shape: tuple[int, int], dtype: Dtype) -> Float[Array, "tokens features"]:
    wide = wide_dtype(dtype)
    grid = over_grid(jnp.arange(rows), jnp.arange(columns), shape[1], wide)
    return jnp.concatenate([jnp.zeros((tokens, shape[1]), wide), grid]).astype(dtype)

  return init


def positions(
  module: nn.Module, count: int, features: int, dtype: Dtype, init: Any = normal
) -> Float[Array, "{count} {features}"]:
  """The module's table "positions".

  Raises:
    UserError: the existing table has another number of tokens.
  """
  if module.has_variable("params", "positions"):
    table = module.get_variable("params", "positions")
    if table.shape[0] != count:
      raise UserError(
        f"the network has {table.shape[0]} positions and these pictures need {count}: "
        "give pictures of the size it was made for, or resize its table with jaxgen.nn.vision.vit.resize_positions"
      )
  return module.param("positions", init, (count, features), dtype)


class AttentionReadout(nn.Module):
  """Attention of one learned query to all tokens, and an MLP: Lee et al. 2019, https://arxiv.org/abs/1810.00825.

  As in Zhai et al. 2022, https://arxiv.org/abs/2106.04560, section 3.1, and SigLIP.
  """

  heads: int
  hidden: int
  activation: Any = gelu
  eps: float = 1e-6
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens) -> Float[Array, "batch features"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width = x.shape[-1]
    query = self.param("query", xavier, (1, width), self.param_dtype)
    # One kernel for query, keys and values; the query has another input than the others.
    kernel = self.param("qkv_kernel", separately(xavier, 3), (width, 3 * width), self.param_dtype)
    bias = self.param("qkv_bias", nn.initializers.zeros, (3 * width,), self.param_dtype)
    x, query, kernel, bias = nn.dtypes.promote_dtype(x, query, kernel, bias, dtype=self.dtype)
    heads = lambda y: y.reshape(*y.shape[:-1], self.heads, head_width(width, self.heads))
    q = jnp.broadcast_to(query @ kernel[:, :width] + bias[:width], (x.shape[0], 1, width))
    k, v = jnp.split(add_bias(matmul(x, kernel[:, width:]), bias[width:]), 2, axis=-1)
    h = Dense(width, name="out", **dtypes)(attend(heads(q), heads(k), heads(v)).reshape(q.shape))
    y = LayerNorm(self.eps, name="norm", **dtypes)(h)
    return (h + MLP(self.hidden, self.activation, name="mlp", **dtypes)(y))[:, 0]


class ViT(nn.Module):
  """Vision Transformer; with `distilled`, DeiT.

  Attributes:
    patch: side of a patch, in pixels.
    width: number of features of a token.
    heads: number of attention's heads.
    hidden: width of the MLPs' hidden layers; by default 4 x width.
    pool: the head's input: the class token; or the mean over all tokens, or an `AttentionReadout` of them; in the last
      two cases there is no class token.
    distilled: add a second token with its own head, which learn from a teacher.
    dropout: dropout rate after positions are added, of each branch's output and of the MLPs' hidden layers.
    attention_dropout: dropout rate of attention weights.
    drop_path: stochastic depth's rate at the last block.
    layer_scale: initial gain of each branch, as in DINOv2; None: no gains.
    head_init: initialiser of heads and of class and distillation tokens; zero for ViT.
    activation: the MLPs' activation.
    patch_bias: whether patches' linear map has a bias.
    norm_first: whether tokens are normalised before the first block, as in CLIP.
    fixed_positions: positions are sines and cosines of the grid, see `grid_positions`. They are an entry of the
      parameters that has no gradient.
  """

  patch: int
  width: int
  depth: int
  heads: int
  hidden: int | None = None
  classes: int = 1000
  pool: Literal["class", "mean", "attention"] = "class"
  distilled: bool = False
  dropout: float = 0.0
  attention_dropout: float = 0.0
  drop_path: float = 0.0
  layer_scale: float | None = None
  eps: float = 1e-6
  remat: bool = False
  unroll: int = 1
  patch_init: Any = nn.initializers.lecun_normal()
  kernel_init: Any = xavier
  head_init: Any = nn.initializers.zeros
  activation: Any = gelu
  patch_bias: bool = True
  norm_first: bool = False
  fixed_positions: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    options = dict(kernel_init=self.head_init, dtype=self.dtype, param_dtype=self.param_dtype)
    self.head = Dense(self.classes, **options)
    if self.distilled:
      self.distillation_head = Dense(self.classes, **options)
    if self.pool == "attention":
      hidden, dtypes = self.hidden or 4 * self.width, dict(dtype=self.dtype, param_dtype=self.param_dtype)
      self.readout = AttentionReadout(self.heads, hidden, self.activation, self.eps, **dtypes)

  @nn.compact
  def tokens(
    self,
    x: Pictures,
    index: Index = None,
    *,
    visible: Int[Array, "batch seen"] | None = None,
    masked: Bool[Array, "batch patches"] | None = None,
  ) -> Tokens:
    """Normalised tokens [B, T, D]: the class token, the distillation token, then the patches in row-major order.

    Args:
      x: the pictures.
      index: the examples' positions in the global batch, in training.
      visible: the patches that are seen at all, in this order, as in MAE; None: all.
      masked: patches in whose place a learned token, "mask_token", is seen, as in SimMIM; None: none.
    """
    if self.distilled and self.pool != "class":
      raise UserError("a distilled network has two tokens to read out: pool must be 'class'")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x = PatchEmbedding(self.width, self.patch, self.patch_init, self.patch_bias, name="patches", **dtypes)(x)
    rows, columns = x.shape[1:3]
    x = x.reshape(x.shape[0], -1, self.width)
    if masked is not None:
      token = self.param("mask_token", normal, (1, self.width), self.param_dtype)
      x = jnp.where(masked[..., None], token.astype(x.dtype), x)
    names = (["class"] if self.pool == "class" else []) + (["distillation"] if self.distilled else [])
    first = [self.param(f"{name}_token", self.head_init, (1, self.width), self.param_dtype) for name in names]
    x = jnp.concatenate([*(jnp.broadcast_to(t.astype(x.dtype), (len(x), *t.shape)) for t in first), x], axis=1)
    init = grid_positions(rows, columns, len(names)) if self.fixed_positions else normal
    table = positions(self, x.shape[1], self.width, self.param_dtype, init).astype(x.dtype)
    x = x + (jax.lax.stop_gradient(table) if self.fixed_positions else table)
    if self.norm_first:
      x = LayerNorm(self.eps, name="norm_first", **dtypes)(x)
    if visible is not None:
      patches = jnp.take_along_axis(x[:, len(names) :], visible[..., None], axis=1)
      x = jnp.concatenate([x[:, : len(names)], patches], axis=1)
    x = Dropout(self.dropout)(x, index)

    def block(name: str) -> nn.Module:
      return Block(
        self.heads,
        self.hidden or 4 * self.width,
        activation=self.activation,
        dropout=self.dropout,
        attention_dropout=self.attention_dropout,
        layer_scale=self.layer_scale,
        eps=self.eps,
        kernel_init=self.kernel_init,
        name=name,
        **dtypes,
      )

    x = Blocks(block, self.depth, self.drop_path, self.remat, self.unroll, name="encoder")(x, index)
    return LayerNorm(self.eps, name="norm", **dtypes)(x)

  def _read(self, tokens: Tokens) -> Float[Array, "batch {self.width}"]:
    if self.distilled:
      return (tokens[:, 0] + tokens[:, 1]) / 2
    if self.pool == "attention":
      return self.readout(tokens)
    return tokens[:, 0] if self.pool == "class" else tokens.mean(1)

  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.width}"]:
    """The head's input; in a distilled network, the mean of both heads' inputs."""
    return self._read(self.tokens(x, index))

  def __call__(self, x: Pictures, index: Index = None):
    """Logits [B, classes]. A distilled network's are the mean of both heads, and in training (class, distillation)."""
    if not self.distilled:
      return self.head(self.features(x, index))
    tokens = self.tokens(x, index)
    logits = self.head(tokens[:, 0]), self.distillation_head(tokens[:, 1])
    return sum(logits) / 2 if index is None else logits
