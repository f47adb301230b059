"""Graphs by a system of stochastic differential equations: GDSS of Jo et al. 2022, https://arxiv.org/abs/2202.02514.

Features X of nodes and the weights A of edges are noised by separate forward equations, (15) of `jaxgen.diffusion`.
Backwards they are one system, because the score of each depends on both:

    (G1)  dX = (f_X X - g_X^2 grad_X log p_t(X, A)) dt + g_X dw
          dA = (f_A A - g_A^2 grad_A log p_t(X, A)) dt + g_A dw

Two networks learn the two scores, each by denoising. A pair of nodes has one weight and one noise, so that A is
symmetric with an empty diagonal. X is the one-hot degree of a node, or its one-hot type; A is the type of an edge as a
number, and a sample's weights are rounded to types.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import masked, per_example, wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion import PREDICTIONS, PredictionName, Schedule, Solver, losses
from jaxgen.diffusion.schedules import vp
from jaxgen.diffusion.solvers.euler_maruyama import euler_maruyama
from jaxgen.methods.graphs.graphs import (
  Examples,
  Graphs,
  Mask,
  Tokens,
  check_graphs,
  check_kind,
  decode,
  dense,
  encode,
  there,
)

Time = Float[Array, " batch"]
FeatureName = Literal["degree", "type"]
NAMES = Tokens("features", "adjacency")  # of the networks; a `Tokens` here has the features, and the weights of pairs


class Part(NamedTuple):
  """One equation of (G1).

  Attributes:
    network: a Flax module, `network.apply({"params": p}, X [B, N, F], A [B, N, N], t [B], index, mask=mask)` -> an
      output of X's or A's shape: `jaxgen.nn.graphs.gdss.ScoreX` and `ScoreA`, or other equivariant ones.
    schedule: the forward equation; the authors have `vp(0.1, 1.0)` for small graphs.
    prediction: the networks' output. The authors' networks give eps for `vp`, and "score" for `ve`.
  """

  network: Any
  schedule: Schedule = vp(0.1, 1.0)
  prediction: PredictionName = "eps"


class Sampler(NamedTuple):
  """Predictor and corrector, Song et al. 2021, in lockstep for both parts.

  Attributes:
    steps: number of steps of the predictor.
    predictor: schedule -> a solver with one network call a step.
    snr: r of a Langevin step; 0: no corrector.
    noise: the factor of a Langevin step's noise, "scale_eps" in the authors' configs.
    s4: the authors' S4 in place of the predictor: one call of each network serves both the Langevin step and the move,
      which has the forward equation's own noise, reversed, in two halves, and the score's drift between them.
  """

  steps: int = 1000
  predictor: Callable[[Schedule], Solver] = euler_maruyama
  snr: float = 0.05
  noise: float = 0.7
  s4: bool = False


SAMPLER = Sampler()


def graph_score_sde(
  nodes: Part,
  edges: Part,
  kind: Graphs,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  features: FeatureName = "degree",
  width: int | None = None,
  sampler: Sampler = SAMPLER,
) -> Method:
  """Learns eps of features and of weights by the mean squared error of a value that is there, t uniform.

  Args:
    nodes, edges: the two equations and their networks, "features" and "adjacency" in the state.
    kind: types and sizes of graphs; of the frequencies only their number is used.
    spec: the data's; examples are [N, N], see `Graphs`.
    optimizer: of each network.
    features: X is a node's one-hot degree, or its one-hot type.
    width: number of degrees from 0 on that are told apart, for "degree"; by default N.
    sampler: how samples are drawn.

  `evaluate` gives "error_features" and "error_adjacency", the mean squared errors of eps; they are no likelihood.
  `sample(state, keys)` gives [N, n, n], of sizes drawn from p(N).

  Raises:
    UserError: the choices do not fit each other; graphs larger than the data's arrays, or of degrees above `width`.
  """
  check_kind(kind, spec)
  most = spec.shape[0]
  F = len(kind.nodes) if features == "type" else most if width is None else width
  parts = Tokens(nodes, edges)
  _check(parts, features, width, sampler)
  solvers = Tokens(*(sampler.predictor(part.schedule) for part in parts))
  low, high = max(part.schedule.t_min for part in parts), nodes.schedule.T
  times = np.linspace(high, low, sampler.steps + 1)
  for solver in solvers:
    if solver.solve is not None or solver.calls != 1 or solver.order != 1 or solver.start[0]:
      raise UserError("a system of equations is solved in single steps of one network call: take another predictor")
  i, j = np.triu_indices(most, 1)

  def data(x: Examples) -> tuple[Tokens, Mask]:
    """(X [B, N, F] and A's upper triangle [B, N (N - 1) / 2], which are there)."""
    tokens, mask = encode(x)
    count = tokens.nodes if features == "type" else jnp.sum(dense(tokens.pairs, most) > 0, axis=2)
    X = (count[..., None] == jnp.arange(F)).astype(float)
    return Tokens(masked(X, mask.nodes), tokens.pairs.astype(float)), mask

  def eps_of(k: int, params: Params, z: Tokens, t: Time, mask: Mask, **options: Any) -> Array:
    """Part k's eps."""
    part = parts[k]
    out = part.network.apply({"params": params}, z.nodes, dense(z.pairs, most), t, mask=mask.nodes, **options)
    out = wide(out if k == 0 else out[:, i, j]).astype(z.nodes.dtype)
    return masked(PREDICTIONS[part.prediction].eps(out, z[k], part.schedule.at(t).like(z[k])), mask[k])

  def diffused(z: Tokens, t: Time, keys: Key[Array, " batch"], mask: Mask) -> tuple[Tokens, Tokens]:
    """(X_t and A_t, eps of both)."""
    eps = Tokens(*(masked(normal(k, a.shape[1:], a.dtype), m) for k, a, m in zip(split(keys), z, mask, strict=True)))
    mix = lambda part, a, e: per_example(part.schedule.alpha(t), a) * a + per_example(part.schedule.sigma(t), a) * e
    return Tokens(*map(mix, parts, z, eps)), eps

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    z, mask = data(jnp.asarray(batch[spec.feature][:1]))
    given, params = (z.nodes, dense(z.pairs, most), jnp.zeros(1, float)), {}
    for name, part, own, shape in zip(NAMES, parts, jax.random.split(key), ((most, F), (most, most)), strict=True):
      output, variables = part.network.init_with_output(own, *given, mask=mask.nodes)
      check_output(f"the output of the network of {name}", output.shape[1:], shape, "change the network")
      params[name] = variables["params"]
    return params, {}

  def errors(k: int, params: Params, batch: Batch, key: Array, **options: Any) -> Float[Array, " batch"]:
    z, mask = data(jnp.asarray(batch[spec.feature]))
    t_keys, eps_keys = split(example_keys(key, batch["index"]))
    t = jax.vmap(lambda key: jax.random.uniform(key, (), float, low, high))(t_keys)
    z_t, eps = diffused(z, t, eps_keys, mask)
    return losses.simple(eps_of(k, params, z_t, t, mask, **options), eps[k], mask[k])

  def loss_of(k: int) -> Callable:
    def loss(params: Params, state: State, batch: Batch, key: Array):
      noise_key, dropout_key = jax.random.split(key)
      options = dict(index=batch["index"], rngs={"dropout": dropout_key})
      return jnp.mean(errors(k, params, batch, noise_key, **options)), ({}, state.buffers)

    return loss

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    return {f"error_{name}": errors(k, state.averaged(name), batch, key) for k, name in enumerate(NAMES)}

  def sample(state: State, keys: Key[Array, " n"]) -> Examples:
    size_keys, start_keys, step_keys = split(keys, 3)
    log_p = jnp.asarray(kind.log_sizes(most), float)
    mask = there(jax.vmap(lambda key: jax.random.categorical(key, log_p))(size_keys), most)
    params = [state.averaged(name) for name in NAMES]
    shapes = (most, F), (len(i),)
    draw = lambda keys: Tokens(
      *(masked(normal(k, s, float), m) for k, s, m in zip(split(keys), shapes, mask, strict=True))
    )
    z = Tokens(*(part.schedule.prior_std * e for part, e in zip(parts, draw(start_keys), strict=True)))
    all_eps = lambda z, t: [eps_of(k, params[k], z, jnp.broadcast_to(t, len(keys)), mask) for k in (0, 1)]

    def corrected(part: Part, a: Array, eps: Array, noise: Array, m: Array, t: Array, s: Array) -> Array:
      """A Langevin step at t, as `jaxgen.diffusion.solvers.predictor_corrector` has it."""
      axes, sigma = tuple(range(1, a.ndim)), part.schedule.sigma(t)
      values = jnp.sum(jnp.broadcast_to(per_example(m, a), a.shape), axis=axes, keepdims=True)
      norm = jnp.sqrt(jnp.maximum(jnp.sum(eps**2, axis=axes, keepdims=True), 1e-30)) / sigma
      ratio = (part.schedule.alpha(t) / part.schedule.alpha(s)) ** 2
      step = jnp.minimum(2 * ratio * values * (sampler.snr / norm) ** 2, sigma**2)
      return a - step * eps / sigma + jnp.sqrt(2 * step) * sampler.noise * noise

    def split_step(part: Part, a: Array, eps: Array, first: Array, second: Array, t: Array, s: Array) -> Array:
      """S4's move from t to s, with two draws of noise."""
      middle, schedule = (t + s) / 2, part.schedule

      def half(a: Array, noise: Array, t: Array, s: Array) -> Array:
        ratio = schedule.alpha(t) / schedule.alpha(s)
        variance = schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2
        return a / ratio + jnp.sqrt(jnp.maximum(variance, 0)) * noise

      drift = -schedule.at(t).diffusion2 * eps / schedule.sigma(t)
      return half(half(a, first, t, middle) + (t - s) * drift, second, middle, s)

    def step(z: Tokens, now: tuple) -> tuple[Tokens, None]:
      n, t, s = now
      correct_keys, *solver_keys = split(fold_in(step_keys, n), 3)
      all_of = all_eps(z, t)
      if sampler.snr:
        z = Tokens(*(corrected(*args, t, s) for args in zip(parts, z, all_of, draw(correct_keys), mask, strict=True)))
      if sampler.s4:
        moves = zip(parts, z, all_of, *map(draw, solver_keys), strict=True)
        return Tokens(*(split_step(*args, t, s) for args in moves)), None
      all_of, moved = all_eps(z, t) if sampler.snr else all_of, []
      for part, solver, a, eps, m, keys in zip(parts, solvers, z, all_of, mask, solver_keys, strict=True):
        x_0 = (a - part.schedule.sigma(t) * eps) / part.schedule.alpha(t)
        moved.append(masked(solver.step(lambda *_, both=(x_0, eps): both, (), a, t, s, keys)[0], m))
      return Tokens(*moved), None

    grid = jnp.asarray(times, float)
    z, _ = jax.lax.scan(step, z, (jnp.arange(sampler.steps), grid[:-1], grid[1:]))
    last = grid[-1]
    ends = zip(parts, z, all_eps(z, last), strict=True)
    X, A = ((a - part.schedule.sigma(last) * eps) / part.schedule.alpha(last) for part, a, eps in ends)
    types = jnp.argmax(X, axis=2) if features == "type" else jnp.zeros(mask.nodes.shape, int)
    weights = jnp.clip(jnp.round(A), 0, len(kind.pairs) - 1)
    return decode(Tokens(types.astype(jnp.int32), weights.astype(jnp.int32)), mask)

  def check(batch: Batch) -> None:
    x = np.asarray(batch[spec.feature])
    check_graphs(kind, x)
    highest = int(((x > 0).sum(2) - 1).max())
    if features == "degree" and highest >= F:
      raise UserError(f"the data has nodes with {highest} neighbours, and {F} degrees are told apart: raise the width")

  players = [(name, Player(loss_of(k), optimizer)) for k, name in enumerate(NAMES)]
  calls = 2 * (sampler.steps * (2 if sampler.snr and not sampler.s4 else 1) + 1)
  facts = {"A sample": f"{calls:,} network calls, half of them of each network"}
  method = compose(init, players, evaluate=evaluate, sample=sample, facts=facts, check=check)
  return method._replace(network_calls=calls)


def _check(parts: Tokens, features: str, width: int | None, sampler: Sampler) -> None:
  """Raises a UserError if the choices do not fit together."""
  if parts.nodes.schedule.T != parts.pairs.schedule.T or any(part.schedule.steps is not None for part in parts):
    raise UserError("a system of equations has one continuous time, and these schedules have not: take others")
  if width is not None and (features == "type" or width < 1):
    raise UserError(f"a width of {width} is of one-hot degrees, 1 or more of them: leave it out, or change it")
  if sampler.steps < 1 or sampler.snr < 0 or sampler.noise < 0:
    raise UserError(
      f"a sample has 1 or more steps, and a corrector's snr and noise are 0 or more, not {sampler.steps}, "
      f"{sampler.snr:g} and {sampler.noise:g}: change them"
    )
