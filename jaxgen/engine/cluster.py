"""Joins a job of several processes, and lets them agree on values and inform each other of errors."""

import contextlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine import peers

AGREE = 10.0  # seconds after which processes that have not reached the exchange of errors are considered to hang
SEEN = 15.0  # seconds that a file may take to appear on another host, which NFS remembers not to have seen
SAVING = 120.0  # seconds that processes give each other to save once all know of an error
_EVER = 30 * 24 * 3600  # seconds

_lines: peers.Lines | None = None
_turn = itertools.count()  # numbers the agreements, which all processes make in the same order


def join_cluster(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None, seconds: float = 60.0
) -> bool:
  """Joins a job of several processes. Call it before anything computes. Returns whether there was a job to join.

  Without arguments the environment decides: JAX_COORDINATOR_ADDRESS, or SLURM, Open MPI or Kubernetes with more than
  one task. A single process joins nothing.

  Args:
    coordinator: HOST:PORT of process 0.
    seconds: how long the processes wait for each other.

  Raises:
    UserError: some of the three flags are missing, the cluster cannot be joined, or a process does not come.
  """
  global _lines
  flags, env = (coordinator, processes, process), os.environ
  several = lambda name: int(env.get(name, "1")) > 1
  if coordinator is not None and (processes, process) == (None, None) and several("OMPI_COMM_WORLD_SIZE"):
    processes, process = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
  elif all(flag is None for flag in flags):
    found = (
      "JAX_COORDINATOR_ADDRESS" in env
      or ("SLURM_JOB_ID" in env and several("SLURM_STEP_NUM_TASKS"))  # started by srun, not in sbatch's own script
      or several("OMPI_COMM_WORLD_SIZE")
      or ("KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env)
    )
    if not found:
      return False
  elif any(flag is None for flag in flags):
    raise UserError("--coordinator, --processes and --process go together: give all three or none")
  elif not 0 <= process < processes:
    raise UserError(f"--process must be from 0 to {processes - 1}, not {process}")
  coordinator, processes, process, devices = _place(coordinator, processes, process, seconds)
  if processes > 1:
    _lines = peers.meet(coordinator, processes, process, seconds)
  try:
    jax.distributed.initialize(coordinator, processes, process, devices, "deactivate", heartbeat_timeout_seconds=60)
  except Exception as error:
    raise UserError(f"could not join the cluster: {_words(error)}") from error
  return True


def _place(
  coordinator: str | None, processes: int | None, process: int | None, seconds: float
) -> tuple[str, int, int, Sequence[int] | None]:
  """(HOST:PORT of process 0, number of processes, number of this process, its local devices or None for all).

  Values that are not given come from the environment, as jax reads it.
  """
  from jax._src.clusters import ClusterEnv

  coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
  devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")
  devices = [int(device) for device in devices.split(",")] if devices else None
  way_out = "give --coordinator HOST:PORT, --processes and --process"
  if "KUBERNETES_SERVICE_HOST" in os.environ and None in (coordinator, processes, process):
    try:
      import kubernetes  # noqa: F401
    except ImportError as error:
      raise UserError(
        "this is a Kubernetes job, whose processes are found with the package kubernetes, which is not installed: "
        f"pip install 'jaxgen[k8s]', or {way_out}"
      ) from error
  try:
    coordinator, processes, process, devices = ClusterEnv.auto_detect_unset_distributed_params(
      coordinator, processes, process, devices, None, round(seconds)
    )
  except Exception as error:  # of jax, of kubernetes and its connections
    raise UserError(
      f"could not find the other processes of the job: {_words(error).rstrip('.')}; or {way_out}"
    ) from error
  if None in (coordinator, processes, process):
    raise UserError(f"several processes were started, but jax does not see by what (Open MPI 5 hides it): {way_out}")
  return coordinator, processes, process, devices


def _words(error: Exception) -> str:
  """An error's message, all of its lines."""
  return str(error).strip() or type(error).__name__


def is_alone() -> bool:
  """Whether this process has not joined a job of several."""
  return _lines is None


def ended_elsewhere(seconds: float = 2.0) -> str | None:
  """A sentence on another process that has ended too early, and why; None if there is none."""
  return _lines.lost(seconds) if _lines is not None else None


def leave(code: int, why: str) -> None:
  """Ends all processes of a job at once, because the runtime would wait minutes for those that hang.

  If this process is not in a job, the function returns and does nothing.
  """
  if _lines is not None:
    _lines.leave(code, why)


def coordination() -> Any:
  """jax's client of its coordination service, which works without the devices."""
  from jax._src import distributed

  return distributed.global_state.client


def agreed(value: int) -> int:
  """Process 0's value, in every process, so that all decide alike even if they see different files."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def by_main(act: Callable[[], Any]) -> Any:
  """The JSON value that `act` returns. Only process 0 calls it. If it raises a UserError, all processes raise it."""
  if jax.process_count() == 1:
    return act()
  key = f"jaxgen/main/{next(_turn)}"
  if jax.process_index() != 0:
    value, error = json.loads(coordination().blocking_key_value_get(key, _EVER * 1000))
    if error is not None:
      raise UserError(error)
    return value
  try:
    value = act()
  except UserError as error:
    coordination().key_value_set(key, json.dumps([None, str(error)]))
    raise
  coordination().key_value_set(key, json.dumps([value, None]))
  return value


def errors_of_all(error: Exception | None) -> list[str]:
  """Informs the other processes of this process's error, or that it has none. All call it at the same place.

  Returns:
    The errors of other processes, a phrase for each. All processes then know of them and can act together.

  Raises:
    `error`, if the others do not call it in time: then they wait for this process elsewhere.
  """
  if jax.process_count() == 1:
    return []
  client, turn, own = coordination(), next(_turn), jax.process_index()
  if error is not None:
    client.key_value_set(f"jaxgen/errors/{turn}/{own}", f"{type(error).__name__}: {_words(error)}")
  try:
    client.wait_at_barrier(f"jaxgen/errors/{turn}", int((AGREE if error is not None else _EVER) * 1000))
  except Exception:
    if error is not None:
      raise error from None
    raise
  found = [(int(key.rpartition("/")[2]), text) for key, text in client.key_value_dir_get(f"jaxgen/errors/{turn}/")]
  if found and _lines is not None:
    _lines.grace = SAVING
  return [f"process {number} has met an error ({text})" for number, text in sorted(found) if number != own]


def check_shared(folder: files.Place) -> None:
  """Checks that every process sees what process 0 writes into a folder, which checkpoints of several need.

  Raises:
    UserError: some do not see it; raised in all processes.
  """
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  def write() -> str:
    name = f".shared-{secrets.token_hex(8)}"
    files.write(folder / name, b"")
    return name

  sign = folder / by_main(write)
  until = time.monotonic() + SEEN
  while not (is_seen := sign.exists()) and time.monotonic() < until:
    with contextlib.suppress(OSError):
      list(folder.iterdir())  # makes NFS look again
    time.sleep(0.1)
  blind = np.flatnonzero(~multihost_utils.process_allgather(np.bool_(is_seen)).ravel())
  if jax.process_index() == 0:
    sign.unlink(missing_ok=True)
  if len(blind):
    raise UserError(
      f"process {blind[0]} does not see in {folder} what process 0 has written there: put --runs on a file system that "
      "all hosts share"
    )
