"""The sizes of a config or a run and the costs of a training step, before anything is allocated or compiled."""

from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh

from jaxgen.core.method import network_sizes
from jaxgen.core.spread import TENSOR
from jaxgen.engine.flops import flops
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.program import Program
from jaxgen.engine.rules import in_use, parts
from jaxgen.engine.run import Run


def nbytes(tree) -> int:
  """Bytes of a tree's arrays, which may be `jax.eval_shape`'s structures."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def device_bytes(tree) -> int:
  """Bytes of a tree's arrays on one device, by their shardings."""
  shard = lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype)
  return nbytes(jax.tree.map(shard, tree))


def least_sent(program: Program) -> float:
  """Bytes that each device must send in a step for the trained networks, for any batch.

  An array that is cut into N parts is gathered before the forward and before the backward pass, and its gradient is
  reduced and cut: 3 (N - 1) / N of its bytes. Gradients are also reduced over the copies of a part. Devices of `tensor`
  that share an array in use gather and reduce their own part of it; those that do not have made the same gradient of
  the same examples.
  """
  total, tensor = 0.0, program.mesh.shape[TENSOR]
  trained = {name: program.abstract.params[name] for name in program.abstract.opt}
  for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
    name, ways = jax.tree_util.keystr(path, simple=True, separator="/"), parts(leaf)
    used, of = nbytes(leaf), ways
    if tensor > 1 and in_use(name) and ways % tensor == 0:
      used, of = used / tensor, ways // tensor
    copies = max(1, program.mesh.size // tensor // of)
    total += used * (3 * (of - 1) / of + 2 * (copies - 1) / copies / of)
  return total


def work_bytes(run: Run) -> int:
  """Bytes that the compiled training loop allocates on one device besides its arguments, mainly for activations.

  This compiles the loop and runs nothing.
  """
  return run.program.loop.memory_analysis().temp_size_in_bytes


def show(run: Run, restored: bool, compiled: bool) -> None:
  """Prints a run's sizes and costs.

  Args:
    run: the run.
    restored: also print its step and the SHA-256 of its state.
    compiled: compile the training loop to print the memory that it works in.
  """
  program = run.program
  abstract = program.abstract
  planned = isinstance(program.mesh, AbstractMesh)
  kind = "device, not here: --target compiles for them" if planned else program.mesh.devices.flat[0].device_kind
  mib = lambda n: f"{n / 2**20:,.1f} MiB"
  rows = [(f"parameters of {name}", f"{size:,}") for name, size in network_sizes(abstract.params).items()]
  parts = {
    "parameters": abstract.params,
    "optimizer": abstract.opt,
    "averages": abstract.ema,
    "buffers": abstract.buffers,
  }
  rows += [(f"bytes of {name}", mib(nbytes(tree))) for name, tree in parts.items() if nbytes(tree)]
  rows += [
    ("FLOPs a step", f"{flops(program.step_traced.jaxpr.jaxpr):.4g}"),
    ("memory a device, state", mib(device_bytes(abstract))),
    ("memory a device, batches", mib(device_bytes(program.batches))),
    ("memory a device, work", mib(work_bytes(run)) if compiled else "not compiled: --compile True measures it"),
    ("devices", f"{program.mesh.size} x {kind}"),
  ]
  if restored:
    rows += [("step", str(run.step)), ("SHA-256 of the state", state_hash(run.state))]
  print_rows(rows)


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
  """Prints rows of (name, value) as a table."""
  width = max(len(name) for name, _ in rows)
  for name, value in rows:
    print(f"{name:<{width}}  {value}")
