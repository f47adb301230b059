"""Consistency models: networks that map any point of a path of the probability-flow ODE to the path's start.

Song et al. 2023, https://arxiv.org/abs/2303.01469 (CM): Algorithm 2 (distillation, CD) and 3 (training, CT), sampled by
Algorithm 1. Song and Dhariwal 2023, https://arxiv.org/abs/2310.14189 (iCT): Table 1.

    N(k)  number of times at step k, k from 0                                     `doubling`, `square_root`
    t_i = (eps^(1/7) + (i - 1) / (N - 1) (T^(1/7) - eps^(1/7)))^7, i = 1 .. N     Karras et al. 2022, eq. 5
    L   = E lambda(t_i) d(f(x_0 + t_{i+1} z, t_{i+1}), f^-(x_i, t_i))

f^- is f without a gradient, or an average of f ("network/target" of `averaged`). In training x_i = x_0 + t_i z with the
same z; in distillation it is one step of Heun's method along a teacher's ODE. t is sigma / alpha here, on any schedule
with alpha > 0; EDM's is the papers'.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import erf
from jaxtyping import Array, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import UNCONDITIONAL, Condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.diffusion import Schedule, predictions
from jaxgen.diffusion.grids import few_steps
from jaxgen.diffusion.solvers.consistency import consistency
from jaxgen.diffusion.solvers.heun import heun
from jaxgen.diffusion.times import c_noise
from jaxgen.methods.diffusion.objective import Examples, Model
from jaxgen.methods.diffusion.sampler import Sampler, cost, sampling_function
from jaxgen.methods.diffusion.teacher import LEARNS, Teacher, beginning, initial

RHO = 7.0
TARGET = "network/target"


class Number(NamedTuple):
  """The number of times.

  Attributes:
    of: step k [] -> N(k) [], a whole number from 2 on.
    most: intervals between them at most, N - 1.
  """

  of: Callable[[Array], Array]
  most: int


def constant(intervals: int) -> Number:
  """N(k) = intervals + 1."""
  check_numbers(intervals, intervals)
  return Number(lambda k: jnp.full_like(k, intervals + 1), intervals)


def doubling(steps: int, first: int = 10, last: int = 1280) -> Number:
  """N(k) = min(first 2^floor(k / K'), last) + 1 with K' = floor(K / (log2(last / first) + 1)): iCT, Table 1.

  Args:
    steps: K, of the whole training.
    first, last: s_0 and s_1.
  """
  check_numbers(first, last)
  each = max(steps // (int(np.log2(last // first)) + 1), 1)
  most = int(np.log2(last // first)) + 1  # 2^k of a large k would overflow
  return Number(lambda k: jnp.minimum(first * 2.0 ** jnp.minimum(k // each, most), last) + 1, last)


def square_root(steps: int, first: int = 2, last: int = 150) -> Number:
  """N(k) = ceil(sqrt(k / K ((last + 1)^2 - first^2) + first^2) - 1) + 1: CM, Appendix C."""
  check_numbers(first - 1, last)  # N(0) = first
  grown = lambda k: jnp.minimum(k / steps, 1.0) * ((last + 1) ** 2 - first**2) + first**2
  return Number(lambda k: jnp.clip(jnp.ceil(jnp.sqrt(grown(k)) - 1), first - 1, last) + 1, last)


def check_numbers(first: int, last: int) -> None:
  """Raises a UserError where numbers of times do not grow from 1 or more."""
  if not 1 <= first <= last:
    raise UserError(f"the number of intervals grows from 1 or more, and this is from {first} to {last}: change them")


def target_decay(number: Number, first: int, decay: float = 0.9) -> Callable[[Array], Array]:
  """mu(k) = exp(s_0 log mu_0 / N(k)): the decay of "network/target", f^- of CM's training (Appendix C).

  Args:
    number: N(k).
    first, decay: s_0 and mu_0.
  """
  return lambda k: jnp.exp(first * np.log(decay) / number.of(k))


class Pairs(NamedTuple):
  """Which neighbouring times a loss compares, and by how much each counts.

  Attributes:
    number: N(k).
    log_normal: (mean, std) of log t_i, from which i is drawn; None: uniformly. iCT: p(i) is proportional to the
      probability that it gives to [t_i, t_{i+1}].
    by_distance: lambda = 1 / (t_{i+1} - t_i), iCT's; else 1.
  """

  number: Number
  log_normal: tuple[float, float] | None = None
  by_distance: bool = False

  def times(self, k: Array, low: float, high: float) -> Float[Array, " most_and_1"]:
    """t_1 .. t_N at step k, and t_N again for the rest of the array."""
    u = jnp.minimum(jnp.arange(self.number.most + 1) / (self.number.of(k) - 1), 1.0)
    return (low ** (1 / RHO) + u * (high ** (1 / RHO) - low ** (1 / RHO))) ** RHO

  def log_probability(self, k: Array, times: Float[Array, " most_and_1"]) -> Float[Array, " most"]:
    """log p(i), without its normaliser, for i = 1 .. most; -inf from N(k) on."""
    weight = jnp.ones(self.number.most, times.dtype)
    if self.log_normal is not None:
      mean, std = self.log_normal
      below = erf((jnp.log(times) - mean) / (np.sqrt(2) * std))
      weight = below[1:] - below[:-1]
    return jnp.where(jnp.arange(self.number.most) < self.number.of(k) - 1, jnp.log(weight), -jnp.inf)


def improved(steps: int, first: int = 10, last: int = 1280) -> Pairs:
  """iCT's: Table 1, with mean -1.1 and std 2.0."""
  return Pairs(doubling(steps, first, last), (-1.1, 2.0), by_distance=True)


Distance = Literal["squared", "pseudo-Huber"]


def distance(a: Examples, b: Examples, kind: Distance = "pseudo-Huber", c: float = 0.00054) -> Float[Array, " batch"]:
  """d(a, b) in the scale of one entry, whatever their number D.

  "squared" is |a - b|^2 / D; "pseudo-Huber" is sqrt(|a - b|^2 / D + c^2) - c, iCT's eq. 7 over sqrt(D), whose c is
  0.00054 sqrt(D).
  """
  square = jnp.mean((a - b) ** 2, axis=range(1, a.ndim))
  return square if kind == "squared" else square / (jnp.sqrt(square + c**2) + c)


FEW = Sampler(consistency, few_steps, steps=2)


def consistency_model(
  network: Any,
  schedule: Schedule,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  pairs: Pairs,
  *,
  sigma_data: float = 0.5,
  d: Distance = "pseudo-Huber",
  teacher: Teacher | None = None,
  condition: Condition = UNCONDITIONAL,
  sampler: Sampler = FEW,
) -> Method:
  """A consistency model of examples in [-1, 1]; the equations are above. Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: a Flax module, called as `Model` says; its time input is log(sigma / alpha) / 4.
    schedule: of paths, from t_min to T; alpha > 0.
    spec: of the data.
    optimizer: optax's.
    pairs: which times are compared.
    sigma_data: the data's standard deviation.
    d: how outputs are compared, see `distance`.
    teacher: distillation from it; None: training only from data.
    condition: the network's condition.
    sampler: how `sample` goes from noise to examples.

  The loss is `distance`, weighted, a mean over examples. Both outputs see the same dropout. The metric "times" is N(k).
  `sample(state, keys, **conditions)` gives [N, *shape].

  Raises:
    UserError: choices that do not go together; data of another shape; a teacher whose network has other parameters.
  """
  if schedule.steps is not None or schedule.is_noise(schedule.T):
    raise UserError("a consistency model's paths are continuous and keep some signal: use the schedule `edm()`")
  if spec.mask is not None:
    raise UserError("a consistency model of examples with padding is not here: use data without")
  ends = [schedule.sigma(t) / schedule.alpha(t) for t in np.array([[schedule.t_min], [schedule.T]])]
  low, high = (float(r[0]) for r in ends)
  model = Model(network, schedule, predictions.consistency(sigma_data, low), c_noise)
  sample = sampling_function(sampler, model, condition, spec)
  ode = heun(schedule)
  init = initial({"network": network}, spec, condition, teacher)
  time = lambda r: schedule.time(-2 * jnp.log(r))

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x_0, (told, keys, options) = batch[spec.feature], beginning(condition, batch, key)
    pair_keys, z_keys = split(keys)
    times = pairs.times(state.step, low, high)
    log_p = pairs.log_probability(state.step, times)
    i = jax.vmap(lambda key: jax.random.categorical(key, log_p))(pair_keys)
    r, above = times[i].astype(x_0.dtype), times[i + 1].astype(x_0.dtype)
    t, s = time(above), time(r)
    z = normal(z_keys, x_0.shape[1:], x_0.dtype)
    noisy = lambda at: at.alpha * x_0 + at.sigma * z
    x_t = noisy(schedule.at(t).like(x_0))
    if teacher:
      denoise = teacher.denoise(state, schedule, condition, told)
      at_its_own = lambda x, t: denoise(x, t.reshape(-1))
      x_s, _ = ode.step(at_its_own, (), x_t, per_example(t, x_t), per_example(s, x_t), pair_keys)  # which draws nothing
    else:
      x_s = noisy(schedule.at(s).like(x_0))

    def f(params: Params, x: Examples, t: Float[Array, " batch"]) -> Examples:
      (output,) = model.output(params, x, t, told, **options)
      return model.prediction.x_0(output, x, schedule.at(t).like(x))

    before = state.averaged(TARGET) if TARGET in state.ema else params
    each = distance(f(params, x_t, t), jax.lax.stop_gradient(f(before, x_s, s)), d)
    each = each / (above - r) if pairs.by_distance else each
    return jnp.mean(each), ({"times": pairs.number.of(state.step).astype(each.dtype)}, state.buffers)

  frozen = teacher.starting() if teacher else {}
  facts, calls = cost(sampler, schedule, condition)
  facts |= {LEARNS: "a consistency function"}
  players = [("network", Player(loss, optimizer))]
  method = compose(init, players, sample=sample, frozen=frozen, facts=facts)
  return method._replace(network_calls=calls)
