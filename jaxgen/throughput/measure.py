"""Measures one program: compiles it anew, warms it up, and times it in turns.

    row = Measure(config, seed).row(case, turns=5)

A row is what the JSON file has of a case:

    seconds                  median of the turns, of one update or of one batch of samples
    turns, spread            all of them; (third quartile - first) / median
    examples_per_second      batch / seconds; per_second in the data's unit, per_device a device's part
    network_calls            of one sample, if the method gives the number; seconds_per_call = seconds / network_calls
    flops                    of one update or batch over all devices, as `engine.flops` counts them
    peak_flops               what a product of matrices reaches on as many devices, in this dtype, measured in this run
    mfu                      flops / seconds / peak_flops; mfu_data_sheet the same against the maker's number. With
                             `remat` the count includes the recomputation, and is more than the model's FLOPs
    fsdp, tensor             devices that share a copy of the state, and heads and hidden layers
    trace_seconds, compile_seconds      from Python to XLA's language, and XLA's compiler; no cache of programs is used
    peers, against_best_peer competitors' seconds, of an update or a network call, and how many times as fast we are;
                             None where the machine is too busy to tell
    planned_bytes            what XLA's plan of the program takes of a device, arguments and results included
    device_peak_bytes        the most that a device has had in use since the command began; None on a CPU
    host_peak_bytes          the process's memory at its largest, in this case
    load                     processes that wanted a core, on average over the last minute: the machine is shared
"""

import contextlib
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxgen.core.errors import UserError
from jaxgen.core.keys import root
from jaxgen.data.dataset import Dataset
from jaxgen.data.units import unit
from jaxgen.engine.chips import data_sheet
from jaxgen.engine.config import Config
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.flops import flops
from jaxgen.engine.hashing import from_data, to_data
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.program import Program
from jaxgen.engine.rules import AnyMesh, batch_ways
from jaxgen.throughput import chips, peers
from jaxgen.throughput.cases import Case

TURN = 0.5  # seconds that a turn lasts at least, where so many updates or batches of samples are done in it
UPDATES = 10  # of a competitor in a turn, at most
SAMPLINGS = 200  # batches of samples in a turn, at most
Row = dict[str, Any]


class OutOfMemory(Exception):
  """A program does not fit; the message is one sentence."""


class Ready(NamedTuple):
  """A program that is compiled.

  Attributes:
    turn: makes so many updates or batches of samples, and waits for them.
    most: that a turn makes.
    flops: of one update or batch.
    facts: of the compilation.
  """

  turn: Callable[[int], None]
  most: int
  flops: float
  facts: Row


