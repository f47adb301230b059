"""Machines that are not there: devices to compile for, and their data sheets.

tpu:v5e:16x16    a slice of TPUs, compiled for by TPU's own compiler, libtpu, on any machine
gpu:h100:8       GPUs, compiled for by XLA with the plugin of jax's GPU wheels, on any machine
cpu:64           so many simulated devices of this machine's processor: for what they would send each other
"""

import importlib.util
import os
from typing import NamedTuple

import jax

from jaxgen.core.errors import UserError
from jaxgen.engine.chips import CHIPS, Chip
from jaxgen.inspection.gpus import gpus

# NVIDIA's data sheet of the H100 SXM: dense bfloat16, and half of NVLink's 900 GB/s of both directions.
GPUS = {"h100": Chip(989.4e12, 84978434048, 450e9, None, "8")}


class Target(NamedTuple):
  """The devices that a program is compiled for.

  Attributes:
    name: the target's name as the user gave it.
    devices: the jax devices.
    chip: what one of them can do; None where its speed is not known.
  """

  name: str
  devices: list
  chip: Chip | None


def target(name: str) -> Target:
  """The devices of a target by its name.

  Raises:
    UserError: a name that is none, a topology that the compiler does not know, or a compiler that is not installed.
  """
  platform, _, rest = name.partition(":")
  if platform == "cpu" and rest.isdigit() and int(rest) > 0:
    return Target(name, _simulated(int(rest)), None)
  chip, _, slices = rest.partition(":")
  if platform == "gpu" and chip in GPUS and slices.isdigit() and int(slices) > 0:
    return Target(name, gpus(chip, int(slices)), GPUS[chip])
  if platform != "tpu" or chip not in CHIPS or not slices:
    raise UserError(
      f"--target {name} is not a target: use cpu:N, such as cpu:64, gpu:KIND:N with one of {', '.join(GPUS)}, such as "
      f"gpu:h100:8, or tpu:CHIP:TOPOLOGY with one of the chips {', '.join(CHIPS)}, such as tpu:v5e:16x16"
    )
  return Target(name, _tpus(chip, slices), CHIPS[chip])


def _simulated(count: int) -> list:
  try:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
  except RuntimeError:  # jax has started; its devices may suffice
    pass
  devices = jax.devices("cpu")
  if len(devices) < count:
    raise UserError(f"--target cpu:{count}: jax has started with {len(devices)} devices: ask for at most as many")
  return devices[:count]


def _tpus(chip: str, slices: str) -> list:
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      f"--target tpu:{chip}:{slices} is compiled for by libtpu, which is not installed: pip install 'jaxgen[aot]'"
    )
  # Do not query Google's metadata server, and do not let libtpu complain about another machine.
  quiet = dict(TPU_MIN_LOG_LEVEL="3", TPU_STDERR_LOG_LEVEL="3", TF_CPP_MIN_LOG_LEVEL="3")
  alone = dict(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-8")
  alone |= dict(ALLOW_MULTIPLE_LIBTPU_LOAD="1")  # no TPU is held, so several processes may plan
  for variable, value in (quiet | alone).items():
    os.environ.setdefault(variable, value)
  if not os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", "cpu")  # for what tracing computes; libtpu finds no TPU to start
  jax.config.update("jax_enable_compilation_cache", False)  # a program is kept, and cannot be read without its devices
  from jax.experimental import topologies

  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:{slices}").devices)
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    if not reason.startswith("INVALID_ARGUMENT"):
      raise UserError(f"TPU's compiler does not start: {reason}") from error
    reason = reason.removeprefix("INVALID_ARGUMENT: ")
    raise UserError(
      f"TPU's compiler does not know {chip}:{slices} ({reason}): some topologies of {chip} are {CHIPS[chip].slices}"
    ) from error
