"""A method of generative modelling is a NamedTuple of pure functions over one state pytree. Read this file first.

The model, the losses and the optimizers are closed over by the functions; the state holds arrays and nothing else.
`Method` is everything that the training loop, the checkpoints, the sharding and the command line know of a method, and
`compose` makes one out of players: networks that are trained, each against its loss.

Randomness: step k of a run draws from `fold_in(state.key, k)`, the i-th update inside the step from `fold_in(that, i)`,
and a loss draws its noise per example, from `example_keys(key, batch["index"])`. Microbatches, meshes and pmap
therefore see the same noise.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key, PyTree

Batch = dict[
  str, Array | np.ndarray
]  # every leaf [B, ...]; "index" [B] int32 is each example's position in the global batch
Metrics = dict[str, Array]  # scalars, each a mean over the batch
Params = PyTree
Buffers = PyTree
Leaf = Any  # an array; its shape, sharding or hash where a state stands for its structure


@flax.struct.dataclass
class State:
  """All that a run carries from step to step, arrays only."""

  step: Leaf  # () int32, batches consumed, skipped ones included
  skipped: Leaf  # () int32, updates skipped in a row because something was not finite
  key: Leaf  # () PRNG key of the run, constant
  params: dict[str, Params]  # one entry per network, trained or frozen
  opt: dict[str, PyTree]  # optax's states, one entry per trained network
  ema: dict[str, Params]  # averaged copies of networks' parameters, {} where the method keeps none
  buffers: Buffers  # what training carries and no gradient touches, {} where there is none; see `parallel.shard_state`

  def averaged(self, name: str = "network") -> Params:
    """A network's averaged parameters, or its own where the method keeps none: what evaluates and samples."""
    return self.ema.get(name, self.params[name])


class Player(NamedTuple):
  """A network that is trained, and against what.

  loss: (params of this network, state, batch, key) -> (scalar, (metrics, buffers)). It is differentiated with respect
    to its first argument alone, so it may read any other network in `state.params`. A loss that changes no buffers
    returns `state.buffers`.
  optimizer: clipping, schedules and weight decay are optax's.
  mean: the loss is a mean over the batch's examples, each with its own noise. One that is not (batch statistics,
    contrast within the batch, chains) takes neither microbatches nor pmap.
  """

  loss: Callable[[Params, State, Batch, Array], tuple[Array, tuple[Metrics, Buffers]]]
  optimizer: optax.GradientTransformation
  mean: bool = True


class Method(NamedTuple):
  """What the rest of the project knows of a method.

  init: (key, batch) -> State; only the batch's shapes and dtypes matter, unless the method documents otherwise.
  step: (state, batch) -> (state, metrics), one update.
  evaluate: (state, batch, key) -> {name: [B]}, per example: "nll_nats", "correct", ...
  sample: (state, keys [N], **conditions [N, ...]) -> [N, ...], sample i a function of keys[i] and conditions[i] alone;
    None where the method generates nothing.
  mean: every player's loss is a mean over examples (see `Player`).
  axis: the pmap axis over which gradients and metrics are averaged, None under jit.
  facts: what a report should say of the method, by name: what a sample costs, for one.
  check: (batch of arrays on the host) -> None; raises a UserError where its values are not what the method is of. The
    training loop asks it of a run's first batch.
  """

  init: Callable[[Array, Batch], State]
  step: Callable[[State, Batch], tuple[State, Metrics]]
  evaluate: Callable[[State, Batch, Array], dict[str, Array]]
  sample: Callable[..., PyTree] | None = None
  mean: bool = True
  axis: str | None = None
  facts: Mapping[str, str] = MappingProxyType({})
  check: Callable[[Batch], None] = lambda batch: None


