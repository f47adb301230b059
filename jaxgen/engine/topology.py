"""Which device stands where in a mesh, so that those that talk most are neighbours.

Axes are ordered by how much their devices send each other: `data` once a step, `fsdp` for each block, `tensor` several
times within it. TPUs are arranged by their links (`jax.experimental.mesh_utils`); several slices, which a slower
network connects, share the first axis that they divide; if they divide neither, devices are taken slice by slice. GPUs
and CPUs are taken in the order of their processes, whose devices are neighbours.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from jaxgen.core.errors import UserError


def arranged(devices: Sequence[Any], shape: tuple[int, int, int]) -> np.ndarray:
  """The devices as an array of a mesh's shape, (data, fsdp, tensor).

  Raises:
    UserError: devices that share heads and hidden layers would be in several slices.
  """
  devices = sorted(devices, key=lambda device: (device.process_index, device.id))
  if devices[0].platform != "tpu" or len(devices) == 1:
    return np.array(devices).reshape(shape)
  devices.sort(key=lambda device: getattr(device, "slice_index", 0))  # and within a slice as before
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  outer = _over_slices(shape, slices)
  if outer is None:
    return np.array(devices).reshape(shape)
  inner = tuple(size // count for size, count in zip(shape, outer, strict=True))
  options = dict(allow_split_physical_axes=True)
  try:
    if slices == 1:
      return mesh_utils.create_device_mesh(shape, devices, **options)
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, **options)
  except (AssertionError, NotImplementedError, ValueError, jax.errors.JaxRuntimeError):
    # Not all of a slice, such as the devices of one host of it, which are no box.
    return np.array(devices).reshape(shape)


def _over_slices(shape: tuple[int, int, int], slices: int) -> tuple[int, int, int] | None:
  """Into how many parts the slices divide each axis; None if that is impossible. `tensor` stays within a slice."""
  data, fsdp, tensor = shape
  if data % slices == 0:
    return slices, 1, 1
  if slices % data == 0 and fsdp % (slices // data) == 0:
    return data, slices // data, 1
  if data * fsdp * tensor // slices % tensor == 0:
    return None
  raise UserError(
    f"--tensor {tensor} with --fsdp {fsdp} would go between the {slices} slices, whose network is slow: "
    "give numbers that divide a slice's devices"
  )
