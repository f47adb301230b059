"""Spectral normalisation: layers whose kernels are divided by their largest singular value.

Miyato et al. 2018, https://arxiv.org/abs/1802.05957, Algorithm 1, for W [outputs, inputs], to which a convolution's
kernel is reshaped:

    v <- W^T u / ||W^T u||,  u <- W v / ||W v||,  sigma = u^T W v

The gradient goes through W in sigma but not through u and v. Collection "spectral" keeps "u". Each call in training
makes one iteration; other calls make none.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.conv import conv
from jaxgen.nn.blocks.layers import add_bias, matmul

Dtype = Any


def _unit(x: Array) -> Array:
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def normalised(module: nn.Module, kernel: Float[Array, "*inputs outputs"], train: bool) -> Array:
  """kernel / sigma. u is a variable of the calling module."""
  W = kernel.reshape(-1, kernel.shape[-1]).T
  draw = lambda: _unit(jax.random.normal(module.make_rng("params"), W.shape[:1], W.dtype))
  kept = module.variable("spectral", "u", draw)
  fixed, u = jax.lax.stop_gradient(W), kept.value
  v = _unit(fixed.T @ u)
  if train:
    u = _unit(fixed @ v)
    if not module.is_initializing():
      kept.value = u
  return kernel / (u @ (W @ v))


class SpectralDense(nn.Module):
  """`layers.Dense` with a normalised kernel."""

  features: int
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*batch channels"], train: bool) -> Float[Array, "*batch {self.features}"]:
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, normalised(self, kernel, train), bias, dtype=self.dtype)
    return add_bias(matmul(x, kernel), bias)


class SpectralConv(nn.Module):
  """A convolution with a normalised kernel; kernel, stride and padding as in `layers.Conv`."""

  features: int
  kernel: int = 3
  stride: int = 1
  padding: Any = "SAME"
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], train: bool
  ) -> Float[Array, "batch h w {self.features}"]:
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, normalised(self, kernel, train), bias, dtype=self.dtype)
    strides = (self.stride, self.stride)
    return add_bias(conv(x, kernel, strides, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")), bias)
