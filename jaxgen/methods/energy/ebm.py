"""Deep energy-based models by maximum likelihood, with Markov chains of any kernel instead of exact samples.

For the density p(x) = exp(-U(x)) / Z, the mean of -log p over data has the gradient of

    (E1)  mean U(x) - mean U(y),    y drawn from p

and chains on the current U, after some steps, give y; no gradient goes through them. Papers differ in where the chains
start:

    replay=None              noise at every step: short runs. Nijkamp et al. 2019, https://arxiv.org/abs/1904.09770
    replay=Replay(N, 0.0)    at their previous ends: persistent chains. Tieleman 2008
    replay=Replay(N, 0.05)   at one of N previous ends, or at noise in 5 % of cases: a replay buffer.
                             Du and Mordatch 2019, https://arxiv.org/abs/1903.08689, Algorithm 1

Short runs learn a generator, the chain of this length from noise, but rarely an energy. `jaxgen.evaluation.long_run`
shows where longer chains go. The kernels are those of `jaxgen.mcmc`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, normal, split
from jaxgen.core.method import Batch, Buffers, Method, Metrics, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.mcmc import Energy, Kernel, one_per_chain, run
from jaxgen.mcmc.langevin import Sampler, value_and_gradient

Event = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]
Start = Callable[[Array, tuple[int, ...]], Array]  # (key, shape) -> where a chain begins


class Replay(NamedTuple):
  """The replay buffer: last states of chains, stored in `buffers["chains"]`.

  Attributes:
    size: their number. A step uses as many as the batch has examples, at random, or all if there are no more.
    restart: the probability that a chain starts from noise instead.
  """

  size: int
  restart: float = 0.05


class NegativePhase(NamedTuple):
  """A training step's chains.

  Attributes:
    first, last: their first and last positions, [chains, *shape].
    accepted: mean probability of acceptance, [chains].
    buffers: the method's buffers afterwards.
  """

  first: Event
  last: Event
  accepted: PerExample
  buffers: Buffers


def uniform(low: float = -1.0, high: float = 1.0) -> Start:
  """Each value uniform between low and high."""
  return lambda key, shape: jax.random.uniform(key, shape, minval=low, maxval=high)


UNIFORM = uniform()


def energies(network: Any) -> Callable[[State, Event], PerExample]:
  """(state, x) -> U(x), nats, with the averaged parameters or the trained ones: for figures and partition functions."""
  return lambda state, x: network.apply({"params": state.averaged()}, x)


def ebm(
  network: Any,
  sampler: Sampler,
  steps: int,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  replay: Replay | None = None,
  start: Start = UNIFORM,
  data_noise: float = 0.0,
  alpha: float = 0.0,
  sampling_steps: int | None = None,
  denoised: bool = False,
) -> Method:
  """An energy-based model trained by (E1). Batch {feature: [B, *shape], "index": [B]}.

  The loss is in nats per example: (E1), a difference of mean energies, and the penalty with weight `alpha`. It does not
  measure progress.

  Args:
    network: U, x [B, *shape] -> [B] nats, a Flax module; see `jaxgen.nn.energy.ebm`.
    sampler: energy -> kernel, such as partial(langevin, step=0.1).
    steps: number of steps of the chains in a training step.
    spec: the data's spec.
    replay: keep ends of chains and continue from them; None: chains start from noise. With a replay buffer the loss is
      not a mean over examples.
    start: (key, shape) -> the noise from which a chain starts.
    data_noise: standard deviation of Gaussian noise that is added to the data.
    alpha: weight of the penalty alpha (mean U(x)^2 + mean U(y)^2), which keeps energies near 0: Du and Mordatch,
      Algorithm 1.
    sampling_steps: number of steps of the chains that make samples; by default as many as in training.
    denoised: samples end with x - data_noise^2 grad U(x), the mean of the clean data given x (Tweedie).

  Metrics: "energy_data" and "energy_samples", means; "energy_difference", data's minus samples', which moves far from 0
  when training diverges; "slope", the mean norm of grad U at the samples; "acceptance"; "movement", the root mean
  square distance, per value, between a chain's first and last position.

  `evaluate` gives "unnormalised_nll_nats", U(x).

  `sample(state, keys)` gives [N, *shape], the ends of chains of `sampling_steps` from noise.

  Raises:
    UserError: fewer steps than one, an empty replay buffer, a probability outside [0, 1], data noise or alpha below 0;
      at `init`, data of another shape, or energies that are not one number per example.
  """
  sampling_steps = steps if sampling_steps is None else sampling_steps
  _check_numbers(min(steps, sampling_steps), replay, data_noise, alpha)
  begin = lambda keys: jax.vmap(lambda key: start(key, spec.shape))(keys)
  chains = partial(short_runs, begin) if replay is None else partial(replayed, begin, replay)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    network_key, chain_key = jax.random.split(key)
    x = batch[spec.feature]
    params = network.init(network_key, x)["params"]
    jax.eval_shape(lambda params, x: one_per_chain(lambda x: network.apply({"params": params}, x), x), params, x)
    if replay is None:
      return {"network": params}, {}
    return {"network": params}, {"chains": begin(example_keys(chain_key, jnp.arange(replay.size)))}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, chain_key = jax.random.split(key)
    x = batch[spec.feature]
    if data_noise:
      x = x + data_noise * normal(example_keys(noise_key, batch["index"]), spec.shape, x.dtype)
    fixed = jax.lax.stop_gradient(params)
    energy = lambda x: network.apply({"params": fixed}, x)
    drawn = chains(sampler(energy), steps, state.buffers, batch["index"], chain_key)
    drawn = jax.lax.stop_gradient(drawn)
    energy_x, energy_y = (network.apply({"params": params}, v) for v in (x, drawn.last))
    total = jnp.mean(energy_x) - jnp.mean(energy_y)
    total += alpha * (jnp.mean(energy_x**2) + jnp.mean(energy_y**2))
    metrics = _measured(energy, energy_x, energy_y, drawn)
    return total, (jax.lax.stop_gradient(metrics), drawn.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, PerExample]:
    return {"unnormalised_nll_nats": energies(network)(state, batch[spec.feature])}

  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    energy = lambda x: energies(network)(state, x)
    start_keys, chain_keys = split(keys)
    x, _, _ = run(sampler(energy), begin(start_keys), chain_keys, sampling_steps)
    return x - data_noise**2 * value_and_gradient(energy, x)[1] if denoised else x

  return compose(
    init,
    [("network", Player(loss, optimizer, mean=replay is None))],
    evaluate=evaluate,
    sample=sample,
    facts={"A sample costs": f"{sampling_steps} steps of a Markov chain"},
  )


def short_runs(
  begin: Callable[[Array], Event], kernel: Kernel, steps: int, buffers: Buffers, index: Array, key: Array
) -> NegativePhase:
  """Chains from noise, one for each example of the batch.

  Args:
    begin: keys [chains] -> noise.
    kernel: the kernel of the current energy.
    index: the examples' positions in the global batch, [B].
  """
  _, _, start_key, chain_key = jax.random.split(key, 4)
  first = begin(example_keys(start_key, index))
  last, accepted, _ = run(kernel, first, example_keys(chain_key, index), steps)
  return NegativePhase(first, last, accepted, buffers)


def replayed(
  begin: Callable[[Array], Event],
  replay: Replay,
  kernel: Kernel,
  steps: int,
  buffers: Buffers,
  index: Array,
  key: Array,
) -> NegativePhase:
  """Chains from the replay buffer, which then holds their ends. The arguments are those of `short_runs`."""
  choice_key, restart_key, start_key, chain_key = jax.random.split(key, 4)
  kept, some = buffers["chains"], replay.size > len(index)
  number = jnp.arange(min(len(index), replay.size))
  places = jax.random.permutation(choice_key, replay.size)[: len(number)] if some else number
  old = kept[places] if some else kept
  noise = begin(example_keys(start_key, number)).astype(kept.dtype)
  anew = jax.vmap(lambda key: jax.random.bernoulli(key, replay.restart))(example_keys(restart_key, number))
  first = jnp.where(per_example(anew, old), noise, old)
  last, accepted, _ = run(kernel, first, example_keys(chain_key, number), steps)
  kept = kept.at[places].set(last, unique_indices=True) if some else last
  return NegativePhase(first, last, accepted, {**buffers, "chains": kept})


def diverged(limit: float) -> Callable[[Metrics], Array]:
  """For `wrappers.rollback`: whether the energies of data and samples differ by more than `limit` nats, or are NaN."""
  return lambda metrics: ~(jnp.abs(metrics["energy_difference"]) <= limit)


def _measured(
  energy: Energy, energy_x: PerExample, energy_y: Float[Array, " chains"], chains: NegativePhase
) -> Metrics:
  by_chain = lambda x: x.reshape(len(x), -1)
  moved = jnp.square(by_chain(chains.last - chains.first)).mean(axis=1)
  _, gradient = value_and_gradient(energy, chains.last)
  return {
    "energy_data": jnp.mean(energy_x),
    "energy_samples": jnp.mean(energy_y),
    "energy_difference": jnp.mean(energy_x) - jnp.mean(energy_y),
    "slope": jnp.mean(jnp.linalg.norm(by_chain(gradient), axis=1)),
    "acceptance": jnp.mean(chains.accepted),
    "movement": jnp.mean(jnp.sqrt(moved)),
  }


def _check_numbers(steps: int, replay: Replay | None, data_noise: float, alpha: float) -> None:
  if steps < 1:
    raise UserError(f"a chain takes 1 or more steps, not {steps}: change it")
  if replay is not None and replay.size < 1:
    raise UserError(
      f"a replay buffer has 1 or more chains, not {replay.size}: change it, or leave it out for short runs"
    )
  if replay is not None and not 0 <= replay.restart <= 1:
    raise UserError(f"chains restart with a probability in [0, 1], and this is {replay.restart:g}: change it")
  if not data_noise >= 0 or not alpha >= 0:
    raise UserError(f"data_noise and alpha are at least 0, not {data_noise:g} and {alpha:g}: change them")
