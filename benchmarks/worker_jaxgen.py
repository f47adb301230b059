"""The process that times jaxgen for training.py and sampling.py, through the code that `jaxgen train` runs."""

import os
import resource
import time

import compare


def prepare(job: dict):
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from jaxgen import diffusion
  from jaxgen.core.spec import Spec
  from jaxgen.core.wrappers import averaged
  from jaxgen.engine.flops import flops as flops_of
  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program
  from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
  from jaxgen.methods.diffusion.sampler import Sampler
  from jaxgen.nn import UNet

  dtype, batch, image, steps = jnp.dtype(job["dtype"]), job["batch"], tuple(job["image"]), job["sampling_steps"]
  network = UNet(
    channels=job["channels"],
    multipliers=tuple(job["multipliers"]),
    blocks=job["blocks"],
    attention=tuple(job["attention"]),
    out_channels=image[-1],
    dtype=dtype,
  )
  method = gaussian_diffusion(
    network, diffusion.linear(1000), Spec(image), optax.adam(1e-3), sampler=Sampler(steps=steps)
  )
  method = averaged(method, 0.999)
  rng = np.random.default_rng(0)
  updates = job["updates"]
  raws = {
    "image": rng.uniform(-1, 1, (updates, batch, *image)).astype(np.float32),
    "index": np.tile(np.arange(batch, dtype=np.int32), (updates, 1)),
  }
  spec = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in raws.items()}
  program = Program(method, spec, make_mesh(), updates=updates)
  start = time.perf_counter()
  state = jax.block_until_ready(program.init(0, {k: v[0] for k, v in raws.items()}))
  init_seconds = time.perf_counter() - start

  # Multiplications and additions of the network as it is defined, not as it is computed: strided convolutions are
  # strided. A gradient is two more passes.
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.params["network"])
  x, t = jax.ShapeDtypeStruct((batch, *image), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.float32)
  forward = flops_of(jax.make_jaxpr(lambda p, x, t: network.apply({"params": p}, x, t))(params, x, t).jaxpr)

  if job["task"] == "training":
    flops, batches = 3 * forward, program.put_many(raws)

    def turn() -> float:
      nonlocal state
      start = time.perf_counter()
      state, metrics = program.dispatch(state, batches, updates)
      jax.block_until_ready((state, metrics))
      return time.perf_counter() - start
  else:
    flops, keys = steps * forward, jax.random.split(jax.random.key(1), batch)

    def turn() -> float:
      start = time.perf_counter()
      jax.block_until_ready(program.sample(state, keys, {}))
      return time.perf_counter() - start

  first_call = turn()
  turn()
  device = jax.devices()[0]
  facts = {
    "parameters": sum(p.size for p in jax.tree.leaves(params)),
    "flops": flops,
    "init_seconds": init_seconds,
    "first_call": first_call,
    "peak_flops": matmul_peak(dtype, device.platform),
    "device": device.device_kind,
    "devices": jax.device_count(),
    "versions": {"jax": jax.__version__},
    "flags": os.environ.get("XLA_FLAGS", ""),
  }

  def end() -> dict:
    on_device = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {"peak_memory": on_device or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

  return facts, turn, end


def matmul_peak(dtype, platform: str) -> float:
  """Multiplications and additions per second of one device in the product of two large matrices."""
  import jax
  import jax.numpy as jnp

  n = 2048 if platform == "cpu" else 8192
  a = jnp.ones((n, n), dtype)
  multiply = jax.jit(lambda a: a @ a)
  seconds = []
  for _ in range(10):
    start = time.perf_counter()
    jax.block_until_ready(multiply(a))
    seconds.append(time.perf_counter() - start)
  return 2 * n**3 / min(seconds)


if __name__ == "__main__":
  compare.serve(prepare)
