"""WaveGrad: Chen et al. 2020, https://arxiv.org/abs/2009.00713. A vocoder that goes from the spectrogram up.

    network = WaveGrad(bands=128)                               300 samples a frame, the paper's Base
    eps = network.apply({"params": params}, x, level, {"mel": mel})     x [B, L, 1], level = sqrt(alpha_bar) [B]

The noisy wave goes down, through `Down`, to the rate of the frames. At each rate its features and the noise level make
a shift and a scale (`FiLM`), by which the features are changed that come up from the spectrogram, through `Up`: their
section 3 and Figures 3 to 6.

The network's time input is the continuous noise level sqrt(alpha_bar), not the number of a step: their section 2.1.
Therefore one network serves every schedule of noise.

The sizes by default are those of https://github.com/lmnt-com/wavegrad, whose weights `jaxgen.interop.wavegrad` reads.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.audio.conv import Conv1D, Wave, repeated, thinned
from jaxgen.nn.audio.diffwave import MEL, check_frames
from jaxgen.nn.blocks.embeddings import timestep_embedding

Dtype = Any
leaky = partial(jax.nn.leaky_relu, negative_slope=0.2)
ORTHOGONAL, XAVIER = nn.initializers.orthogonal(), nn.initializers.xavier_uniform()


class FiLM(nn.Module):
  """A shift and a scale, each [B, L, features], from a wave's features and its noise level.

  Attributes:
    features: channels of each.
    scale: by which the level is multiplied before it is embedded.
  """

  features: int
  scale: float
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Wave, level: Float[Array, "batch"]
  ) -> tuple[Float[Array, "batch length {self.features}"], Float[Array, "batch length {self.features}"]]:
    channels, options = x.shape[-1], dict(kernel_init=XAVIER, dtype=self.dtype, param_dtype=self.param_dtype)
    x = leaky(Conv1D(channels, name="in", **options)(x))
    period = 10_000.0 ** (1 - 2 / channels)  # frequencies 10,000^(-2 i / channels)
    x += timestep_embedding(self.scale * level, channels, period).astype(x.dtype)[:, None]
    shift, scale = jnp.split(Conv1D(2 * self.features, name="out", **options)(x), 2, axis=-1)
    return shift, scale


class Down(nn.Module):
  """The wave's features at a rate `factor` times lower.

  Three convolutions of dilations 1, 2 and 4 stand beside a dense layer.
  """

  features: int
  factor: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Wave) -> Float[Array, "batch shorter {self.features}"]:
    conv = partial(Conv1D, self.features, kernel_init=ORTHOGONAL, dtype=self.dtype, param_dtype=self.param_dtype)
    x = thinned(x, self.factor)
    y = x
    for i in range(3):
      y = conv(dilation=2**i, name=f"conv_{i}")(leaky(y))
    return y + conv(kernel=1, name="beside")(x)


class Up(nn.Module):
  """The spectrogram's features at a rate `factor` times higher: two blocks of two convolutions, changed by `FiLM`."""

  features: int
  factor: int
  dilations: tuple[int, ...]
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch frames channels"],
    film: tuple[Float[Array, "batch longer {self.features}"], Float[Array, "batch longer {self.features}"]],
  ) -> Float[Array, "batch longer {self.features}"]:
    make = partial(Conv1D, self.features, kernel_init=ORTHOGONAL, dtype=self.dtype, param_dtype=self.param_dtype)
    conv = [make(dilation=d, name=f"conv_{i}") for i, d in enumerate(self.dilations)]
    shift, scale = film
    changed = lambda h: leaky(shift + scale * h)
    longer = repeated(x, self.factor)
    h = make(kernel=1, name="beside")(longer) + conv[1](changed(conv[0](leaky(longer))))
    return h + conv[3](changed(conv[2](changed(h))))


class WaveGrad(nn.Module):
  """The network.

  Attributes:
    bands: of the mel spectrogram.
    factors: by which each block makes it longer, from the spectrogram up; together the samples of a frame.
    channels: of these blocks.
    down: channels of the wave's features, from the wave down.
    first: channels of the convolution of the spectrogram.
    dilations: of each block's four convolutions.
    scale: by which sqrt(alpha_bar) is multiplied before it is embedded; lmnt-com's weights have 1.
    out_channels: channels of the wave.
  """

  bands: int = 128
  factors: tuple[int, ...] = (5, 5, 3, 2, 2)
  channels: tuple[int, ...] = (512, 512, 256, 128, 128)
  down: tuple[int, ...] = (32, 128, 128, 256, 512)
  first: int = 768
  dilations: tuple[tuple[int, int, int, int], ...] = ((1, 2, 1, 2),) * 2 + ((1, 2, 4, 8),) * 3
  scale: float = 5000.0
  out_channels: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Wave,
    level: Float[Array, "batch"],
    told: Any,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch length {self.out_channels}"]:
    """The noise in x.

    Args:
      x: waves.
      level: sqrt(alpha_bar), in [0, 1].
      told: {"mel": [B, frames, bands]}.
      index: not used; nothing is dropped.

    Raises:
      UserError: sizes that do not fit together, no mel spectrogram, or one with another length than the wave.
    """
    count = len(self.factors)
    if not count == len(self.channels) == len(self.down) == len(self.dilations):
      raise UserError(
        f"WaveGrad has as many factors ({count}) as channels ({len(self.channels)}), down ({len(self.down)}) and "
        f"dilations ({len(self.dilations)}): give one of each for every block"
      )
    check_sizes("WaveGrad", factors=self.factors, channels=self.channels, first=self.first, bands=self.bands)
    check_sizes("WaveGrad", 2, down=self.down)
    if not isinstance(told, Mapping) or set(told) != {MEL}:
      raise UserError('WaveGrad is told a mel spectrogram and nothing else: make its condition entries({"mel": ...})')
    mel = told[MEL].astype(self.dtype)
    check_frames(mel.shape[1], math.prod(self.factors), x.shape[1])
    if mel.shape[2] != self.bands:
      raise UserError(f"a mel spectrogram has {mel.shape[2]} bands and the network's {self.bands}: make them the same")
    options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    conv = partial(Conv1D, kernel_init=ORTHOGONAL, **options)
    widths = self.channels[::-1]  # from the wave's rate down to the frames'
    films, features = [], conv(self.down[0], 5, name="wave")(x)
    for i in range(count):
      if i:
        features = Down(self.down[i], self.factors[-i], name=f"down_{i}", **options)(features)
      films.append(FiLM(widths[i], self.scale, name=f"film_{i}", **options)(features, level))
    h = conv(self.first, name="mel")(mel)
    for i in range(count):
      up = Up(self.channels[i], self.factors[i], self.dilations[i], name=f"up_{i}", **options)
      h = up(h, films[count - 1 - i])
    return conv(self.out_channels, name="last")(h)