class Measure:
  """Measures cases of one config.

  Args:
    config: what is measured.
    seed: of the initial state.
    state: of a run, used by those cases whose state has the same arrays; the others' is a new one.
    fsdp, tensor: as in `make_mesh`.
    peers: which of `peers.KINDS` take turns with it.
    python: their interpreter, this one by default.
  """

  def __init__(
    self,
    config: Config,
    seed: int = 0,
    state: Any = None,
    fsdp: int = 1,
    tensor: int = 1,
    peers: Sequence[str] = (),
    python: str | None = None,
  ):
    self.config, self.seed, self.shared, self.peers, self.python = config, seed, (fsdp, tensor), peers, python
    self._states = [] if state is None else [_kept(state)]

  def row(self, case: Case, turns: int) -> Row:
    """The row of a case; a row with an error if memory does not suffice."""
    row = _named(case) | dict(zip(("fsdp", "tensor"), self._shared(case), strict=True))
    chips.forget_host_peak()
    try:
      with _no_cache():
        row |= self._measured(case, turns)
    except OutOfMemory as error:
      row |= {"status": "out of memory", "error": str(error)}
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
      row |= {"status": "out of memory" if is_out_of_memory(error) else "failed", "error": first}
    gc.collect()  # a traceback may still hold arrays
    memory = {"device_peak_bytes": chips.peak_memory(self._devices(case)), "host_peak_bytes": chips.host_peak()}
    return {**row, **memory, "load": os.getloadavg()[0]}

  def _shared(self, case: Case) -> tuple[int, int]:
    return (1, 1) if case.latency else self.shared  # one sample is asked of one device

  def _mesh(self, case: Case, devices: list[Any]) -> AnyMesh:
    fsdp, tensor = self._shared(case)
    return make_mesh(fsdp, devices, tensor)

  def _devices(self, case: Case) -> list[Any]:
    devices = jax.devices()
    return list(devices if case.devices == len(devices) else jax.local_devices()[: case.devices])

  def peak(self, case: Case) -> float:
    """FLOP/s of a product of matrices on the case's devices, in its dtype; measured for every case anew."""
    local = [d for d in self._devices(case) if d.process_index == jax.process_index()]
    return chips.matmul_peak(local, case.dtype) * case.devices / len(local)

  def _measured(self, case: Case, turns: int) -> Row:
    experiment, devices = self.config.build(**case.arguments), self._devices(case)
    ready = (self._train if case.what == "train" else self._sample)(case, experiment, devices)
    clock = lambda count: _seconds(lambda: ready.turn(count))
    first = clock(1)
    once = clock(1)
    count = max(1, min(ready.most, math.ceil(TURN / max(once, 1e-6))))
    calls = experiment.method.network_calls if case.what == "sample" else None
    asked = peers.job(experiment, case, min(count, UPDATES), calls) if self.peers else None
    with contextlib.ExitStack() as stack:
      others = None
      if isinstance(asked, dict):
        others = peers.Peers(self.peers, asked, self.python or sys.executable)
        stack.callback(others.close)
      if count > 1:
        clock(count)
      seconds = []
      for _ in range(turns):
        seconds.append(clock(count) / count)
        if others is not None:
          others.turn()
      beside = {"peers": {"diffusers": {"error": asked}}} if isinstance(asked, str) else {}
      if others is not None:
        results = others.close()
        ratio = peers.against([s / (calls or 1) for s in seconds], results)
        beside = {"peers": results, "against_best_peer": None if is_unfair(devices) else ratio}
    return {"status": "ok", **ready.facts, "first_call_seconds": first, "per_turn": count, **beside} | self._rates(
      case, experiment, seconds, ready.flops, calls
    )

  def _rates(self, case: Case, experiment: Experiment, turns: list[float], work: float, calls: int | None) -> Row:
    median, each = statistics.median(turns), unit(experiment.data)
    low, _, high = statistics.quantiles(turns, n=4) if len(turns) > 1 else (median,) * 3
    peak, sheet = self.peak(case), data_sheet(jax.devices()[0].device_kind)
    said = getattr(sheet, case.dtype, None) if sheet else None
    return {
      "seconds": median,
      "turns": turns,
      "spread": (high - low) / median,
      "examples_per_second": case.batch / median,
      "per_second": case.batch * each.each / median,
      "per_device": case.batch * each.each / median / case.devices,
      "network_calls": calls,
      "seconds_per_call": calls and median / calls,
      "flops": work,
      "flops_per_second": work / median,
      "peak_flops": peak,
      "mfu": work / median / peak,
      "mfu_data_sheet": said and work / median / (said * case.devices),
    }

  def _train(self, case: Case, e: Experiment, devices: list[Any]) -> Ready:
    program = self._program(e, case.batch, devices, e.microbatches, case)
    raws = random_batches(e.data, program)
    facts, _ = _compiled(lambda: program.lowered, lambda lowered: program.loop, devices)
    state = self._state(program, {name: x[0] for name, x in raws.items()})
    batches = program.put_many(raws)

    def turn(count: int) -> None:
      nonlocal state
      state, metrics = program.dispatch(state, batches, count)
      jax.block_until_ready((state, metrics))

    return Ready(turn, program.updates, flops(program.step_traced.jaxpr.jaxpr), facts)

  def _sample(self, case: Case, e: Experiment, devices: list[Any]) -> Ready:
    # The state needs a program, and that a batch, whose size is of no matter here.
    size = math.lcm(e.batch_size, batch_ways(self._mesh(case, devices)))
    program = self._program(e, size, devices, 1, case)
    index = np.arange(case.batch)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(root(self.seed, "sampling"), index)
    conditions = dict(e.conditions(index)) if e.conditions else {}
    traced = []

    def lower() -> Any:
      traced.append(program.sampler(case.batch).trace(program.abstract, keys, conditions))
      return traced[0].lower()

    facts, compiled = _compiled(lower, lambda lowered: lowered.compile(), devices)
    state = self._state(program, {name: x[0] for name, x in random_batches(e.data, program).items()})
    # An executable wants its arguments in their places.
    keys, conditions = jax.device_put((keys, conditions), program.samples_sharding(case.batch))

    def turn(count: int) -> None:
      for _ in range(count):  # each is waited for: a batch of 1 is a latency
        jax.block_until_ready(compiled(state, keys, conditions))

    return Ready(turn, SAMPLINGS, flops(traced[0].jaxpr.jaxpr), facts)

  def _program(self, e: Experiment, batch: int, devices: list[Any], microbatches: int, case: Case) -> Program:
    try:
      return Program(
        e.method,
        e.data.raw_spec(batch),
        self._mesh(case, devices),
        prepare=e.data.transform,
        updates=e.updates_per_dispatch,
        microbatches=microbatches,
      )
    except (ValueError, TypeError, ArithmeticError) as error:
      raise UserError(f"config {self.config.name}: {str(error).splitlines()[0]}") from error

  def _state(self, program: Program, raw: Mapping[str, np.ndarray]) -> Any:
    """A state on the program's devices: the one that the host stores, if it fits, or a new one."""
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(program.abstract)]
    tree = jax.tree.structure(program.abstract)
    for kept, there in self._states:
      if jax.tree.structure(kept) == tree and there == shapes:
        back = jax.tree.map(from_data, kept, program.abstract)
        return jax.block_until_ready(jax.device_put(back, program.shardings))
    state = jax.block_until_ready(program.init(self.seed, raw))
    self._states.append(_kept(state))
    return state


