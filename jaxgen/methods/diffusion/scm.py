"""Continuous-time consistency models, sCM: Lu and Song 2024, https://arxiv.org/abs/2410.11081, Algorithm 1.

On TrigFlow's process, x_t = cos(t) x_0 + sin(t) z with z ~ N(0, sigma_d^2 I) and t in [0, pi / 2]:

    (S1)  f(x_t, t) = cos(t) x_t - sin(t) sigma_d F(x_t / sigma_d, c(t)),   which is x_0 itself at t = 0
    (S2)  dx_t / dt = cos(t) z - sin(t) x_0 (training, sCT), or along a teacher's ODE (distillation, sCD)
    (S3)  g = -cos(t)^2 (sigma_d F^- - dx_t / dt) - r cos(t) sin(t) (x_t + sigma_d dF^- / dt)
              = cos(t) df^- / dt for r = 1; dF^- / dt is one JVP with the tangent (dx_t / dt, 1)
    (S4)  g <- g / (|g| + c)                                                         tangent normalisation, c = 0.1
    (S5)  L = e^w(t) / D |F - F^- - g|^2 - w(t)                                      w is learned (`uncertainty`)

r rises linearly from 0 to 1 over the first H steps, the tangent's warm-up. f is constant along the ODE where g = 0. The
times are tan(t) sigma_d = e^tau, tau ~ N(P_mean, P_std^2). Here F is minus the output of EDM's prediction, which on
this process is f's x_0.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import UNCONDITIONAL, Condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import Grid, Schedule, predictions, trig_flow
from jaxgen.diffusion.losses import diffuse, simple
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.solvers.consistency import consistency
from jaxgen.diffusion.times import TimeInput, itself, log_normal
from jaxgen.methods.diffusion.objective import Examples, Model, weighed, with_uncertainty
from jaxgen.methods.diffusion.sampler import Sampler, cost, sampling_function
from jaxgen.methods.diffusion.teacher import LEARNS, Teacher, beginning, carried, initial


def tangent(
  F: Examples, dF: Examples, x: Examples, dx: Examples, t: Float[Array, " batch"], r: Any, sigma_data: float, c: float
) -> Examples:
  """g of (S3) and (S4) [B, ...].

  Args:
    F, dF: the network's output at x and its derivative along the path.
    x, dx: x_t and dx_t / dt.
    t: times.
    r: the share of the warm-up, 0 to 1.
    sigma_data, c: sigma_d and c; c = 0 leaves (S4) out.
  """
  cos, sin = (per_example(f(t), x) for f in (jnp.cos, jnp.sin))
  g = -(cos**2) * (sigma_data * F - dx) - r * cos * sin * (x + sigma_data * dF)
  if not c:
    return g
  norm = jnp.sqrt(jnp.sum(g**2, axis=range(1, g.ndim), keepdims=True))
  return g / (norm + c)


def clean(schedule: Schedule) -> Solver:
  """Multistep sampling with f that ends in clean data: x_s = alpha_s f(x_t, t) + sigma_s z."""
  return consistency(schedule, r_min=0.0)


def middle(t: float = 1.1) -> Grid:
  """T, n - 1 times equidistant from t down to 0, and 0. The paper's two steps lead over t = 1.1."""
  return lambda schedule, n: np.array([schedule.T, *(t * (n - 1 - i) / max(n - 1, 1) for i in range(n))])


def scm(
  network: Any,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  sigma_data: float = 0.5,
  mean: float = -1.0,
  std: float = 1.4,
  warmup: int = 10_000,
  c: float = 0.1,
  uncertainty: Any = None,
  teacher: Teacher | None = None,
  start: bool = True,
  condition: Condition = UNCONDITIONAL,
  time_input: TimeInput = itself,
  sampler: Sampler | None = None,
) -> Method:
  """A continuous-time consistency model. Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: a Flax module, called as `Model` says; its output is -F.
    spec: of the data.
    optimizer: optax's.
    sigma_data: the data's standard deviation, sigma_d.
    mean, std: P_mean and P_std of tau = log(tan(t) sigma_d).
    warmup: H, the steps over which r rises from 0 to 1.
    c: of the tangent's normalisation; 0: it is not normalised.
    uncertainty: w of (S5) as -u of a module, such as `LogVariance`, of c_noise; None: w = 0.
    teacher: distillation from it, on its own process; None: training only from data.
    start: the student starts from the teacher's parameters, for which their networks must be alike.
    condition: the network's condition.
    time_input: c(t).
    sampler: how `sample` goes from noise to examples; None: one step.

  The loss is a mean over examples. Value and JVP see the same dropout. `sample(state, keys, **conditions)` gives
  [N, *shape].

  Raises:
    UserError: choices that do not go together.
  """
  if warmup < 1:
    raise UserError(f"the tangent warms up over 1 or more steps, not {warmup}: change it")
  if spec.mask is not None:
    raise UserError("a consistency model of examples with padding is not here: use data without")
  schedule = trig_flow(sigma_data)
  sampler = sampler or Sampler(clean, middle(), 1)
  model = Model(network, schedule, predictions.edm(sigma_data), time_input)
  sample, times = sampling_function(sampler, model, condition, spec), log_normal(schedule, mean, std)
  init_networks = initial({"network": network}, spec, condition, teacher)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    params, buffers = init_networks(key, batch)
    more = with_uncertainty(uncertainty, params["network"], jax.random.fold_in(key, 2), batch[spec.feature].dtype)
    return {**params, "network": more}, buffers

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x_0, (told, keys, options) = batch[spec.feature], beginning(condition, batch, key)
    t_keys, z_keys = split(keys)
    t = times.draw({}, key, t_keys, batch["index"]).t.astype(x_0.dtype)
    x, eps = diffuse(schedule, x_0, t, z_keys)
    at = schedule.at(t)
    near = at.like(x)
    towards = x_0, eps
    if teacher:
      denoise = teacher.denoise(state, schedule, condition, told)
      theirs = teacher.schedule
      towards = (carried(denoise, theirs, schedule) if theirs else denoise)(x, t)[:2]
    dx = jax.lax.stop_gradient(near.d_alpha * towards[0] + near.d_sigma * towards[1])
    F, dF = jax.jvp(lambda x, t: -model.output(params, x, t, told, **options)[0], (x, t), (dx, jnp.ones_like(t)))
    r = jnp.minimum(state.step / warmup, 1.0).astype(x.dtype)
    g = tangent(F, dF, x, dx, t, r, sigma_data, c)
    each = simple(F, jax.lax.stop_gradient(F + g))
    if uncertainty is not None:
      each = weighed(uncertainty, params, jnp.log(jnp.tan(t) * sigma_data) / 4, each)
    return jnp.mean(each), ({"warm-up": r}, state.buffers)

  facts, calls = cost(sampler, schedule, condition)
  facts |= {LEARNS: "a consistency function"}
  method = compose(
    init,
    [("network", Player(loss, optimizer))],
    sample=sample,
    frozen=teacher.starting(*(["network"] if start else [])) if teacher else {},
    facts=facts,
  )
  return method._replace(network_calls=calls)
