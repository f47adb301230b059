"""Queries, keys and values: several dense layers of one input as one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core import spread
from jaxgen.nn.blocks.layers import add_bias, matmul

Dtype = Any


def separately(init: Callable[..., Array], parts: int) -> Callable[..., Array]:
  """Initialises a kernel [inputs, parts x outputs] as `parts` kernels side by side, each with its own fan-out."""

  def kernels(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
    part = (*shape[:-1], shape[-1] // parts)
    return jnp.concatenate([init(k, part, dtype) for k in jax.random.split(key, parts)], axis=-1)

  return kernels


class Projections(nn.Module):
  """`parts` dense layers of one input, each into `heads` heads of `width` features; their kernels lie side by side.

  Attributes:
    cut: each device of the mesh's axis `tensor` has some heads of every part, see `core.spread`.
  """

  parts: int
  heads: int
  width: int
  cut: bool = False
  use_bias: bool = True
  kernel_init: Any = nn.initializers.xavier_uniform()
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch tokens features"]
  ) -> list[Float[Array, "batch tokens {self.heads} {self.width}"]]:
    features = self.parts * self.heads * self.width
    init = separately(self.kernel_init, self.parts)
    kernel = self.param("kernel", init, (x.shape[-1], features), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    if self.cut:
      # One product, not one for each part: its gradient by x is then one sum over the devices.
      y = jnp.einsum("bti,ipo->btpo", x, spread.in_columns(kernel, self.parts))
      y = y if bias is None else y + spread.in_columns(bias, self.parts)
      parts = [y[:, :, part] for part in range(self.parts)]
    else:
      parts = jnp.split(add_bias(matmul(x, kernel), bias), self.parts, axis=-1)
    parts = [part.reshape(*part.shape[:-1], self.heads, self.width) for part in parts]
    return [spread.over_width(part, 2) for part in parts] if self.cut else parts
