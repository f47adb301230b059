"""The speed and memory of the devices: the product of two large matrices as measured, and their memory."""

import contextlib
import math
import os
import pathlib
import resource
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

TURNS, SECONDS = 100, 1.0  # of matrix products: so many, but no more once they have taken so long


def matmul_peak(devices: Sequence[Any], dtype: str) -> float:
  """FLOP/s of all these devices together, each with a product of two matrices; the fastest turn.

  On a CPU smaller matrices are tried as well, because other work often disturbs large ones. Simulated devices share a
  machine's cores, so that more of them reach no more.
  """
  sizes = (8192,) if devices[0].platform != "cpu" else (2048, 512) if len(devices) == 1 else (1024, 512)
  return max(_product(devices, dtype, n, SECONDS / len(sizes)) for n in sizes)


def _product(devices: Sequence[Any], dtype: str, n: int, limit: float) -> float:
  """FLOP/s of products of n x n matrices on all devices at once, within so many seconds."""
  ones = jnp.ones((n, n), jnp.dtype(dtype)) / math.sqrt(n)
  pairs = [(jax.device_put(ones, d), jax.device_put(ones, d)) for d in devices]
  multiply = jax.jit(jnp.matmul)
  run = lambda: jax.block_until_ready([multiply(a, b) for a, b in pairs])
  run()
  seconds: list[float] = []
  while len(seconds) < 2 or (len(seconds) < TURNS and sum(seconds) < limit):
    began = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - began)
  return len(devices) * 2 * n**3 / min(seconds)


def memory_limit(devices: Sequence[Any]) -> int | None:
  """Bytes that one of the devices has for a program; None where it is not known.

  On a CPU, its part of the machine's free memory. There a program that needs more is not refused but ends the process.
  """
  stats = devices[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  if devices[0].platform != "cpu":
    return None
  free = [_free_memory(), _free_in_group()]
  return min((x // len(devices) for x in free if x is not None), default=None)


def _free_memory() -> int | None:
  with contextlib.suppress(OSError, ValueError, IndexError):
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
      if line.startswith("MemAvailable:"):
        return int(line.split()[1]) * 1024
  return None


def _free_in_group() -> int | None:
  """The memory that a container's control group leaves."""
  with contextlib.suppress(OSError, ValueError):
    group = pathlib.Path("/sys/fs/cgroup")
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    used = int((group / "memory.current").read_text()) - int(stat.get("inactive_file", 0))  # a cache, given up at need
    return int((group / "memory.max").read_text()) - used
  return None


def peak_memory(devices: Sequence[Any]) -> int | None:
  """The most bytes that one of the devices has had in use since the process began; None where it does not say."""
  peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in devices]
  return max((int(p) for p in peaks if p is not None), default=None)


def cores() -> int:
  """Processor cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


BUSY = 1.5  # load average per core above which the machine counts as busy


def is_busy(load: float) -> bool:
  """Whether a load average means that the machine is busy with other work."""
  return load > BUSY * cores()


def forget_host_peak() -> None:
  """Lets `host_peak` begin anew, where the system can."""
  with contextlib.suppress(OSError):
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def host_peak() -> int:
  """The most bytes of the host's memory that the process has had since `forget_host_peak`, or since it began."""
  with contextlib.suppress(OSError, ValueError, IndexError):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
      if line.startswith("VmHWM:"):
        return int(line.split()[1]) * 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
