"""Networks that are tables, whose optima are known in closed form."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn


class Policy(nn.Module):
  """The same logits after every token."""

  vocabulary: int
  dtype: Any = jnp.float64

  @nn.compact
  def __call__(self, tokens, index=None):
    logits = self.param("logits", nn.initializers.zeros, (self.vocabulary,), self.dtype)
    return jnp.broadcast_to(logits, (*tokens.shape, self.vocabulary))

  @nn.nowrap
  def stepper(self, params, prompt, length):
    step = lambda carry, tokens: (self.apply({"params": params}, tokens[:, None])[:, 0], carry)
    return step, jnp.zeros((len(prompt), 0))


class Values(nn.Module):
  """A number for each token."""

  vocabulary: int
  dtype: Any = jnp.float64

  @nn.compact
  def __call__(self, tokens, index=None):
    return self.param("values", nn.initializers.zeros, (self.vocabulary,), self.dtype)[tokens]
