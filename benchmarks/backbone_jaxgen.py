"""The process that times jaxgen's backbones for backbones.py, through the code that `jaxgen train` runs."""

import os
import resource
import time

import compare
from worker_jaxgen import matmul_peak


def prepare(job: dict):
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from jaxgen.core.spec import Spec
  from jaxgen.engine.flops import flops as flops_of
  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program
  from jaxgen.methods.supervised.classifier import classifier
  from jaxgen.nn.vision import resnet, vit

  dtype, batch, image, updates = jnp.dtype(job["dtype"]), job["batch"], tuple(job["image"]), job["updates"]
  network = {
    "resnet50": lambda: resnet.ResNet(**resnet.SIZES[50], dtype=dtype),
    "vit_base_patch16_224": lambda: vit.ViT(**vit.SIZES["B/16"], dtype=dtype),
  }[job["network"]]()
  method = classifier(network, spec=Spec(image, classes=1000), optimizer=optax.sgd(1e-3, momentum=0.9))
  rng = np.random.default_rng(0)
  raws = {
    "image": rng.normal(size=(updates, batch, *image)).astype(np.float32),
    "label": rng.integers(0, 1000, (updates, batch)).astype(np.int32),
    "index": np.tile(np.arange(batch, dtype=np.int32), (updates, 1)),
  }
  spec = {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for k, v in raws.items()}
  program = Program(method, spec, make_mesh(), updates=updates)
  start = time.perf_counter()
  state = jax.block_until_ready(program.init(0, {k: v[0] for k, v in raws.items()}))
  init_seconds = time.perf_counter() - start

  variables = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), {"params": state.params["network"], **state.buffers}
  )
  x = jax.ShapeDtypeStruct((batch, *image), jnp.float32)
  forward = flops_of(jax.make_jaxpr(network.apply)(variables, x).jaxpr)

  if job["task"] == "training":
    flops, batches = 3 * forward, program.put_many(raws)

    def turn() -> float:
      nonlocal state
      start = time.perf_counter()
      state, metrics = program.dispatch(state, batches, updates)
      jax.block_until_ready((state, metrics))
      return time.perf_counter() - start
  else:
    apply, flops = jax.jit(network.apply), forward
    values, pictures = {"params": state.params["network"], **state.buffers}, jax.device_put(raws["image"][0])

    def turn() -> float:
      start = time.perf_counter()
      jax.block_until_ready(apply(values, pictures))
      return time.perf_counter() - start

  first_call = turn()
  turn()
  device = jax.devices()[0]
  facts = {
    "parameters": sum(p.size for p in jax.tree.leaves(variables["params"])),
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


if __name__ == "__main__":
  compare.serve(prepare)
