"""Annealed Langevin dynamics of NCSN: Song and Ermon 2019, https://arxiv.org/abs/1907.05600, Algorithm 1."""

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def annealed_langevin(schedule: Schedule, corrections: int = 100, step_size: float = 0.2) -> Solver:
  """Takes M Langevin steps x <- x + a / 2 score + sqrt(a) z at each noise level, then goes on to the next level.

  a = step_size sigma^2, the paper's alpha_i = epsilon sigma_i^2 / sigma_L^2 without its dependence on the data's scale.
  Between levels x is not changed; in schedules other than VE, y = x / alpha is not changed.

  A step from t to s goes to level s and takes M Langevin steps there. Sampling thus begins with the level below T,
  because x_T is already a draw from its distribution. It ends with the predicted x_0, the denoising step of Song and
  Ermon 2020, https://arxiv.org/abs/2006.09011, Algorithm 1.

  Args:
    corrections: M, the paper's T. Each Langevin step is a network call.
    step_size: epsilon / sigma_L^2, in the paper 2e-5 / 0.01^2 = 0.2. Langevin steps diverge from 4 on.

  Raises:
    UserError: corrections < 1, or step_size outside (0, 4).
  """
  if corrections < 1 or not 0 < step_size < 4:
    raise UserError(
      "annealed Langevin dynamics takes 1 or more steps a level, of a step_size between 0 and 4, "
      f"not {corrections} of {step_size:g}: change them"
    )

  def step(denoise, carry, x, t, s, keys):
    x = schedule.alpha(s) / schedule.alpha(t) * x
    sigma = schedule.sigma(s)
    a = step_size * sigma**2

    def langevin(x, j):
      score = -denoise(x, s)[1] / sigma
      z = normal(fold_in(keys, j), x.shape[1:], x.dtype)
      return x + a / 2 * score + jnp.sqrt(a) * z, None

    x, _ = jax.lax.scan(langevin, x, jnp.arange(corrections))
    return x, carry

  return Solver(schedule, init=lambda x: (), step=step, calls=corrections)
