"""Tokens by continuous diffusion of their codes: Diffusion-LM with learned embeddings, and bit diffusion.

"Li" is Li et al. 2022, https://arxiv.org/abs/2205.14217, and "Chen" Chen et al. 2022,
https://arxiv.org/abs/2208.04202. The token w has the code E(w), a vector: an embedding that is learned with the
network, or the bits of its number as -1 and 1. Codes z = E(w) are noised as in (1) of `jaxgen.diffusion`, on a
schedule whose x_0, at t = 0, still has some noise. The network predicts z. Rounding is p(w | x_0): softmax(x_0 E^T +
b) for embeddings, as in Li's code, and in proportion to N(x_0; alpha_0 E(w), sigma_0^2) for bits. The training loss of
a token is

    (E1)  mean over values of (z - z_hat(x_t, t))^2 + mean of (alpha_1 z)^2 - log p(w | x_0),   t uniform in [0, 1]

bits, which cannot collapse, have only the first term. The bound on -log p(w), nats per example, is

    (E2)  KL(q(x_1 | w) || N(0, I)) + 1/2 int E d(-SNR)/dt ||z - z_hat||^2 dt - E log p(w | x_0)

so that numbers compare with those of `jaxgen.methods.discrete.diffusion`. It is not the training loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.arrays import per_example, wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion import Schedule, Solver, ancestral, learned, losses, sampling
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.diffusion.predictions import x_0 as x_0_prediction
from jaxgen.diffusion.sampling import Denoise

Tokens = Int[Array, "batch tokens"]
Vectors = Float[Array, "batch tokens values"]
Table = Float[Array, "vocabulary values"]
Nats = Float[Array, " batch"]


class Codes(NamedTuple):
  """Vectors of tokens.

  Attributes:
    width: values of a code.
    fixed: the codes of all tokens, [V, width]; None: they are learned.
  """

  width: int
  fixed: Float[np.ndarray, "vocabulary values"] | None = None


def bits(vocabulary: int, scale: float = 1.0) -> Codes:
  """Each token's number in binary, the highest bit first, as -scale and scale: Chen's analog bits.

  Raises:
    UserError: fewer than two tokens, or a scale that is not positive.
  """
  if vocabulary < 2 or scale <= 0:
    raise UserError(f"bits need 2 or more tokens and a positive scale, not {vocabulary} and {scale:g}: change them")
  width = int(vocabulary - 1).bit_length()
  one = np.arange(vocabulary)[:, None] >> np.arange(width)[::-1] & 1
  return Codes(width, scale * (2.0 * one - 1))


def square_root(offset: float = 1e-4) -> Schedule:
  """alpha^2 = 1 - sqrt((t + s) / (1 + s)), s the offset, less 1e-6: Li's schedule, with sigma_0 of about s^(1/4).

  Raises:
    UserError: the offset is not positive, so that x_0 had no noise.
  """
  if offset <= 0:
    raise UserError(f"the square-root schedule's offset is positive, not {offset:g}: change it")

  def gamma(t: Array) -> Array:
    noise = (1 - 1e-6) * jnp.sqrt((t + offset) / (1 + offset))
    return jnp.log(noise) - jnp.log1p(-noise)

  return learned(gamma)


def log_rounding(
  x_0: Vectors, table: Table, bias: Float[Array, " vocabulary"] | None, schedule: Schedule
) -> Float[Array, "batch tokens vocabulary"]:
  """log p(w | x_0) of all tokens; with a bias it is Li's softmax, without one Bayes' rule on equally likely tokens."""
  dot = jnp.einsum("bnd,vd->bnv", x_0, table, precision="highest")
  if bias is None:
    zero = jnp.zeros((), x_0.dtype)
    alpha, sigma = schedule.alpha(zero), schedule.sigma(zero)
    dot, bias = alpha * dot / sigma**2, -0.5 * (alpha / sigma) ** 2 * jnp.sum(table**2, axis=1)
  return jax.nn.log_softmax(dot + bias, axis=-1)


def nearest(x: Vectors, table: Table) -> Vectors:
  """The nearest code of each vector: Li's clamping."""
  away = jnp.sum(table**2, axis=1) - 2 * jnp.einsum("bnd,vd->bnv", x, table, precision="highest")
  return table[jnp.argmin(away, axis=-1)]


def decoder(
  tokens: Tokens,
  z: Vectors,
  table: Table,
  bias: Float[Array, " vocabulary"] | None,
  schedule: Schedule,
  keys: Key[Array, " batch"],
) -> Nats:
  """-log p(w | x_0) at a draw of x_0, a sum over an example's tokens."""
  x_0, _ = losses.diffuse(schedule, z, jnp.zeros(len(z), z.dtype), keys)
  log_p = log_rounding(x_0, table, bias, schedule)
  return -jnp.sum(jnp.take_along_axis(log_p, tokens[..., None], axis=-1), axis=(1, 2))


