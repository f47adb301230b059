"""Time and host memory of saving and restoring a large state, by one process or several.

    python benchmarks/checkpoint.py --gigabytes 2 --processes 2 --out numbers.json

The state is random arrays as parameters with Adam's moments have them, cut over all devices as `--fsdp` cuts them; the
folder is on the disk of --folder. Of each process: seconds until `save` returns and until everything is on the disk,
seconds of `restore`, what that read from files, and by how much its resident memory grew meanwhile at most (Linux). A
restore makes a state, whose bytes are part of what it grows by.
"""

import argparse
import ctypes
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

DEVICES = 2  # of each process
SHAPE = (1024, 8192)  # 32 MiB in float32


def read() -> float:
  """MiB that this process has read from files, kept in memory by the system or not."""
  lines = pathlib.Path("/proc/self/io").read_text().splitlines()
  return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("rchar:"))


def work(gigabytes: float, folder: str, port: int, processes: int, process: int) -> None:
  import jax

  if processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, process)
  import numpy as np
  from jax.sharding import NamedSharding, PartitionSpec

  from jaxgen.engine.checkpoint import Checkpoints
  from jaxgen.throughput.chips import forget_host_peak, host_peak

  def resident() -> int:
    """The process's memory now, from which its peak begins anew."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, and is not used again unseen
    forget_host_peak()
    return host_peak()

  mesh = jax.make_mesh((jax.device_count(),), ("fsdp",))
  sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
  count = round(gigabytes * 2**30 / (4 * SHAPE[0] * SHAPE[1]))
  part = np.random.default_rng(process).random((SHAPE[0], SHAPE[1] // jax.device_count()), np.float32)
  make = lambda: jax.make_array_from_callback(SHAPE, sharding, lambda _: part.copy())
  state = {f"{i // 3:03d}": {} for i in range(count)}
  for i in range(count):
    state[f"{i // 3:03d}"][("params", "mu", "nu")[i % 3]] = make()
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
  checkpoints = Checkpoints(folder)
  checkpoints.save(0, {"small": make()})  # so that nothing is imported or compiled below
  checkpoints.wait()

  before, start = resident(), time.perf_counter()
  checkpoints.save(1, state)
  returned = time.perf_counter() - start
  checkpoints.wait()
  numbers = {
    "state_mib_here": round(sum(s.data.nbytes for x in jax.tree.leaves(state) for s in x.addressable_shards) / 2**20),
    "save_returns_seconds": round(returned, 2),
    "save_seconds": round(time.perf_counter() - start, 2),
    "save_grows_mib": round((host_peak() - before) / 2**20),
  }
  del state
  checkpoints = Checkpoints(folder)
  before, there, start = resident(), read(), time.perf_counter()
  checkpoints.restore(like, 1)
  numbers |= {
    "restore_seconds": round(time.perf_counter() - start, 2),
    "restore_grows_mib": round((host_peak() - before) / 2**20),
    "restore_reads_mib": round(read() - there),
  }
  print(json.dumps(numbers), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--gigabytes", type=float, default=2, help="of the whole state")
  parser.add_argument("--processes", type=int, default=2, help="that share it, on this machine")
  parser.add_argument("--folder", default=tempfile.gettempdir(), help="where checkpoints are written, and deleted")
  parser.add_argument("--out", help="file for the numbers, JSON")
  parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
  given = parser.parse_args()
  if given.work:
    folder, port, process = given.work
    work(given.gigabytes, folder, int(port), given.processes, int(process))
    return
  with socket.socket() as free, tempfile.TemporaryDirectory(dir=given.folder) as folder:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
    free.close()
    env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, __file__, "--gigabytes", str(given.gigabytes), "--processes", str(given.processes)]
    start = lambda p: subprocess.Popen([*words, "--work", folder, str(port), str(p)], env=env, stdout=subprocess.PIPE)
    workers = [start(p) for p in range(given.processes)]
    rows = [json.loads(worker.communicate()[0].splitlines()[-1]) for worker in workers]
  for row in rows:
    print(" ".join(f"{name}={value}" for name, value in row.items()))
  if given.out:
    pathlib.Path(given.out).write_text(json.dumps({"command": sys.argv[1:], "processes": rows}, indent=1) + "\n")


if __name__ == "__main__":
  main()
