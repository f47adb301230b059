"""Heads for learning without labels, and a backbone with its heads.

Embedder(ResNet(**SIZES[50]), projector=Head((2048, 128)))              SimCLR v1, MoCo v2: 27,966,656 parameters
Embedder(ResNet(**SIZES[50]), projector=Head((128,)))                   MoCo v1: 23,770,304
Embedder(network, projector=Head((2048, 2048, 128)))                    SimCLR v2
Embedder(network, Head((4096, 256), norm=True), Head((4096, 256), norm=True))    BYOL
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.arrays import unit
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import BatchNorm, Dense

Dtype = Any
Pictures = Float[Array, "batch height width channels"]
Rows = Float[Array, "batch features"]

# PyTorch's default initialisation of a linear layer's kernel.
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Head(nn.Module):
  """Linear layers with ReLU between them, "layer_1", "layer_2", ...: the input of the loss, which is dropped after
  training.

  Attributes:
    widths: number of outputs of each layer.
    norm: batch normalisation after each layer but the last; such layers have no bias.
    last_norm: also batch normalisation after the last layer: without gain and bias in SimSiam and MoCo v3.
    last_bias: the last layer has a bias, where nothing normalises it.
  """

  widths: Sequence[int]
  norm: bool = False
  last_norm: bool = False
  last_bias: bool = True
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Rows, index: Index = None) -> Float[Array, "batch out"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    for i, width in enumerate(self.widths, 1):
      last = i == len(self.widths)
      normed = self.last_norm if last else self.norm
      bias = not normed and (self.last_bias or not last)
      x = Dense(width, use_bias=bias, kernel_init=uniform, name=f"layer_{i}", **dtypes)(x)
      if normed:
        x = BatchNorm(name=f"norm_{i}", affine=not last, **dtypes)(x, index is not None)
      x = x if last else nn.relu(x)
    return x


class Prototypes(nn.Module):
  """DINO's head: an MLP with GELU, unit length, and products with K directions: Caron et al. 2021, Appendix C.

  https://arxiv.org/abs/2104.14294

  Attributes:
    count: K, number of outputs.
    hidden: width of the two hidden layers.
    bottleneck: width of the normalised vectors.
  """

  count: int
  hidden: int = 2048
  bottleneck: int = 256
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Rows, index: Index = None) -> Float[Array, "batch {self.count}"]:
    options = dict(kernel_init=nn.initializers.truncated_normal(0.02), dtype=self.dtype, param_dtype=self.param_dtype)
    x = gelu(Dense(self.hidden, name="layer_1", **options)(x))
    x = gelu(Dense(self.hidden, name="layer_2", **options)(x))
    x = unit(Dense(self.bottleneck, name="layer_3", **options)(x))
    directions = self.param("directions", uniform, (self.bottleneck, self.count), self.param_dtype)
    return x @ unit(directions.T).T.astype(x.dtype)


class Embedding(NamedTuple):
  """The outputs for an example that losses use.

  Attributes:
    h: the backbone's features, which are used after training.
    z: the projector's output.
    p: the predictor's output; where there is none, z.
  """

  h: Rows
  z: Float[Array, "batch out"]
  p: Float[Array, "batch out"]


class Embedder(nn.Module):
  """A backbone, a projector on its features, and in some methods a predictor on that.

  Attributes:
    backbone: any network with `features(x, index)` -> [B, F]; its own head is not initialised.
    projector, predictor: heads.
  """

  backbone: nn.Module
  projector: nn.Module
  predictor: nn.Module | None = None

  def features(self, x: Pictures, index: Index = None) -> Rows:
    """The backbone's features.

    Raises:
      UserError: the backbone has none.
    """
    if not hasattr(self.backbone, "features"):
      raise UserError(
        f"{type(self.backbone).__name__} has no features(): take a backbone of jaxgen.nn.vision, or add it"
      )
    return self.backbone.features(x, index)

  def __call__(self, x: Pictures, index: Index = None) -> Embedding:
    """With `index`, in training: batch statistics, and rng "dropout" for dropout."""
    h = self.features(x, index)
    z = self.projector(h, index)
    return Embedding(h, z, z if self.predictor is None else self.predictor(z, index))