def bound(
  denoise: Denoise,
  schedule: Schedule,
  tokens: Tokens,
  table: Table,
  bias: Float[Array, " vocabulary"] | None,
  keys: Key[Array, " batch"],
  *,
  terms: int = 128,
) -> Nats:
  """An unbiased estimate of (E2), nats per example.

  Args:
    denoise: (x_t, t [B]) -> (z, eps) as predicted; called once a term.
    schedule: with noise at t = 0, such as `square_root`.
    tokens: of each example.
    table, bias: the tokens' codes, and the bias of rounding; see `log_rounding`.
    keys: of each example.
    terms: draws of log-SNR, each from its own part of its range. In t the integrand is steep near 0.

  Raises:
    UserError: terms < 1.
  """
  if terms < 1:
    raise UserError(f"the bound's integral takes 1 or more terms, not {terms}: change their number")
  z = table[tokens]

  def add(total: Array, k: Array) -> tuple[Array, None]:
    t_keys, eps_keys = split(fold_in(keys, k))
    within = jax.vmap(lambda key: jax.random.uniform(key, (), z.dtype))(t_keys)
    t = schedule.time(high + (low - high) * (k + within) / terms)
    x_t, eps = losses.diffuse(schedule, z, t, eps_keys)
    return total + (high - low) / (2 * terms) * jnp.sum((eps - denoise(x_t, t)[1]) ** 2, axis=(1, 2)), None

  high, low = schedule.log_snr(jnp.array([0.0, 1.0], z.dtype))
  one = jnp.ones((), z.dtype)
  alpha, sigma = schedule.alpha(one), schedule.sigma(one)
  prior = 0.5 * jnp.sum((alpha * z) ** 2 + sigma**2 - 1 - 2 * jnp.log(sigma), axis=(1, 2))
  start = prior + decoder(tokens, z, table, bias, schedule, fold_in(keys, terms))
  return jax.lax.scan(add, start, jnp.arange(terms))[0]


def remembering(solver: Solver) -> Solver:
  """The solver, whose denoiser is given the z that was predicted in the step before, and 0 in the first step."""

  def step(denoise, carry, x, t, s, keys):
    (inner, last), seen = carry, []

    def with_last(x, t):
      found = denoise(x, t, last)
      seen.append(found[0])
      return found

    x, inner = solver.step(with_last, inner, x, t, s, keys)
    return x, (inner, seen[-1])

  return solver._replace(init=lambda x: (solver.init(x), jnp.zeros_like(x)), step=step)


