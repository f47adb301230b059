"""Joining a job of several processes, and what they agree on."""

import os

import jax
import numpy as np

from jaxgen.core.errors import UserError


def join_cluster(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> bool:
  """Joins a job of several processes; call it before anything computes. Returns whether there was one to join.

  With no arguments the environment decides: jax's own JAX_COORDINATOR_ADDRESS, or SLURM, Open MPI or Kubernetes with
  more than one task. A single process stays on its own.

  Raises:
    UserError: some of the three flags are missing, or the cluster cannot be joined.
  """
  flags = (coordinator, processes, process)
  env = os.environ
  several = lambda name: int(env.get(name, "1")) > 1
  if all(flag is None for flag in flags):
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
  try:
    jax.distributed.initialize(coordinator, processes, process)
  except (RuntimeError, ValueError) as error:
    raise UserError(f"could not join the cluster: {str(error).splitlines()[0]}") from error
  return True


def agreed(value: int) -> int:
  """Process 0's value, in every process, so that all take the same way whatever each sees of the file system."""
  if jax.process_count() == 1:
    return value
  from jax.experimental import multihost_utils

  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
