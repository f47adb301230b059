"""Variational diffusion models, whose schedule is learned: Kingma et al. 2021, https://arxiv.org/abs/2107.00630.

Let gamma = -log-SNR be an increasing network on t in [0, 1], and z_t the x_t of `jaxgen.diffusion` (1). The bound on
-log p(x) that is trained, evaluated and reported is their eq. 11 and 17,

    (V1)  KL(q(z_1 | x) || N(0, I)) - E log p(x | z_0) + 1/2 E_t [gamma'(t) ||eps - eps_theta(z_t, gamma_t)||^2]

in nats per example. A pixel's p(x | z_0), over its `levels` values, is proportional to N(z_0; alpha_0 x, sigma_0^2):
their eq. 8 and Appendix B.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.diffusion import Grid, Schedule, Solver, ancestral, learned, sampling, trailing
from jaxgen.diffusion.losses import diffuse
from jaxgen.diffusion.predictions import eps as eps_prediction
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.diffusion.sampling import Denoise
from jaxgen.probability.distributions import check_values, to_integers, to_values

Examples = Float[Array, "batch ..."]


def vdm(
  network: Any,
  gamma: Any,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  batch_size: int,
  solver: Callable[[Schedule], Solver] = ancestral,
  grid: Grid = trailing,
  sampling_steps: int = 1000,
  terms: int = 128,
) -> Method:
  """Maximum likelihood by (V1), in nats per entry. Batch {feature: [B, *shape], "index": [B]}.

  An entry's values are 2 k / (levels - 1) - 1.

  Args:
    network: predicts eps; `network.apply({"params": p}, z, gamma_t [B], None, index=index, rngs=..)` -> [B, H, W, C]:
      `jaxgen.nn.unets.vdm.ScoreNetwork`.
    gamma: a Flax module, t [...] -> gamma(t) [...], increasing on [0, 1], differentiable in forward mode:
      `jaxgen.nn.unets.vdm.LinearGamma` or `MonotoneGamma`.
    spec: of the data, whose levels are the values that an entry takes.
    batch_size: of the whole batch; t is low-discrepancy over it, their Appendix I.1.
    solver, grid, sampling_steps: from z_1 to z_0; their eq. 36 is the ancestral solver with the posterior's variance.
    terms: draws of t for each evaluated example, each from its own part of [0, 1].

  `evaluate` gives "nll_nats", an unbiased estimate of the bound. `sample(state, keys)` gives [N, *shape], each entry
  the likeliest value given z_0.

  Raises:
    UserError: data of fewer than two levels or of real numbers, or examples of another shape.
  """
  levels = spec.levels
  if levels is None or levels < 2:
    raise UserError(f"a variational diffusion model needs data with 2 or more levels, not {levels}: change the data")
  sampling.check(solver(learned(lambda t: t)), sampling_steps)

  def schedule_of(params: Params) -> Schedule:
    return learned(lambda t: gamma.apply({"params": params["gamma"]}, t))

  def denoiser(params: Params, schedule: Schedule, **options) -> Denoise:
    def denoise(z: Examples, t: Array) -> tuple[Examples, Examples]:
      at = schedule.at(jnp.broadcast_to(t, z.shape[:1]))
      output = network.apply({"params": params["network"]}, z, -at.log_snr, None, **options).astype(z.dtype)
      return to_x0_eps(eps_prediction, output, z, at.like(z))

    return denoise

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    x = batch[spec.feature][:1]
    network_key, gamma_key = jax.random.split(key)
    t = jnp.zeros(1, x.dtype)
    params = {
      "network": network.init(network_key, x, t, None)["params"],
      "gamma": gamma.init(gamma_key, t)["params"],
    }
    return {"network": params}, {}

  def train(params: Params, state: State, batch: Batch, key: Array):
    """(V1) in nats per entry; gradients reach the schedule through all its terms."""
    noise_key, dropout_key, t_key = jax.random.split(key, 3)
    x, index = batch[spec.feature], batch["index"]
    schedule = schedule_of(params)
    denoise = denoiser(params, schedule, index=index, rngs={"dropout": dropout_key})
    eps_keys, end_keys = split(example_keys(noise_key, index))
    t = (jax.random.uniform(t_key) + index.astype(x.dtype) / batch_size) % 1.0
    nats = ends(schedule, levels, x, end_keys) + integrand(schedule, denoise, x, t, eps_keys)
    first, last = schedule.log_snr(jnp.asarray([0.0, 1.0], x.dtype))
    metrics = {"gamma_0": -first, "gamma_1": -last}
    return jnp.mean(nats) / x[0].size, (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    params, x = state.averaged(), batch[spec.feature]
    schedule = schedule_of(params)
    denoise = denoiser(params, schedule)
    keys = example_keys(key, batch["index"])

    def add(total: Array, k: Array) -> tuple[Array, None]:
      t_keys, eps_keys = split(fold_in(keys, k))
      t = (k + jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(t_keys)) / terms
      return total + integrand(schedule, denoise, x, t, eps_keys) / terms, None

    end_keys = fold_in(keys, terms)
    return {"nll_nats": jax.lax.scan(add, ends(schedule, levels, x, end_keys), jnp.arange(terms))[0]}

  def sample(state: State, keys: Key[Array, " n"]) -> Examples:
    params = state.averaged()
    schedule = schedule_of(params)
    start_keys, solver_keys = split(keys)
    z = normal(start_keys, spec.shape)
    times = grid(schedule, sampling_steps)
    z = sampling.sample(solver(schedule), denoiser(params, schedule), times, z, solver_keys)
    x = z / schedule.alpha(jnp.zeros((), z.dtype))
    return to_values(to_integers(x.clip(-1, 1), levels), levels, x.dtype)

  players = [("network", Player(train, optimizer))]
  return compose(init, players, evaluate=evaluate, sample=sample, check=check_values(levels, False, spec.feature))


def ends(schedule: Schedule, levels: int, x: Examples, keys: Key[Array, " batch"]) -> Float[Array, " batch"]:
  """The first two terms of (V1)."""
  axes, t = range(1, x.ndim), jnp.asarray([0.0, 1.0], x.dtype)
  (alpha_0, alpha_1), (sigma_0, sigma_1) = schedule.alpha(t), schedule.sigma(t)
  prior = 0.5 * jnp.sum((alpha_1 * x) ** 2 + sigma_1**2 - 1 - 2 * jnp.log(sigma_1), axis=axes)
  r = sigma_0 / alpha_0
  values = jnp.asarray(np.linspace(-1, 1, levels), x.dtype)
  away = (x + r * normal(keys, x.shape[1:], x.dtype))[..., None] - values
  log_p = jax.nn.log_softmax(-0.5 * (away / r) ** 2, axis=-1)
  k = to_integers(x, levels)
  return prior - jnp.sum(jnp.take_along_axis(log_p, k[..., None], axis=-1)[..., 0], axis=axes)


def integrand(
  schedule: Schedule, denoise: Denoise, x: Examples, t: Float[Array, " batch"], keys: Key[Array, " batch"]
) -> Float[Array, " batch"]:
  """The last term of (V1) at t."""
  z, eps = diffuse(schedule, x, t, keys)
  _, predicted = denoise(z, t)
  return -0.5 * schedule.at(t).d_log_snr * jnp.sum((eps - predicted) ** 2, axis=range(1, x.ndim))
