"""Progressive distillation: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, Algorithm 2.

A student of N steps learns to do in one DDIM step, from t to r, what its teacher does in two, over s between them:

    x_s = alpha_s x_0(x_t) + sigma_s eps(x_t),   x_r = alpha_r x_0(x_s) + sigma_r eps(x_s)      the teacher, (14)
    x~  = (x_r - sigma_r / sigma_t x_t) / (alpha_r - sigma_r / sigma_t alpha_t)                 the student's target

for then (14) with x~ leads from x_t to x_r. The student starts from the teacher's parameters, and is the next round's
teacher, of N / 2 steps. A teacher with a weight is guided: its student needs no guidance and half the calls (Meng et
al. 2022, https://arxiv.org/abs/2210.03142, with the weight fixed).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxgen.core.condition import UNCONDITIONAL, Condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import Grid, Schedule, ddim, trailing
from jaxgen.diffusion.losses import diffuse, simple
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.weightings import Weighting
from jaxgen.diffusion.weightings import simple as unweighted
from jaxgen.methods.diffusion.objective import Examples, Model
from jaxgen.methods.diffusion.sampler import Sampler, check_start, cost, sampling_function
from jaxgen.methods.diffusion.teacher import Teacher, beginning, first_order, initial

Instants = Float[Array, " batch"]


def target(schedule: Schedule, denoise: Denoise, x: Examples, t: Instants, s: Instants, r: Instants) -> Examples:
  """x~ [B, ...]: the x_0 with which one DDIM step from x, at t, to r is the teacher's two over s; t > s > r."""
  x_r = first_order(schedule, denoise, first_order(schedule, denoise, x, t, s), s, r)
  at, to = schedule.at(t).like(x), schedule.at(r).like(x)
  return (x_r - to.sigma / at.sigma * x) / (to.alpha - to.sigma / at.sigma * at.alpha)


def check_halves(schedule: Schedule, grid: Grid, steps: int) -> Float[np.ndarray, " times"]:
  """The times of a teacher's 2 N steps.

  Raises:
    UserError: the student's times are not every second one of them.
  """
  times, student = grid(schedule, 2 * steps), grid(schedule, steps)
  if not np.allclose(times[::2], student, rtol=1e-9, atol=0):
    raise UserError(
      f"the grid's times of {steps} steps are not every second one of {2 * steps}: halve with `trailing` or `few_steps`"
    )
  return np.asarray(times)


def progressive(
  network: Any,
  schedule: Schedule,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  teacher: Teacher,
  steps: int,
  *,
  grid: Grid = trailing,
  weighting: Weighting = unweighted,
  condition: Condition = UNCONDITIONAL,
) -> Method:
  """One round of progressive distillation. Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: the student's, like the teacher's; it has the same prediction and the same time input.
    schedule: the process of both.
    spec: of the data, whose examples the student's x_t are made of.
    optimizer: optax's.
    teacher: the teacher. It must not have its own schedule; v, or another prediction that determines x_0 everywhere.
    steps: N, of the student. The teacher takes 2 N.
    grid: the time grid, whose N times are every second one of 2 N: `trailing`, uniform in t; `few_steps` on EDM's.
    weighting: of the squared error of the output. With v the plain one is the paper's "SNR + 1".
    condition: the condition of both networks.

  The loss is a mean over examples and their entries. `sample(state, keys, **conditions)` takes N DDIM steps.

  Raises:
    UserError: choices that do not go together.
  """
  times = check_halves(schedule, grid, steps)
  if teacher.schedule is not None:
    raise UserError("progressive distillation uses the teacher's process: give the student that schedule")
  check_start(schedule, teacher.prediction, float(times[0]))
  model = Model(network, schedule, teacher.prediction, teacher.time_input)
  sampler = Sampler(ddim, grid, steps, clip=False)
  sample = sampling_function(sampler, model, condition, spec)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x_0, (told, keys, options) = batch[spec.feature], beginning(condition, batch, key)
    step_keys, eps_keys = split(keys)
    i = jax.vmap(lambda key: jax.random.randint(key, (), 0, steps))(step_keys)
    t, s, r = (jnp.asarray(times, x_0.dtype)[2 * i + more] for more in range(3))
    x_t, _ = diffuse(schedule, x_0, t, eps_keys)
    wanted = jax.lax.stop_gradient(target(schedule, teacher.denoise(state, schedule, condition, told), x_t, t, s, r))
    at = schedule.at(t)
    near = at.like(x_t)
    eps = (x_t - near.alpha * wanted) / near.sigma
    (output,) = model.output(params, x_t, t, told, **options)
    each = weighting(model.prediction, at) * simple(output, model.prediction.target(wanted, eps, near))
    return jnp.mean(each), ({}, state.buffers)

  facts, calls = cost(sampler, schedule, condition)
  method = compose(
    initial({"network": network}, spec, condition, teacher),
    [("network", Player(loss, optimizer))],
    sample=sample,
    frozen=teacher.starting("network"),
    facts=facts,
  )
  return method._replace(network_calls=calls)
