"""Inception-v3 as in the TensorFlow graph of 2015 that FID and the Inception Score are defined by.

Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, gives the architecture; the graph, and its copies in PyTorch
(pytorch-fid, torch-fidelity), differ from torchvision's `inception_v3` in four points:

- the mean pooling of a module counts no padded positions: a window at the border is divided by what it covers;
- the last module, Mixed_7c, pools by the maximum, not by the mean;
- there are 1,008 outputs, of which 1,000 are classes;
- there is no auxiliary head, and pictures come as (x - 128) / 128 for values x in 0..255.

Batch normalisation has eps 1e-3, and modules are named as in torchvision.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, average, max_pool

Dtype = Any
Pictures = Float[Array, "batch height width 3"]

# A branch of a module: its layers one after the other, (name, features, kernel (height, width), stride).
# "same" padding where the stride is 1, none where it is 2; a list instead of a layer means parallel layers.
Layer = tuple[str, int, tuple[int, int], int]


def _a(pool: int) -> tuple:
  """Figure 5 of the paper, on 35 x 35."""
  return (
    (("branch1x1", 64, (1, 1), 1),),
    (("branch5x5_1", 48, (1, 1), 1), ("branch5x5_2", 64, (5, 5), 1)),
    (("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 1)),
    ("mean", ("branch_pool", pool, (1, 1), 1)),
  )


def _c(width: int) -> tuple:
  """Figure 6, on 17 x 17."""
  return (
    (("branch1x1", 192, (1, 1), 1),),
    (("branch7x7_1", width, (1, 1), 1), ("branch7x7_2", width, (1, 7), 1), ("branch7x7_3", 192, (7, 1), 1)),
    (
      ("branch7x7dbl_1", width, (1, 1), 1),
      ("branch7x7dbl_2", width, (7, 1), 1),
      ("branch7x7dbl_3", width, (1, 7), 1),
      ("branch7x7dbl_4", width, (7, 1), 1),
      ("branch7x7dbl_5", 192, (1, 7), 1),
    ),
    ("mean", ("branch_pool", 192, (1, 1), 1)),
  )


def _e(pool: str) -> tuple:
  """Figure 7, on 8 x 8."""
  split = lambda name, *which: [(f"{name}{w}", 384, k, 1) for w, k in zip(which, ((1, 3), (3, 1)), strict=True)]
  return (
    (("branch1x1", 320, (1, 1), 1),),
    (("branch3x3_1", 384, (1, 1), 1), split("branch3x3_", "2a", "2b")),
    (("branch3x3dbl_1", 448, (1, 1), 1), ("branch3x3dbl_2", 384, (3, 3), 1), split("branch3x3dbl_", "3a", "3b")),
    (pool, ("branch_pool", 192, (1, 1), 1)),
  )


STEM: tuple[Any, ...] = (
  ("Conv2d_1a_3x3", 32, (3, 3), 2),
  ("Conv2d_2a_3x3", 32, (3, 3), 0),  # 0: stride 1 without padding
  ("Conv2d_2b_3x3", 64, (3, 3), 1),
  "halve",
  ("Conv2d_3b_1x1", 80, (1, 1), 1),
  ("Conv2d_4a_3x3", 192, (3, 3), 0),
  "halve",
)
MODULES: dict[str, tuple] = {
  "Mixed_5b": _a(32),
  "Mixed_5c": _a(64),
  "Mixed_5d": _a(64),
  "Mixed_6a": (
    (("branch3x3", 384, (3, 3), 2),),
    (("branch3x3dbl_1", 64, (1, 1), 1), ("branch3x3dbl_2", 96, (3, 3), 1), ("branch3x3dbl_3", 96, (3, 3), 2)),
    ("halve",),
  ),
  "Mixed_6b": _c(128),
  "Mixed_6c": _c(160),
  "Mixed_6d": _c(160),
  "Mixed_6e": _c(192),
  "Mixed_7a": (
    (("branch3x3_1", 192, (1, 1), 1), ("branch3x3_2", 320, (3, 3), 2)),
    (
      ("branch7x7x3_1", 192, (1, 1), 1),
      ("branch7x7x3_2", 192, (1, 7), 1),
      ("branch7x7x3_3", 192, (7, 1), 1),
      ("branch7x7x3_4", 192, (3, 3), 2),
    ),
    ("halve",),
  ),
  "Mixed_7b": _e("mean"),
  "Mixed_7c": _e("max"),
}
SMALLEST = 75  # px: the side of pictures of which the last map is one position


def layers() -> list[str]:
  """The paths of all convolutions, "Mixed_5b_branch1x1", in the graph's order."""
  names = [layer[0] for layer in STEM if layer != "halve"]
  for module, branches in MODULES.items():
    for branch in branches:
      for part in branch:
        for layer in part if isinstance(part, list) else [part]:
          if not isinstance(layer, str):
            names.append(f"{module}_{layer[0]}")
  return names


