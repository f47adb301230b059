"""Reads fixtures that keep a network by its publisher's names, one array each or all in one."""

import json
import pathlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def load(file: str, network: str) -> dict[str, dict[str, np.ndarray]]:
  """The arrays of one network: {"weight": {name: array}, "gradient": ..., "argument": ..}; "" names what has none."""
  found = {}
  with np.load(FIXTURES / file) as arrays:
    for key in arrays.files:
      prefix, group, *name = key.split("/", 2)
      if prefix != network or group.endswith("_shapes"):
        continue
      if f"{key}_shapes" not in arrays.files:
        found.setdefault(group, {})[name[0] if name else ""] = arrays[key]
      else:
        shapes = json.loads(str(arrays[f"{key}_shapes"]))
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
        parts = np.split(arrays[key], ends[:-1])
        found[group] = {n: part.reshape(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
  return found


def expected_of(arrays: dict) -> dict[str, np.ndarray]:
  """{"output/NAME": array, "gradient/NAME": array, ...}: what a comparison is made with."""
  groups = ("output", "gradient", "argument_gradient")
  return {f"{group}/{name}": array for group in groups for name, array in arrays.get(group, {}).items()}
