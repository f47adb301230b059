"""Which programs are measured: the cases that the flags of `jaxgen benchmark` request, checked before anything is
computed."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.engine.config import Config
from jaxgen.engine.mesh import check_divides, make_mesh
from jaxgen.engine.rules import AnyMesh

WHATS = ("train", "sample")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Asked:
  """The requested values; None: what the config says, or all that it can.

  Attributes:
    batches: examples over all devices.
    devices: numbers of them.
    fsdp, tensor: as in `make_mesh`.
  """

  what: tuple[str, ...] | None = None
  batches: tuple[int, ...] | None = None
  solvers: tuple[str, ...] | None = None
  sampling_steps: tuple[int, ...] | None = None
  dtypes: tuple[str, ...] | None = None
  devices: tuple[int, ...] | None = None
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Case:
  """One program.

  Attributes:
    arguments: of the config.
    latency: one sample at a time on one device.
  """

  what: Literal["train", "sample"]
  dtype: str
  devices: int
  batch: int
  arguments: Mapping[str, Any]
  solver: str | None = None
  sampling_steps: int | None = None
  latency: bool = False


def words(flag: str, text: str | None) -> tuple[str, ...] | None:
  """A flag's value "a,b" as ("a", "b")."""
  if text is None:
    return None
  found = tuple(part.strip() for part in text.split(","))
  if not all(found) or len(set(found)) < len(found):
    raise UserError(f"{flag} {text}: give different values with commas between them and no spaces")
  return found


def numbers(flag: str, text: str | None) -> tuple[int, ...] | None:
  """A flag's value "1,2" as (1, 2), in order."""
  found = words(flag, text)
  if found is None:
    return None
  if not all(part.isdecimal() and int(part) > 0 for part in found):
    raise UserError(f"{flag} {text}: give whole numbers from 1 with commas between them")
  return tuple(sorted(map(int, found)))


def choose(flag: str, asked: Sequence[str], choices: Sequence[str]) -> None:
  """Raises a UserError if one of the values is not among the choices."""
  for value in asked:
    if value not in choices:
      near = difflib.get_close_matches(value, choices, 1)
      raise UserError(f"{flag} {value} is none of {', '.join(choices)}" + (f": perhaps {near[0]}" if near else ""))


def plan(config: Config, arguments: Mapping[str, Any], asked: Asked, available: int) -> list[Case]:
  """All requested combinations, smaller batches first, so that the peak of the memory grows with them.

  Args:
    arguments: of the config, for all cases.
    available: devices.

  Raises:
    UserError: the config has no such flag or refuses a value, the method generates nothing, or a batch, fsdp or tensor
      does not divide over the devices.
  """
  given = {**config.defaults(), **arguments}
  what = asked.what or WHATS
  choose("--what", what, WHATS)
  devices = asked.devices or (available,)
  if max(devices) > available:
    raise UserError(f"--devices {max(devices)}: there are {available}; on a CPU XLA_FLAGS can simulate more")
  experiment = config.build(**given)
  can_sample = experiment.method.sample is not None
  if "sample" in what and not can_sample:
    if asked.what:
      raise UserError(f"config {config.name} does not generate samples: use --what train")
    what = ("train",)
  found = []
  for dtype in asked.dtypes or (_dtype_of(given),):
    own = {**given, **_dtype_arguments(config, given, dtype)}
    for count in devices:
      try:
        mesh = make_mesh(asked.fsdp, count, asked.tensor)
      except UserError as error:
        raise UserError(f"{error}: say which with --devices") from None
      for kind in what:
        make = _train if kind == "train" else _sample
        found += make(config, own, asked, dtype, mesh, latency=count == min(devices))
  return found


def _train(
  config: Config, given: Mapping[str, Any], asked: Asked, dtype: str, mesh: AnyMesh, latency: bool
) -> Iterator[Case]:
  for batch in asked.batches or (config.build(**given).batch_size,):
    check_divides(batch, mesh)
    arguments = {**given, **({"batch_size": batch} if "batch_size" in config.parameters else {})}
    config.build(**arguments)  # raises the config's errors
    yield Case("train", dtype, mesh.size, batch, arguments)


def _sample(
  config: Config, given: Mapping[str, Any], asked: Asked, dtype: str, mesh: AnyMesh, latency: bool
) -> Iterator[Case]:
  for solver in asked.solvers or (given.get("solver"),):
    for steps in asked.sampling_steps or (given.get("sampling_steps"),):
      own = dict(given)
      if asked.solvers:
        choices = _choices(config, "solver", "its samples are not drawn by a solver")
        choose("--solver", [solver], choices or asked.solvers)
        own["solver"] = solver
      if asked.sampling_steps:
        _choices(config, "sampling_steps", "its samples are not drawn in steps that can be chosen")
        own["sampling_steps"] = steps
      experiment = config.build(**own)
      batches = asked.batches or (experiment.sample_chunk,)
      if latency and (1 not in batches or mesh.size > 1):
        yield Case("sample", dtype, 1, 1, own, solver, steps, latency=True)
      for batch in batches:
        check_divides(batch, mesh)
        yield Case("sample", dtype, mesh.size, batch, own, solver, steps, latency=batch == mesh.size == 1)


def _choices(config: Config, name: str, why_not: str) -> tuple[str, ...]:
  """The values that one of the config's flags takes, if its type lists them."""
  if name not in config.parameters:
    raise UserError(f"config {config.name} has no flag --{name.replace('_', '-')}: {why_not}")
  return _literals(config.types.get(name))


def _literals(kind: Any) -> tuple[str, ...]:
  if typing.get_origin(kind) is Literal:
    return typing.get_args(kind)
  return tuple(value for part in typing.get_args(kind) for value in _literals(part))


def _dtype_of(given: Mapping[str, Any]) -> str:
  """The dtype that the config's arguments ask for."""
  if "dtype" in given:
    return np.dtype(given["dtype"]).name
  return "bfloat16" if given.get("bfloat16") else "float32"


def _dtype_arguments(config: Config, given: Mapping[str, Any], dtype: str) -> dict[str, Any]:
  """The arguments with which a config computes in a dtype.

  Raises:
    UserError: nothing does.
  """
  if dtype == _dtype_of(given):
    return {}
  choose("--dtype", [dtype], DTYPES)
  if "dtype" in config.parameters:
    literals = _literals(config.types.get("dtype"))
    if literals:
      choose("--dtype", [dtype], literals)
    return {"dtype": dtype}
  if "bfloat16" in config.parameters:
    return {"bfloat16": dtype == "bfloat16"}
  raise UserError(f"config {config.name} has no flag for --dtype {dtype}: its network computes in {_dtype_of(given)}")
