"""The schedule of variational diffusion models, which is learned with the network."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.diffusion.schedules.base import Schedule, circle, softplus


def learned(gamma: Callable[[Array], Array]) -> Schedule:
  """VDM's schedule with log-SNR = -gamma(t), t in [0, 1], gamma an increasing function that closes over parameters.

  Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 2: sigma^2 = sigmoid(gamma). sigma(0) is not 0: x at t = 0
  is decoded, see `jaxgen.methods.diffusion.vdm`. `time` is a bisection.
  """

  def time(log_snr: Array) -> Array:
    def halve(_, ends):
      low, high = ends
      middle = (low + high) / 2
      below = gamma(middle) < -log_snr
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(log_snr), jnp.ones_like(log_snr)))
    return (low + high) / 2

  alpha, sigma = (lambda t: jnp.exp(-softplus(gamma(t)) / 2)), (lambda t: jnp.exp(-softplus(-gamma(t)) / 2))
  return Schedule(alpha, sigma, time, circle, 1.0, 0.0, learned=True)
