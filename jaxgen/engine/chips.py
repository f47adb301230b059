"""Data sheets of accelerators."""

from typing import NamedTuple


class Chip(NamedTuple):
  """The data sheet of one of jax's devices: a chip, and of v2, v3, v4 and 7x one of a chip's two cores.

  Attributes:
    flops: multiplications and additions a second in bfloat16.
    memory: bytes.
    link: bytes a second that it sends over all its links to other chips, in one direction.
    clock: cycles a second: flops / (2 x multipliers of its matrix units); None where that is not known.
    slices: some of its topologies.
  """

  flops: float
  memory: int
  link: float
  clock: float | None
  slices: str


GIB = 2**30
# By the pages of the versions under https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, which are of a chip.
# Links: half of the "bidirectional ICI bandwidth", 400 GB/s of v5e, 1200 of v5p and 7x, 800 of v6e; of v4 a chip's part
# of the pod's all-reduce bandwidth, 1.1 PB/s over 4,096; of v2 and v3 four links of 496 and 656 Gbit/s (Jouppi et al.
# 2020, "A domain-specific supercomputer for training deep neural networks").
CHIPS = {
  "v2": Chip(22.5e12, 8 * GIB, 124e9, 0.7e9, "2x2, 4x4, 8x8, 16x16"),
  "v3": Chip(61.5e12, 16 * GIB, 164e9, 0.94e9, "2x2, 4x4, 8x8, 16x16, 32x32"),
  "v4": Chip(137.5e12, 16 * GIB, 135e9, 1.05e9, "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 8x8x8"),
  "v5e": Chip(197e12, 16 * GIB, 200e9, 1.5e9, "2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
  "v5p": Chip(459e12, 95 * GIB, 600e9, 1.75e9, "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, 8x8x8, 8x8x16"),
  "v6e": Chip(918e12, 32 * GIB, 400e9, 1.75e9, "2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"),
  "tpu7x": Chip(1153e12, 96 * GIB, 300e9, None, "2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8"),
}


class Sheet(NamedTuple):
  """Dense FLOP/s of a device by its maker's data sheet.

  Attributes:
    bfloat16: with sums in float32.
    float32: of what XLA computes float32 products in by default, TF32 on a GPU and bfloat16 on a TPU.
    source: which document says so.
  """

  bfloat16: float
  float32: float
  source: str


A100 = "NVIDIA A100 Tensor Core GPU data sheet, 2021"
H100 = "NVIDIA H100 Tensor Core GPU data sheet, 2024, without sparsity"
H200 = "NVIDIA H200 Tensor Core GPU data sheet, 2024, without sparsity"
TPU = "Google Cloud TPU documentation, peak compute per chip"
# The first name that the device's kind begins with, in lower case, is it: longer names stand first.
SHEETS = {
  "nvidia a100": Sheet(312e12, 156e12, A100),
  "nvidia h100 pcie": Sheet(756e12, 378e12, H100),
  "nvidia h100 nvl": Sheet(835e12, 417e12, H100),
  "nvidia h100": Sheet(989e12, 494e12, H100),
  "nvidia h200 nvl": Sheet(836e12, 418e12, H200),
  "nvidia h200": Sheet(989e12, 494e12, H200),
  "tpu v4": Sheet(2 * CHIPS["v4"].flops, 2 * CHIPS["v4"].flops, TPU),  # both cores of a chip are one device
  # v5e calls itself "TPU v5 lite", v5p "TPU v5" and v6e "TPU v6 lite".
  **{
    f"tpu {kind}": Sheet(CHIPS[chip].flops, CHIPS[chip].flops, TPU)
    for kind, chip in (("v5 lite", "v5e"), ("v5e", "v5e"), ("v5", "v5p"), ("v6", "v6e"))
  },
}


def data_sheet(kind: str) -> Sheet | None:
  """The data sheet of a device by its `device_kind`; None where there is none here, as of a CPU."""
  return next((found for name, found in SHEETS.items() if kind.lower().startswith(name)), None)
