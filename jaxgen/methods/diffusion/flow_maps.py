"""Flow maps: networks u(x, s, t), the average velocity of a flow from t to s, one call of which is a step of any size.

The path is straight, x_t = (1 - t) x_0 + t eps, data at t = 0; v = eps - x_0 is its velocity for one example.

**MeanFlow**: Geng et al. 2025, https://arxiv.org/abs/2505.13447. With u = 1 / (t - s) int_s^t v(x_tau, tau) dtau,

    (F1)  u(x_t, s, t) = v(x_t, t) - (t - s) d/dt u(x_t, s, t)                     the identity (eq. 6)
    (F2)  d/dt u = v . grad_x u + d u / d t, one JVP with the tangent (v, 0, 1) of (x, s, t)             (eq. 8)
    (F3)  L = |u_theta - stop(v - (t - s) d/dt u_theta)|^2, where v is one example's                (eq. 9, 10)

Each example's square is divided by stop(square + c)^p. Guidance of weight w is trained in (eq. 19, Appendix B.1): v is
replaced, in (F2) too, by w v + kappa u(x_t, t, t | y) + (1 - w - kappa) u(x_t, t, t), of effective weight
w / (1 - kappa), except where the condition is dropped.

**Shortcut models**: Frans et al. 2024, https://arxiv.org/abs/2410.12557. A step of 2 d is two of d:

    (F4)  u(x_t, t - 2 d, t) = (u(x_t, t - d, t) + u(x', t - 2 d, t - d)) / 2,   x' = x_t - d u(x_t, t - d, t)   (eq. 4)

for one example in `every`, with d a power of two; for the others d = 0 and the target is v (eq. 5). The targets are an
average's, "network" of `averaged`, if the run keeps one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import UNCONDITIONAL, Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.core.keys import split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import PREDICTIONS, rectified_flow, trailing
from jaxgen.diffusion.losses import diffuse, simple
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.solvers.flow_map import flow_map
from jaxgen.diffusion.times import TimeInput, Times, logit_normal, thousandths
from jaxgen.methods.diffusion.objective import Examples, Model
from jaxgen.methods.diffusion.sampler import Sampler, cost, sampling_function
from jaxgen.methods.diffusion.teacher import LEARNS, beginning, initial

Instants = Float[Array, " batch"]
Average = Callable[[Examples, Instants, Instants], Examples]  # u: (x_t [B, ...], s [B], t [B]) -> [B, ...]
PATH = rectified_flow()
VELOCITY = PREDICTIONS["velocity"]
ONE_CALL = Sampler(flow_map, trailing, 1, clip=False)


def mean_flow_target(u: Average, x: Examples, s: Instants, t: Instants, v: Examples) -> tuple[Examples, Examples]:
  """(u(x, s, t), v - (t - s) du / dt), both from one JVP, (F1) to (F3); the second has no gradient."""
  average, d_dt = jax.jvp(u, (x, s, t), (v, jnp.zeros_like(s), jnp.ones_like(t)))
  return average, jax.lax.stop_gradient(v - per_example(t - s, x) * d_dt)


def shortcut_target(u: Average, x: Examples, t: Instants, d: Instants, least: float) -> Examples:
  """The average of two steps of d in a row from x, at t; (F4). Steps of `least` take the network's velocity, d = 0."""
  told = jnp.where(d <= least, 0, d)
  first = u(x, t - told, t)
  return (first + u(x - per_example(d, x) * first, t - d - told, t - d)) / 2


def told_as_learned(solver: Solver, least: float) -> Solver:
  """The solver, with the input d = 0 for steps of the size `least`, for which the network learned the velocity,
  (F4)."""

  def step(denoise, carry, x, t, s, keys):
    told = lambda x, t, *to: denoise(x, t, *(jnp.where(t - s < 1.5 * least, t, s) for s in to))
    return solver.step(told, carry, x, t, s, keys)

  return solver._replace(step=step)


class Guided(NamedTuple):
  """Guidance that is trained in.

  Attributes:
    weight: w.
    kappa: the share of the conditional prediction.
  """

  weight: float
  kappa: float = 0.0


def mean_flow(
  network: Any,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  times: Times | None = None,
  share: float = 0.25,
  power: float = 1.0,
  c: float = 1e-3,
  guided: Guided | None = None,
  condition: Condition = UNCONDITIONAL,
  time_input: TimeInput = thousandths,
  sampler: Sampler = ONE_CALL,
) -> Method:
  """MeanFlow, (F1) to (F3). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: a Flax module, called as a flow map: `Model` says how.
    spec: of the data.
    optimizer: optax's.
    times: of t and s, the larger and the smaller of two draws; None: sigmoid(N(-0.4, 1)), as in the paper.
    share: the probability that s differs from t. Elsewhere the loss is flow matching's.
    power, c: p and c of the loss's weight. p = 0 is the plain squared error, p = 1 the paper's. The square is a mean
      over an example's entries here, and a sum in the paper, whose c is so many times as large.
    guided: guidance that is trained in; it needs a condition with dropout.
    condition: what the network is told of an example.
    time_input: the number that tells the network a time, of t and of t - s.
    sampler: how `sample` goes from noise to examples: `flow_map` on any grid.

  The loss is a mean over examples; the metric "squared_error" is without the weight. JVP and value see the same
  dropout. `sample(state, keys, weight=None, **conditions)` gives [N, *shape].

  Raises:
    UserError: choices that do not go together.
  """
  if guided is not None and not condition.dropout:
    raise UserError("guidance that is trained in compares with no condition: give the condition a dropout")
  if guided is not None and not 0 <= guided.kappa < 1:
    raise UserError(f"guidance's kappa lies in [0, 1), and this is {guided.kappa:g}: change it")
  model, times = Model(network, PATH, VELOCITY, time_input), times or logit_normal(PATH, -0.4, 1.0)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x, told, keys, average = _drawn(model, condition, spec, batch, key)
    first_keys, second_keys, differ_keys, eps_keys = split(keys, 4)
    first, second = (times.draw({}, key, keys, batch["index"]).t.astype(x.dtype) for keys in (first_keys, second_keys))
    t = jnp.maximum(first, second)
    differ = jax.vmap(lambda key: jax.random.bernoulli(key, share))(differ_keys)
    s = jnp.where(differ, jnp.minimum(first, second), t)
    x_t, eps = diffuse(PATH, x, t, eps_keys)
    v = eps - x
    if guided is not None:
      v = jax.lax.stop_gradient(_guided(guided, partial(average, params), condition, told, x_t, t, v))
    u, wanted = mean_flow_target(average(params, told), x_t, s, t, v)
    square = simple(u, wanted)
    each = square / jax.lax.stop_gradient(square + c) ** power
    return jnp.mean(each), ({"squared_error": jnp.mean(square)}, state.buffers)

  return _method(model, loss, spec, optimizer, condition, sampler)


