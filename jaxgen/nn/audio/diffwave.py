"""DiffWave: Kong et al. 2020, https://arxiv.org/abs/2009.09761. Dilated convolutions that see both sides.

    network = DiffWave(labels=(("label", 11), ("speaker", 7)))         a class and a speaker, or none
    network = DiffWave(factors=(16, 16))                               a mel spectrogram, 256 samples a frame
    eps = network.apply({"params": params}, x, t, {"mel": mel})        of waves x [B, L, 1], t from 0 on

A layer of dilation d, with `*` a convolution of x_(t - d), x_t, x_(t + d) and e an embedding of the diffusion step, is

    (D1)  y = W * (x + V e) + U h
    (D2)  z = sigmoid(y_1) . tanh(y_2),   (r, s) = O z,   x <- (x + r) / sqrt(2)

their section 3.1 and Figure 2, with y_1 and y_2 the halves of y's channels, and h what the layer is told: the mel
spectrogram at the wave's rate, and the embedding of the labels. The sum of the layers' s, divided by the root of their
number, goes through two more layers. All layers are one scan, so that neither their number nor a longer clip makes
compilation longer.

With 30 layers, dilations 1, 2, .., 512 three times, 64 or 128 channels and a mel spectrogram of 80 bands this has
2,619,971 or 6,885,315 parameters, as in https://github.com/lmnt-com/diffwave, whose weights `jaxgen.interop.diffwave`
reads. For steps that are no integers that code interpolates a table of sinusoids; here they are computed for any real
step.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.audio.conv import Wave, around
from jaxgen.nn.blocks.embeddings import timestep_embedding
from jaxgen.nn.blocks.layers import Dense

Dtype = Any
HE = nn.initializers.he_normal()
MEL = "mel"  # the condition's entry that has the spectrogram


class Layer(nn.Module):
  """(D1) and (D2).

  Attributes:
    kernel: taps of the dilated convolution.
    most: the largest dilation of the network's layers.
  """

  kernel: int
  most: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    carry: tuple[Wave, Wave],
    dilation: Int[Array, ""],
    step: Float[Array, "batch hidden"],
    told: Mapping[str, Float[Array, "batch _ _"]],
  ) -> tuple[tuple[Wave, Wave], None]:
    """One layer of the stack, for a scan over layers.

    Args:
      carry: x and the sum of the skip connections.
      dilation: d.
      step: e.
      told: the parts of h by name, at each sample [B, L, C], or for the whole wave [B, 1, C].
    """
    x, total = carry
    channels, options = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
    y = x + Dense(channels, name="step", **options)(step)[:, None]
    y = Dense(2 * channels, name="dilated", kernel_init=HE, **options)(around(y, self.kernel, dilation, self.most))
    for name, h in told.items():
      y += Dense(2 * channels, name=name, kernel_init=HE, **options)(h)
    gate, value = jnp.split(y, 2, axis=-1)
    out = Dense(2 * channels, name="out", kernel_init=HE, **options)(jax.nn.sigmoid(gate) * jnp.tanh(value))
    residual, skip = jnp.split(out, 2, axis=-1)
    return ((x + residual) / math.sqrt(2), total + skip), None


class Upsampler(nn.Module):
  """A mel spectrogram made `factor` times longer: a transposed convolution of 3 bands x 2 `factor` samples, and leaky
  ReLU of slope 0.4."""

  factor: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, mel: Float[Array, "batch frames bands"]) -> Float[Array, "batch longer bands"]:
    batch, frames, bands = mel.shape
    s = self.factor
    kernel = self.param("kernel", HE, (3, 2 * s), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (1,), self.param_dtype)
    mel, kernel, bias = nn.dtypes.promote_dtype(mel, kernel, bias, dtype=self.dtype)
    # y[f s + j] sums mel[f] kernel[:, j] and mel[f - 1] kernel[:, s + j], over the bands b + 1, b and b - 1.
    padded = jnp.pad(mel, ((0, 0), (0, 0), (1, 1)))
    near = jnp.stack([padded[..., 2 - i : 2 - i + bands] for i in range(3)], axis=-1)  # [B, F, bands, 3]
    parts = jnp.moveaxis(near @ kernel, 2, 3)  # [B, F, 2 s, bands]
    now = jnp.pad(parts[:, :, :s], ((0, 0), (0, 1), (0, 0), (0, 0)))
    before = jnp.pad(parts[:, :, s:], ((0, 0), (1, 0), (0, 0), (0, 0)))
    y = (now + before).reshape(batch, (frames + 1) * s, bands)
    return jax.nn.leaky_relu(y[:, s // 2 : s // 2 + frames * s] + bias, 0.4)


class DiffWave(nn.Module):
  """The network.

  Attributes:
    channels: C of every layer.
    layers: their number.
    cycle: dilations are 1, 2, .., 2^(cycle - 1), again and again.
    kernel: taps of a dilated convolution; odd.
    out_channels: channels of the wave.
    embedding, hidden: sizes of the diffusion step's embedding, and of its two dense layers.
    labels: (name, number of classes) of each label on which the network is conditioned; one class may mean "none".
      Their embeddings are added up.
    label_features: the size of a label's embedding.
    factors: by which each layer makes the mel spectrogram longer, together the samples of a frame; () without one.
  """

  channels: int = 64
  layers: int = 30
  cycle: int = 10
  kernel: int = 3
  out_channels: int = 1
  embedding: int = 128
  hidden: int = 512
  labels: tuple[tuple[str, int], ...] = ()
  label_features: int = 128
  factors: tuple[int, ...] = ()
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @property
  def dilations(self) -> tuple[int, ...]:
    """Each layer's d."""
    return tuple(2 ** (i % self.cycle) for i in range(self.layers))

  @property
  def receptive_field(self) -> int:
    """The number of samples of x that a sample of the output depends on: 1 + the sum of (k - 1) d."""
    return 1 + (self.kernel - 1) * sum(self.dilations)

  @nn.compact
  def __call__(
    self,
    x: Wave,
    t: Float[Array, "batch"],
    told: Any = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch length {self.out_channels}"]:
    """The noise in x.

    Args:
      x: waves.
      t: the diffusion step, counted from 0; any real number.
      told: {"mel": [B, frames, bands], and labels [B] by name}, or one label alone [B], or None.
      index: not used; nothing is dropped.

    Raises:
      UserError: sizes that no network has, a condition that this network is not made for, or a mel spectrogram that is
        not as long as the wave. A label out of range gives NaN.
    """
    check_sizes("DiffWave", channels=self.channels, layers=self.layers, cycle=self.cycle, kernel=self.kernel)
    if self.kernel % 2 == 0:
      raise UserError(f"DiffWave's convolutions see both sides alike: kernel={self.kernel} must be odd")
    options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = self._told(x, told)
    step = timestep_embedding(t, self.embedding, period=1e-4).astype(self.dtype)  # frequencies from 1 to 10^4
    for i in (1, 2):
      step = jax.nn.silu(Dense(self.hidden, name=f"step_{i}", **options)(step))
    wide = jax.nn.relu(Dense(self.channels, name="in", kernel_init=HE, **options)(x))
    axes = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
    stack = nn.scan(Layer, in_axes=(0, nn.broadcast, nn.broadcast), **axes)
    layers = stack(self.kernel, max(self.dilations), name="blocks", **options)
    (_, total), _ = layers((wide, jnp.zeros_like(wide)), jnp.asarray(self.dilations), step, h)
    total = total / math.sqrt(self.layers)
    total = jax.nn.relu(Dense(self.channels, name="skip", kernel_init=HE, **options)(total))
    return Dense(self.out_channels, name="last", kernel_init=nn.initializers.zeros, **options)(total)

  def _told(self, x: Wave, told: Any) -> dict[str, Float[Array, "batch _ _"]]:
    """The conditioning of every layer."""
    names = [name for name, _ in self.labels] + [MEL] * bool(self.factors)
    told = dict(told) if isinstance(told, Mapping) else {} if told is None else {names[0] if names else "label": told}
    if sorted(told) != sorted(names):
      wants, given = (", ".join(sorted(some)) or "nothing" for some in (names, told))
      raise UserError(
        f"this DiffWave is conditioned on {wants}, and was given {given}: change its labels or factors, or the "
        "condition"
      )
    options, h = dict(dtype=self.dtype, param_dtype=self.param_dtype), {}
    if self.factors:
      mel = told[MEL].astype(self.dtype)
      check_frames(mel.shape[1], math.prod(self.factors), x.shape[1])
      for i, factor in enumerate(self.factors):
        mel = Upsampler(factor, name=f"longer_{i}", **options)(mel)
      h[MEL] = mel
    if self.labels:
      embed = [nn.Embed(count, self.label_features, name=name, **options)(told[name]) for name, count in self.labels]
      h["label"] = sum(embed)[:, None]
    return h


def check_frames(frames: int, hop: int, length: int) -> None:
  """Raises a UserError where a mel spectrogram is not as long as its wave.

  Args:
    frames: of the spectrogram.
    hop: samples of a frame.
    length: of the wave, in samples.
  """
  if frames * hop != length:
    raise UserError(
      f"a mel spectrogram of {frames:,} frames is {frames * hop:,} samples at {hop} a frame, and the wave has "
      f"{length:,}: make the length a multiple of {hop}, or change the network's factors"
    )
