"""One of two processes of a job, which test_processes.py starts: checkpoints of arrays, and then a command.

    job.main() with NUMBER PORT FOLDER COMMAND ... as the process's words

FOLDER has a checkpoint of `state(1)`, which one process has saved.
"""

import sys
import warnings

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import cli
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.cluster import join_cluster
from jaxgen.engine.hashing import state_hash


def arrays(seed: int) -> dict[str, np.ndarray]:
  """A small array, and one of several blocks (see `engine.digests`)."""
  rng = np.random.default_rng(seed)
  return {"whole": rng.normal(size=(16, 4)).astype("f"), "large": rng.random((8, 2**17), np.float32)}


def state(seed: int):
  """The state on this process alone: what the test compares with."""
  small, large = (jax.numpy.asarray(x) for x in arrays(seed).values())
  large = {name: large for name in ("across", "along", "whole")}
  return {"key": jax.random.key(seed), "params": {"cut": small, "whole": small, "large": large}}


def spread(seed: int, mesh):
  """The state over the devices of all processes: cut across an array's blocks, along them, or not at all."""
  small, large = arrays(seed).values()
  make = lambda spec, x=small: jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])
  key = jax.jit(lambda: jax.random.key(seed), out_shardings=NamedSharding(mesh, P()))()
  large = {"across": make(P("fsdp"), large), "along": make(P(None, "fsdp"), large), "whole": make(P(), large)}
  return {"key": key, "params": {"cut": make(P("fsdp")), "whole": make(P()), "large": large}}


def check_checkpoints(number: int, folder: str) -> None:
  mesh = jax.make_mesh((8,), ("fsdp",))
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), spread(0, mesh))
  checkpoints = Checkpoints(folder)
  step, restored = checkpoints.restore(like)
  assert step == 1
  assert state_hash(restored) == state_hash(spread(1, mesh))
  donate = jax.jit(lambda s: jax.tree.map(lambda x: x, s), donate_argnums=0)
  for step in (2, 3, 4):
    s = spread(step, mesh)
    checkpoints.save(step, s)
    donate(s)
  checkpoints.save(4, spread(4, mesh))
  checkpoints.close()
  assert checkpoints.steps() == [3, 4], checkpoints.steps()
  step, restored = Checkpoints(folder).restore(like)
  assert step == 4
  cut = restored["params"]["cut"]
  assert cut.sharding == like["params"]["cut"].sharding
  for shard in cut.addressable_shards:
    np.testing.assert_array_equal(shard.data, arrays(4)["whole"][shard.index])
  if number == 0:  # only one of them damages it; both must go back
    with open(f"{folder}/00000004/jaxgen.json", "r+") as file:
      file.truncate(100)
  multihost_utils.sync_global_devices("damaged")
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    checkpoints = Checkpoints(folder)
    step, restored = checkpoints.restore(like)
  assert (step, len(caught)) == (3, 1), (step, caught)
  checkpoints.save(4, spread(4, mesh))
  checkpoints.close()
  print("HASH", step, state_hash(restored), flush=True)


def main() -> None:
  number, port, folder, *command = sys.argv[1:]
  join_cluster(f"localhost:{port}", 2, int(number))
  check_checkpoints(int(number), folder)
  cli.main(command)


if __name__ == "__main__":
  main()