def _guided(
  guided: Guided,
  average: Callable[[Told], Average],
  condition: Condition,
  told: Told,
  x_t: Examples,
  t: Instants,
  v: Any,
) -> Examples:
  """The guided velocity, (19) of Appendix B.1 with kappa; v itself where the condition is dropped."""
  nothing = condition.absent(told)
  mixed = guided.weight * v + (1 - guided.weight - guided.kappa) * average(nothing)(x_t, t, t)
  if guided.kappa:
    mixed += guided.kappa * average(told)(x_t, t, t)
  pairs = zip(jax.tree.leaves(told), jax.tree.leaves(nothing), strict=True)
  same = jnp.stack([jnp.all((a == n).reshape(len(t), -1), axis=1) for a, n in pairs]).all(0)
  return jnp.where(per_example(same, v), v, mixed)


def shortcut(
  network: Any,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  steps: int = 128,
  every: int = 4,
  condition: Condition = UNCONDITIONAL,
  time_input: TimeInput = thousandths,
  sampler: Sampler = ONE_CALL,
) -> Method:
  """A shortcut model, (F4). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: a Flax module, called as a flow map: `Model` says how.
    spec: of the data.
    optimizer: optax's.
    steps: the number of smallest steps, 1 / d, a power of two; samples take it or a smaller power of two.
    every: one in this many examples is trained by (F4), the others by the velocity.
    condition: what the network is told of an example.
    time_input: the number that tells the network a time, of t and of the step.
    sampler: how `sample` goes from noise to examples.

  The loss is a squared error, a mean over examples and entries. `sample(state, keys, weight=None, **conditions)` gives
  [N, *shape].

  Raises:
    UserError: the number of smallest steps is not a power of two, or samples take steps of other sizes.
  """
  sections = steps.bit_length() - 1
  if steps < 2 or 2**sections != steps:
    raise UserError(f"a shortcut model halves its steps down to a power of two of them, not {steps}: change it")
  sizes = -np.diff(sampler.grid(PATH, sampler.steps))
  if not np.isin(sizes, 2.0 ** -np.arange(sections + 1)).all():
    raise UserError(
      f"a shortcut model takes steps of 1, 1/2, 1/4 .. 1/{steps}, and {sampler.steps} of this grid are others: take a "
      f"power of two of them up to {steps}, and the grid `trailing`"
    )
  model = Model(network, PATH, VELOCITY, time_input)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x, told, keys, average = _drawn(model, condition, spec, batch, key)
    size_keys, time_keys, eps_keys = split(keys, 3)
    bootstraps = batch["index"] % every == 0
    size = jax.vmap(lambda key: jax.random.randint(key, (), 0, sections))(size_keys)  # the step is 2^-size
    step = jnp.exp2(-size.astype(x.dtype))
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(time_keys)
    t = jnp.where(bootstraps, 1 - step * jnp.floor(uniform / step), 1 - uniform)
    x_t, eps = diffuse(PATH, x, t, eps_keys)
    two = shortcut_target(average(state.averaged(), told), x_t, t, step / 2, 1 / steps)
    wanted = jax.lax.stop_gradient(jnp.where(per_example(bootstraps, x), two, eps - x))
    u = average(params, told)(x_t, jnp.where(bootstraps, t - step, t), t)
    return jnp.mean(simple(u, wanted)), ({}, state.buffers)

  solver = sampler.solver
  as_learned = sampler._replace(solver=lambda schedule: told_as_learned(solver(schedule), 1 / steps))
  return _method(model, loss, spec, optimizer, condition, as_learned)


def _drawn(model: Model, condition: Condition, spec: Spec, batch: Batch, key: Array):
  """The inputs that both losses share: the examples, their conditions, a key of each, and (params, told) -> u."""
  told, keys, options = beginning(condition, batch, key)

  def average(params: Params, told: Told) -> Average:
    return lambda x, s, t: model.output(params, x, t, told, to=s, **options)[0]

  return batch[spec.feature], told, keys, average


def _method(
  model: Model,
  loss: Any,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  condition: Condition,
  sampler: Sampler,
) -> Method:
  if spec.mask is not None:
    raise UserError("a flow map of examples with padding is not here: use data without")
  facts, calls = cost(sampler, PATH, condition)
  facts |= {LEARNS: "a flow map, which has two times as input"}
  method = compose(
    initial({"network": model.network}, spec, condition, times=2),
    [("network", Player(loss, optimizer))],
    sample=sampling_function(sampler, model, condition, spec),
    facts=facts,
  )
  return method._replace(network_calls=calls)
