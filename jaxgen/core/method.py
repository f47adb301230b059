"""A method of generative modelling is a NamedTuple of pure functions over one state pytree. Read this file first.

The functions close over the model, the losses and the optimizers; the state holds arrays and nothing else. The training
loop, checkpoints, sharding and the command line know a method only through `Method`. `compose` makes a method out of
players: networks that are trained, each with its own loss.

A step first runs the stages, which compute what several updates use, and then each player's updates, in the players'
order. Averages, rollback and first stages are wrappers around a method (`jaxgen.core.wrappers`). The code that compiles
a step chooses the number of microbatches and the pmap axis.

Randomness: step k of a run draws from `fold_in(state.key, k)`, and update i of that step from `fold_in` of that key and
i. A loss draws its noise per example, from `keys.example_keys(key, batch["index"])`. Therefore microbatches, meshes and
pmap see the same noise.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key, PyTree

from jaxgen.core.arrays import all_finite
from jaxgen.core.errors import UserError
from jaxgen.core.rates import learning_rate

# Every leaf [B, ...]; "index" [B] int32 is each example's position in the global batch.
Batch = dict[str, Array | np.ndarray]
Metrics = dict[str, Array]  # scalars, each a mean over the batch
Params = PyTree
Buffers = PyTree
STAGE_STREAM = 0x80000000  # fold_in data of the stages' keys, numbers that no update reaches
Leaf = Any  # an array; its shape, sharding or hash where a state stands for its structure


@flax.struct.dataclass
class State:
  """Everything that a run carries from step to step; arrays only."""

  step: Leaf  # () int32, batches consumed, skipped ones included
  skipped: Leaf  # () int32, updates skipped in a row because something was not finite
  key: Leaf  # () PRNG key of the run, constant
  params: dict[str, Params]  # one entry per network, trained or frozen
  opt: dict[str, PyTree]  # optax's states, one entry per trained network
  ema: dict[str, Params]  # averages of networks' parameters by "network" or "network/label"; see `wrappers.averaged`
  buffers: Buffers  # state of training without a gradient, {} if there is none; see `placing.shard_state`

  def averaged(self, name: str = "network") -> Params:
    """A network's averaged parameters, or its parameters if the run keeps no average. For evaluation and sampling.

    Averages are kept in float32 or wider. The result has the parameters' dtypes.
    """
    own = self.params[name.partition("/")[0]]
    if name not in self.ema:
      return own
    return jax.tree.map(lambda a, p: a.astype(p.dtype), self.ema[name], own)


class Player(NamedTuple):
  """A network that is trained, with its loss and optimizer.

  Attributes:
    loss: (params of this network, state, batch, key) -> (scalar, (metrics, buffers)). It is differentiated with respect
      to its first argument only, so it may read any other network in `state.params`. A loss that changes no buffers
      returns `state.buffers`. It is a mean over examples and over what it predicts of each: nats or squared error per
      value, token, code or score; per example where that is one label, one decision or one energy. Coupled weight
      decay, gradient clipping and Adam's eps are in this unit.
    optimizer: from optax, with clipping, schedules and weight decay. It counts every update.
    mean: the loss is a mean over the batch's examples, each with its own noise. A loss that is not (batch statistics,
      contrast within the batch, chains) allows neither microbatches nor pmap.
    updates: the number of updates in one step, each from its own slice of the batch and with its own key.
    slices: the number of slices that the batch is cut into for this player, which uses the first `updates` of them.
      None: the largest number of updates of any player. 1 gives the whole batch to a player's only update.
  """

  loss: Callable[[Params, State, Batch, Array], tuple[Array, tuple[Metrics, Buffers]]]
  optimizer: optax.GradientTransformation
  mean: bool = True
  updates: int = 1
  slices: int | None = None


Stage = Callable[[State, Batch, Array], tuple[Batch, Buffers]]


class Frozen(NamedTuple):
  """A network that is used and not trained: an entry of `params` without a player.

  `init` makes it like any other network, which gives its shapes. When a run's state is made, the values come from
  `load`. They are saved once with the run, which does not need the source after that.

  Attributes:
    source: where the values come from, in words: a run's folder, a file.
    load: () -> the values, a tree of arrays like the entry of `params`.
    starts: trained networks of a new run that, with their averages, are initialised from the source's "params".
    fresh: entries of these networks that the source lacks; they keep their random initialisation.
  """

  source: str
  load: Callable[[], Params]
  starts: tuple[str, ...] = ()
  fresh: tuple[str, ...] = ()


class Method(NamedTuple):
  """A method, as the rest of the project sees it.

  Attributes:
    init: (key, batch) -> State. It uses only the batch's shapes and dtypes, unless the method documents otherwise.
    step: (state, batch, *, microbatches=1, axis=None) -> (state, metrics). Every gradient is accumulated over
      `microbatches` parts of its slice, and equals that of the whole slice. Gradients and metrics are averaged over the
      pmap axis `axis`.
    evaluate: (state, batch, key) -> {name: [B] or, of features, [B, ...]}, per example: "nll_nats", "correct", ...
    sample: (state, keys [N], **conditions [N, ...]) -> [N, ...]. Sample i depends only on keys[i] and conditions[i].
      None: the method generates nothing.
    mean: every player's loss is a mean over examples (see `Player`).
    frozen: networks whose values are read when a run's state is made.
    facts: facts for the report by name, such as the cost of a sample.
    network_calls: number of network calls of a sample; None: it has no network calls, or their number is not fixed.
    check: (batch of arrays on the host) -> None; raises a UserError if the method cannot model its values. The training
      loop calls it with a run's first batch.
  """

  init: Callable[[Array, Batch], State]
  step: Callable[..., tuple[State, Metrics]]
  evaluate: Callable[[State, Batch, Array], dict[str, Array]]
  sample: Callable[..., PyTree] | None = None
  mean: bool = True
  frozen: Mapping[str, Frozen] = MappingProxyType({})
  facts: Mapping[str, str] = MappingProxyType({})
  check: Callable[[Batch], None] = lambda batch: None
  network_calls: int | None = None


def split_batch(batch: Batch, parts: int) -> Batch:
  """Cuts a batch into equal parts: leaves [B, ...] -> [parts, B / parts, ...]. Example i goes to part i % parts.

  With these strides every part is spread over the devices like the batch, so that no data moves between them.

  Raises:
    UserError: the batch does not divide.
  """
  if parts == 1:
    return jax.tree.map(lambda x: x[None], batch)
  size = jax.tree.leaves(batch)[0].shape[0]
  if size % parts:
    raise UserError(f"a batch of {size} examples does not divide into {parts} equal parts: use a multiple of {parts}")
  return jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def compose(
  init: Callable[[Array, Batch], tuple[dict[str, Params], Buffers]],
  players: Sequence[tuple[str, Player]],
  *,
  stages: Sequence[Stage] = (),
  frozen: Mapping[str, Frozen] = MappingProxyType({}),
  evaluate: Callable[[State, Batch, Array], dict[str, Array]] = lambda state, batch, key: {},
  sample: Callable[..., PyTree] | None = None,
  facts: Mapping[str, str] = MappingProxyType({}),
  check: Callable[[Batch], None] = lambda batch: None,
) -> Method:
  """Makes a Method out of players. It is the only code that takes gradients, updates parameters and counts steps.

  Args:
    init: (key, batch) -> (params by network, buffers). Networks without a player stay frozen.
    players: (name of the network, player). A step updates them in this order; each sees the earlier ones updated.
    stages: run once a step, in this order, before the players: (state, batch, key) -> (batch, buffers). What a stage
      adds to the batch, [B, ...], is cut into slices with it: rollouts that several updates learn from, a teacher's
      targets, long chains.
    frozen: where the values of networks without a player come from.
    evaluate, sample, facts, check: as in `Method`.

  If a loss, a gradient or an update is not finite, the step advances `step` and `skipped` and changes nothing else. The
  same holds if finite buffers would become non-finite, or float16 parameters, which may overflow.

  Raises:
    ValueError: a network has two players, or a player more updates than slices. The step raises it if microbatches are
      used with a loss that is not a mean over examples or that changes buffers.
  """
  names = [name for name, _ in players]
  if len(set(names)) < len(names):
    raise ValueError(f"a network has one player, but the players are {', '.join(names)}: give it more updates instead")
  most = max((player.updates for _, player in players), default=1)
  slices = {name: player.slices or most for name, player in players}
  for name, player in players:
    if not 1 <= player.updates <= slices[name]:
      raise ValueError(f"{name} is updated {player.updates} times from {slices[name]} slices of the batch")

  def init_state(key: Array, batch: Batch) -> State:
    init_key, run_key = jax.random.split(key)
    params, buffers = init(init_key, batch)
    return State(
      step=jnp.zeros((), jnp.int32),
      skipped=jnp.zeros((), jnp.int32),
      key=run_key,
      params=params,
      opt={name: player.optimizer.init(params[name]) for name, player in players},
      ema={},
      buffers=buffers,
    )

  def step(state: State, batch: Batch, *, microbatches: int = 1, axis: str | None = None) -> tuple[State, Metrics]:
    step_key = jax.random.fold_in(state.key, state.step)
    new, finite, metrics, number = state, jnp.array(True), {}, 0
    for i, stage in enumerate(stages):
      batch, buffers = stage(new, batch, jax.random.fold_in(step_key, STAGE_STREAM + i))
      new = new.replace(buffers=buffers)
    for name, player in players:
      parts = split_batch(batch, slices[name])
      keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, number + jnp.arange(player.updates))
      new, good, found = _updates(name, player, new, parts, keys, microbatches, axis)
      prefix = f"{name}/" if len(players) > 1 else ""
      metrics |= {prefix + k: v for k, v in found.items()}
      finite, number = finite & good, number + player.updates
    carried = lambda s: (s.buffers, [p for p in jax.tree.leaves(s.params) if p.dtype == jnp.float16])
    finite &= all_finite(carried(new)) | ~all_finite(carried(state))
    new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, state)
    skipped = jnp.where(finite, 0, state.skipped + 1)
    return new.replace(step=state.step + 1, skipped=skipped), metrics | {"skipped": skipped}

  mean = all(player.mean for _, player in players)
  return Method(init_state, step, evaluate, sample, mean, frozen, facts, check)


def _updates(
  name: str, player: Player, state: State, parts: Batch, keys: Key[Array, "n"], microbatches: int, axis: str | None
) -> tuple[State, Array, Metrics]:
  """All of a player's updates of one step; (state, whether all was finite, metrics of the last one)."""
  put = lambda params, opt, buffers: state.replace(
    params={**state.params, name: params}, opt={**state.opt, name: opt}, buffers=buffers
  )

  def update(carry, part_and_key):
    params, opt, buffers, finite = carry
    (loss, (more, buffers)), grads = _gradient(player, params, put(params, opt, buffers), *part_and_key, microbatches)
    if axis is not None:
      loss, more, grads = jax.lax.pmean((loss, more, grads), axis)
    more = {**learning_rate(player.optimizer, opt), **more}
    updates, opt = player.optimizer.update(grads, opt, params)
    # By norms rather than leaf by leaf: the compiler copies the computation of `finite` into every `where` of the step,
    # and with one term for each leaf this doubles the time to compile.
    norm = optax.tree.norm(grads)
    finite &= jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
    metrics = {"loss": loss, "gradient_norm": norm, **more}
    return (optax.apply_updates(params, updates), opt, buffers, finite), metrics

  carry = state.params[name], state.opt[name], state.buffers, jnp.array(True)
  if player.updates == 1:
    carry, metrics = update(carry, (jax.tree.map(lambda x: x[0], parts), keys[0]))
  else:
    seen = jax.tree.map(lambda x: x[: player.updates], parts)
    carry, metrics = jax.lax.scan(update, carry, (seen, keys))
    metrics = jax.tree.map(lambda x: x[-1], metrics)
  params, opt, buffers, finite = carry
  return put(params, opt, buffers), finite, metrics


