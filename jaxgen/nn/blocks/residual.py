"""Operations on a residual branch before it is added: dropped as a whole, or scaled by learned gains."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.blocks.layers import Dropout, check_rate

Dtype = Any
Index = Int[Array, "batch"] | None  # the examples' positions in the global batch, given in training


class DropPath(nn.Module):
  """Stochastic depth: Huang et al. 2016, https://arxiv.org/abs/1603.09382. It drops a branch for some examples.

  The other examples' branches are divided by 1 - rate. The rate is an argument of the call, so that it may differ
  between the blocks of a scan. An example's draw depends on its position in the global batch.
  """

  @nn.compact
  def __call__(self, x: Float[Array, "batch *rest"], rate: float | Float[Array, ""], index: Index = None):
    if isinstance(rate, float | int):
      check_rate("drop_path", rate)
    if index is None or (isinstance(rate, float | int) and rate == 0):
      return x
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    keep = keep.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def without_dropout(call: Callable, arguments: tuple, options: dict, context: Any) -> Any:
  """For Flax's `intercept_methods`: `Dropout` and `DropPath` drop nothing; batch statistics stay the batch's."""
  dropping = isinstance(context.module, Dropout | DropPath) and context.method_name == "__call__"
  return arguments[0] if dropping else call(*arguments, **options)


class LayerScale(nn.Module):
  """A learned gain per channel, on a branch: Touvron et al. 2021, https://arxiv.org/abs/2103.17239, eq. 4."""

  initial: float
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    scale = self.param("scale", nn.initializers.constant(self.initial), x.shape[-1:], self.param_dtype)
    return x * scale.astype(x.dtype)
