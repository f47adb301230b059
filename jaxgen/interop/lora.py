"""LoRA files: tensors of diffusers and PEFT, as they write them today and did before, and of kohya's scripts.

    NAME.lora_A.weight, NAME.lora_B.weight                    PEFT, diffusers; NAME begins with "unet."
    NAME.lora.down.weight, NAME.lora.up.weight                diffusers before
    lora_unet_NAME.lora_down.weight, .lora_up.weight, .alpha  kohya, with _ for .

NAME is the layer's name in the network's layout, from which the paths here follow. These files have no alpha / rank,
except kohya's: writing multiplies it into B, and so does reading.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.interop.layout import Entry
from jaxgen.nn.lora import LoRA, pairs, parts

PREFIX = "unet."
_WAYS = {"lora_A": "a", "lora.down": "a", "lora_down": "a", "lora_B": "b", "lora.up": "b", "lora_up": "b"}


class Layout(NamedTuple):
  """A LoRA file of a run that learns one: `Experiment.layouts`, for `jaxgen export`.

  Attributes:
    layout: the network's, as `cross_unet.diffusers` gives it.
    adapter: which it is.
    prefix: before the layers' names.
  """

  layout: Sequence[Entry]
  adapter: LoRA
  prefix: str = PREFIX

  def tensors(self, lora: Any, params: Any) -> dict[str, np.ndarray]:
    """See `write`."""
    return write(self.layout, self.adapter, lora, params, self.prefix)


def _kernels(layout: Sequence[Entry]) -> dict[str, tuple[list[str], Entry]]:
  """{our kernel's path: (the names of its layers there, its entry)}."""
  found = {}
  for entry in layout:
    path = entry.ours.removeprefix("params/")
    if path.endswith("/kernel"):
      found[path] = [name.removesuffix(".weight") for name in entry.theirs], entry
  return found


def write(
  layout: Sequence[Entry], adapter: LoRA, lora: Any, params: Any, prefix: str = PREFIX
) -> dict[str, np.ndarray]:
  """The tensors of a LoRA file, as PEFT and diffusers read it.

  Args:
    layout: the network's, as `cross_unet.diffusers` gives it.
    adapter: which it is.
    lora: its parameters.
    params: the network's, or their shapes.
    prefix: before the layers' names: "unet.", "transformer.", "text_encoder.".

  Raises:
    UserError: the layout keeps queries, keys and values in one layer.
  """
  kernels, shapes = _kernels(layout), flax.traverse_util.flatten_dict(params, sep="/")
  tensors = {}
  for path, pair in pairs(lora).items():
    names, entry = kernels[path]
    shape, rows = shapes[path].shape, lambda x: np.asarray(x, np.float32).reshape(-1, *x.shape[-2:])
    window, b = len(shape) == 4, rows(pair["b"])
    a = np.asarray(pair["a"], np.float32) if window else rows(pair["a"])
    if len(a) != len(names):
      raise UserError(f"this layout keeps the {parts(path)} layers of {path} in one, and LoRA has each: use diffusers'")
    for name, down, up in zip(names, a, b, strict=True):
      up = up.T * adapter.scale
      down = down.transpose(3, 2, 0, 1) if window else down.T
      # A dense layer here may be a 1x1 convolution there.
      ones = (1, 1) if entry.split(np.broadcast_to(np.zeros((), np.int8), shape))[0].ndim == 4 else ()
      down = down if window else down.reshape(*down.shape, *ones)
      tensors[f"{prefix}{name}.lora_A.weight"] = np.ascontiguousarray(down)
      tensors[f"{prefix}{name}.lora_B.weight"] = np.ascontiguousarray(up).reshape(*up.shape, *ones)
  return tensors


def read(layout: Sequence[Entry], tensors: Mapping[str, np.ndarray], params: Any) -> tuple[LoRA, dict]:
  """(the adapter, its parameters) of a LoRA file.

  Layers of a kernel that the file leaves out get B = 0, and smaller ranks zeros.

  Args:
    layout: the network's, as `cross_unet.diffusers` gives it.
    tensors: the file's.
    params: the network's, or their shapes.

  Raises:
    UserError: a tensor that does not belong to a layer of the network, has another shape, or lacks its other half.
  """
  kernels = _kernels(layout)
  layers = {name: path for path, (names, _) in kernels.items() for name in names}
  kohya = {name.replace(".", "_"): name for name in layers}
  found: dict[str, dict[str, np.ndarray]] = {}
  for name, tensor in tensors.items():
    match = re.fullmatch(r"(.+?)\.(lora_A|lora_B|lora\.down|lora\.up|lora_down|lora_up)\.weight|(.+)\.(alpha)", name)
    stem = match and (match[1] or match[3])
    layer = stem and (kohya.get(stem.removeprefix("lora_unet_")) or re.sub(r"^(unet|transformer)\.", "", stem))
    if layer not in layers:
      raise UserError(f"the network has no layer for the tensor {name!r}: the LoRA is of another network or layout")
    found.setdefault(layer, {})[_WAYS.get(match[2], "alpha")] = np.asarray(tensor, np.float32)
  for layer, pair in found.items():
    if not {"a", "b"} <= pair.keys():
      raise UserError(f"the LoRA has one half of {layer} alone: take a whole file")
  if not found:
    raise UserError("the file has no LoRA: no tensor ends with lora_A.weight, lora.down.weight or lora_down.weight")
  rank = max(pair["a"].shape[0] for pair in found.values())
  shapes, lora = flax.traverse_util.flatten_dict(params, sep="/"), {}
  for path in sorted({layers[layer] for layer in found}):
    names, _ = kernels[path]
    *outer, inputs, outputs = shapes[path].shape
    window = outer if len(outer) == 2 else []
    stack, count = ([] if window else outer), parts(path)
    a = np.zeros((len(names), *window, inputs, rank), np.float32)
    b = np.zeros((len(names), rank, outputs // count), np.float32)
    for number, name in enumerate(names):
      if (pair := found.get(name)) is None:
        continue
      r = pair["a"].shape[0]
      down, up = pair["a"], pair["b"].reshape(pair["b"].shape[:2]) * (pair.get("alpha", r) / r)
      down = down.transpose(2, 3, 1, 0) if window else down.reshape(r, -1).T
      if down.shape != (*window, inputs, r) or up.shape != (outputs // count, r):
        raise UserError(
          f"the LoRA of {name} is of {pair['a'].shape} and {pair['b'].shape}, and the layer has {inputs} inputs and "
          f"{outputs // count} outputs: it is of another network"
        )
      a[number, ..., :r], b[number, :r] = down, up.T
    if not window:
      a, b = (x.reshape(*stack, count, *x.shape[1:]) for x in (a, b))
    lora[path] = {"a": a, "b": b}
  where = "|".join(f"^{re.escape(path)}$" for path in lora)
  return LoRA(rank, None, where), flax.traverse_util.unflatten_dict(lora, sep="/")
