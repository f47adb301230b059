"""The communication between devices in a compiled program, read from the compiler's text (HLO).

A loop's body counts as often as the loop runs, if the compiler knows that. The body of the training loop counts once,
so that all numbers are for one step.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Bytes that a device sends of an array of one byte, gathered, reduced or exchanged in a group of so many devices: at
# the least, over a ring.
SENT = {
  "all-gather": lambda ways: (ways - 1) / ways,
  "reduce-scatter": lambda ways: (ways - 1) / ways,
  "all-to-all": lambda ways: (ways - 1) / ways,
  "ragged-all-to-all": lambda ways: (ways - 1) / ways,
  "all-reduce": lambda ways: 2 * (ways - 1) / ways,
  "collective-permute": lambda ways: 1.0,
  "collective-broadcast": lambda ways: 1.0,
}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"\b(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
  """An operation between devices.

  Attributes:
    kind: its name in HLO, a key of `SENT`.
    ways: the number of devices in a group.
    nbytes: bytes of the whole array that is gathered, reduced or exchanged.
    count: how often it runs in a step.
  """

  kind: str
  ways: int
  nbytes: int | float
  count: int

  @property
  def sent(self) -> int | float:
    """The smallest number of bytes that each device must send for it in a step."""
    return self.count * self.nbytes * SENT[self.kind](self.ways)


class _Instruction(NamedTuple):
  opcode: str
  result: str
  rest: str  # from the operands on


class Program(NamedTuple):
  """A compiled program's computations, lists of instructions by name, the name of that which is run, and on how many
  devices."""

  computations: dict[str, list[_Instruction]]
  entry: str
  devices: int = 1

  def walk(self) -> Iterator[tuple[str, bool, _Instruction, int]]:
    """(its computation's name, whether that is a part of one operation, an instruction, how often a step runs it),
    called computations included."""
    yield from self._walk(self.entry, False, 1)

  def _walk(self, name: str, is_part: bool, count: int) -> Iterator[tuple[str, bool, _Instruction, int]]:
    for instruction in self.computations.get(name, ()):
      yield name, is_part, instruction, count
      if instruction.opcode.endswith(("-done", "-update")):  # of an operation that its start has shown
        continue
      times = self._trips(instruction.rest) if instruction.opcode == "while" else 1
      called = _CALLED.findall(instruction.rest)
      for branches in _BRANCHES.findall(instruction.rest):
        called += [branch.strip().lstrip("%") for branch in branches.split(",")]
      for other in called:
        yield from self._walk(other, is_part or "calls=" in instruction.rest, count * times)

  def _trips(self, loop: str) -> int:
    """How often a loop runs: as noted, or where its counter is compared with a constant, as jax's are from 0 by 1."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop):
      return int(noted[1])
    condition = self.computations.get(re.search(r"condition=%?([\w.\-]+)", loop)[1], ())
    constants = [found[1] for x in condition if x.opcode == "constant" and (found := re.match(r"(\d+)\)", x.rest))]
    compared = any("direction=LT" in x.rest for x in condition)
    return int(constants[0]) if compared and len(constants) == 1 else 1


def read(text: str) -> Program:
  """A program from the text that `compiled.as_text()` gives."""
  computations, entry, current = {}, "", []
  header = text.partition("\n")[0]
  devices = math.prod(int(n) for n in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header))
  for line in text.splitlines():
    if start := _COMPUTATION.match(line):
      current = computations[start[2]] = []
      entry = start[2] if start[1] else entry
    elif found := _INSTRUCTION.match(line):
      result, rest = _cut_type(found[2])
      opcode, _, rest = rest.partition("(")
      current.append(_Instruction(opcode.strip(), result, rest))
  return Program(computations, entry, devices)


def collectives(program: Program) -> list[Collective]:
  """All of a program's collectives between at least two devices."""
  found, seen = [], set()
  for computation, is_part, instruction, count in program.walk():
    kind = instruction.opcode.removesuffix("-start")
    if kind not in SENT:
      continue
    # A TPU may run it in parts, in parallel with other work; each part has it, and its channel, in its text.
    channel = re.search(r"channel_id=(\d+)", instruction.rest)
    if is_part and channel:
      if (channel[1], count) in seen:
        continue
      seen.add((channel[1], count))
    # What it reduces and then cuts is a computation of its own there.
    kind = "reduce-scatter" if computation.startswith("all-reduce-scatter") else kind
    ways = 2 if kind == "collective-permute" else _ways(instruction.rest, program.devices)
    if ways > 1:
      found.append(Collective(kind, ways, _nbytes(instruction, ways), count))
  return found


def cycles(program: Program) -> tuple[int, int]:
  """Cycles of a step's work by the estimates that TPU's compiler writes into its program, 0 where there are none.

  Returns:
    (their sum, the number of operations that it could not estimate, whose cycles it gives as the largest integer)
  """
  estimates = [(re.search(r'"estimated_cycles":"(\d+)"', x.rest), count) for _, _, x, count in program.walk()]
  estimates = [(int(found[1]), count) for found, count in estimates if found]
  known = [(each, count) for each, count in estimates if each < 2**62]
  return sum(each * count for each, count in known), len(estimates) - len(known)


def _cut_type(text: str) -> tuple[str, str]:
  """An instruction's type, a tuple's in parentheses, and what follows."""
  if not text.startswith("("):
    result, _, rest = text.partition(" ")
    return result, rest
  depths = itertools.accumulate((c == "(") - (c == ")") for c in text)
  end = next(i for i, depth in enumerate(depths) if depth == 0)
  return text[: end + 1], text[end + 1 :]


def _array_bytes(dtype: str, shape: str) -> float:
  bits = re.search(r"\d+", dtype)  # f32, bf16, s8, f8e4m3fn; of the others pred alone has a size
  size = int(bits[0]) / 8 if bits else float(dtype == "pred")
  return size * math.prod(int(n) for n in shape.split(",") if n)


def _nbytes(instruction: _Instruction, ways: int) -> int | float:
  """Bytes of the whole arrays of a collective, from its result's type."""
  sizes = [_array_bytes(*array) for array in _ARRAY.findall(instruction.result)]
  if instruction.opcode == "all-gather-start":  # (operands, results)
    sizes = sizes[len(sizes) // 2 :]
  elif instruction.opcode == "collective-permute-start":  # (operand, result, what it is synchronised by)
    sizes = sizes[1:2]
  return sum(sizes) * (ways if instruction.opcode.startswith("reduce-scatter") else 1)


def _ways(rest: str, devices: int) -> int:
  """Devices in a group: of {{0,1},{2,3}}, [2,4]<=[8], or mesh['data'=2,'fsdp'=4] {'fsdp'}; of {}, all of them."""
  if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return len(found[1].split(","))
  if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
    return int(found[2])
  if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", found[1])}
    # An axis may be cut into parts, of which one is meant: 'data':(2)4 is the one of size 4 after another of size 2.
    parts = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part) if part else sizes[name] for name, part in parts)
  return devices
