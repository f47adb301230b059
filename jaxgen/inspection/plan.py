"""Plans a training run for other machines: the compiler's numbers for its program, in a table.

The program is the real one, compiled by the target's compiler from the shapes of the state; nothing is allocated.
"""

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from jaxgen.core.errors import UserError
from jaxgen.core.method import network_sizes
from jaxgen.core.spread import TENSOR
from jaxgen.engine.chips import GIB, Chip
from jaxgen.engine.flops import flops
from jaxgen.engine.program import Program
from jaxgen.engine.rules import MIN_SIZE, batch_ways, parts
from jaxgen.inspection import hlo
from jaxgen.inspection.costs import device_bytes, least_sent
from jaxgen.inspection.targets import Target

Row = tuple[str, str]
Number = int | float


class Cost(NamedTuple):
  """The cost of a step on one device.

  Attributes:
    state, batches, work: bytes of memory. `work` is the largest amount that the program needs besides the others.
    aliased: bytes of the state that are overwritten in place.
    flops: the device's share of the step's products and convolutions.
    traffic: bytes to and from memory by the compiler's count, in which a loop's body counts once.
    cycles: the compiler's estimate; 0: it gives none.
    unknown: number of operations without an estimate.
    sent: bytes of the collectives.
    least: bytes that must be sent, see `least_sent`.
  """

  state: Number
  batches: Number
  work: Number
  aliased: Number
  flops: Number
  traffic: Number
  cycles: int
  unknown: int
  collectives: Sequence[hlo.Collective]
  least: Number

  @property
  def memory(self) -> Number:
    return self.state + self.batches + self.work

  @property
  def sent(self) -> Number:
    return sum(one.sent for one in self.collectives)

  def seconds(self, chip: Chip) -> tuple[Number, Number]:
    """(the compiler's estimate of its work, or where there is none the least, at its peak; the links' at theirs)."""
    work = self.cycles / chip.clock if self.cycles and chip.clock else self.flops / chip.flops
    return work, self.sent / chip.link


QUICK = {"exec_time_optimization_effort": -1.0}  # of XLA's options, from -1 to 1


def cost(program: Program, target: Target, batch_size: int, quick: bool = False) -> Cost:
  """Compiles a program for its mesh and reads the compiler's memory and cost analysis.

  Args:
    quick: with the least effort. TPU's compiler, which looks for the best form of each operation, takes an eighth of
      the time; its estimates are then for a slower program.

  Raises:
    UserError: it does not fit the memory; says which batch would, by estimate.
  """
  state, batches = device_bytes(program.abstract), device_bytes(program.batches)
  try:
    compiled = program.lowered.compile(QUICK) if quick else program.loop
  except jax.errors.JaxRuntimeError as error:
    raise UserError(_too_large(str(error), state, batch_size, program.mesh.size, target.name)) from error
  memory, counted = compiled.memory_analysis(), compiled.cost_analysis() or {}
  text = hlo.read(compiled.as_text())
  cycles, unknown = hlo.cycles(text)
  peak = getattr(memory, "peak_memory_in_bytes", 0)  # arguments included
  return Cost(
    state=state,
    batches=batches,
    work=max(0, peak - memory.argument_size_in_bytes) if peak else memory.temp_size_in_bytes,
    aliased=memory.alias_size_in_bytes,
    flops=flops(program.step_traced.jaxpr.jaxpr) / program.mesh.size,
    traffic=counted.get("bytes accessed", 0.0),
    cycles=cycles,
    unknown=unknown,
    collectives=hlo.collectives(text),
    least=least_sent(program),
  )


