"""Predictions: the network's output and its conversion to (x_0, eps). Equations: `jaxgen.diffusion`, (1) and (6).

Given x_t, every prediction is an invertible linear map of (x_0, eps), so that `convert` turns any one into any other.
The formulas never divide by a number that vanishes at an end of t, unless the prediction does not determine x_0 there.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.schedules import Point

PredictionName = Literal["eps", "x_0", "v", "score", "velocity", "F"]


class Prediction(NamedTuple):
  """A kind of network output. `at` is the schedule at x's time; its arrays broadcast against x.

  Attributes:
    target: (x_0, eps, at) -> the output that the network should have.
    x_0, eps: (output, x_t, at) -> x_0 and eps according to the output; alpha x_0 + sigma eps = x_t.
    x_0_scale: at -> |d x_0 / d output|, which converts an error of the output into one of x_0.
    eps_scale: at -> |d eps / d output|.
    input: (x_t, at) -> the network's input.
    at_noise: whether the output determines x_0 at alpha = 0.
  """

  target: Callable[..., Float[Array, "..."]]
  x_0: Callable[..., Float[Array, "..."]]
  eps: Callable[..., Float[Array, "..."]]
  x_0_scale: Callable[[Point], Array]
  eps_scale: Callable[[Point], Array]
  input: Callable[..., Float[Array, "..."]] = lambda x, at: x
  at_noise: bool = True


eps = Prediction(
  target=lambda x_0, eps, at: eps,
  x_0=lambda out, x, at: (x - at.sigma * out) / at.alpha,
  eps=lambda out, x, at: out,
  x_0_scale=lambda at: at.sigma / at.alpha,
  eps_scale=lambda at: jnp.ones_like(at.t),
  at_noise=False,
)

x_0 = Prediction(
  target=lambda x_0, eps, at: x_0,
  x_0=lambda out, x, at: out,
  eps=lambda out, x, at: (x - at.alpha * out) / at.sigma,
  x_0_scale=lambda at: jnp.ones_like(at.t),
  eps_scale=lambda at: at.alpha / at.sigma,
)


def _norm2(at: Point, std: float = 1.0) -> Array:
  return (at.alpha * std) ** 2 + at.sigma**2


# Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, Appendix D, for any alpha and sigma.
v = Prediction(
  target=lambda x_0, eps, at: at.alpha * eps - at.sigma * x_0,
  x_0=lambda out, x, at: (at.alpha * x - at.sigma * out) / _norm2(at),
  eps=lambda out, x, at: (at.sigma * x + at.alpha * out) / _norm2(at),
  x_0_scale=lambda at: at.sigma / _norm2(at),
  eps_scale=lambda at: at.alpha / _norm2(at),
)

# The score of q(x_t | x_0), -eps / sigma. Its mean over x_0 given x_t is the score of q(x_t).
# Song and Ermon 2019, eq. 5 and 6.
score = Prediction(
  target=lambda x_0, eps, at: -eps / at.sigma,
  x_0=lambda out, x, at: (x + at.sigma**2 * out) / at.alpha,
  eps=lambda out, x, at: -at.sigma * out,
  x_0_scale=lambda at: at.sigma**2 / at.alpha,
  eps_scale=lambda at: at.sigma,
  at_noise=False,
)


def _wronskian(at: Point) -> Array:
  """alpha sigma' - alpha' sigma, positive."""
  return at.alpha * at.d_sigma - at.d_alpha * at.sigma


# dx_t / dt along x_t = alpha x_0 + sigma eps; Lipman et al. 2022, https://arxiv.org/abs/2210.02747, eq. 14 and 15.
velocity = Prediction(
  target=lambda x_0, eps, at: at.d_alpha * x_0 + at.d_sigma * eps,
  x_0=lambda out, x, at: (at.d_sigma * x - at.sigma * out) / _wronskian(at),
  eps=lambda out, x, at: (at.alpha * out - at.d_alpha * x) / _wronskian(at),
  x_0_scale=lambda at: at.sigma / _wronskian(at),
  eps_scale=lambda at: at.alpha / _wronskian(at),
)


def edm(sigma_data: float = 0.5) -> Prediction:
  """EDM's F: D(x; sigma) = c_skip x + c_out F(c_in x), Karras et al. 2022, Table 1, with x / alpha and sigma / alpha.

  The formulas are multiplied out for any alpha, so that alpha = 0 is no special case. c_noise is the network's time,
  see `jaxgen.diffusion.times`.

  Args:
    sigma_data: the data's standard deviation.

  Raises:
    UserError: sigma_data <= 0.
  """
  if sigma_data <= 0:
    raise UserError(f"sigma_data is the data's standard deviation, not {sigma_data:g}: give a positive number")
  norm2 = lambda at: _norm2(at, sigma_data)
  c_skip = lambda at: sigma_data**2 * at.alpha / norm2(at)  # of x_t, not of x_t / alpha
  c_out = lambda at: sigma_data * at.sigma / jnp.sqrt(norm2(at))
  # The target: c_out F = x_0 - c_skip (alpha x_0 + sigma eps) = sigma (sigma x_0 - sigma_data^2 alpha eps) / norm2
  return Prediction(
    target=lambda x_0, eps, at: (at.sigma * x_0 / sigma_data - sigma_data * at.alpha * eps) / jnp.sqrt(norm2(at)),
    x_0=lambda out, x, at: c_skip(at) * x + c_out(at) * out,
    eps=lambda out, x, at: at.sigma / norm2(at) * x - sigma_data * at.alpha / jnp.sqrt(norm2(at)) * out,
    x_0_scale=c_out,
    eps_scale=lambda at: sigma_data * at.alpha / jnp.sqrt(norm2(at)),
    input=lambda x, at: x / jnp.sqrt(norm2(at)),  # c_in
  )


def consistency(sigma_data: float = 0.5, sigma_min: float = 0.002) -> Prediction:
  """A consistency function f = c_skip y + c_out F(c_in y), y = x / alpha: the start of the ODE's path through x.

  Song et al. 2023, https://arxiv.org/abs/2303.01469, Appendix C, with r = sigma / alpha: c_skip = sigma_data^2 /
  ((r - sigma_min)^2 + sigma_data^2), c_out = sigma_data (r - sigma_min) / sqrt(r^2 + sigma_data^2). f(x, r = sigma_min)
  is y itself, whatever F is, and there no target determines F. x_0 is f, and eps = (x - alpha f) / sigma.

  Args:
    sigma_data: the data's standard deviation.
    sigma_min: r where paths start.

  Raises:
    UserError: one of them is not positive.
  """
  for name, value in (("sigma_data", sigma_data), ("sigma_min", sigma_min)):
    if value <= 0:
      raise UserError(f"{name} is a standard deviation, not {value:g}: give a positive number")
  ratio = lambda at: at.sigma / at.alpha
  c_skip = lambda at: sigma_data**2 / ((ratio(at) - sigma_min) ** 2 + sigma_data**2)
  c_out = lambda at: sigma_data * (ratio(at) - sigma_min) / jnp.sqrt(ratio(at) ** 2 + sigma_data**2)
  f = lambda out, x, at: c_skip(at) * x / at.alpha + c_out(at) * out
  return Prediction(
    target=lambda x_0, eps, at: (x_0 - c_skip(at) * (x_0 + ratio(at) * eps)) / c_out(at),
    x_0=f,
    eps=lambda out, x, at: (x - at.alpha * f(out, x, at)) / at.sigma,
    x_0_scale=c_out,
    eps_scale=lambda at: c_out(at) / ratio(at),
    input=lambda x, at: x / at.alpha / jnp.sqrt(ratio(at) ** 2 + sigma_data**2),
    at_noise=False,
  )


PREDICTIONS = {"eps": eps, "x_0": x_0, "v": v, "score": score, "velocity": velocity, "F": edm()}


def convert(output: Float[Array, "..."], x: Float[Array, "..."], at: Point, source: Prediction, target: Prediction):
  """A network's output of one kind as the output of another kind, at x = x_t."""
  return target.target(source.x_0(output, x, at), source.eps(output, x, at), at)


def to_x0_eps(
  prediction: Prediction, output: Float[Array, "..."], x: Float[Array, "..."], at: Point
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """(x_0, eps) according to the network's output at x = x_t, sigma > 0."""
  return prediction.x_0(output, x, at), prediction.eps(output, x, at)
