"""Networks of generative adversarial networks: generators, z -> examples, and discriminators, x -> one number each.

    generator, discriminator = DCGANGenerator((64, 64, 3)), DCGANDiscriminator()
    x = generator.apply(variables, z, label)       # [B, latent], None or [B] -> [B, 64, 64, 3]
    D = discriminator.apply(variables, x, label)   # [B, 64, 64, 3] -> [B]

`index` [B] switches training on: batch norm uses the batch's statistics, singular vectors advance, and dropout is on.
Generators get a label as a one-hot vector that is concatenated to z (Mirza and Osindero 2014,
https://arxiv.org/abs/1411.1784), discriminators by projection.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, Dropout
from jaxgen.nn.blocks.spectral import SpectralConv, SpectralDense
from jaxgen.nn.blocks.transposed import ConvTransposed

Dtype = Any
Latent = Float[Array, "batch latent"]
Image = Float[Array, "batch height width channels"]
Event = Float[Array, "batch *shape"]
Label = Int[Array, " batch"] | None
Index = Int[Array, " batch"] | None
Output = Float[Array, " batch"]

small = nn.initializers.normal(0.02)  # Radford et al. 2015, section 4
he_uniform = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")
leaky_relu = lambda x: jax.nn.leaky_relu(x, 0.2)


def near_one(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
  """The gains of DCGAN's batch norm: N(1, 0.02^2), as in the authors' code."""
  return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def with_label(z: Latent, label: Label, classes: int | None) -> Float[Array, "batch more"]:
  """z followed by the label's one-hot numbers."""
  return z if classes is None else jnp.concatenate([z, jax.nn.one_hot(label, classes, dtype=z.dtype)], axis=-1)


class Projection(nn.Module):
  """y^T V phi for each example: Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637, eq. 3; 0 without classes.

  With `spectral`, V is normalised like other kernels.
  """

  classes: int | None
  spectral: bool
  kernel_init: Any
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, phi: Float[Array, "batch features"], label: Label, train: bool) -> Output:
    if self.classes is None:
      return jnp.zeros(len(phi), phi.dtype)
    y = jax.nn.one_hot(label, self.classes, dtype=phi.dtype)
    how = dict(use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
    layer = SpectralDense if self.spectral else Dense
    return jnp.sum(layer(phi.shape[-1], name="V", **how)(y, *[train] * self.spectral) * phi, axis=-1)


class MLPGenerator(nn.Module):
  """z -> dense layers -> an example of this shape. `output` is applied to it: tanh for images, none for points."""

  shape: tuple[int, ...]
  hidden: Sequence[int] = (128, 128)
  activation: Callable[[Array], Array] = nn.relu
  output: Callable[[Array], Array] | None = None
  classes: int | None = None
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Latent, label: Label = None, index: Index = None) -> Event:
    check_sizes("a generator", hidden=self.hidden)
    how = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
    h = with_label(z, label, self.classes)
    for i, width in enumerate(self.hidden):
      h = self.activation(Dense(width, name=f"hidden_{i}", **how)(h))
    h = Dense(math.prod(self.shape), name="out", **how)(h).reshape(-1, *self.shape)
    return h if self.output is None else self.output(h)


class MLPDiscriminator(nn.Module):
  """Dense layers -> one number.

  Attributes:
    pieces: for more than 1, maxout: a unit is the largest of so many numbers and has no activation, as in Goodfellow et
      al. 2014.
    dropout: dropout rates of the inputs and of each hidden layer.
    spectral: use spectral normalisation.
  """

  hidden: Sequence[int] = (128, 128)
  activation: Callable[[Array], Array] = leaky_relu
  pieces: int = 1
  dropout: tuple[float, float] = (0.0, 0.0)
  spectral: bool = False
  classes: int | None = None
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, label: Label = None, index: Index = None) -> Output:
    check_sizes("a discriminator", hidden=self.hidden, pieces=self.pieces)
    train, how = index is not None, dict(dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=self.kernel_init)

    def dense(h: Array, width: int, name: str) -> Array:
      if self.spectral:
        return SpectralDense(width, name=name, **how)(h, train)
      return Dense(width, name=name, **how)(h)

    h = Dropout(self.dropout[0])(x.reshape(len(x), -1), index)
    for i, width in enumerate(self.hidden):
      h = dense(h, width * self.pieces, f"hidden_{i}")
      h = self.activation(h) if self.pieces == 1 else h.reshape(len(h), width, self.pieces).max(-1)
      h = Dropout(self.dropout[1])(h, index)
    projected = Projection(self.classes, self.spectral, name="projection", **how)(h, label, train)
    return dense(h, 1, "out")[:, 0] + projected


