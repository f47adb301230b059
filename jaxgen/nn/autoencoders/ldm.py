"""The first stages of latent diffusion: pictures to latents of a fraction of the size, and back.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.1 and Appendix G, with the networks of Esser et al.
2021, https://arxiv.org/abs/2012.09841 (VQGAN): the halves of DDPM's U-Net (`nn.unets.unet`) without time and skips.

    KLAutoencoder()                                                      Stable Diffusion 1, 2 and XL      83,653,863
    KLAutoencoder(latent=16, quant=False)                                Stable Diffusion 3                83,819,683
    VQAutoencoder(latent=3, multipliers=(1, 2, 4))                       LDM-4, without its codes          55,298,206
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Conv, GroupNorm
from jaxgen.nn.unets.adm import initializer
from jaxgen.nn.unets.unet import Attention, ResidualBlock

Dtype = Any
Image = Float[Array, "batch height width channels"]
Map = Float[Array, "batch h w features"]
Latents = Float[Array, "batch h w latent"]

LOG_VARIANCES = -30.0, 20.0  # of q(z | x), in the authors' code


class Half(nn.Module):
  """Half of a U-Net: the blocks of Encoder and Decoder.

  Attributes:
    out_channels: of the output.
    channels, multipliers: level i has channels * multipliers[i] features and 1 / 2^i of the resolution.
    blocks: residual blocks of a level on the way down, one more on the way up.
    attention: levels whose blocks are followed by attention.
    middle_attention: there is attention in the middle, at the lowest resolution.
    groups: of the group norms.
    remat: keep only each block's input for the backward pass, and compute the rest again.
  """

  out_channels: int
  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 4, 4)
  blocks: int = 2
  attention: Sequence[int] = ()
  middle_attention: bool = True
  groups: int = 32
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def conv(self, features: int, name: str, **options: Any) -> Conv:
    options |= dict(kernel_init=initializer(), dtype=self.dtype, param_dtype=self.param_dtype)
    return Conv(features, name=name, **options)

  def block(self, h: Image, features: int, name: str, attends: bool) -> Map:
    # All layers start as PyTorch's do, the last of a branch too.
    common = dict(eps=1e-6, kernel_init=lambda scale=1.0: initializer(), dtype=self.dtype, param_dtype=self.param_dtype)
    block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    h = block(features, self.groups, 0.0, name=name, **common)(h)
    return Attention(self.groups, 1, name=f"{name}_attention", **common)(h) if attends else h

  def middle(self, h: Image) -> Image:
    h = self.block(h, h.shape[-1], "middle_0", self.middle_attention)
    return self.block(h, h.shape[-1], "middle_1", False)

  def out(self, h: Image) -> Map:
    norm = GroupNorm(self.groups, 1e-6, dtype=self.dtype, param_dtype=self.param_dtype, name="out_norm")
    return self.conv(self.out_channels, "out")(nn.silu(norm(h)))


class Encoder(Half):
  """A picture -> its latents' parameters."""

  @nn.compact
  def __call__(self, x: Image) -> Float[Array, "batch h w {self.out_channels}"]:
    """Raises a UserError where the picture's sides do not halve so often."""
    check_sizes("an encoder", channels=self.channels, blocks=self.blocks, levels=len(self.multipliers))
    factor = 2 ** (len(self.multipliers) - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      fit = " x ".join(str(side - side % factor) for side in x.shape[1:3])
      raise UserError(
        f"a first stage of {len(self.multipliers)} levels takes pictures whose sides divide by {factor}, not "
        f"{x.shape[1]} x {x.shape[2]}: cut them to {fit}, or pad them"
      )
    h = self.conv(self.channels, "in")(x)
    for level, multiplier in enumerate(self.multipliers):
      for number in range(self.blocks):
        h = self.block(h, self.channels * multiplier, f"down_{level}_{number}", level in self.attention)
      if level < len(self.multipliers) - 1:  # PyTorch's, which pads only below and to the right
        h = self.conv(h.shape[-1], f"down_{level}_sample", stride=2, padding=((0, 1), (0, 1)))(h)
    return self.out(self.middle(h))


class Decoder(Half):
  """Latents -> a picture."""

  @nn.compact
  def __call__(self, z: Latents) -> Float[Array, "batch height width {self.out_channels}"]:
    h = self.middle(self.conv(self.channels * self.multipliers[-1], "in")(z))
    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for number in range(self.blocks + 1):
        h = self.block(h, self.channels * multiplier, f"up_{level}_{number}", level in self.attention)
      if level:
        h = self.conv(h.shape[-1], f"up_{level}_sample", double=True)(h)
    return self.out(h)


class _Autoencoder(nn.Module):
  """Both halves. The attributes without a description are as in `Half`.

  Attributes:
    latent: channels of a latent.
    image: channels of a picture.
    quant: there are 1x1 convolutions between the latents and encoder and decoder.
    channels, multipliers, blocks, attention, middle_attention, groups, remat: as in `Half`.
  """

  latent: int = 4
  image: int = 3
  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 4, 4)
  blocks: int = 2
  attention: Sequence[int] = ()
  middle_attention: bool = True
  groups: int = 32
  quant: bool = True
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  parameters = 1  # of a latent, that an encoder gives

  def setup(self):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    half = dict(channels=self.channels, multipliers=self.multipliers, blocks=self.blocks, attention=self.attention)
    half |= dict(middle_attention=self.middle_attention, groups=self.groups, remat=self.remat, **dtypes)
    self.encoder = Encoder(self.parameters * self.latent, **half)
    self.decoder = Decoder(self.image, **half)
    if self.quant:
      one = partial(Conv, kernel=1, kernel_init=initializer(), **dtypes)
      self.to_latent, self.of_latent = one(self.parameters * self.latent), one(self.latent)

  def _encode(self, x: Image) -> Map:
    h = self.encoder(x)
    return self.to_latent(h) if self.quant else h

  def decode(self, z: Latents) -> Image:
    """Pictures in about [-1, 1], of z [B, h, w, latent], in its dtype."""
    return self.decoder(self.of_latent(z) if self.quant else z).astype(z.dtype)


class KLAutoencoder(_Autoencoder):
  """Latents z ~ q(z | x) = N(mean, diag(std^2)), trained to be not too far from N(0, I)."""

  parameters = 2

  def encode(self, x: Image) -> tuple[Latents, Latents]:
    """(mean, log std) of q(z | x), in x's dtype; the log-variance is clipped to -30 .. 20."""
    mean, log_variance = jnp.split(self._encode(x), 2, axis=-1)
    return mean.astype(x.dtype), (jnp.clip(log_variance, *LOG_VARIANCES) / 2).astype(x.dtype)

  def __call__(self, x: Image) -> Float[Array, "batch height width {self.image}"]:
    """The reconstruction from the mean latents."""
    return self.decode(self.encode(x)[0])


class VQAutoencoder(_Autoencoder):
  """Latents that are replaced by the nearest vectors of a codebook, which is whoever's trains it."""

  def encode(self, x: Image) -> Latents:
    """The latents before quantisation, in x's dtype."""
    return self._encode(x).astype(x.dtype)

  def __call__(self, x: Image) -> Float[Array, "batch height width {self.image}"]:
    """The decoder's output for given latents."""
    return self.decode(self.encode(x))