def _kept(state: Any) -> tuple[Any, list]:
  """A state on the host, and the shapes and dtypes of its arrays."""
  return jax.tree.map(lambda x: np.asarray(to_data(x)), state), [(x.shape, x.dtype) for x in jax.tree.leaves(state)]


def _named(case: Case) -> Row:
  return {
    "what": case.what,
    "dtype": case.dtype,
    "devices": case.devices,
    "batch": case.batch,
    "solver": case.solver,
    "sampling_steps": case.sampling_steps,
    "latency": case.latency,
  }


def _seconds(work: Callable[[], Any]) -> float:
  began = time.perf_counter()
  work()
  return time.perf_counter() - began


def _compiled(lower: Callable[[], Any], compile: Callable[[Any], Any], devices: list[Any]) -> tuple[Row, Any]:
  """(how long it took and what XLA plans, the executable).

  Raises:
    OutOfMemory: the plan does not fit into a device.
  """
  began = time.perf_counter()
  lowered = lower()
  between = time.perf_counter()
  compiled = compile(lowered)
  ended = time.perf_counter()
  planned = planned_bytes(compiled)
  limit = chips.memory_limit(devices)
  if planned is not None and limit is not None and planned > limit:
    raise OutOfMemory(f"the compiled program takes {planned / 2**20:,.0f} MiB a device, which has {limit / 2**20:,.0f}")
  return {"trace_seconds": between - began, "compile_seconds": ended - between, "planned_bytes": planned}, compiled


def is_unfair(devices: list[Any]) -> bool:
  """Whether other work makes a comparison meaningless.

  On a CPU, PyTorch's threads wait for each other after every operation. If other programs occupy the cores, a network
  call takes 2.5 s with two threads and 0.05 s with one (measured at a load of 14 per core).
  """
  return devices[0].platform == "cpu" and chips.is_busy(os.getloadavg()[0])


def planned_bytes(compiled: Any) -> int | None:
  """Bytes that an executable takes of a device: arguments, results, what it works in. None where XLA does not say."""
  plan = compiled.memory_analysis()
  if plan is None:
    return None
  return int(
    plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
  )


def is_out_of_memory(error: BaseException) -> bool:
  """Whether an error is that of memory which a device, or the host, does not have."""
  text = str(error)
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


@contextlib.contextmanager
def _no_cache() -> Iterator[None]:
  """Programs are compiled and not read from an earlier process's."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


def random_batches(data: Dataset, program: Program) -> dict[str, np.ndarray]:
  """Random examples of a data set's shapes and values, this process's rows of a dispatch: [updates, rows, ...] each."""
  rng = np.random.default_rng(0)
  counts = dict.fromkeys(("tokens", "source", "target"), data.levels)
  counts |= {"image": data.source_levels or data.levels, "label": data.classes}

  def draw(name: str, s: Any) -> np.ndarray:
    updates, batch, *rest = s.shape
    shape = (updates, len(program.rows(batch)), *rest)
    if name == "index":
      return np.broadcast_to(np.arange(shape[1], dtype=s.dtype), shape)
    if s.dtype == bool:
      return np.ones(shape, bool)
    if np.issubdtype(s.dtype, np.floating):
      return rng.uniform(-1, 1, shape).astype(s.dtype)
    return rng.integers(0, counts.get(name) or 1, shape).astype(s.dtype)

  return {name: draw(name, s) for name, s in program.batches.items()}
