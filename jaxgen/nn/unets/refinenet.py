"""The network of noise-conditional score networks: a RefineNet with dilated convolutions.

Song and Ermon 2019, https://arxiv.org/abs/1907.05600, Appendix A, as in the authors' code: four groups of residual
blocks, of which the second halves the image and the last two dilate their convolutions instead; a cascade of four
refinement blocks; and everywhere normalisation with separate gains and biases for each noise level.

Published size: `RefineNet()`, CIFAR-10, 30,117,635 parameters.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Conv, scale_shift, sums
from jaxgen.nn.unets.adm import initializer
from jaxgen.nn.unets.unet import Map
from jaxgen.nn.vision.convnet import halve

Dtype = Any


class ConditionalInstanceNorm(nn.Module):
  """Conditional instance normalisation++, Appendix A.1: each channel of each image, and then their means.

      z_k = gamma[i, k] ((x_k - mu_k) / s_k + alpha[i, k] (mu_k - m) / v) + beta[i, k]

  for noise level i, with mu_k and s_k channel k's mean and standard deviation over the positions, and m and v the mean
  and the standard deviation (of a sample: C - 1) of the mu_k.
  """

  levels: int
  dtype: Dtype
  param_dtype: Dtype
  eps: float = 1e-5

  @nn.compact
  def __call__(self, x: Map, level: Int[Array, "batch"]) -> Map:
    channels, shape = x.shape[-1], (self.levels, x.shape[-1])
    near_one = lambda key, shape, dtype: 1 + nn.initializers.normal(0.02)(key, shape, dtype)
    gamma = self.param("gamma", near_one, shape, self.param_dtype)[level]
    alpha = self.param("alpha", near_one, shape, self.param_dtype)[level]
    beta = self.param("beta", nn.initializers.zeros, shape, self.param_dtype)[level]
    x = x.astype(self.dtype)
    first, second = (s / (x.shape[1] * x.shape[2]) for s in sums(x, x))
    gain = gamma / jnp.sqrt(jnp.maximum(second - first**2, 0) + self.eps)
    centred = first - first.mean(-1, keepdims=True)
    variance = jnp.sum(centred**2, axis=-1, keepdims=True) / max(channels - 1, 1)
    return scale_shift(x, first, gain, gamma * alpha * centred / jnp.sqrt(variance + self.eps) + beta)


def mean_5x5(x: Map) -> Map:
  """The mean over 5x5 pixels around each pixel, with zeros outside of the image."""
  for axis in (1, 2):
    padded = jnp.pad(x, [(2, 2) if a == axis else (0, 0) for a in range(4)])
    size = x.shape[axis]
    x = sum(jnp.take(padded, np.arange(i, i + size), axis=axis) for i in range(5)) / 5
  return x


def bilinear(x: Map, height: int, width: int) -> Float[Array, "batch {height} {width} channels"]:
  """Bilinear interpolation that maps corner pixels to corner pixels."""
  for axis, size in ((1, height), (2, width)):
    at = np.linspace(0, x.shape[axis] - 1, size)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(x.shape[axis])))
    x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(weights, x.dtype), axes=(axis, 1)), -1, axis)
  return x


def dilate(convolve, x: Map, d: int) -> Float[Array, "batch height width features"]:
  """A 3x3 "SAME" convolution with dilation d, computed as a plain one on d x d images of every d-th row and column."""
  batch, height, width, channels = x.shape
  rows, columns = -(-height // d), -(-width // d)
  x = jnp.pad(x, ((0, 0), (0, rows * d - height), (0, columns * d - width), (0, 0)))
  x = x.reshape(batch, rows, d, columns, d, channels).transpose(0, 2, 4, 1, 3, 5)
  y = convolve(x.reshape(batch * d * d, rows, columns, channels))
  y = y.reshape(batch, d, d, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
  return y.reshape(batch, rows * d, columns * d, -1)[:, :height, :width]


class RefineNet(nn.Module):
  """The score of x at noise level t, up to a factor from the method.

  Attributes:
    channels: width at full resolution; at half resolution twice as much.
    levels: number of noise levels.
    out_channels: channels of the output.
    remat: keep only the inputs of residual blocks and units for the backward pass, and compute the rest again.
    dtype: dtype of the computation; normalisation statistics are float32 or wider.
    param_dtype: dtype of the parameters.
  """

  channels: int = 128
  levels: int = 10
  out_channels: int = 3
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Map,
    t: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and noise levels t [B] in 0 .. levels - 1, rounded; in x's dtype.

    It has no dropout: `index` changes nothing.

    Raises:
      UserError: H or W is odd, or a label is given.
    """
    check_sizes("a RefineNet", channels=self.channels, levels=self.levels)
    if x.shape[1] % 2 or x.shape[2] % 2:
      raise UserError(f"a RefineNet takes images with even sides, not {x.shape[1:3]}: crop them")
    if label is not None:
      raise UserError("a RefineNet is unconditional: train it without a condition")
    level = jnp.clip(jnp.round(t).astype(jnp.int32), 0, self.levels - 1)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    wide, narrow = 2 * self.channels, self.channels

    def norm(x: Array, name: str) -> Array:
      return ConditionalInstanceNorm(self.levels, name=name, **dtypes)(x, level)

    def conv(x: Array, width: int, name: str, kernel: int = 3, use_bias: bool = True, dilation: int = 1) -> Array:
      layer = Conv(width, kernel, use_bias=use_bias, kernel_init=initializer(), name=name, **dtypes)
      return layer(x) if dilation == 1 else dilate(layer, x, dilation)

    def again(f: Callable[..., Array]) -> Callable[..., Array]:
      return lambda x, *rest: nn.remat(lambda _, x: f(x, *rest))(self, x) if self.remat else f(x, *rest)

    @again
    def residual(x: Array, width: int, name: str, first: bool = False, dilation: int = 1) -> Array:
      """norm, ELU, conv; norm, ELU, conv; + input. A group's first block changes the width, and halves or dilates."""
      layer = partial(conv, dilation=dilation)
      shrink = halve if first and dilation == 1 else lambda x: x
      h = layer(nn.elu(norm(x, f"{name}_norm_1")), x.shape[-1] if first else width, f"{name}_conv_1")
      h = shrink(layer(nn.elu(norm(h, f"{name}_norm_2")), width, f"{name}_conv_2"))
      if first:
        x = shrink(layer(x, width, f"{name}_shortcut", 3 if dilation > 1 else 1))
      return x + h

    @again
    def units(x: Array, count: int, name: str) -> Array:
      """Residual convolution units."""
      for unit in range(count):
        h = x
        for stage in range(2):
          h = nn.elu(norm(h, f"{name}_{unit}_norm_{stage}"))
          h = conv(h, h.shape[-1], f"{name}_{unit}_conv_{stage}", use_bias=False)
        x = x + h
      return x

    def refine(inputs: list[Array], width: int, name: str, last: bool = False) -> Array:
      """Adapts the inputs, fuses them at the first one's resolution, pools in a chain, adapts the output."""
      hs = [units(x, 2, f"{name}_adapt_{i}") for i, x in enumerate(inputs)]
      if len(hs) == 1:
        h = hs[0]
      else:
        hs = [conv(norm(h, f"{name}_fuse_norm_{i}"), width, f"{name}_fuse_conv_{i}") for i, h in enumerate(hs)]
        h = sum(bilinear(h, *hs[0].shape[1:3]) if h.shape != hs[0].shape else h for h in hs)
      h = path = nn.elu(h)
      for stage in range(2):
        path = mean_5x5(norm(path, f"{name}_pool_norm_{stage}"))
        path = conv(path, width, f"{name}_pool_conv_{stage}", use_bias=False)
        h = h + path
      return units(h, 3 if last else 1, f"{name}_output")

    h = conv(x, narrow, "in")
    layers = []
    for number, (width, dilation) in enumerate([(narrow, 1), (wide, 1), (wide, 2), (wide, 4)]):
      h = residual(h, width, f"group_{number}_0", number > 0, dilation)
      h = residual(h, width, f"group_{number}_1", False, dilation)
      layers.append(h)
    h = refine([layers[3]], wide, "refine_0")
    h = refine([layers[2], h], wide, "refine_1")
    h = refine([layers[1], h], narrow, "refine_2")
    h = refine([layers[0], h], narrow, "refine_3", last=True)
    return conv(nn.elu(norm(h, "out_norm")), self.out_channels, "out").astype(x.dtype)
