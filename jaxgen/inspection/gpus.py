"""GPUs that are not there, for XLA's compiler: the description that it gets instead of asking a device."""

import importlib.util

import jax

from jaxgen.core.errors import UserError

# In the text form of XLA's `GpuTargetConfigProto`, by NVIDIA's data sheet and CUDA's tables for compute capability 9.0.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84978434048
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
KINDS = {"h100": H100}
HOST = 8  # GPUs of a machine


def gpus(kind: str, count: int) -> list:
  """The devices of so many GPUs, 8 in a machine.

  Raises:
    UserError: the compiler is not installed, or the number is none of whole machines.
  """
  if importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
    raise UserError(
      f"--target gpu:{kind}:{count} is compiled for by the GPUs' compiler, which is not installed: it needs no GPU, "
      "pip install 'jaxgen[aot-gpu]'"
    )
  if count > HOST and count % HOST:
    raise UserError(f"--target gpu:{kind}:{count}: more than {HOST} GPUs are whole machines of {HOST}")
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)
  jax.devices()  # finds the plugin
  from jax.experimental import topologies

  shape = f"1x{max(1, count // HOST)}x{min(count, HOST)}"
  try:
    described = topologies.get_topology_desc(
      platform="cuda", topology_name="", target_config=KINDS[kind], topology=shape
    )
  except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
    raise UserError(f"the GPUs' compiler does not start: {str(error).splitlines()[0]}") from error
  return list(described.devices)