def fitting(batch_size: int, fixed: Number, used: Number, memory: Number, devices: int) -> int:
  """The largest batch that fits a device's memory, if all it uses but the fixed bytes grows with the batch."""
  each = max(used - fixed, 1.0) / batch_size
  return max(0, int((memory - fixed) / each) // devices * devices)


def _too_large(message: str, state: Number, batch_size: int, devices: int, target: str) -> str:
  """A sentence for the compiler's message if a program does not fit; other messages unchanged."""
  size = r"([\d.]+)([KMGT])"
  in_all = re.search(f"Used {size} of {size}", message)
  sizes = in_all or re.search(rf"temporaries \({size}\) exceeds available HBM \({size}\)", message)
  if "RESOURCE_EXHAUSTED" not in message or sizes is None:
    return f"the compiler of {target} refuses the program: {message.splitlines()[0]}"
  scale = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  used, memory = (float(sizes[i]) * scale[sizes[i + 1]] for i in (1, 3))
  used += 0 if in_all else state
  fits = fitting(batch_size, state, used, memory, devices)
  way = f"a batch of {fits} does, by estimate" if fits else "by estimate none does, share the state with --fsdp"
  sizes = f"{used / GIB:.1f} of its {memory / GIB:.1f} GiB"
  return f"a batch of {batch_size} does not fit {target}, where a device would use {sizes}: {way}"


def table(program: Program, target: Target, found: Cost, steps: int, batch_size: int) -> list[Row]:
  """The report's rows."""
  mesh, chip = program.mesh, target.chip
  mib = lambda n: f"{n / 2**20:,.3g} MiB" if n < 10 * 2**20 else f"{n / 2**20:,.0f} MiB"
  of_memory = lambda n: f", {100 * n / chip.memory:.1f} % of {chip.memory / GIB:.0f} GiB" if chip else ""
  rows = [(f"parameters of {name}", f"{size:,}") for name, size in network_sizes(program.abstract.params).items()]
  axes = {name: n for name, n in mesh.shape.items() if n > 1 or name != TENSOR}
  each, group = batch_size // batch_ways(mesh), f" and the {axes[TENSOR]} that share it" if TENSOR in axes else ""
  rows += [
    ("devices", f"{mesh.size} of {target.name}, {' x '.join(f'{name} {n}' for name, n in axes.items())}"),
    ("batch", f"{batch_size}, {each} a device{group}"),
    ("memory a device", mib(found.memory) + of_memory(found.memory)),
    ("  state", f"{mib(found.state)}, {mib(found.aliased)} overwritten in place"),
    ("  batches of a dispatch", mib(found.batches)),
    ("  work", mib(found.work)),
  ]
  if whole := uncut(program):
    rows.append(("  kept in fewer parts", "; ".join(whole)))
  if program.notes.whole:
    rows.append(("not cut by tensor", "; ".join(program.notes.whole) + ": examples are, where they divide"))
  rows += [
    ("FLOPs a step", f"{found.flops * mesh.size:.4g}, {found.flops:.4g} a device"),
  ]
  if found.traffic:
    rows.append(("bytes to and from memory", f"{mib(found.traffic)} a device, a loop's body counted once"))
  kinds = collections.defaultdict(list)
  for one in found.collectives:
    kinds[one.kind, one.ways].append(one)
  for (kind, ways), ones in sorted(kinds.items()):
    sent = sum(one.sent for one in ones)
    rows.append((f"{kind} over {ways}", f"{sum(one.count for one in ones):,} a step, {mib(sent)} sent a device"))
  share = f", {found.sent / found.least:.2f} x the least" if found.least else ""
  rows.append(("sent a device and step", f"{mib(found.sent)}{share} ({mib(found.least)})"))
  return rows + (_times(found, chip, mesh.size, steps, batch_size) if chip else [])


def _times(found: Cost, chip: Chip, devices: int, steps: int, batch_size: int) -> list[Row]:
  work, links = found.seconds(chip)
  whose = "compiler's estimate" if found.cycles and chip.clock else "at the chip's peak, no estimate"
  whose += f"; without {found.unknown} operations that it has none of" if found.unknown else ""
  slow, fast = work + links, max(work, links)
  share = lambda seconds: 100 * found.flops / chip.flops / seconds
  model = "the MFU, but for what remat computes twice"
  hours = lambda seconds: steps * seconds / 3600
  return [
    ("seconds a step, work", f"{work:.4g} ({whose})"),
    ("seconds a step, sending", f"{links:.4g} (at the links' peak)"),
    ("seconds a step", f"{fast:.4g} to {slow:.4g}: all of the sending hidden behind work, or none"),
    ("examples a second", f"{batch_size / slow:,.0f} to {batch_size / fast:,.0f}"),
    (
      "FLOPs' share of the peak",
      f"{share(slow):.1f} to {share(fast):.1f} % of {chip.flops / 1e12:.0f} TFLOP/s: {model}",
    ),
    (
      "the whole run",
      f"{steps:,} steps, {hours(fast):,.1f} to {hours(slow):,.1f} hours, "
      f"{devices * hours(fast):,.0f} to {devices * hours(slow):,.0f} device-hours",
    ),
  ]


def uncut(program: Program, most: int = 3) -> list[str]:
  """The largest parameters that the devices of a group keep in fewer parts than there are devices."""
  ways = program.mesh.shape["fsdp"] * program.mesh.shape[TENSOR]
  leaves = jax.tree_util.tree_leaves_with_path(program.abstract.params)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  few = [(x.size, name(path), x) for path, x in leaves if x.size >= MIN_SIZE and parts(x) < ways]
  few.sort(key=lambda one: -one[0])
  more = [f"and {len(few) - most} more"] if len(few) > most else []
  return [f"{path} {list(x.shape)} in {parts(x)} of {ways}" for _, path, x in few[:most]] + more
