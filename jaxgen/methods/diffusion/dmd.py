"""Distribution matching distillation: a one-step generator, whose samples have the teacher's distribution.

Yin et al. 2023, https://arxiv.org/abs/2311.18828 (DMD), eq. 7 and 8; Yin et al. 2024, https://arxiv.org/abs/2405.14867
(DMD2): no pairs of the teacher, and several updates of the fake score for one of the generator.

    x = G(z), z ~ N(0, I), at a random t: x_t = alpha x + sigma eps
    (D1)  d KL / d x = w (mu_fake(x_t, t) - mu_real(x_t, t)),   w = 1 / mean |x - mu_real(x_t, t)|

mu is a denoiser's x_0: mu_real the teacher's, mu_fake that of a second network, which is trained to denoise the
generator's samples. Where both are equal, at the target distribution, the gradient is 0. A GAN's loss (DMD2, section
4.3) is not here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.condition import UNCONDITIONAL, Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import Schedule, ddim
from jaxgen.diffusion.grids import few_steps
from jaxgen.diffusion.losses import diffuse, simple
from jaxgen.diffusion.times import Times, uniform
from jaxgen.diffusion.weightings import Weighting
from jaxgen.diffusion.weightings import simple as unweighted
from jaxgen.methods.diffusion.objective import Examples, Model
from jaxgen.methods.diffusion.sampler import Sampler, check_start, cost, sampling_function
from jaxgen.methods.diffusion.teacher import LEARNS, Teacher, beginning, initial

FAKE = "fake"
ONE_CALL = Sampler(ddim, few_steps, 1, clip=False)  # x_0 at T


def gradient(x: Examples, real: Examples, fake: Examples) -> Examples:
  """(D1) [B, ...], of each example x with the two denoisers' x_0."""
  size = jnp.mean(jnp.abs(x - real), axis=range(1, x.ndim), keepdims=True)
  return (fake - real) / jnp.maximum(size, 1e-6)


def dmd(
  network: Any,
  schedule: Schedule,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  teacher: Teacher,
  *,
  fake_optimizer: optax.GradientTransformation,
  fake_updates: int = 5,
  times: Times | None = None,
  fake_times: Times | None = None,
  weighting: Weighting = unweighted,
  condition: Condition = UNCONDITIONAL,
) -> Method:
  """Distribution matching distillation. Batch {feature: [B, *shape], "index": [B]}; only labels are used.

  "network" is the generator and "fake" the fake score; both are like the teacher's and start from its parameters.

  Args:
    network: a Flax module, called as `Model` says; it outputs the teacher's prediction, and x is its x_0 at T.
    schedule: the teacher's process.
    spec: of the data.
    optimizer: of the generator.
    teacher: the real score; guided, if it has a weight. It must not have its own schedule.
    fake_optimizer: of the fake score.
    fake_updates: its updates in a step, before the generator's one, each from its part of the batch, which divides by
      their number.
    times: of (D1); None: uniform.
    fake_times: of the fake score's loss; None: those of (D1).
    weighting: of the fake score's loss.
    condition: the networks' condition.

  The generator's loss is |x - stop(x - gradient)|^2 / 2, a mean over examples and entries, whose gradient with respect
  to x is (D1). `sample(state, keys, **conditions)` gives [N, *shape] by one call.

  Raises:
    UserError: choices that do not go together.
  """
  if teacher.schedule is not None:
    raise UserError("distribution matching uses the teacher's process: give the student that schedule")
  if spec.mask is not None:
    raise UserError("distribution matching of examples with padding is not here: use data without")
  check_start(schedule, teacher.prediction, schedule.T)
  times = times or uniform(schedule)
  fake_times = fake_times or times
  if not (times.mean and fake_times.mean):
    raise UserError("times that depend on the batch or on losses are not here: draw them example by example")
  model = Model(network, schedule, teacher.prediction, teacher.time_input)
  sample = sampling_function(ONE_CALL, model, condition, spec)

  def generated(params: Params, keys: Array, dtype: Any, told: Told, **options: Any) -> Examples:
    """G(z) of each key's z."""
    x = schedule.prior_std * normal(keys, spec.shape, dtype)
    t = jnp.full(x.shape[:1], schedule.T, dtype)
    (output,) = model.output(params, x, t, told, **options)
    return model.prediction.x_0(output, x, schedule.at(t).like(x))

  def draw(times: Times, key: Array, keys: Array, batch: Batch, dtype: Any) -> Float[Array, " batch"]:
    return times.draw({}, key, keys, batch["index"]).t.astype(dtype)

  def fake_loss(params: Params, state: State, batch: Batch, key: Array):
    (told, keys, options), dtype = beginning(condition, batch, key), batch[spec.feature].dtype
    z_keys, t_keys, eps_keys = split(keys, 3)
    x = jax.lax.stop_gradient(generated(state.params["network"], z_keys, dtype, told))
    t = draw(fake_times, key, t_keys, batch, dtype)
    x_t, eps = diffuse(schedule, x, t, eps_keys)
    at = schedule.at(t)
    (output,) = model.output(params, x_t, t, told, **options)
    each = weighting(model.prediction, at) * simple(output, model.prediction.target(x, eps, at.like(x)))
    return jnp.mean(each), ({}, state.buffers)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    (told, keys, options), dtype = beginning(condition, batch, key), batch[spec.feature].dtype
    z_keys, t_keys, eps_keys = split(keys, 3)
    x = generated(params, z_keys, dtype, told, **options)
    t = draw(times, key, t_keys, batch, dtype)
    x_t, _ = diffuse(schedule, jax.lax.stop_gradient(x), t, eps_keys)
    real = teacher.denoise(state, schedule, condition, told)(x_t, t)[0]
    fake = model.denoise(state.params[FAKE], told)(x_t, t)[0]
    towards = jax.lax.stop_gradient(gradient(x, real, fake))
    size = jnp.sqrt(jnp.mean(towards**2))
    return jnp.mean(simple(x, jax.lax.stop_gradient(x - towards))) / 2, ({"push": size}, state.buffers)

  facts, calls = cost(ONE_CALL, schedule, condition)
  facts |= {LEARNS: "a generator of one call"}
  players = [
    (FAKE, Player(fake_loss, fake_optimizer, updates=fake_updates)),
    ("network", Player(loss, optimizer, slices=1)),
  ]
  method = compose(
    initial({"network": network, FAKE: network}, spec, condition, teacher),
    players,
    sample=sample,
    frozen=teacher.starting("network", FAKE),
    facts=facts,
  )
  return method._replace(network_calls=calls)
