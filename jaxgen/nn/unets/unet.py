"""The U-Net of denoising diffusion probabilistic models.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, Appendix B, as in the authors' code: residual blocks with group
normalisation and SiLU, each given the sinusoidal time embedding; single-head self-attention at chosen resolutions;
strided convolutions down, nearest-neighbour and convolution up. With the defaults and attention at 16, the paper's
CIFAR-10 network: 35,746,307 parameters.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.attention import attend, head_width
from jaxgen.nn.blocks.embeddings import check_label, of_times
from jaxgen.nn.blocks.layers import Conv, Dense, Dropout, GroupNorm, groups_for, scale_shift

Dtype = Any
Map = Float[Array, "batch height width channels"]


def initializer(scale: float = 1.0):
  """The original's: uniform, variance scaled by the average of fan-in and fan-out."""
  return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


def unchanged(kind: str, name: str, h: Array) -> Array:
  """Returns h: nothing follows a layer of a network of images."""
  return h


class ResidualBlock(nn.Module):
  """norm, SiLU, conv, + time; norm, SiLU, dropout, conv; + input (through a dense layer if the width changes).

  The attributes after the dtypes are choices of later networks.

  Attributes:
    scale_shift: the time embedding scales and shifts the second norm's output, (1 + scale) h + shift, instead of being
      added before the norm.
    resample: doubles or halves the image before the first conv, and the input too.
    project: a resampled input goes through the dense layer even if the width does not change.
    gain: factor of the sum of both branches.
    kernel_init: scale -> initialiser; the last conv has scale 1e-10, almost zero.
    after: what follows each convolution, see `UNet`.
  """

  features: int
  groups: int | None  # None: as many as fit each norm's width
  dropout: float
  dtype: Dtype
  param_dtype: Dtype
  scale_shift: bool = False
  resample: Callable[[Array], Array] | None = None
  project: bool = False
  gain: float = 1.0
  eps: float = 1e-6
  kernel_init: Callable = initializer
  after: Callable[[str, str, Array], Array] = unchanged

  @nn.compact
  def __call__(
    self, x: Map, embedding: Float[Array, "batch e"] | None = None, index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch h w {self.features}"]:
    """The block's output.

    Args:
      x: the features.
      embedding: the time's embedding; None for networks without a time.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.
    """
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda name, x: GroupNorm(self.groups or groups_for(x.shape[-1]), self.eps, name=name, **dtypes)
    init, x = self.kernel_init, spread.joined(x)
    h = nn.silu(norm("norm_1", x)(x))
    project = x.shape[-1] != self.features
    if self.resample is not None:
      h, x, project = self.resample(h), self.resample(x), project or self.project
    cut = spread.cuts(self.features, "channels")
    h = Conv(self.features, kernel_init=init(), name="conv_1", **dtypes)(h if cut else spread.over_devices(h))
    h = self.after("conv", "conv_1_time", spread.over_width(h) if cut else h)
    time = None
    if embedding is not None:
      dense = Dense(self.features * (1 + self.scale_shift), kernel_init=init(), name="time", **dtypes)
      time = dense(nn.silu(embedding))
    if self.scale_shift:
      scale, shift = jnp.split(wide(time), 2, axis=-1)
      h = scale_shift(norm("norm_2", h)(h), jnp.zeros_like(scale), 1 + scale, shift)
    else:
      h = norm("norm_2", h)(h, time)
    h = Dropout(self.dropout)(nn.silu(h), index)
    h = spread.joined(Conv(self.features, kernel_init=init(1e-10), name="conv_2", **dtypes)(h))
    h = self.after("conv", "conv_2_time", h)
    if project:
      x = Conv(self.features, 1, kernel_init=init(), name="shortcut", **dtypes)(x)
    return (x + h) * self.gain


class Attention(nn.Module):
  """Self-attention over all positions of a feature map, with a residual connection.

  Attributes:
    gain: factor of the sum of both branches.
    kernel_init: scale -> initialiser; the last layer has scale 1e-10, almost zero.
  """

  groups: int | None  # None: as many as fit
  heads: int
  dtype: Dtype
  param_dtype: Dtype
  gain: float = 1.0
  eps: float = 1e-6
  kernel_init: Callable = initializer

  @nn.compact
  def __call__(self, x: Map) -> Map:
    batch, height, width, channels = x.shape
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = GroupNorm(self.groups or groups_for(channels), self.eps, name="norm", **dtypes)(x)
    h, cut = h.reshape(batch, height * width, channels), spread.cuts(self.heads, "heads")
    h = h if cut else spread.over_devices(h)
    dense = partial(Dense, channels, **dtypes)

    def split(z: Array) -> Array:
      z = z.reshape(batch, height * width, self.heads, head_width(channels, self.heads))
      return spread.over_width(z, 2) if cut else z

    q, k, v = (split(dense(kernel_init=self.kernel_init(), name=name)(h)) for name in ("query", "key", "value"))
    h = attend(q, k, v).reshape(batch, height, width, channels)
    return (x + spread.joined(dense(kernel_init=self.kernel_init(1e-10), name="out")(h))) * self.gain


def u_shape(
  h: Map,
  levels: int,
  blocks: int,
  residual: Callable[[Array, int, str], Array],
  attend: Callable[[Array, str], Array],
  sample: Callable[[Array, int, str], Array] | None = None,
  attention: Sequence[int] = (),
  attention_up: Literal["every", "last"] = "every",
) -> Float[Array, "batch height width features"]:
  """A U-Net's levels down, its middle, and its levels up, where each block also gets a map from the way down.

  Args:
    h: the features at full resolution.
    levels: the number of resolutions.
    blocks: blocks per level on the way down; there is one more on the way up.
    residual: (h, level, name) -> the output of a residual block.
    attend: (h, name) -> the output of attention.
    sample: (h, level, way) -> the map at the next resolution, with way "down" or "up".
    attention: heights of the feature maps that are attended to after a block.
    attention_up: whether attention follows "every" block of a level on the way up, or only the "last".
  """

  def block(h: Array, level: int, name: str, last: bool) -> Array:
    h = residual(h, level, name)
    attends = attention_up == "every" or last or name.startswith("down")
    return attend(h, f"{name}_attention") if attends and h.shape[1] in attention else h

  h, skips = way_down(h, levels, blocks, block, sample)
  h = residual(h, levels - 1, "middle_0")
  h = attend(h, "middle_attention")
  h = residual(h, levels - 1, "middle_1")
  return way_up(h, skips, levels, blocks, block, lambda h, level, way, sides: sample(h, level, way))


def way_down(
  h: Map,
  levels: int,
  blocks: int,
  block: Callable[[Array, int, str, bool], Array],
  sample: Callable[[Array, int, str], Array] | None,
) -> tuple[Float[Array, "batch h w lowest"], list[Array]]:
  """A U-Net's levels down: (the lowest features, the maps that the way up gets, the largest first).

  Args:
    h: the features at full resolution.
    block: (h, level, name, whether it is the level's last) -> the output of a block.
    levels, blocks, sample: as in `u_shape`.
  """
  skips = [h]
  for level in range(levels):
    for number in range(blocks):
      h = block(h, level, f"down_{level}_{number}", number == blocks - 1)
      skips.append(h)
    if level < levels - 1:
      h = spread.joined(sample(h, level, "down"))
      skips.append(h)
  return h, skips


def way_up(
  h: Float[Array, "batch h w lowest"],
  skips: Sequence[Array],
  levels: int,
  blocks: int,
  block: Callable[[Array, int, str, bool], Array],
  sample: Callable[[Array, int, str, tuple[int, int]], Array] | None,
) -> Float[Array, "batch height width features"]:
  """A U-Net's levels up: the features at full resolution.

  Args:
    h: the lowest features.
    skips: the maps of `way_down`.
    block: (h concatenated with a skip connection, level, name, whether it is the level's last) -> the output of a
      block.
    sample: (h, level, "up", height and width of the next map) -> the map at the next resolution.
    levels, blocks: as in `u_shape`.
  """
  skips = list(skips)
  for level in reversed(range(levels)):
    for number in range(blocks + 1):
      h = jnp.concatenate([h, skips.pop()], axis=-1)
      h = block(h, level, f"up_{level}_{number}", number == blocks)
    if level:
      h = spread.joined(sample(h, level, "up", skips[-1].shape[1:3]))
  return h


def check(x: Array, levels: int, label: Array | None, classes: int | None, attention: Sequence[int] = ()):
  """Checks that a U-Net can take this image and label.

  Raises:
    UserError: the image's sides do not divide by 2^(levels - 1); a label without `classes`, or the reverse; attention
      at a height that no feature map has.
  """
  check_sizes("a U-Net", levels=levels)
  factor = 2 ** (levels - 1)
  if x.shape[1] % factor or x.shape[2] % factor:
    raise UserError(
      f"a U-Net of {levels} levels takes images whose sides divide by {factor}, not {x.shape[1:3]}: change the number "
      "of multipliers, or crop the images"
    )
  check_label(label, classes)
  heights = [x.shape[1] // 2**level for level in range(levels)]
  missing = [height for height in attention if height not in heights]
  if missing:
    raise UserError(
      f"attention stands at feature maps of height {', '.join(map(str, missing))}, and this network's are of height "
      f"{', '.join(map(str, heights))}: set attention to some of these"
    )


def check_widths(channels: int, multipliers: Sequence[int], blocks: int) -> None:
  """Raises a UserError where a U-Net has no channels or blocks somewhere."""
  check_sizes("a U-Net", channels=channels, multipliers=multipliers, blocks=blocks)


class UNet(nn.Module):
  """DDPM's U-Net.

  Attributes:
    channels: width at full resolution; level i has channels * multipliers[i] and 1 / 2^i of the resolution.
    multipliers: one entry per level.
    blocks: residual blocks per level on the way down, one more on the way up.
    attention: resolutions (heights of the feature map, in pixels) with attention after each residual block. There is
      always attention in the middle, between two residual blocks.
    dropout: dropout rate inside each residual block.
    classes: number of classes of a class-conditional network; a label's embedding is added to the time's.
    out_channels: channels of the output.
    heads: number of attention's heads.
    remat: keep only each residual block's input for the backward pass, and compute the rest again.
    after: (kind, name, h) -> h, what follows each 3x3 convolution, kind "conv", and each attention, kind "attention".
      Layers that it makes get this name beside the layer: `nn.video.unet` has those over time.
    dtype: dtype of the computation; normalisation statistics and softmax are float32 or wider.
    param_dtype: dtype of the parameters.
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  blocks: int = 2
  attention: Sequence[int] = (16,)
  dropout: float = 0.0
  classes: int | None = None
  out_channels: int = 3
  heads: int = 1
  remat: bool = False
  after: Callable[[str, str, Array], Array] = unchanged
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch *times"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
    added: Float[Array, "batch embedding"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and times t [B] (DDPM's 0..T-1), or several of each, [B, K]; x's dtype.

    Dropout is on where `index`, the examples' positions in the global batch, is given; it needs rngs={"dropout": key}.
    `added` [B, 4 channels] is added to the time's embedding.

    Raises:
      UserError: H or W does not divide by 2^(levels - 1); a label without `classes`, or the reverse; attention at a
        height that no feature map has, or of more heads than divide its channels.
    """
    levels = len(self.multipliers)
    check(x, levels, label, self.classes, self.attention)
    check_widths(self.channels, self.multipliers, self.blocks)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    groups = groups_for(self.channels)
    dense = partial(Dense, 4 * self.channels, kernel_init=initializer(), **dtypes)

    embedding = dense(name="time_1")(of_times(t, self.channels))
    embedding = dense(name="time_2")(nn.silu(embedding))
    if self.classes is not None:
      normal = nn.initializers.normal(1.0)
      embedding += nn.Embed(self.classes, 4 * self.channels, embedding_init=normal, name="class", **dtypes)(label)
    if added is not None:
      embedding += added

    block = nn.remat(ResidualBlock) if self.remat else ResidualBlock

    def residual(h: Array, level: int, name: str) -> Array:
      width = self.channels * self.multipliers[level]
      return block(width, groups, self.dropout, after=self.after, name=name, **dtypes)(h, embedding, index)

    def attend(h: Array, name: str) -> Array:
      return self.after("attention", f"{name}_time", Attention(groups, self.heads, name=name, **dtypes)(h))

    def sample(h: Array, level: int, way: str) -> Array:
      change = {"down": dict(stride=2), "up": dict(double=True)}[way]
      name = f"{way}_{level}_sample"
      h = Conv(h.shape[-1], kernel_init=initializer(), name=name, **change, **dtypes)(h)
      return self.after("conv", f"{name}_time", h)

    h = self.after("conv", "in_time", Conv(self.channels, kernel_init=initializer(), name="in", **dtypes)(x))
    h = u_shape(h, levels, self.blocks, residual, attend, sample, self.attention)
    h = nn.silu(GroupNorm(groups, name="out_norm", **dtypes)(h))
    h = Conv(self.out_channels, kernel_init=initializer(1e-10), name="out", **dtypes)(h)
    return self.after("conv", "out_time", h).astype(x.dtype)
