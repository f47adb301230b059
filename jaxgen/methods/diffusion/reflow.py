"""Reflow: a flow whose paths are straight, from pairs of noise and sample that another flow has made.

Liu et al. 2022, https://arxiv.org/abs/2209.03003, Algorithm 1 (k-rectified flow, and its distillation); Liu et al.
2023, https://arxiv.org/abs/2309.06380 (InstaFlow), whose teacher is a diffusion model.

    z ~ N(0, I),   x_0 = the end of the teacher's ODE that starts from z            a stage, once a step
    L = E_t |velocity_theta(x_t, t) - (alpha' x_0 + sigma' z)|^2,   x_t = alpha x_0 + sigma z

On `rectified_flow` the target is z - x_0. The pairs of a deterministic map are more nearly straight than independent
ones: a teacher of Gaussians makes them exactly straight, so that one Euler step is enough. t is drawn from the
objective's times: all of them for the next rectified flow; training only at t = T (`times.last`) distils it into one
step.
"""

from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxgen.core.condition import UNCONDITIONAL, Condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, normal, split
from jaxgen.core.method import Batch, Method, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import PREDICTIONS, Schedule, ddim, sampling, trailing
from jaxgen.methods.diffusion.objective import NOISE, Model, Objective, training_loss
from jaxgen.methods.diffusion.sampler import Sampler, check_start, cost, sampling_function
from jaxgen.methods.diffusion.teacher import Teacher, initial

VELOCITY = Objective(PREDICTIONS["velocity"])
ONE_STEP = Sampler(ddim, trailing, 1, clip=False)


def reflow(
  network: Any,
  schedule: Schedule,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  teacher: Teacher,
  *,
  rollout: Sampler,
  objective: Objective = VELOCITY,
  condition: Condition = UNCONDITIONAL,
  sampler: Sampler = ONE_STEP,
  start: bool = True,
) -> Method:
  """A flow along the pairs that a teacher makes. Batch {feature: [B, *shape], "index": [B]}; only labels are used.

  Args:
    network: a Flax module, called as `Model` says.
    schedule: of the student's paths, `rectified_flow()`. The teacher may have its own (`Teacher.schedule`).
    spec: of the data.
    optimizer: optax's.
    teacher: the flow, or diffusion model, that makes the pairs; guided, if it has a weight.
    rollout: the teacher's deterministic solver, its grid and number of steps; its `clip` is not used. Each step of
      training costs so many calls of the teacher.
    objective: the network's output, its loss and the distribution of times.
    condition: the condition of both networks.
    sampler: the student's sampler.
    start: the student starts from the teacher's parameters, for which their networks must be alike.

  Raises:
    UserError: choices that do not go together.
  """
  if spec.mask is not None:
    raise UserError("pairs of examples with padding are not here: use data without")
  objective = objective.on(schedule)
  theirs = teacher.schedule or schedule
  solver, times = rollout.solver(theirs), rollout.grid(theirs, rollout.steps)
  sampling.check(solver, rollout.steps)
  check_start(theirs, teacher.prediction, float(times[0]))
  model = Model(network, schedule, objective.prediction, objective.time_input)
  sample = sampling_function(sampler, model, condition, spec)

  def pairs(state: State, batch: Batch, key: Array) -> tuple[Batch, dict]:
    noise_keys, solver_keys = split(example_keys(key, batch["index"]))
    z = normal(noise_keys, spec.shape, batch[spec.feature].dtype)
    denoise = teacher.denoise(state, schedule, condition, condition.of(batch))
    x_0 = sampling.sample(solver, denoise, times, theirs.prior_std * z, solver_keys)
    return {**batch, spec.feature: jax.lax.stop_gradient(x_0), NOISE: z}, state.buffers

  facts, calls = cost(sampler, schedule, condition)
  method = compose(
    initial({"network": network}, spec, condition, teacher),
    [("network", Player(training_loss(model, objective, condition, spec), optimizer, mean=objective.times.mean))],
    stages=[pairs],
    sample=sample,
    frozen=teacher.starting(*(["network"] if start else [])),
    facts=facts,
  )
  return method._replace(network_calls=calls)
