"""A discriminator of patches: Isola et al. 2017, https://arxiv.org/abs/1611.07004, section 3.2.2 and Appendix 6.1.2.

PatchDiscriminator()                  sees 70 x 70 pixels of a picture of 3 channels             2,765,633
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.adversarial.gan import near_one, small
from jaxgen.nn.blocks.layers import BatchNorm, Conv

Dtype = Any


class PatchDiscriminator(nn.Module):
  """4x4 convolutions, `layers` of which halve the picture, with batch norm and leaky ReLU; one number for each patch.

  Norms are by the statistics of the batch that it is given, always; the averages, "batch_stats", are not used.

  Attributes:
    width: channels after the first convolution; they double with each further one, up to 8 times as many.
  """

  width: int = 64
  layers: int = 3
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w"]:
    """Raises a UserError for sizes of 0, or a picture that is too small to have a patch."""
    check_sizes("a discriminator of patches", width=self.width, layers=self.layers)
    # Each halving rounds down, and each of the two further convolutions takes one row and column away.
    if min(x.shape[1:3]) >> self.layers < 3:
      raise UserError(
        f"pictures of {x.shape[1]} x {x.shape[2]} are too small for a discriminator of patches with {self.layers} "
        "layers: take fewer"
      )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    conv = partial(Conv, kernel=4, padding=((1, 1), (1, 1)), kernel_init=small, **dtypes)
    h = nn.leaky_relu(conv(self.width, stride=2, name="in")(x), 0.2)
    for i in range(1, self.layers + 1):
      stride = 2 if i < self.layers else 1
      h = conv(self.width * min(2**i, 8), stride=stride, use_bias=False, name=f"conv_{i}")(h)
      h = nn.leaky_relu(BatchNorm(scale_init=near_one, name=f"norm_{i}", **dtypes)(h, train=True), 0.2)
    return conv(1, name="out")(h)[..., 0].astype(x.dtype)
