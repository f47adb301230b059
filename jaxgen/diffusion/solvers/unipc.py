r"""UniPC: Zhao et al. 2023, https://arxiv.org/abs/2302.04867, Algorithms 1 (UniC) and 2 (UniP), their multistep form.

With the differences D_m = x_0^m - x_0^0 of past outputs to the newest, r_m = (lambda_m - lambda_t) / h, and h from
lambda_t to lambda_s, the data form is

    x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) x_0^0 + alpha_s B(h) sum_m a_m D_m / r_m,   R(h) a B(h) = phi(h)

where B(h) > 0 stands for -B(h) of the paper's data form. R is Vandermonde's matrix, so that for any B, a_m B(h) / r_m
is the integral of a Lagrange polynomial, one of `weights`. B matters only if there is a single difference, in UniP-2
and UniC-1, for which the paper sets a_1 = 1/2.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.multistep import Past, correction, nothing, remember, weights
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


class Carry(NamedTuple):
  past: Past  # the predictions of x_0, or of eps, over lambda
  x: Float[Array, "n ..."]  # corrected x at the start of the last step, divided by sigma or alpha of that time


def unipc(
  schedule: Schedule,
  order: int = 3,
  corrector: bool = True,
  B: Literal["bh1", "bh2"] = "bh2",
  form: Literal["data", "noise"] = "data",
) -> Solver:
  """UniPC-p, of order p + 1, or only its predictor UniP-p, of order p = `order`; one network call a step.

  The corrector needs no network call: the output at the predicted x_t first corrects x_t and is then used by the next
  predictor. The last x is not corrected, because there is no call at it. The first steps have order 1, 2, .. The paper
  advises order 3, or 2 with strong guidance.

  Args:
    B: "bh1" is B(h) = h; "bh2" is 1 - e^-h in the data form and e^h - 1 in the noise form.
    form: which function is replaced by a polynomial in lambda: x_0 in (20) or eps in (19).

  Raises:
    UserError: the order is not 1 to 4.
  """
  if order not in (1, 2, 3, 4):
    raise UserError(f"UniPC has order 1 to 4, not {order}: choose one of them")
  # x_s = scale_s (x_t / scale_t) + sign other_s int exp(sign (lambda - lambda_s)) output dlambda
  data = form == "data"
  scale, other, sign = (schedule.sigma, schedule.alpha, 1) if data else (schedule.alpha, schedule.sigma, -1)

  def advance(x, s, low, high, past):
    """A step from lambda = low, with x divided by its scale, to high = lambda_s. past.outputs[0] belongs to low."""
    h = high - low
    whole = -sign * jnp.expm1(-sign * h)  # the integral of the exponential alone
    B_h = h if B == "bh1" else whole
    w = weights(past.at, low, high, lambda u: jnp.exp(sign * (u - high)))
    r = (past.at - low) / h
    w = jnp.where(jnp.isfinite(past.at).sum() == 2, 0.5 * B_h / r, w)
    return scale(s) * x + sign * other(s) * (whole * past.outputs[0] + correction(w, past.outputs))

  def step(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    x_0, eps = denoise(x, t)[:2]
    output = x_0 if data else eps
    if corrector:
      past, begun = carry.past, jnp.isfinite(carry.past.at[0])
      low = jnp.where(begun, past.at[0], lambda_t)
      new = Past((*past.outputs, output), jnp.append(past.at, lambda_t))
      x = jnp.where(begun, advance(carry.x, t, low, lambda_t, new), x)
    past = remember(carry.past, output, lambda_t)
    scaled = x / scale(t)
    return advance(scaled, s, lambda_t, lambda_s, past), Carry(past, scaled)

  return Solver(schedule, init=lambda x: Carry(nothing(x, order), jnp.zeros_like(x)), step=step, order=order)