def embedding_diffusion(
  network: Any,
  codes: Codes,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  schedule: Schedule | None = None,
  clamp: bool = True,
  self_condition: bool = False,
  solver: Callable[[Schedule], Solver] = ancestral,
  sampling_steps: int = 200,
  terms: int = 128,
) -> Method:
  """Learns codes by (E1). Batch {feature: [B, N] of integers below the spec's levels, "index": [B]}.

  Args:
    network: a Flax module, `network.apply({"params": p}, x [B, N, D], t [B], None, index=index, rngs={"dropout": key})`
      -> z [B, N, width]; D is the codes' width, or twice that with `self_condition`:
      `jaxgen.nn.transformers.ddit.DDiT(width, ...)`.
    codes: `Codes(width)` for embeddings that are learned, or `bits(vocabulary)`.
    spec: the data's; rows of tokens.
    optimizer: of the network and the embeddings.
    schedule: with noise at t = 0; by default `square_root`.
    clamp: in sampling each predicted z is replaced by the nearest code, Li's clamping trick. Chen's bits are not.
    self_condition: the network also gets its last prediction as input; in half of all training examples it is computed
      first, without a gradient, as in Chen et al.
    solver: of samples, of one network call a step.
    sampling_steps: number of steps of a sample.
    terms: draws of t for each evaluated example.

  `evaluate` gives "nll_nats", (E2), and "tokens". `sample(state, keys)` gives [N, *shape].

  Raises:
    UserError: data that is no row of tokens, codes of another vocabulary, or a solver that needs several calls a step.
  """
  schedule = square_root() if schedule is None else schedule
  chosen = solver(schedule)
  _check(codes, spec, schedule, chosen, sampling_steps)
  times = np.linspace(1, 0, sampling_steps + 1)
  count, vocabulary = spec.shape[0], spec.levels

  def codes_of(params: Params, dtype: Any) -> tuple[Table, Float[Array, " vocabulary"] | None]:
    if codes.fixed is not None:
      return jnp.asarray(codes.fixed, dtype), None
    return params["embedding"].astype(dtype), params["bias"].astype(dtype)

  def predict_with(params: Params, **options: Any) -> Callable[..., Vectors]:
    def predict(x: Vectors, t: Array, last: Vectors | None = None) -> Vectors:
      t = jnp.broadcast_to(t, x.shape[:1]).astype(x.dtype)
      given = x
      if self_condition:
        given = jnp.concatenate([x, jnp.zeros_like(x) if last is None else last], axis=-1)
      return wide(network.apply({"params": params["network"]}, given, t, None, **options)).astype(x.dtype)

    return predict

  def denoiser(predict: Callable[..., Vectors]) -> Denoise:
    """Where it is not given the last prediction, it makes one first."""

    def denoise(x: Vectors, t: Array) -> tuple[Vectors, Vectors]:
      last = predict(x, t) if self_condition else None
      at = schedule.at(jnp.broadcast_to(t, x.shape[:1])).like(x)
      return to_x0_eps(x_0_prediction, predict(x, t, last), x, at)

    return denoise

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    network_key, table_key = jax.random.split(key)
    x = jnp.zeros((1, count, codes.width * (1 + self_condition)), float)
    output, variables = network.init_with_output(network_key, x, jnp.zeros(1, float), None)
    check_output("the network's output", output.shape[1:], (count, codes.width), "change its width of outputs")
    params = {"network": variables["params"]}
    if codes.fixed is None:
      dtype = jax.tree.leaves(params)[0].dtype
      params["embedding"] = jax.random.normal(table_key, (vocabulary, codes.width), dtype)
      params["bias"] = jnp.zeros(vocabulary, dtype)
    return {"network": params}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, dropout_key = jax.random.split(key)
    tokens, index = jnp.asarray(batch[spec.feature]), batch["index"]
    t_keys, eps_keys, end_keys, half_keys = split(example_keys(noise_key, index), 4)
    table, bias = codes_of(params, float)
    z = table[tokens]
    t = jax.vmap(lambda key: jax.random.uniform(key, (), z.dtype))(t_keys)
    x_t, _ = losses.diffuse(schedule, z, t, eps_keys)
    predict, last = predict_with(params, index=index, rngs={"dropout": dropout_key}), None
    if self_condition:
      half = jax.vmap(jax.random.bernoulli)(half_keys)
      last = jnp.where(per_example(half, z), jax.lax.stop_gradient(predict(x_t, t)), 0)
    error = jnp.mean(losses.simple(predict(x_t, t, last), z))
    if codes.fixed is not None:
      return error, ({}, state.buffers)
    end = schedule.alpha(jnp.ones((), z.dtype)) ** 2 * jnp.mean(z**2)
    nats = jnp.mean(decoder(tokens, z, table, bias, schedule, end_keys)) / count
    return error + end + nats, ({"error": error, "rounding": nats}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Nats]:
    params, tokens = state.averaged(), jnp.asarray(batch[spec.feature])
    table, bias = codes_of(params, float)
    keys = example_keys(key, batch["index"])
    nats = bound(denoiser(predict_with(params)), schedule, tokens, table, bias, keys, terms=terms)
    return {"nll_nats": nats, "tokens": jnp.full(len(nats), count, nats.dtype)}

  def sample(state: State, keys: Key[Array, " n"]) -> Tokens:
    params = state.averaged()
    table, bias = codes_of(params, float)
    predict = predict_with(params)
    start_keys, solver_keys = split(keys)

    def denoise(x: Vectors, t: Array, last: Vectors | None = None) -> tuple[Vectors, Vectors]:
      z = predict(x, t, last)
      z = nearest(z, table) if clamp else z
      return to_x0_eps(x_0_prediction, z, x, schedule.at(jnp.broadcast_to(t, x.shape[:1])).like(x))

    x = normal(start_keys, (count, codes.width), float)
    used = remembering(chosen) if self_condition else chosen
    x_0 = sampling.sample(used, denoise, jnp.asarray(times, x.dtype), x, solver_keys)
    return jnp.argmax(log_rounding(x_0, table, bias, schedule), axis=-1).astype(jnp.int32)

  def check(batch: Batch) -> None:
    x = np.asarray(batch[spec.feature])
    if x.size and (x.min() < 0 or x.max() >= vocabulary):
      raise UserError(f"tokens from {x.min()} to {x.max()} are not among {vocabulary}: change the data or its levels")

  facts = {"A sample": f"{sampling_steps:,} network calls"}
  players = [("network", Player(loss, optimizer))]
  method = compose(init, players, evaluate=evaluate, sample=sample, facts=facts, check=check)
  return method._replace(network_calls=sampling_steps)


def _check(codes: Codes, spec: Spec, schedule: Schedule, solver: Solver, steps: int) -> None:
  """Raises a UserError if the choices do not fit together."""
  if spec.levels is None or len(spec.shape) != 1 or not np.issubdtype(spec.dtype, np.integer):
    raise UserError(f"codes need rows of tokens, and this data is {spec.shape} of {np.dtype(spec.dtype)}: change it")
  if codes.width < 1:
    raise UserError(f"a code has 1 or more values, not {codes.width}: change its width")
  if codes.fixed is not None and len(codes.fixed) != spec.levels:
    raise UserError(
      f"there are codes of {len(codes.fixed)} tokens and the data has {spec.levels}: give it bits of its own"
    )
  if schedule.steps is not None or schedule.is_clean(0.0):
    raise UserError("codes are rounded at t = 0 from values with noise, and this schedule has none: take square_root")
  if solver.solve is not None or solver.calls != 1 or solver.start[0]:
    raise UserError("codes are sampled by a solver of one network call a step: take another")
  sampling.check(solver, steps)