def example_keys(key: Key[Array, ""], index: Int[Array, "batch"]) -> Key[Array, "batch"]:
  """One key per example, a function of the key and of the example's position in the global batch alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def split_batch(batch: Batch, parts: int) -> Batch:
  """Cuts a batch into equal parts: leaves [B, ...] -> [parts, B / parts, ...]; example i goes to part i % parts.

  The strides keep every part spread over the devices as the batch was, so that cutting moves no data between them.

  Raises:
    ValueError: the batch does not divide.
  """
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % parts:
    raise ValueError(f"a batch of {size} examples does not divide into {parts} equal parts")
  return jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def compose(
  init: Callable[[Array, Batch], tuple[dict[str, Params], Buffers]],
  players: Sequence[tuple[str, Player]],
  *,
  evaluate: Callable[[State, Batch, Array], dict[str, Array]] = lambda state, batch, key: {},
  sample: Callable[..., PyTree] | None = None,
  ema: Mapping[str, float | Callable[[Array], Array]] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
  facts: Mapping[str, str] = MappingProxyType({}),
  check: Callable[[Batch], None] = lambda batch: None,
) -> Method:
  """Makes a Method out of players. The only place that takes gradients, updates parameters and averages them.

  Args:
    init: (key, batch) -> (params by network, buffers). Networks without a player stay frozen.
    players: (name of the network, player), updated in this order within a step, each seeing the ones before it updated.
      A name that stands n times is updated n times: the batch is cut into as many slices as the most frequent name has
      entries, and the j-th update of every name takes the j-th slice, with a key of its own.
    evaluate, sample, facts, check: as in `Method`.
    ema: decay by network, a number or a function of the step (its number of batches consumed, from 0): after all
      players, ema <- decay * ema + (1 - decay) * params. It starts from the initial parameters.
    microbatches: accumulate each update's gradient over so many parts of its slice; equal to the whole slice at once.
    axis: a pmap axis to average gradients and metrics over, between gradient and update.

  A step with a loss or a gradient's norm that is not finite advances `step` and `skipped` and leaves everything else as
  it was.

  Raises:
    ValueError: microbatches for a loss that is not a mean over examples.
  """
  mean = all(player.mean for _, player in players)
  if microbatches < 1:
    raise ValueError(f"microbatches must be at least 1, not {microbatches}")
  if microbatches > 1 and not mean:
    raise ValueError("this method's loss is not a mean over examples, so it takes no microbatches: use microbatches=1")
  ema = dict(ema or {})
  counts = Counter(name for name, _ in players)
  optimizers = {name: player.optimizer for name, player in players}

  def init_state(key: Array, batch: Batch) -> State:
    init_key, run_key = jax.random.split(key)
    params, buffers = init(init_key, batch)
    return State(
      step=jnp.zeros((), jnp.int32),
      skipped=jnp.zeros((), jnp.int32),
      key=run_key,
      params=params,
      opt={name: optimizer.init(params[name]) for name, optimizer in optimizers.items()},
      ema={name: jax.tree.map(jnp.copy, params[name]) for name in ema},
      buffers=buffers,
    )

  def gradient(player: Player, params: Params, state: State, batch: Batch, key: Array):
    """((loss, (metrics, buffers)), gradient) over the batch, by parts where microbatches are asked for."""
    value_and_grad = jax.value_and_grad(player.loss, has_aux=True)
    if microbatches == 1:
      return value_and_grad(params, state, batch, key)
    if jax.tree.leaves(state.buffers):
      raise ValueError("a method with buffers takes no microbatches: use microbatches=1")
    parts = split_batch(batch, microbatches)
    shapes = jax.eval_shape(value_and_grad, params, state, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    add = lambda total, part: (jax.tree.map(jnp.add, total, value_and_grad(params, state, part, key)), None)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda x: x / microbatches, total)

  def step(state: State, batch: Batch) -> tuple[State, Metrics]:
    step_key = jax.random.fold_in(state.key, state.step)
    slices = max(counts.values())
    parts = split_batch(batch, slices) if slices > 1 else None
    updates_done = Counter()
    new, finite, metrics = state, jnp.array(True), {}
    for number, (name, player) in enumerate(players):
      part = batch if parts is None else jax.tree.map(lambda x, j=updates_done[name]: x[j], parts)
      updates_done[name] += 1
      (loss, (more, buffers)), grads = gradient(
        player, new.params[name], new, part, jax.random.fold_in(step_key, number)
      )
      if axis is not None:
        loss, more, grads = jax.lax.pmean((loss, more, grads), axis)
      # By the norm rather than leaf by leaf: the compiler copies what `finite` is made of into every `where` below, and
      # with one term a leaf that doubles the time to compile.
      norm = optax.tree.norm(grads)
      finite &= jnp.isfinite(loss) & jnp.isfinite(norm)
      updates, opt = player.optimizer.update(grads, new.opt[name], new.params[name])
      params = optax.apply_updates(new.params[name], updates)
      new = new.replace(params={**new.params, name: params}, opt={**new.opt, name: opt}, buffers=buffers)
      prefix = f"{name}/" if len(counts) > 1 else ""
      own = {"loss": loss, "gradient_norm": norm, **more}
      metrics |= {prefix + k: v for k, v in own.items()}
    averages = {}
    for name, decay in ema.items():
      d = decay(state.step) if callable(decay) else decay
      averages[name] = jax.tree.map(
        lambda a, p, d=d: (d * a + (1 - d) * p).astype(a.dtype), state.ema[name], new.params[name]
      )
    new = new.replace(ema=averages)
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)
    skipped = jnp.where(finite, 0, state.skipped + 1)
    return new.replace(step=state.step + 1, skipped=skipped), metrics | {"skipped": skipped}

  return Method(init_state, step, evaluate, sample, mean, axis, facts, check)


def rollback(method: Method, diverged: Callable[[Metrics], Array], every: int) -> Method:
  """A method that goes back to what it was when a step's metrics say that it diverged.

  Two snapshots of params, opt, ema and buffers are carried in `buffers["snapshots"]`: the newer is taken every so many
  steps, and becomes the older then. Going back is to the older, so at least `every` steps unless they are the first,
  for what has just diverged was often wrong for a while. The step's number goes on, and with it data and noise are
  others. The metric "rolled_back" is 1 where that happened.

  Args:
    method: its buffers are a dict.
    diverged: metrics of a step -> () bool.
    every: steps between snapshots.
  """
  if every < 1:
    raise ValueError(f"snapshots are taken every 1 or more steps, not {every}")

  def keep(state: State) -> dict[str, Any]:
    return {"params": state.params, "opt": state.opt, "ema": state.ema, "buffers": state.buffers}

  def either(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)

  def init(key: Array, batch: Batch) -> State:
    state = method.init(key, batch)
    snapshots = {age: jax.tree.map(jnp.copy, keep(state)) for age in ("older", "newer")}
    return state.replace(buffers={**state.buffers, "snapshots": snapshots})

  def step(state: State, batch: Batch) -> tuple[State, Metrics]:
    own = dict(state.buffers)
    snapshots = own.pop("snapshots")
    new, metrics = method.step(state.replace(buffers=own), batch)
    bad = diverged(metrics)
    now = either(bad, snapshots["older"], keep(new))
    take = new.step % every == 0
    older = either(take & ~bad, snapshots["newer"], snapshots["older"])
    newer = either(take | bad, now, snapshots["newer"])
    new = new.replace(**{**now, "buffers": {**now["buffers"], "snapshots": {"older": older, "newer": newer}}})
    return new, metrics | {"rolled_back": bad.astype(jnp.int32)}

  return method._replace(init=init, step=step)


def network_sizes(params: Mapping[str, Any]) -> dict[str, int]:
  """Number of parameters by network; works on arrays and on `jax.eval_shape`'s structures."""
  return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
