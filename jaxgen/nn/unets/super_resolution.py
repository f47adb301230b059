"""A network that is conditioned on a picture of low resolution: SR3.

Saharia et al. 2021, https://arxiv.org/abs/2104.07636, section 2: the low-resolution picture, resized to x_t by bicubic
interpolation, is concatenated to the input. Where it has noise (`methods.diffusion.cascade`) the network is told how
much, as it is told the time.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError

LEVELS = 1000.0  # sinusoids are made for numbers up to this one


def beside(
  x: Float[Array, "batch height width channels"], low: Float[Array, "batch h w c"]
) -> Float[Array, "batch height width together"]:
  """x with `low` at its size, by bicubic interpolation, as further channels. x may be latents of another number.

  Raises:
    UserError: low is larger than x.
  """
  if low.shape[1] > x.shape[1] or low.shape[2] > x.shape[2]:
    sizes = [" x ".join(map(str, a.shape[1:])) for a in (low, x)]
    raise UserError(f"super-resolution makes {sizes[1]} of {sizes[0]}: give it a smaller picture")
  enlarged = jax.image.resize(low, (len(low), *x.shape[1:3], low.shape[3]), "cubic")  # of pictures, not between them
  return jnp.concatenate([x, enlarged.astype(x.dtype)], axis=-1)


class SuperResolution(nn.Module):
  """A network of x_t and a low-resolution picture.

  Attributes:
    network: the network of both, with two times as input, like `UNet`'s: that of x_t, and 1000 times the level
      of the low-resolution picture's noise.
  """

  network: nn.Module

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width out"]:
    """The network's output at x and times t.

    Args:
      told: "low" [B, h, w, C] and "level" [B]; `methods.diffusion.cascade.low_resolution` tells both.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.

    Raises:
      UserError: the low-resolution picture is larger than x.
    """
    times = jnp.stack([t, LEVELS * told["level"].astype(t.dtype)], axis=-1)
    return self.network(beside(x, told["low"]), times, index=index)
