"""One program for one device or many, one process or many.

Every step is written for the global batch. `Program` gets the state's shapes from `jax.eval_shape`, gives every array a
sharding by one rule, and compiles the initialisation and the training loop with them; the compiler inserts the
communication. `pmap.pmap_step` is the same step for `jax.pmap`.

The mesh has the axes `data`, `fsdp` and `tensor`. A batch is spread over the first two; the state is replicated over
`data`, and each of its large arrays is sharded over the other axes. The rule can be exchanged, see `rules`. Persistent
chains are sharded like a batch, and networks constrain their activations, see `core.spread`.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.core.keys import root
from jaxgen.core.method import Batch, Method, Metrics, State
from jaxgen.core.spread import BATCH_AXES, TENSOR, noted
from jaxgen.engine import frozen, placing
from jaxgen.engine.mesh import check_divides, rows
from jaxgen.engine.rules import AnyMesh, Rule, batch_ways, shared

Specs = Mapping[str, jax.ShapeDtypeStruct]
NOT_MADE = -1  # metric "skipped" of an update that a dispatch did not make
PREPARE_STREAM = 0xFFFFFFFF  # fold_in data of the keys for data transforms, a step number no run reaches


class Program:
  """A method compiled for a mesh: `init`, `dispatch`, `evaluate` and `sample`, each compiled on first use.

  Args:
    method: the method.
    spec: shapes and dtypes of a raw global batch, as the data source gives it.
    mesh: from `make_mesh`.
    prepare: (key, raw batch, train: bool) -> the method's batch, on the device; identity by default.
    updates: the largest number of updates in one dispatch.
    rule: a rule of `engine.rules`; `shared` on a mesh of `data` alone is `replicate`.
    microbatches: number of parts over which a step accumulates its gradients.

  Raises:
    UserError: the batch does not divide over the devices, or networks have nothing that `tensor` could cut.

  Attributes:
    abstract: the state's shapes, dtypes and shardings.
    init_traced, step_traced: the traced programs of the first state and of one training step over the whole batch.
    notes: the networks' notes on `tensor`, see `core.spread`.
    traces: how often Python has traced the training loop; it stays at 1.
  """

  def __init__(
    self,
    method: Method,
    spec: Specs,
    mesh: AnyMesh,
    *,
    prepare: Callable[..., Batch] | None = None,
    updates: int = 1,
    rule: Rule = shared,
    microbatches: int = 1,
  ):
    self.microbatches = microbatches
    self.method, self.mesh, self.updates, self.traces = method, mesh, updates, 0
    self.replicated = NamedSharding(mesh, PartitionSpec())
    self.batch_sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    self.batches_sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    self._prepare = prepare or (lambda key, batch, train: batch)
    self._spec = spec
    self._jit_init, self._jit_step = jax.jit(self._init), jax.jit(self._step)
    batch_size = jax.tree.leaves(spec)[0].shape[0]
    check_divides(batch_size, mesh)
    placed = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self.batch_sharding)
    # With the shardings that arguments will have, so that these are the only traces of the initialisation and of the
    # step. What cannot be traced is reported here, before anything is created.
    self.init_traced = self._jit_init.trace(jax.eval_shape(lambda: jax.random.key(0)), jax.tree.map(placed, spec))
    self.abstract = placing.shard_state(self.init_traced.out_info, mesh, rule)
    self.shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
    with noted() as self.notes:
      self.step_traced = self._jit_step.trace(self.abstract, jax.tree.map(placed, spec))
    if mesh.shape.get(TENSOR, 1) > 1 and not self.notes.cut:
      why = f": it would cut {', '.join(self.notes.whole)}" if self.notes.whole else ""
      raise UserError(f"--tensor {mesh.shape[TENSOR]} cuts nothing of these networks{why}: use --fsdp")
    self._counts = {}
    # Each process reports how many updates it can make, because it may not have read its rows of the batches.
    planned = isinstance(mesh, AbstractMesh)  # a mesh that is only inspected
    is_spread = not planned and len({device.process_index for device in mesh.devices.flat}) > 1
    shape, spec = ((mesh.size,), PartitionSpec(mesh.axis_names)) if is_spread else ((), PartitionSpec())
    self._count = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(mesh, spec))
    self._evaluate = jax.jit(
      self._evaluate_batch, in_shardings=(self.shardings, self.batch_sharding, None), out_shardings=self.replicated
    )
    self._sample = {}

  def _on_mesh(self) -> contextlib.AbstractContextManager:
    """The context in which networks are traced, which tells them the mesh: see `core.spread`."""
    return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

  def _init(self, key: Any, raw: Mapping[str, Any]) -> State:
    return self.method.init(key, self._prepare(jax.random.fold_in(key, PREPARE_STREAM), raw, True))

  def _step(self, state: State, raw: Mapping[str, Any]) -> tuple[State, Metrics]:
    key = jax.random.fold_in(jax.random.fold_in(state.key, PREPARE_STREAM), state.step)
    with self._on_mesh():
      return self.method.step(state, self._prepare(key, raw, True), microbatches=self.microbatches)

  def _loop(self, state: State, raws: Batch, counts: Any) -> tuple[State, Metrics]:
    self.traces += 1
    count = jnp.min(counts)
    step = self._jit_step
    shapes = self.step_traced.out_info[1]
    metrics = jax.tree.map(lambda s: jnp.zeros((self.updates, *s.shape), s.dtype), shapes)
    metrics |= {name: metrics[name] + NOT_MADE for name in metrics.keys() & {"skipped"}}

    def body(i, carry):
      state, metrics = carry
      raw = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), raws)
      state, now = step(state, jax.lax.with_sharding_constraint(raw, self.batch_sharding))
      return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, now)

    return jax.lax.fori_loop(0, count, body, (state, metrics))

  def _evaluate_batch(self, state: State, raw: Mapping[str, Any], key: Any) -> dict[str, Any]:
    prepare_key, key = jax.random.split(key)
    with self._on_mesh():
      return self.method.evaluate(state, self._prepare(prepare_key, raw, False), key)

  def init(self, seed: int, raw: Mapping[str, Any]) -> State:
    """The initial state of a run, with frozen networks read from their sources.

    Args:
      raw: this process's rows of the first batch, for a method whose initial state depends on data.
    """
    state = self._first_state(root(seed, "training"), self.put(raw))
    return frozen.start(self.method.frozen, state)

  @functools.cached_property
  def _first_state(self):
    return jax.jit(
      lambda key, raw: self._jit_init(key, raw),
      in_shardings=(None, self.batch_sharding),
      out_shardings=self.shardings,
      compiler_options=placing.quick_options(self.mesh.devices.flat[0].platform),
    )

  def prepared(self, raw: Mapping[str, np.ndarray]) -> Batch:
    """This process's rows of a batch after `prepare`, on the host."""
    return jax.device_get(jax.jit(functools.partial(self._prepare, train=True))(jax.random.key(0), dict(raw)))

  @property
  def batches(self) -> Specs:
    """Shapes, dtypes and shardings of the batches of one dispatch: [updates, B, ...]."""
    placed = lambda s: jax.ShapeDtypeStruct((self.updates, *s.shape), s.dtype, sharding=self.batches_sharding)
    return {name: placed(s) for name, s in self._spec.items()}

  @functools.cached_property
  def lowered(self) -> jax.stages.Lowered:
    """The training loop for the abstract state, traced but not compiled; nothing is allocated."""
    loop = jax.jit(self._loop, donate_argnums=0, out_shardings=(self.shardings, self.replicated))
    return loop.lower(self.abstract, self.batches, self._count)

  @functools.cached_property
  def loop(self) -> jax.stages.Compiled:
    """The compiled training loop, an executable. Arguments of another shape, dtype or sharding are an error."""
    return self.lowered.compile()

  def dispatch(self, state: State, raws: Mapping[str, Any], count: int) -> tuple[State, Metrics]:
    """Makes `count` updates from the first `count` of the batches [updates, B, ...]. Metrics are [updates]; after
    `count` they are 0, and "skipped" is NOT_MADE.

    The state is donated. One executable serves every count, so the bits do not depend on where dispatches end. Several
    processes make the smallest of their counts, which is 0 if one of them has no batches.
    """
    if count not in self._counts:  # made on each process's own devices: a device_put would compare it with the others'
      mine = np.full(self._count.shape, count, np.int32)
      self._counts[count] = jax.make_array_from_callback(mine.shape, self._count.sharding, lambda index: mine[index])
    with jax.transfer_guard("disallow"):
      return self.loop(state, raws, self._counts[count])

  def evaluate(self, state: State, raw: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """`Method.evaluate` on a batch of raw examples (this process's rows); results on every device."""
    return self._evaluate(state, self.put(raw), key)

  def sample(self, state: State, keys: Any, conditions: Mapping[str, Any]) -> Any:
    """`Method.sample` for a chunk of keys [N]; results on every device."""
    return self.sampler(keys.shape[0])(state, keys, dict(conditions))

  def samples_sharding(self, n: int) -> NamedSharding:
    """Where the keys and conditions of n samples lie: spread as a batch is, if they can be."""
    return self.batch_sharding if n % batch_ways(self.mesh) == 0 else self.replicated

  def sampler(self, n: int) -> Callable[..., Any]:
    """The jitted (state, keys [n], conditions) -> samples that `sample` calls."""
    sharding = self.samples_sharding(n)
    if sharding not in self._sample:

      def draw(state, keys, conditions):
        with self._on_mesh():
          return self.method.sample(state, keys, **conditions)

      self._sample[sharding] = jax.jit(
        draw, in_shardings=(self.shardings, sharding, sharding), out_shardings=self.replicated
      )
    return self._sample[sharding]

  def sample_shapes(self, n: int, conditions: Mapping[str, Any]) -> Any:
    """Shapes and dtypes of n samples. Nothing is drawn, and `sample` uses the same trace later."""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), n))
    return self.sampler(n).eval_shape(self.abstract, keys, dict(conditions))

  def evaluate_shapes(self, raw: Specs) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the results of `evaluate` for a batch of these shapes; nothing is computed."""
    placed = {k: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self.batch_sharding) for k, s in raw.items()}
    return self._evaluate.eval_shape(self.abstract, placed, jax.eval_shape(lambda: jax.random.key(0)))

  def rows(self, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process gives."""
    return rows(self.mesh, batch_size)

  def put(self, raw: Mapping[str, np.ndarray]) -> Batch:
    """Makes a global batch [B, ...] on the devices out of this process's rows of it, those of `rows`."""
    return placing.put(raw, self.batch_sharding, 0)

  def put_many(self, raws: Mapping[str, np.ndarray]) -> Batch:
    """The same for a stack of n batches, which is continued with zeros: [updates, B, ...]."""
    pad = lambda x: np.concatenate([x, np.zeros((self.updates - len(x), *x.shape[1:]), x.dtype)])
    return placing.put({k: x if len(x) == self.updates else pad(x) for k, x in raws.items()}, self.batches_sharding, 1)

  def put_nothing(self) -> Batch:
    """Batches for a dispatch of no update."""
    local = lambda s: np.empty((0, len(self.rows(s.shape[1])), *s.shape[2:]), s.dtype)
    return self.put_many({name: local(s) for name, s in self.batches.items()})
