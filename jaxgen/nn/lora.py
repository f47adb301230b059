"""LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685, eq. 3: a kernel W becomes W + alpha / r B A, of rank r.

It works on parameters, of any network: kernels of dense layers and convolutions, those that a loop runs over too.
Queries, keys and values that lie side by side each have their own pair, as if they were three layers.

    adapter = LoRA(rank=4)
    lora = adapter.init(key, params)                           B = 0: nothing is changed yet
    network.apply({"params": adapter.merged(params, lora)}, ..)
"""

import re
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide_dtype
from jaxgen.core.errors import UserError

ATTENTION = r"(^|/)(attention|context)/(qkv|q|kv|out)/kernel$"  # that of a U-Net to a text and to itself
_PARTS = {"qkv": 3, "kv": 2}


class LoRA(NamedTuple):
  """Which kernels are adapted, and how.

  Attributes:
    rank: r; the largest of a file that has several.
    alpha: the factor of B A is alpha / rank; None: 1.
    where: a regular expression that paths of adapted kernels contain; by default of all attention layers.
  """

  rank: int
  alpha: float | None = None
  where: str = ATTENTION
  name = "lora"  # where it stands beside a network's parameters
  copied = None  # of a network that was trained before, nothing

  def split(self, key: Array, params: Any) -> tuple[Any, dict]:
    """(the network's parameters, all of which stay, the adapter's)."""
    return params, self.init(key, params)

  @property
  def scale(self) -> float:
    return 1.0 if self.alpha is None else self.alpha / self.rank

  def paths(self, params: Any) -> list[str]:
    """The paths of the kernels that are adapted, in order.

    Raises:
      UserError: there is none, one is no kernel of these kinds, or the rank is below 1 or above a kernel's.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    found = [path for path in flat if re.search(self.where, path)]
    if not found:
      kernels = [path for path in flat if path.endswith("kernel")]
      raise UserError(
        f"LoRA needs kernels whose path contains {self.where!r}, and there are none: {', '.join(kernels)}"
      )
    for path in found:
      *_, inputs, outputs = flat[path].shape if flat[path].ndim > 1 else (0, 0)
      if not path.endswith("kernel") or flat[path].ndim > 4:
        raise UserError(f"LoRA is of kernels, and {path} is of shape {flat[path].shape}: change `where`")
      if not 1 <= self.rank <= min(inputs, outputs // parts(path)):
        raise UserError(
          f"LoRA of rank {self.rank} for {path}, a kernel of {inputs} x {outputs // parts(path)}: choose a rank of at "
          "least 1 and at most the smaller of both"
        )
    return found

  def init(self, key: Array, params: Any) -> dict:
    """A uniform with variance 1 / (3 inputs), as PEFT's, and B = 0, by path: the parameters of the adapter.

    They are float32 or wider, whatever the kernels are: half precision rounds small updates away.
    """
    flat, lora = flax.traverse_util.flatten_dict(params, sep="/"), {}
    for number, path in enumerate(self.paths(params)):
      kernel, count = flat[path], parts(path)
      dtype = wide_dtype(kernel.dtype)
      *stack, inputs, outputs = kernel.shape
      if kernel.ndim == 4:  # a convolution: its window is A's
        down, up = (count, *stack, inputs, self.rank), (count, self.rank, outputs // count)
      else:
        down, up = (*stack, count, inputs, self.rank), (*stack, count, self.rank, outputs // count)
      window = stack if kernel.ndim == 4 else []
      bound = 1 / jnp.sqrt(inputs * jnp.prod(jnp.asarray(window, float)))
      a = jax.random.uniform(jax.random.fold_in(key, number), down, dtype, -1, 1) * bound.astype(dtype)
      lora[path] = {"a": a, "b": jnp.zeros(up, dtype)}
    return flax.traverse_util.unflatten_dict(lora, sep="/")

  def merged(self, params: Any, lora: Any, factor: float = 1.0) -> Any:
    """The parameters with W + factor alpha / r B A in the kernels' place, in their dtypes.

    Args:
      params: the network's.
      lora: the adapter's.
      factor: the factor of the adapter; -1 removes a merged one, up to the rounding of two sums: who wants the
        bits back keeps `params`.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    for path, pair in pairs(lora).items():
      if path not in flat:
        raise UserError(f"the adapter has {path}, which the network does not have: it is of another network")
      dtype = wide_dtype(flat[path].dtype)
      delta = product(*(jnp.asarray(pair[part], dtype) for part in "ab"), flat[path].ndim == 4)
      flat[path] = (flat[path].astype(dtype) + factor * self.scale * delta).astype(flat[path].dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def parts(path: str) -> int:
  """The number of layers that lie side by side in a kernel."""
  return _PARTS.get(path.split("/")[-2], 1)


def pairs(lora: Any) -> dict[str, dict[str, Any]]:
  """{a kernel's path: {"a": A, "b": B}}."""
  flat = flax.traverse_util.flatten_dict(lora, sep="/")
  return {path[:-2]: {"a": flat[path], "b": flat[f"{path[:-2]}/b"]} for path in flat if path.endswith("/a")}


def product(a: Array, b: Array, convolution: bool) -> Float[Array, "... inputs outputs"]:
  """B A, as the kernel: A [.., parts, inputs, r] and B [.., parts, r, outputs], or A [parts, h, w, inputs, r]."""
  # p: parts, i: inputs, o: a part's outputs
  y = jnp.einsum("phwir,pro->hwipo", a, b) if convolution else jnp.einsum("...pir,...pro->...ipo", a, b)
  return y.reshape(*y.shape[:-2], -1)
