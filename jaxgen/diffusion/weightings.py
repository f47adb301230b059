"""Weightings: the factors of the network's squared error at each t.

A weighting is a function (prediction, at) -> the factor of the squared error of the network's output; `at` is the
schedule at t. It is defined by its factor for the error of eps or x_0, which the prediction's scales convert to one for
the output, so that a weighting means the same loss for every prediction. With w the factor of ||eps - eps_theta||^2,

    (W1)  L = E_t [w(t) ||eps - eps_theta(x_t, t)||^2],   and the variational bound has  w = -log_snr'(t) / 2

(Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 17). Kingma and Gao 2023, https://arxiv.org/abs/2303.00848,
compare many of them in this form.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.diffusion.predictions import Prediction
from jaxgen.diffusion.schedules import Point

Weighting = Callable[[Prediction, Point], Array]
WeightingName = Literal["simple", "eps", "bound", "p2", "min_snr", "edm", "sigmoid"]


def simple(prediction: Prediction, at: Point) -> Array:
  """1: the squared error of the output itself, (7). With eps it is Ho et al. 2020, eq. 14."""
  return jnp.ones_like(at.t)


def eps(prediction: Prediction, at: Point) -> Array:
  """w = 1 in (W1), whatever the network outputs: for the score it is Song and Ermon 2019, eq. 6, lambda = sigma^2."""
  return prediction.eps_scale(at) ** 2


def bound(prediction: Prediction, at: Point) -> Array:
  """w = -log_snr' / 2. For t uniform on an interval, the interval's length times this is the bound's integral."""
  slope = at.alpha * at.d_sigma - at.d_alpha * at.sigma  # w is slope / (alpha sigma), whose alpha cancels: it may be 0
  return slope / at.sigma**2 * prediction.eps_scale(at) * prediction.x_0_scale(at)


def p2(k: float = 1.0, gamma: float = 1.0) -> Weighting:
  """w = 1 / (k + SNR)^gamma; Choi et al. 2022, https://arxiv.org/abs/2204.00227, eq. 8."""
  return lambda prediction, at: (k + jnp.exp(at.log_snr)) ** -gamma * prediction.eps_scale(at) ** 2


def min_snr(gamma: float = 5.0) -> Weighting:
  """min(SNR, gamma) on the error of x_0; Hang et al. 2023, https://arxiv.org/abs/2303.09556, section 3.4.

  Raises:
    UserError: gamma <= 0.
  """
  if gamma <= 0:
    raise UserError(f"min-SNR's gamma is positive, not {gamma:g}: change it")
  return lambda prediction, at: jnp.minimum(prediction.eps_scale(at) ** 2, gamma * prediction.x_0_scale(at) ** 2)


def edm(sigma_data: float = 0.5) -> Weighting:
  """(r^2 + sigma_data^2) / (r sigma_data)^2 on the error of x_0, r = sigma / alpha; Karras et al. 2022, Table 1.

  On the error of EDM's F in the variance-exploding process it is 1.
  """

  def weighting(prediction: Prediction, at: Point) -> Array:
    norm2 = at.sigma**2 + (sigma_data * at.alpha) ** 2
    return norm2 * (prediction.x_0_scale(at) / (sigma_data * at.sigma)) ** 2

  return weighting


def sigmoid(bias: float = 2.0) -> Weighting:
  """w = -log_snr' / 2 * sigmoid(bias - log_snr); Kingma and Gao 2023, Table 1 ("sigmoid")."""
  return lambda prediction, at: bound(prediction, at) * jax.nn.sigmoid(bias - at.log_snr)


WEIGHTINGS = {
  "simple": simple,
  "eps": eps,
  "bound": bound,
  "p2": p2(),
  "min_snr": min_snr(),
  "edm": edm(),
  "sigmoid": sigmoid(),
}
