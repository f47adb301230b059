"""What the network outputs, and its conversion to (x_0, eps): one table. Equations: `jaxgen.diffusion`, (1) and (6)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

PredictionName = Literal["eps", "x_0", "v"]


class Prediction(NamedTuple):
  """Arrays are [...], alpha and sigma broadcast against them.

  target: (x_0, eps, alpha, sigma) -> what the network should output.
  x_0, eps: (output, x_t, alpha, sigma) -> what that output says x_0 and eps are. With eps = (x_t - alpha x_0) / sigma
    and its inverse they agree; each is written in the form that divides by the larger number.
  """

  target: Callable[..., Float[Array, "..."]]
  x_0: Callable[..., Float[Array, "..."]]
  eps: Callable[..., Float[Array, "..."]]


PREDICTIONS = {
  "eps": Prediction(
    target=lambda x_0, eps, alpha, sigma: eps,
    x_0=lambda out, x, alpha, sigma: (x - sigma * out) / alpha,
    eps=lambda out, x, alpha, sigma: out,
  ),
  "x_0": Prediction(
    target=lambda x_0, eps, alpha, sigma: x_0,
    x_0=lambda out, x, alpha, sigma: out,
    eps=lambda out, x, alpha, sigma: (x - alpha * out) / sigma,
  ),
  "v": Prediction(  # Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, Appendix D, for any alpha and sigma
    target=lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
    x_0=lambda out, x, alpha, sigma: (alpha * x - sigma * out) / (alpha**2 + sigma**2),
    eps=lambda out, x, alpha, sigma: (sigma * x + alpha * out) / (alpha**2 + sigma**2),
  ),
}


def to_x0_eps(
  prediction: Prediction,
  output: Float[Array, "..."],
  x: Float[Array, "..."],
  alpha: Float[Array, "..."],
  sigma: Float[Array, "..."],
  clip: bool = False,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """(x_0, eps) according to the network's output at x = x_t, sigma > 0.

  clip: x_0 is clipped to [-1, 1], where images lie, and eps computed from it by (1), so that the two still make x_t.
  """
  x_0 = prediction.x_0(output, x, alpha, sigma)
  if not clip:
    return x_0, prediction.eps(output, x, alpha, sigma)
  x_0 = x_0.clip(-1, 1)
  return x_0, (x - alpha * x_0) / sigma