def halvings(shape: tuple[int, ...], least: int = 4) -> tuple[tuple[int, int], int]:
  """The smallest map's height and width, and how often an image is halved to get it. No side is below `least`.

  Raises:
    UserError: the image cannot be halved.
  """
  (height, width), times = shape[:2], 0
  while height % 2 == width % 2 == 0 and min(height, width) >= 2 * least:
    height, width, times = height // 2, width // 2, times + 1
  if times == 0:
    raise UserError(
      f"images of {height}x{width} do not halve to {least} pixels or more: use even sides of {2 * least} or more"
    )
  return (height, width), times


class DCGANGenerator(nn.Module):
  """Radford et al. 2015, https://arxiv.org/abs/1511.06434, Figure 1: transposed convolutions, each doubling the image.

  Batch norm and ReLU follow each but the last, which tanh follows; there are no biases. 64x64 images begin as 4x4 with
  8 times `width` channels, and each smaller size has one layer and one doubling of the channels less.

  Published sizes, for 64x64x3: as here, which is PyTorch's example, 3,576,704 parameters; the authors' width 128,
  kernel 5 and `units`, 18,885,760.

  Attributes:
    units: the first batch norm is over each unit of the projection of z, as in the authors' code, not over each
      channel.
    least: the smallest side of the first map.
  """

  shape: tuple[int, int, int]
  width: int = 64
  kernel: int = 4
  units: bool = False
  least: int = 4
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Latent, label: Label = None, index: Index = None) -> Image:
    """Raises a UserError for images too small or odd."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    how = dict(use_bias=False, kernel_init=small, **dtypes)
    norm = lambda name, h: nn.relu(BatchNorm(scale_init=near_one, name=name, **dtypes)(h, index is not None))
    smallest, times = halvings(self.shape, self.least)
    channels = self.width * 2 ** (times - 1)
    h = Dense(math.prod(smallest) * channels, name="project", **how)(with_label(z, label, self.classes))
    h = norm("norm_0", h) if self.units else h
    h = h.reshape(-1, *smallest, channels)
    h = h if self.units else norm("norm_0", h)
    for i in range(1, times):
      channels //= 2
      h = norm(f"norm_{i}", ConvTransposed(channels, self.kernel, name=f"up_{i}", **how)(h))
    return jnp.tanh(ConvTransposed(self.shape[2], self.kernel, name="out", **how)(h))


class DCGANDiscriminator(nn.Module):
  """The discriminator of DCGAN: convolutions that halve the image, batch norm on all but the first, leaky ReLU.

  The number of channels doubles each time. There are no biases. PyTorch's example, and here the default, is width 64
  and kernel 4; the authors' 128 and 5.

  Attributes:
    norm: use batch norm.
    spectral: use spectral normalisation, also of the projection's V.
    classes: number of classes; the label is projected on the last map, summed over its positions.
    least: the smallest side of the last map.
  """

  width: int = 64
  kernel: int = 4
  norm: bool = True
  spectral: bool = False
  least: int = 4
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image, label: Label = None, index: Index = None) -> Output:
    """Raises a UserError for images too small or odd."""
    train, dtypes = index is not None, dict(dtype=self.dtype, param_dtype=self.param_dtype)
    how = dict(use_bias=False, kernel_init=small, **dtypes)
    r = (self.kernel - 1) // 2  # below; above as much as makes half the size of an even one
    convolution = dict(kernel=self.kernel, stride=2, padding=((r, self.kernel - 2 - r),) * 2, **how)
    _, times = halvings(x.shape[1:], self.least)
    h = x
    for i in range(times):
      channels, name = self.width * 2**i, f"down_{i}"
      if self.spectral:
        h = SpectralConv(channels, name=name, **convolution)(h, train)
      else:
        h = Conv(channels, name=name, **convolution)(h)
      if self.norm and i > 0:
        h = BatchNorm(scale_init=near_one, name=f"norm_{i}", **dtypes)(h, train)
      h = leaky_relu(h)
    flat = h.reshape(len(h), -1)
    output = SpectralDense(1, name="out", **how)(flat, train) if self.spectral else Dense(1, name="out", **how)(flat)
    projection = Projection(self.classes, self.spectral, small, name="projection", **dtypes)
    return output[:, 0] + projection(h.sum((1, 2)), label, train)


def mean_2x2(x: Image) -> Float[Array, "batch h w channels"]:
  """Each 2x2 block averaged."""
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def doubled(x: Image) -> Float[Array, "batch h w channels"]:
  """Each pixel repeated in both directions."""
  return x.repeat(2, axis=1).repeat(2, axis=2)


class ResNetGenerator(nn.Module):
  """Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028, Table 5 for 32x32 and width 128; Miyato et al. 2018,
  https://arxiv.org/abs/1802.05957, Table 4, with 256.

  A projection of z, residual blocks that double the image (batch norm, ReLU, 3x3, twice), and batch norm, ReLU, 3x3,
  tanh.
  """

  shape: tuple[int, int, int]
  width: int = 128
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Latent, label: Label = None, index: Index = None) -> Image:
    """Raises a UserError for images too small or odd."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda name, h: nn.relu(BatchNorm(name=name, **dtypes)(h, index is not None))
    conv = lambda name, width=self.width, **how: Conv(width, kernel_init=he_uniform, name=name, **how, **dtypes)
    smallest, times = halvings(self.shape)
    project = Dense(math.prod(smallest) * self.width, kernel_init=he_uniform, name="project", **dtypes)
    h = project(with_label(z, label, self.classes)).reshape(-1, *smallest, self.width)
    for i in range(times):
      inner = conv(f"block_{i}_conv_1", double=True)(norm(f"block_{i}_norm_1", h))
      inner = conv(f"block_{i}_conv_2")(norm(f"block_{i}_norm_2", inner))
      h = doubled(conv(f"block_{i}_shortcut", kernel=1)(h)) + inner
    return jnp.tanh(conv("out", self.shape[2])(norm("norm", h)))


