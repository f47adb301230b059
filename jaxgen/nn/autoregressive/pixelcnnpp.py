"""PixelCNN++: Salimans et al. 2017, https://arxiv.org/abs/1701.05517, as in the authors' code.

Whole pixels are drawn, and the network sees whole pixels: the distribution's parameters describe the dependence between
colours (`probability.distributions.logistic_mixture`). There are two streams: one sees the rows above, the other also
the pixel's own row up to the pixel. Both go down to smaller maps, each of half the side, and up again, with short-cuts
between layers of the same side.

Weights are normalised. Their initial lengths give every layer unit variance on the first batch.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.causal import At, Map, Window, stepper, whole
from jaxgen.nn.blocks.embeddings import check_label
from jaxgen.nn.blocks.layers import Dense, Dropout, Dtype

Labels = Int[Array, "batch"] | None
ROWS_ABOVE, UP_TO_PIXEL = ((-1, 0), (-1, 1)), ((-1, 0), (-1, 0))  # the streams' windows: 2x3 and 2x2
SMALL = 0.1  # the standard deviation that a block adds to its input at first


def concat_elu(x: Map) -> Map:
  return nn.elu(jnp.concatenate([x, -x], axis=-1))


class _Stream(nn.Module):
  """Settings that the two streams share: see `PixelCNNpp`."""

  features: int
  blocks: int
  stages: int
  dropout: float
  classes: int | None
  dtype: Dtype
  param_dtype: Dtype

  def window(
    self, name: str, x: Map, at: At | None, seen: tuple, features: int | None = None, normalized: float = 1.0, **options
  ) -> Map:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    return Window(features or self.features, *seen, normalized=normalized, name=name, **options, **dtypes)(x, at)

  def pointwise(self, name: str, x: Map, at: At | None, features: int | None = None, **options) -> Map:
    return self.window(name, x, at, ((0, 0), (0, 0)), features, **options)

  def block(
    self, name: str, seen: tuple, x: Map, beside: Map | None, label: Labels, index: Labels, at: At | None
  ) -> Map:
    """The gated residual block. `beside` enters by a short-cut."""
    h = self.window(f"{name}_conv_1", concat_elu(x), at, seen)
    if beside is not None:
      h = h + self.pointwise(f"{name}_beside", concat_elu(beside), at)
    h = Dropout(self.dropout)(concat_elu(h), index)
    h = self.window(f"{name}_conv_2", h, at, seen, 2 * self.features, normalized=SMALL)
    if label is not None:
      one_hot = nn.one_hot(label, self.classes, dtype=h.dtype)
      dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      h = h + Dense(h.shape[-1], use_bias=False, name=f"{name}_label", **dtypes)(one_hot)[:, None, None]
    a, b = jnp.split(h, 2, axis=-1)
    return x + a * nn.sigmoid(b)

  def double(self, name: str, x: Map, columns: tuple[int, int], at: At | None) -> Map:
    """A transposed convolution of stride 2: each position becomes 2x2.

    Args:
      name: the layer's name.
      x: the smaller map.
      columns: how many columns of the smaller map a position sees to its left and to its right. The authors'
        kernel of 2x3 has three of these four products: the left position of a pair sees its own position in the smaller
        map, the right one also the next.
      at: a position in the larger map; None: all.
    """
    mask = np.ones((1, columns[1] + 1, 1, 2, 2, 1), np.float32)
    mask[:, 1:, :, :, 0] = 0
    mask = np.broadcast_to(mask, (*mask.shape[:-1], self.features)).reshape(*mask.shape[:3], -1)
    h = self.window(name, x, at and at.halved(), ((0, 0), columns), 4 * self.features, mask=mask)
    b, height, width, _ = h.shape
    h = h.reshape(b, height, width, 2, 2, self.features)
    if at is None:
      return h.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * height, 2 * width, -1)
    h = h[:, :, :, at.row % 2]  # [B, 1, width, 2, F]
    return h.reshape(b, 1, 2 * width, -1) if at.column is None else h[:, :, :, at.column % 2]


def _with_ones(x: Map) -> Map:
  """The image with a channel of ones, which distinguishes pixels from the zero padding."""
  return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)


class _Above(_Stream):
  @nn.compact
  def __call__(self, x: Map, label: Labels, index: Labels, at: At | None) -> list[Map]:
    """The maps that the blocks of the other stream receive, in order."""
    block = lambda name, u, beside: self.block(name, ROWS_ABOVE, u, beside, label, index, where)
    where = at
    u = self.window("in", _with_ones(x), at, ((-2, -1), (-1, 1)), image=True)
    down, maps = [u], []
    for stage in range(self.stages):
      if stage:
        u = self.window(f"halve_{stage}", u, where, ROWS_ABOVE, stride=2)
        where = where and where.halved()
        down.append(u)
      for i in range(self.blocks):
        u = block(f"down_{stage}_{i}", u, None)
        down.append(u)
        maps.append(u)
    u = down.pop()
    for stage in reversed(range(self.stages)):
      for i in range(self.blocks + (stage < self.stages - 1)):
        u = block(f"up_{stage}_{i}", u, down.pop())
        maps.append(u)
      if stage:
        where = at and at.halved(stage - 1)
        u = self.double(f"double_{stage}", u, (0, 1), where)
    return maps


class _Beside(_Stream):
  outputs: int

  @nn.compact
  def __call__(self, x: Map, maps: list[Map], label: Labels, index: Labels, at: At | None) -> Map:
    block = lambda name, ul, beside: self.block(name, UP_TO_PIXEL, ul, beside, label, index, where)
    where, maps, image = at, list(maps), _with_ones(x)
    ul = self.window("in_above", image, at, ((-1, -1), (-1, 1)), image=True)
    ul = ul + self.window("in_left", image, at, ((-1, 0), (-1, -1)), image=True)
    down = [ul]
    for stage in range(self.stages):
      if stage:
        ul = self.window(f"halve_{stage}", ul, where, UP_TO_PIXEL, stride=2)
        where = where and where.halved()
        down.append(ul)
      for i in range(self.blocks):
        ul = block(f"down_{stage}_{i}", ul, maps.pop(0))
        down.append(ul)
    ul = down.pop()
    for stage in reversed(range(self.stages)):
      for i in range(self.blocks + (stage < self.stages - 1)):
        ul = block(f"up_{stage}_{i}", ul, jnp.concatenate([maps.pop(0), down.pop()], axis=-1))
      if stage:
        where = at and at.halved(stage - 1)
        ul = self.double(f"double_{stage}", ul, (0, 0), where)
    return self.pointwise("parameters", nn.elu(ul), at, self.outputs)


class PixelCNNpp(nn.Module):
  """The defaults are the paper's for CIFAR-10.

  Attributes:
    outputs: number of parameters of a pixel; for colour images 10 for each component of the mixture.
    features: channels of every layer.
    blocks: blocks in each stage on the way down; on the way up one more, except in the smallest stage.
    stages: number of stages, each at half the side of the one before.
    dropout: rate, in each block.
    classes: number of classes of a class-conditional network.
  """

  outputs: int
  features: int = 160
  blocks: int = 5
  stages: int = 3
  dropout: float = 0.5
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    shared = (
      self.features, self.blocks, self.stages, self.dropout, self.classes, self.dtype, self.param_dtype
    )  # fmt: skip
    self.above = _Above(*shared)
    self.beside = _Beside(*shared, self.outputs)

  def __call__(self, x: Map, label: Labels = None, index: Labels = None) -> Float[Array, "batch k {self.outputs}"]:
    """Parameters of all pixels. Dropout is on where `index` is given; it needs rngs={"dropout": key}.

    Raises:
      UserError: the image's sides do not divide, a size is 0, or a label is given without `classes`, or the reverse.
    """
    check_sizes("PixelCNN++", outputs=self.outputs, features=self.features, blocks=self.blocks, stages=self.stages)
    check_label(label, self.classes)
    factor = 2 ** (self.stages - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise UserError(
        f"PixelCNN++ with {self.stages} stages takes images whose sides divide by {factor}, and these are of "
        f"{x.shape[1]}x{x.shape[2]}: pad or resize them, or take fewer stages"
      )
    return whole(self, x, label, index)

  def vertical(self, x: Map, label: Labels = None, index: Labels = None, at: At | None = None) -> list[Map]:
    return self.above(x, label, index, at)

  def horizontal(
    self, x: Map, maps: list[Map], label: Labels = None, index: Labels = None, at: At | None = None
  ) -> Float[Array, "batch height width 1 {self.outputs}"]:
    return self.beside(x, maps, label, index, at)[:, :, :, None]

  def stepper(self, params: Any, x: Map, label: Labels = None):
    return stepper(self, params, x, 1, label)
