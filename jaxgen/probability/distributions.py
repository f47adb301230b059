"""Distributions of data given a network's outputs: log-probabilities of the data's values, and samples.

Values of data with `levels` are 2 k / (levels - 1) - 1 for k = 0 .. levels - 1, as `jaxgen.data.transforms.scale` makes
them; their log-probability is that of the integer k, in nats. For data without levels it is the log-density per unit of
the values.

    d = logistic_mixture(10, levels=256, channels=3)
    log_p = d.log_prob(parameters, x)   # [..., d.parameters], [..., d.values] -> [...]
    x = d.sample(key, parameters)       # [d.parameters] -> [d.values]
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.core.method import Batch

MIN_LOG_SCALE = -7.0  # as in PixelCNN++'s code


class Distribution(NamedTuple):
  """A distribution of V = `values` numbers with P = `parameters` parameters.

  Attributes:
    parameters: number of parameters, a network's outputs for one draw.
    values: number of values of one draw: 1, or the channels of a pixel.
    levels: number of levels that a value may take; None: real values.
    log_prob: (parameters [..., P], x [..., V]) -> [...], nats.
    sample: (key, parameters [P]) -> [V].
    mean: parameters [..., P] -> [..., V]; None: the mean is not available.
  """

  parameters: int
  values: int
  levels: int | None
  log_prob: Callable[[Array, Array], Array]
  sample: Callable[[Array, Array], Array]
  mean: Callable[[Array], Array] | None = None


def to_integers(x: Float[Array, "*shape"], levels: int) -> Int[Array, "*shape"]:
  """2 k / (levels - 1) - 1 -> k."""
  return jnp.round((x + 1) * ((levels - 1) / 2)).astype(jnp.int32)


def to_values(k: Num[Array, "*shape"], levels: int, dtype) -> Float[Array, "*shape"]:
  """k -> 2 k / (levels - 1) - 1."""
  return k.astype(dtype) * (2 / (levels - 1)) - 1


def nll_name(distribution: int | None, levels: int | None, values: int) -> tuple[str, float]:
  """The name of -log p of an example, and the nats to add to it for a likelihood of the integers.

  A density of integers that `data.transforms.dequantize` spread over [-1, 1) gives a bound on the integers' likelihood.

  Args:
    distribution: the distribution's levels; None: it is a density.
    levels: the data's levels; None: real values.
    values: number of values of an example.
  """
  if distribution is not None:
    return "nll_nats", 0.0
  return ("nll_nats_density", 0.0) if levels is None else ("nll_nats_dequantized", values * math.log(levels / 2))


def check_values(levels: int | None, dequantized: bool, feature: str | None = None) -> Callable[[Batch], None]:
  """A check for `Method.check`: values have these levels, or were spread over [-1, 1) by `dequantize(levels)`.

  Args:
    levels: the data's levels; None: real values, for which nothing is checked.
    dequantized: whether the values must have been dequantized.
    feature: the examples' name in a batch; by default "image" or "x".

  The check raises:
    UserError: there are other values.
  """

  def check(batch: Batch) -> None:
    x = np.asarray(batch[feature or ("image" if "image" in batch else "x")], np.float64)
    k = (x + 1) * ((levels - 1) / 2)
    off = np.abs(k - np.round(k)) > 0.01
    if not (np.abs(x) <= 1 + 1e-6).all():
      raise UserError(f"the model needs values in [-1, 1], and the data has {x.flat[np.abs(x).argmax()]:g}: scale them")
    if dequantized and not off.any():
      raise UserError(
        f"the density needs dequantized values, and the data's are still integers of {levels} levels: put "
        f"data.transforms.dequantize({levels}) among its transforms"
      )
    if not dequantized and off.any():
      raise UserError(
        f"the model is of values of {levels} levels, and the data has others, such as {x[off][0]:g}: "
        + ("binarize them, or change the levels" if levels == 2 else "change the levels, or leave out dequantization")
      )

  return (lambda batch: None) if levels is None else check


def bernoulli() -> Distribution:
  """A value -1 or 1; the parameter is the logit of 1."""

  def log_prob(logit: Float[Array, "*b 1"], x: Float[Array, "*b 1"]) -> Float[Array, "*b"]:
    return jax.nn.log_sigmoid(jnp.where(x > 0, 1, -1) * wide(logit))[..., 0]

  def sample(key: Key[Array, ""], logit: Float[Array, "1"]) -> Float[Array, "1"]:
    return jnp.where(jax.random.bernoulli(key, jax.nn.sigmoid(wide(logit))), 1, -1).astype(logit.dtype)

  return Distribution(1, 1, 2, log_prob, sample, lambda logit: 2 * jax.nn.sigmoid(logit) - 1)


def categorical(levels: int) -> Distribution:
  """Any distribution over the levels; the parameters are logits.

  Raises:
    UserError: there are fewer than two levels.
  """
  check_sizes("a distribution", 2, levels=levels)

  def log_prob(logits: Float[Array, "*b k"], x: Float[Array, "*b 1"]) -> Float[Array, "*b"]:
    log_p = jax.nn.log_softmax(wide(logits))
    return jnp.take_along_axis(log_p, to_integers(x, levels), axis=-1)[..., 0]

  def sample(key: Key[Array, ""], logits: Float[Array, "k"]) -> Float[Array, "1"]:
    return to_values(jax.random.categorical(key, wide(logits))[None], levels, logits.dtype)

  return Distribution(levels, 1, levels, log_prob, sample)


def gaussian() -> Distribution:
  """A Gaussian; the parameters are the mean and the logarithm of the standard deviation."""

  def log_prob(parameters: Float[Array, "*b 2"], x: Float[Array, "*b 1"]) -> Float[Array, "*b"]:
    mean, log_std = jnp.moveaxis(wide(parameters), -1, 0)
    return -0.5 * ((x[..., 0] - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)

  def sample(key: Key[Array, ""], parameters: Float[Array, "2"]) -> Float[Array, "1"]:
    return parameters[:1] + jnp.exp(parameters[1:]) * jax.random.normal(key, (1,), parameters.dtype)

  return Distribution(2, 1, None, log_prob, sample, lambda parameters: parameters[..., :1])


def gaussian_mixture(components: int) -> Distribution:
  """A mixture of Gaussians on the real line; the parameters are logits, means and logarithms of standard deviations.

  Raises:
    UserError: no components.
  """
  check_sizes("a distribution", components=components)

  def log_prob(parameters: Float[Array, "*b p"], x: Float[Array, "*b 1"]) -> Float[Array, "*b"]:
    logits, mean, log_std = jnp.split(wide(parameters), 3, axis=-1)
    log_density = -0.5 * ((x - mean) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_density, axis=-1)

  def sample(key: Key[Array, ""], parameters: Float[Array, "p"]) -> Float[Array, "1"]:
    logits, mean, log_std = jnp.split(parameters, 3)
    which, noise = jax.random.split(key)
    i = jax.random.categorical(which, logits)
    return mean[i, None] + jnp.exp(log_std[i, None]) * jax.random.normal(noise, (1,), parameters.dtype)

  return Distribution(3 * components, 1, None, log_prob, sample)


def discretized_logistic(
  x: Float[Array, "*shape"], mean: Float[Array, "*shape"], log_scale: Float[Array, "*shape"], levels: int
) -> Float[Array, "*shape"]:
  """log P(k), if a logistic variable of this mean and scale is rounded to the nearest level; x is the value of level k.

  Kingma et al. 2016, https://arxiv.org/abs/1606.04934, section 5.2; Salimans et al. 2017,
  https://arxiv.org/abs/1701.05517, eq. 2: the first level has all mass below it and the last all mass above. With
  a < b the ends of k's interval in units of the scale, and F the logistic function, it is computed as

      log(F(b) - F(a)) = log F(b) + log F(-a) + log(1 - exp(a - b)),

  which is accurate even if F(a) and F(b) round to the same number. Two neighbours compute their common end equally, so
  that the probabilities of all levels sum to 1 in spite of rounding.
  """
  half = 1 / (levels - 1)
  k = to_integers(x, levels)
  scale = jnp.exp(-log_scale)
  end = lambda k: (2 * k + 1).astype(mean.dtype) * half - 1  # of k's interval, the upper one
  above = jax.nn.log_sigmoid((end(k) - mean) * scale)  # log F(b)
  below = jax.nn.log_sigmoid((mean - end(k - 1)) * scale)  # log F(-a)
  # log(1 - exp(-z)) of the width z, or log z; z itself may be below the smallest number
  log_z = math.log(2 * half) - log_scale
  narrow = log_z < -40
  width = jnp.where(narrow, log_z, jnp.log(-jnp.expm1(-jnp.exp(jnp.where(narrow, 0.0, log_z)))))
  first, last = k == 0, k == levels - 1
  return jnp.where(first, above, jnp.where(last, below, above + below + width))


def logistic(levels: int = 256) -> Distribution:
  """`discretized_logistic`; the parameters are the logistic's mean and the logarithm of its scale, at least -7.

  `mean` is the logistic's mean clipped to [-1, 1]. That of the discretized distribution differs if much of its mass
  lies at the ends.

  Raises:
    UserError: fewer than two levels.
  """
  check_sizes("a distribution", 2, levels=levels)

  def log_prob(parameters: Float[Array, "*b 2"], x: Float[Array, "*b 1"]) -> Float[Array, "*b"]:
    mean, log_scale = jnp.moveaxis(wide(parameters), -1, 0)
    return discretized_logistic(x[..., 0].astype(mean.dtype), mean, jnp.maximum(log_scale, MIN_LOG_SCALE), levels)

  def sample(key: Key[Array, ""], parameters: Float[Array, "2"]) -> Float[Array, "1"]:
    scale = jnp.exp(jnp.maximum(parameters[1:], MIN_LOG_SCALE))
    x = parameters[:1] + scale * jax.random.logistic(key, (1,), parameters.dtype)
    return to_values(to_integers(x.clip(-1, 1), levels), levels, parameters.dtype)

  return Distribution(2, 1, levels, log_prob, sample, lambda parameters: parameters[..., :1].clip(-1, 1))


def logistic_mixture(components: int, levels: int = 256, channels: int = 1) -> Distribution:
  """PixelCNN++'s distribution of a pixel: Salimans et al. 2017, https://arxiv.org/abs/1701.05517, section 2.1 and 2.2.

  A component is one for the whole pixel. Given it, each channel is a discretized logistic variable whose mean depends
  linearly on the channels before it (eq. 3), with coefficients in [-1, 1]. The parameters are the components' logits;
  then for each component the channels' means, their log-scales (at least -7) and the coefficients before the tanh: 10
  numbers for each component with three channels.

  Raises:
    UserError: no components, no channels, or fewer than two levels.
  """
  check_sizes("a distribution", components=components, channels=channels)
  check_sizes("a distribution", 2, levels=levels)
  pairs = [(c, d) for c in range(channels) for d in range(c)]
  size = 2 * channels + len(pairs)

  def parts(parameters: Float[Array, "*b p"]) -> tuple[Array, Array, Array, Array]:
    """Logits [.., K]; means and log-scales [.., K, C]; coefficients [.., K, C (C - 1) / 2]."""
    parameters = wide(parameters)
    rest = parameters[..., components:].reshape(*parameters.shape[:-1], components, size)
    mean, log_scale, coefficients = jnp.split(rest, [channels, 2 * channels], axis=-1)
    return parameters[..., :components], mean, jnp.maximum(log_scale, MIN_LOG_SCALE), jnp.tanh(coefficients)

  def mean_of(c: int, mean: Array, coefficients: Array, x: Array) -> Array:
    """The mean of channel c given the channels before it."""
    return mean[..., c] + sum(coefficients[..., i] * x[..., d] for i, (of, d) in enumerate(pairs) if of == c)

  def log_prob(parameters: Float[Array, "*b p"], x: Float[Array, "*b c"]) -> Float[Array, "*b"]:
    logits, mean, log_scale, coefficients = parts(parameters)
    x = jnp.broadcast_to(x[..., None, :], mean.shape).astype(mean.dtype)
    mean = jnp.stack([mean_of(c, mean, coefficients, x) for c in range(channels)], axis=-1)
    each = discretized_logistic(x, mean, log_scale, levels).sum(-1)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)

  def sample(key: Key[Array, ""], parameters: Float[Array, "p"]) -> Float[Array, "c"]:
    which, noise = jax.random.split(key)
    logits, mean, log_scale, coefficients = parts(parameters)
    i = jax.random.categorical(which, logits)
    z = jnp.exp(log_scale[i]) * jax.random.logistic(noise, (channels,), mean.dtype)
    x = jnp.zeros(channels, mean.dtype)
    for c in range(channels):
      value = (mean_of(c, mean[i], coefficients[i], x) + z[c]).clip(-1, 1)
      x = x.at[c].set(to_values(to_integers(value, levels), levels, x.dtype))
    return x.astype(parameters.dtype)

  return Distribution(components * (1 + size), channels, levels, log_prob, sample)