def mean_of_covered(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
  """The mean over windows of 3 x 3 positions, only over positions within the map."""
  sums = lambda v: lax.reduce_window(v, jnp.zeros((), v.dtype), lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
  return sums(x) / sums(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


POOLS = {
  "mean": mean_of_covered,
  "max": lambda x: max_pool(x, 3, 1, ((1, 1), (1, 1))),
  "halve": lambda x: max_pool(x, 3, 2, ((0, 0), (0, 0))),
}


class Inception(nn.Module):
  """Inception-v3 of the TensorFlow graph of 2015, for evaluation: 23,850,960 parameters.

  Attributes:
    classes: number of outputs.
  """

  classes: int = 1008
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Pictures) -> dict[str, Float[Array, "batch features"]]:
    """Features by name, of pictures (x - 128) / 128, in the graph 299 x 299.

    "64", "192", "768" and "2048": means over the positions after the first and second pooling, Mixed_6e and Mixed_7c;
    "2048" is the graph's pool_3, FID's features. "spatial": sFID's features, the first 7 channels of Mixed_6d's first
    branch at all positions, 17 * 17 * 7 = 2,023 (Nash et al. 2021, https://arxiv.org/abs/2103.03841, section 5.1, as in
    the evaluator of guided-diffusion). "logits_unbiased": the outputs without their bias, which the Inception Score
    uses. "logits": with it.

    Raises:
      UserError: pictures are smaller than 75 x 75.
    """
    if min(x.shape[1:3]) < SMALLEST:
      raise UserError(f"Inception-v3 takes pictures of 75 x 75 or more, not {x.shape[1]} x {x.shape[2]}: resize them")

    def conv(h: Array, layer: Layer, prefix: str = "") -> Array:
      name, features, kernel, stride = layer
      pads = tuple((k // 2, k // 2) if stride == 1 else (0, 0) for k in kernel)
      dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      h = Conv(features, kernel, max(stride, 1), pads, use_bias=False, name=f"{prefix}{name}", **dtypes)(h)
      return nn.relu(BatchNorm(eps=1e-3, name=f"{prefix}{name}_norm", **dtypes)(h, False))

    def branch(h: Array, parts: tuple, prefix: str) -> Array:
      for part in parts:
        if isinstance(part, str):
          h = POOLS[part](h)
        elif isinstance(part, list):
          h = jnp.concatenate([conv(h, layer, prefix) for layer in part], axis=-1)
        else:
          h = conv(h, part, prefix)
      return h

    found, h = {}, x.astype(self.dtype)
    for layer in STEM:
      h = POOLS[layer](h) if isinstance(layer, str) else conv(h, layer)
      if layer == "halve":
        found[str(h.shape[-1])] = average(h)
    for name, branches in MODULES.items():
      outputs = [branch(h, parts, f"{name}_") for parts in branches]
      if name == "Mixed_6d":
        found["spatial"] = outputs[0][..., :7].reshape(len(x), -1)
      h = jnp.concatenate(outputs, axis=-1)
      if name == "Mixed_6e":
        found["768"] = average(h)
    found["2048"] = average(h)
    head = Dense(self.classes, name="head", dtype=self.dtype, param_dtype=self.param_dtype)
    logits = head(found["2048"])
    bias = head.variables["params"]["bias"].astype(logits.dtype)
    return found | {"logits_unbiased": logits - bias, "logits": logits}
