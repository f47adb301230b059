"""PNDM: Liu et al. 2022, https://arxiv.org/abs/2202.09778, Algorithm 2; PLMS: its variant in latent diffusion's code,
https://github.com/CompVis/latent-diffusion, `plms.py`."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule

# Adams-Bashforth for equal steps, the newest eps first; row k - 1 uses k of them.
ADAMS = [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]


class Carry(NamedTuple):
  past: tuple[Float[Array, "n ..."], ...]  # the last three eps, the newest first
  count: Int[Array, ""]  # the number of past eps


def pndm(schedule: Schedule, start: Literal["runge_kutta", "improved_euler"] = "runge_kutta") -> Solver:
  """The first-order step with Adams-Bashforth's average of the last four eps, whose weights are for equal steps.

  It has order four if the steps are equal in r = sigma / alpha, and order two otherwise, as on grids that are uniform
  in t. After the start a step is one network call.

  Args:
    start: "runge_kutta" is the paper's: each of the first three steps averages four calls, two of them at (t + s) / 2.
      "improved_euler" is PLMS: the first step averages two calls, and the next two use two and three eps. If r falls
      by orders of magnitude over such a step, the average is far off and later steps do not correct it. The authors'
      grids start below T; on a grid that starts at T of the cosine schedule, a first-order step comes before these.
  """
  average, starting, calls = {"runge_kutta": (_runge_kutta, 3, 4), "improved_euler": (_improved_euler, 1, 2)}[start]

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)[:2]
    r = lambda t: schedule.sigma(t) / schedule.alpha(t)

    def transfer(e, s):
      """phi(x, e, t, s), the paper's Eq. 11, for any schedule: y_s = y + (r_s - r_t) e."""
      return schedule.alpha(s) * (x_0 + r(s) * eps + (r(s) - r(t)) * (e - eps))

    noise = lambda x, t: denoise(x, t)[1]
    adams = lambda: sum(
      c * e for c, e in zip(jnp.asarray(ADAMS, x.dtype)[carry.count], (eps, *carry.past), strict=True)
    )
    first = (carry.count < starting) & (schedule.sigma(s) > 0)
    e = jax.lax.cond(first, lambda: average(noise, transfer, eps, t, s), adams)
    return transfer(e, s), Carry((eps, *carry.past[:-1]), jnp.minimum(carry.count + 1, 3))

  init = lambda x: Carry((jnp.zeros_like(x),) * 3, jnp.zeros((), jnp.int32))
  return Solver(schedule, init, step, to_clean="step", averages=True, order=4, start=(starting, calls))


def _runge_kutta(noise, transfer, e_1, t, s):
  middle = (t + s) / 2
  e_2 = noise(transfer(e_1, middle), middle)
  e_3 = noise(transfer(e_2, middle), middle)
  e_4 = noise(transfer(e_3, s), s)
  return (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6


def _improved_euler(noise, transfer, e_1, t, s):
  return (e_1 + noise(transfer(e_1, s), s)) / 2


plms = partial(pndm, start="improved_euler")
