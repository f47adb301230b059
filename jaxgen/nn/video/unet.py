"""Space-time factorised U-Nets: a U-Net of images that sees each frame for itself, with layers over time in between.

VideoUNet(partial(UNet, channels=64))                          Video Diffusion Models, Ho et al. 2022
VideoUNet(partial(UNet, channels=64), convs=True, rates=True)  Make-A-Video, Singer et al. 2022
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.embeddings import timestep_embedding
from jaxgen.nn.blocks.layers import Conv, Dense, groups_for
from jaxgen.nn.unets.unet import UNet
from jaxgen.nn.video.time import TemporalAttention, TemporalConv, seen

Told = Mapping[str, Array] | Int[Array, "batch"] | None


class VideoUNet(nn.Module):
  """A U-Net of images, "backbone", with attention over time after each of its attentions.

  Ho et al. 2022, https://arxiv.org/abs/2204.03458, section 3. Singer et al. 2022, https://arxiv.org/abs/2209.14792,
  section 3.2, also put a convolution over time after each 3x3 convolution (`convs`), and tell the network the frame
  rate (`rates`).

  The layers over time do nothing when they are new. The network is then the image network, frame by frame, and starts
  from a trained one with `jaxgen train CONFIG --from RUN`. A clip of one frame is an image. The compiled program has
  one size whatever the number of frames.

  Attributes:
    image: makes the image network; a `UNet`, or another that has its attributes.
    frames: frames of a clip. If there are more, the others are images, each for itself: joint training on images. None:
      all are of the clip.
    convs: pseudo-3D convolutions.
    rates: the network is conditioned on "rate", the clip's frames per second, by an embedding that is initialised with
      zeros.
    given: the network is conditioned on "given" [B, T, H, W, C + 1], frames that are known, zeros for the others, and
      in the last channel 1 or 0 for these: Make-A-Video's further input channels for the interpolation of frames. Their
      part of the first convolution is initialised with zeros.
  """

  image: Callable[..., nn.Module] = UNet
  frames: int | None = None
  convs: bool = False
  rates: bool = False
  given: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch time height width channels"],
    t: Float[Array, "batch *times"],
    told: Told = None,
    index: Int[Array, "batch"] | None = None,
    mask: Bool[Array, "batch time"] | None = None,
  ) -> Float[Array, "batch time height width out"]:
    """The network's output for the clips x at times t.

    Args:
      x: clips.
      t: their times.
      told: the label, or {"label": .., "rate": .., "given": ..}, what of these the network knows.
      index: the clips' positions in the global batch, for dropout; None: nothing is dropped.
      mask: True for a clip's frames, False for padding.

    Raises:
      UserError: it is told something that it does not know, or not told what it knows; or as `UNet` does.
    """
    batch, time, *rest = x.shape
    told = dict(told) if isinstance(told, Mapping) else {} if told is None else {"label": told}
    label, known = told.pop("label", None), ["rate"] * self.rates + ["given"] * self.given
    if sorted(told) != sorted(known):
      raise UserError(
        f"this network of clips is conditioned on {' and '.join(known) or 'nothing'} beside a label, and the method's "
        f"condition has {' and '.join(sorted(told)) or 'nothing'}: change one of them"
      )
    rate, given = told.get("rate"), told.get("given")
    pairs = seen(time, self.frames, mask)
    network = self.image(after=lambda kind, name, h: over_time(kind, name, h), name="backbone")
    dtypes, groups = dict(dtype=network.dtype, param_dtype=network.param_dtype), groups_for(network.channels)

    def over_time(kind: str, name: str, h: Array) -> Array:
      if name == "in_time" and given is not None:
        seen_too = given.reshape(-1, *given.shape[2:]).astype(x.dtype)
        h += Conv(h.shape[-1], use_bias=False, kernel_init=nn.initializers.zeros, name="given", **dtypes)(seen_too)
      if kind == "attention":
        return TemporalAttention(time, network.heads, groups, name=name, **dtypes)(h, pairs)
      return TemporalConv(time, name=name, **dtypes)(h, pairs) if self.convs else h

    each = lambda v: None if v is None else jnp.repeat(v, time, axis=0)
    added = None
    if self.rates:
      added = Dense(4 * network.channels, name="rate_1", **dtypes)(timestep_embedding(rate, network.channels))
      added = Dense(4 * network.channels, kernel_init=nn.initializers.zeros, name="rate_2", **dtypes)(nn.silu(added))
    places = None if index is None else (index[:, None] * time + jnp.arange(time, dtype=index.dtype)).reshape(-1)
    y = network(x.reshape(batch * time, *rest), each(t), each(label), places, each(added))
    return y.reshape(batch, time, *y.shape[1:])
