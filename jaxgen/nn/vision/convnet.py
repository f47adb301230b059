"""A small convolutional classifier."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.blocks.layers import Conv, Dropout


class ConvNet(nn.Module):
  """3x3 convolutions with ReLU, each followed by 2x2 averaging, then one hidden layer. No batch statistics.

  Attributes:
    classes: number of classes.
    channels: width of each convolution.
    hidden: width of the hidden layer, whose activations `features` returns.
    dropout: dropout rate of the hidden layer's input and output.
  """

  classes: int
  channels: Sequence[int] = (32, 64)
  hidden: int = 64
  dropout: float = 0.0
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def setup(self):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    he = nn.initializers.he_normal()
    self.convs = [Conv(width, kernel_init=he, **dtypes) for width in self.channels]
    self.dense = nn.Dense(self.hidden, kernel_init=he, **dtypes)
    self.drop = Dropout(self.dropout), Dropout(self.dropout)
    self.out = nn.Dense(self.classes, **dtypes)

  def __call__(
    self, x: Float[Array, "batch height width channels"], index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch {self.classes}"]:
    """Logits of images x [B, H, W, C]. Dropout is on if `index`, the positions in the global batch, is given."""
    return self.out(self.drop[1](self.features(x, index), index))

  def features(
    self, x: Float[Array, "batch height width channels"], index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch {self.hidden}"]:
    """The hidden layer's activations."""
    x = halve(self.maps(x)[-1])
    return nn.relu(self.dense(self.drop[0](x.reshape(x.shape[0], -1), index)))

  def maps(self, x: Float[Array, "batch height width channels"]) -> list[Float[Array, "batch h w c"]]:
    """The activations of each convolution."""
    found = []
    for conv in self.convs:
      found.append(nn.relu(conv(halve(found[-1]) if found else x)))
    return found


def halve(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
  """Averages 2x2 pixels; an odd last row or column is dropped. It reshapes, since windowed sums are slow on a CPU."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
