"""Draws from categorical distributions that are exact to float32's relative precision, however small a probability is.

The usual draw adds Gumbel noise -log(-log(u)) to the logarithms. With a float32 u it cannot exceed 16.6: tokens that
are less likely than e^-16 relative to the likeliest are drawn far too seldom, which matters for the many rare tokens of
a large vocabulary, and samples look like those of a lower temperature (Zheng et al. 2024,
https://arxiv.org/abs/2409.02908). Here the noise is -log(E) with an exponential variable E = -log(1 - u), which is
small if u is, and a small u has enough bits: 64 of them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32


def exponential(high: UInt32[Array, "*shape"], low: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Exponentials of mean 1 from 64 random bits each: -log(1 - u), u = (high + low / 2^32 + 2^-33) / 2^32, in float32.

  Their relative error is 2^-23 for values down to 2^-65.
  """
  u = (high.astype(jnp.float32) + (low.astype(jnp.float32) + 0.5) * 2.0**-32) * 2.0**-32
  return -jnp.log1p(-jnp.minimum(u, 1 - 2.0**-24))


def log_exponential(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "*shape"]:
  """Logarithms of exponentials."""
  high, low = jax.random.bits(key, (2, *shape), jnp.uint32)
  return jnp.log(exponential(high, low))


def categorical(keys: Key[Array, " n"], log_p: Float[Array, "n ... k"]) -> Int[Array, "n ..."]:
  """A draw from each distribution, by the first of K exponential clocks with the probabilities as rates.

  Args:
    keys: of each example, from which all of its tokens draw.
    log_p: need not be normalised.
  """
  race = lambda key, log_p: jnp.argmax(log_p - log_exponential(key, log_p.shape), axis=-1)
  return jax.vmap(race)(keys, log_p).astype(jnp.int32)
