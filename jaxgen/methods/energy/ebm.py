"""Deep energy-based models by maximum likelihood, with Markov chains of any kernel in place of exact samples.

Of the density p(x) = exp(-U(x)) / Z the gradient of the mean of -log p over data is that of

    (E1)  mean U(x) - mean U(y),    y drawn from p

and y is where chains are after some steps on the present U, with no gradient through them. Where they begin is the
difference between papers:

    replay=None              noise at every step: short runs. Nijkamp et al. 2019, https://arxiv.org/abs/1904.09770
    replay=Replay(N, 0.0)    where they ended before: persistent. Tieleman 2008
    replay=Replay(N, 0.05)   one of N places where some ended before, or noise in 5 % of cases: a replay buffer.
                             Du and Mordatch 2019, https://arxiv.org/abs/1903.08689, Algorithm 1

What short runs learn is a generator, the chain of so many steps from noise, and seldom an energy: where longer chains
go is another matter, which `jaxgen.evaluation.long_run` shows. Kernels are those of `jaxgen.mcmc`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Metrics, Params, Player, State, compose
from jaxgen.mcmc import Energy, one_per_chain, run
from jaxgen.mcmc.langevin import Sampler, value_and_gradient

Event = Float[Array, "batch *shape"]
Start = Callable[[Array, tuple[int, ...]], Array]  # (key, shape) -> where a chain begins


class Replay(NamedTuple):
  """Places where chains ended, kept in `buffers["chains"]`.

  size: how many. A step takes as many of them as the batch has examples, at random, or all where they are no more.
  restart: probability with which a chain begins with noise instead.
  """

  size: int
  restart: float = 0.05


def uniform(low: float = -1.0, high: float = 1.0) -> Start:
  """Each value uniform between low and high."""
  return lambda key, shape: jax.random.uniform(key, shape, minval=low, maxval=high)


UNIFORM = uniform()


def energies(network: Any) -> Callable[[State, Event], Float[Array, " batch"]]:
  """(state, x) -> U(x), nats, with the averaged parameters or the trained ones: for figures and partition functions."""
  return lambda state, x: network.apply({"params": state.averaged()}, x)


def ebm(
  network: Any,
  sampler: Sampler,
  steps: int,
  *,
  shape: tuple[int, ...],
  optimizer: optax.GradientTransformation,
  replay: Replay | None = None,
  start: Start = UNIFORM,
  data_noise: float = 0.0,
  alpha: float = 0.0,
  sampling_steps: int | None = None,
  denoised: bool = False,
  feature: str = "image",
  ema: float | Callable[[Array], Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
  facts: Mapping[str, str] = MappingProxyType({}),
) -> Method:
  """An energy-based model trained by (E1). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: U, x [B, *shape] -> [B] nats, a Flax module; see `jaxgen.nn.energy.ebm`.
    sampler: energy -> kernel, such as partial(langevin, step=0.1).
    steps: of the chains at every training step.
    shape: of one example.
    replay: places where chains ended, from which they go on; None: they begin with noise.
    start: the noise that chains begin with, of one chain.
    data_noise: standard deviation of Gaussian noise that is added to the data.
    alpha: of the penalty alpha (mean U(x)^2 + mean U(y)^2), which keeps energies near 0: Du and Mordatch, Algorithm 1.
    sampling_steps: of the chains from noise that are the samples, as many as in training by default.
    denoised: samples end as x - data_noise^2 grad U(x), the mean of the data that noise made x of (Tweedie).
    feature: the examples' name in a batch.
    ema, microbatches, axis, facts: as in `compose`. Only short runs are means over examples.

  Metrics: "energy_data" and "energy_samples", means; "energy_difference" of the two, data's minus samples', which goes
  far from 0 when training diverges; "slope", the mean norm of grad U at the samples; "acceptance"; "movement", the root
  mean square distance, per value, between where a chain was and where it went.

  `evaluate` gives "unnormalised_nll_nats", U(x).

  `sample(state, keys)` gives [N, *shape]: where chains of `sampling_steps` from noise end.

  Raises:
    UserError: fewer steps than one, an empty replay buffer, a probability outside [0, 1], data noise or alpha below 0;
      at `init`, data of another shape, or energies that are not one number per example.
  """
  sampling_steps = steps if sampling_steps is None else sampling_steps
  if min(steps, sampling_steps) < 1:
    raise UserError(f"a chain takes 1 or more steps, not {min(steps, sampling_steps)}: change it")
  if replay is not None and replay.size < 1:
    raise UserError(
      f"a replay buffer has 1 or more chains, not {replay.size}: change it, or leave it out for short runs"
    )
  if replay is not None and not 0 <= replay.restart <= 1:
    raise UserError(f"chains restart with a probability in [0, 1], and this is {replay.restart:g}: change it")
  if not data_noise >= 0 or not alpha >= 0:
    raise UserError(f"data_noise and alpha are at least 0, not {data_noise:g} and {alpha:g}: change them")

  begin = lambda keys: jax.vmap(lambda key: start(key, shape))(keys)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_shape(batch, feature, shape)
    x = batch[feature]
    network_key, chain_key = jax.random.split(key)
    params = network.init(network_key, x)["params"]
    jax.eval_shape(lambda params, x: one_per_chain(lambda x: network.apply({"params": params}, x), x), params, x)
    if replay is None:
      return {"network": params}, {}
    return {"network": params}, {"chains": begin(example_keys(chain_key, jnp.arange(replay.size)))}

  def negative_phase(energy: Energy, state: State, batch: Batch, key: Array):
    """(where chains begin, where they end, acceptance, buffers)."""
    choice_key, restart_key, start_key, chain_key = jax.random.split(key, 4)
    kernel, count = sampler(energy), len(batch["index"])
    if replay is None:
      x = begin(example_keys(start_key, batch["index"]))
      y, accepted, _ = run(kernel, x, example_keys(chain_key, batch["index"]), steps)
      return x, y, accepted, state.buffers
    chains, each = state.buffers["chains"], jnp.arange(min(count, replay.size))
    chosen = jax.random.permutation(choice_key, replay.size)[: len(each)] if replay.size > count else each
    anew = jax.vmap(lambda key: jax.random.bernoulli(key, replay.restart))(example_keys(restart_key, each))
    noise = begin(example_keys(start_key, each)).astype(chains.dtype)
    old = chains[chosen] if replay.size > count else chains
    x = jnp.where(anew.reshape(-1, *[1] * len(shape)), noise, old)
    y, accepted, _ = run(kernel, x, example_keys(chain_key, each), steps)
    chains = chains.at[chosen].set(y, unique_indices=True) if replay.size > count else y
    return x, y, accepted, {**state.buffers, "chains": chains}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, chain_key = jax.random.split(key)
    x = batch[feature]
    if data_noise:
      draw = lambda key: jax.random.normal(key, shape, x.dtype)
      x = x + data_noise * jax.vmap(draw)(example_keys(noise_key, batch["index"]))
    frozen = jax.lax.stop_gradient(params)
    still = lambda x: network.apply({"params": frozen}, x)
    before, y, accepted, buffers = jax.lax.stop_gradient(negative_phase(still, state, batch, chain_key))
    energy_x, energy_y = (network.apply({"params": params}, v) for v in (x, y))
    difference = jnp.mean(energy_x) - jnp.mean(energy_y)
    total = difference + alpha * (jnp.mean(energy_x**2) + jnp.mean(energy_y**2))
    moved = jnp.square(y - before).reshape(len(y), -1).mean(axis=1)
    metrics = {
      "energy_data": jnp.mean(energy_x),
      "energy_samples": jnp.mean(energy_y),
      "energy_difference": difference,
      "slope": jnp.mean(jnp.linalg.norm(value_and_gradient(still, y)[1].reshape(len(y), -1), axis=1)),
      "acceptance": jnp.mean(accepted),
      "movement": jnp.mean(jnp.sqrt(moved)),
    }
    return total, (jax.lax.stop_gradient(metrics), buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    return {"unnormalised_nll_nats": energies(network)(state, batch[feature])}

  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    U, both = (lambda x: energies(network)(state, x)), jax.vmap(jax.random.split)(keys)
    x, _, _ = run(sampler(U), begin(both[:, 0]), both[:, 1], sampling_steps)
    return x - data_noise**2 * value_and_gradient(U, x)[1] if denoised else x

  return compose(
    init,
    [("network", Player(loss, optimizer, mean=replay is None))],
    evaluate=evaluate,
    sample=sample,
    ema={} if ema is None else {"network": ema},
    microbatches=microbatches,
    axis=axis,
    facts={"A sample costs": f"{sampling_steps} steps of a Markov chain", **facts},
  )


def check_shape(batch: Batch, feature: str, shape: tuple[int, ...]) -> None:
  """Raises a UserError where a batch does not have the feature, or has it in another shape."""
  if feature not in batch:
    raise UserError(f"the energy is of {feature!r} and this data has {', '.join(sorted(batch))}: change its feature")
  if batch[feature].shape[1:] != shape:
    raise UserError(
      f"the energy is of examples of shape {shape} and the data has {batch[feature].shape[1:]}: change one of them"
    )


def diverged(limit: float) -> Callable[[Metrics], Array]:
  """For `wrappers.rollback`: the energies of data and of samples are further apart than that (nats), or no numbers."""
  return lambda metrics: ~(jnp.abs(metrics["energy_difference"]) <= limit)
