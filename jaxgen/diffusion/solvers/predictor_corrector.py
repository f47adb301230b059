"""Predictor-corrector sampling: Song et al. 2021, https://arxiv.org/abs/2011.13456, Algorithms 1 to 5."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.reverse_diffusion import reverse_diffusion


def predictor_corrector(
  schedule: Schedule,
  predictor: Callable[[Schedule], Solver] = reverse_diffusion,
  snr: float = 0.16,
  corrections: int = 1,
) -> Solver:
  """A step of the predictor to time s, then M Langevin steps at s, whose stationary distribution is q(x_s).

  Algorithms 4 and 5: x <- x + epsilon score + sqrt(2 epsilon) z, epsilon = 2 alpha (snr ||z|| / ||score||)^2. The
  paper's alpha is 1 in VE and 1 - beta in VP schedules; both are alpha_ts^2 of (4). The paper's code averages the two
  norms over the batch. Here samples do not depend on each other: ||score|| is that of the sample, and ||z|| is replaced
  by sqrt(D). epsilon is kept below sigma_s^2, above which Langevin steps diverge. For D of 100 or more, the intended
  use, it stays far below.

  The corrector has a bias of its own, a relative variance of about snr^2, which smaller steps of t do not reduce.

  Args:
    predictor: a solver's constructor, such as `ancestral` or `euler_maruyama`.
    snr: r, the "signal-to-noise ratio" of a Langevin step. The paper's code has 0.16 for CIFAR-10, 0.075 for 256 x 256.
    corrections: M.

  Raises:
    UserError: snr or corrections is not positive, or the predictor chooses its own steps.
  """
  if snr <= 0 or corrections < 1:
    raise UserError(
      f"predictor-corrector takes a positive snr and 1 or more corrections, not {snr:g} and {corrections}: change them"
    )
  solver = predictor(schedule)
  if solver.solve is not None:
    raise UserError("a predictor takes one step at a time, and this solver chooses its own steps: use another one")

  def step(denoise, carry, x, t, s, keys):
    fold = lambda j: fold_in(keys, j)
    x, carry = solver.step(denoise, carry, x, t, s, fold(0))
    alpha = (schedule.alpha(t) / schedule.alpha(s)) ** 2
    sigma = schedule.sigma(s)

    def correct(x, j):
      score = -denoise(x, s)[1] / sigma
      z_norm = x[0].size ** 0.5
      score_norm = jnp.sqrt(jnp.sum(score**2, axis=range(1, x.ndim), keepdims=True))
      epsilon = jnp.minimum(2 * alpha * (snr * z_norm / score_norm) ** 2, sigma**2)
      return x + epsilon * score + jnp.sqrt(2 * epsilon) * normal(fold(j), x.shape[1:], x.dtype), None

    x, _ = jax.lax.scan(correct, x, jnp.arange(1, corrections + 1))
    return x, carry

  calls, start = solver.calls + corrections, (solver.start[0], solver.start[1] + corrections)
  return Solver(schedule, solver.init, step, calls=calls, averages=solver.averages, order=solver.order, start=start)