def _gradient(player: Player, params: Params, state: State, batch: Batch, key: Array, microbatches: int):
  """((loss, (metrics, buffers)), gradient) over the batch, accumulated over microbatches if there are several."""
  if microbatches == 1:
    return jax.value_and_grad(player.loss, has_aux=True)(params, state, batch, key)
  if microbatches < 1:
    raise ValueError(f"microbatches must be at least 1, not {microbatches}")
  if not player.mean:
    raise ValueError("this method's loss is not a mean over examples, so it takes no microbatches: use microbatches=1")

  def loss_of_part(params: Params, part: Batch) -> tuple[Array, Metrics]:
    loss, (metrics, buffers) = player.loss(params, state, part, key)
    kept = zip(jax.tree.leaves(buffers), jax.tree.leaves(state.buffers), strict=True)
    if any(new is not old for new, old in kept):
      raise ValueError("a method whose loss changes buffers takes no microbatches: use microbatches=1")
    return loss, metrics

  value_and_grad = jax.jit(jax.value_and_grad(loss_of_part, has_aux=True))  # traced once for shapes and loop
  parts = split_batch(batch, microbatches)
  shapes = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  add = lambda total, part: (jax.tree.map(jnp.add, total, value_and_grad(params, part)), None)
  total, _ = jax.lax.scan(add, zeros, parts)
  (loss, metrics), grads = jax.tree.map(lambda x: x / microbatches, total)
  return (loss, (metrics, state.buffers)), grads


def network_sizes(params: Mapping[str, Any]) -> dict[str, int]:
  """Number of parameters by network; works on arrays and on `jax.eval_shape`'s structures."""
  return {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