class ResNetDiscriminator(nn.Module):
  """Gulrajani et al. 2017, Table 6, and with `spectral` Miyato et al. 2018, Table 4: no norm over examples.

  Two residual blocks that halve the image, two that do not, ReLU, and a dense layer of the map averaged over its
  positions, or, with `spectral`, summed, each as in the authors' code.
  """

  width: int = 128
  spectral: bool = False
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image, label: Label = None, index: Index = None) -> Output:
    """Raises a UserError for images too small or odd."""
    train, how = index is not None, dict(dtype=self.dtype, param_dtype=self.param_dtype, kernel_init=he_uniform)
    if x.shape[1] % 4 or x.shape[2] % 4:
      raise UserError(f"images of {x.shape[1]}x{x.shape[2]} do not halve twice: use sides that 4 divides")

    def conv(h: Array, name: str, kernel: int = 3) -> Array:
      if self.spectral:
        return SpectralConv(self.width, kernel, name=name, **how)(h, train)
      return Conv(self.width, kernel, name=name, **how)(h)

    h = conv(nn.relu(conv(x, "block_0_conv_1")), "block_0_conv_2")
    h = mean_2x2(h) + conv(mean_2x2(x), "block_0_shortcut", 1)
    inner = conv(nn.relu(conv(nn.relu(h), "block_1_conv_1")), "block_1_conv_2")
    h = mean_2x2(inner + conv(h, "block_1_shortcut", 1))
    for i in (2, 3):
      h += conv(nn.relu(conv(nn.relu(h), f"block_{i}_conv_1")), f"block_{i}_conv_2")
    phi = nn.relu(h).sum((1, 2)) if self.spectral else nn.relu(h).mean((1, 2))
    output = SpectralDense(1, name="out", **how)(phi, train) if self.spectral else Dense(1, name="out", **how)(phi)
    projection = Projection(self.classes, self.spectral, name="projection", **how)
    return output[:, 0] + projection(phi, label, train)
