"""ControlNet: Zhang et al. 2023, https://arxiv.org/abs/2302.05543, section 3: spatial control by a picture.

The way down and the middle of a `CrossUNet` once more, which also see the picture. Their outputs go through 1x1
convolutions that are initialised with zeros, and are added to the U-Net's maps: at its start a ControlNet changes
nothing.

    network = Controlled(CrossUNet(**SIZES["SD 1"]), ControlNet(**SIZES["SD 1"]))      361,279,120 in the ControlNet
    params["control"] = started(params["control"], params["network"])                  from a trained U-Net
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.layers import Conv
from jaxgen.nn.unets.cross import CrossUNet, _CrossUNet


class ControlNet(_CrossUNet):
  """The additions to the maps of a `CrossUNet`; its attributes are those of `_CrossUNet`, and one more.

  Attributes:
    hint: widths of the convolutions that the picture goes through; each but the first halves it.
  """

  hint: Sequence[int] = (16, 32, 96, 256)

  @property
  def maps(self) -> int:
    """The number of maps of the way down."""
    return len(self.multipliers) * (self.blocks + 1)

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    picture: Float[Array, "batch h w c"],
    index: Int[Array, "batch"] | None = None,
  ) -> list[Array]:
    """The additions to each map of the way down, the largest first, and to the middle.

    Args:
      x, t, told, index: as in `CrossUNet`.
      picture: as many times larger than x as the hint's convolutions halve it; published weights take values in [0, 1].

    Raises:
      UserError: the condition has other entries, or the picture has another size.
    """
    self.check(told)
    factor = 2 ** (len(self.hint) - 1)
    wanted = tuple(factor * side for side in x.shape[1:3])
    if picture.shape[1:3] != wanted:
      raise UserError(
        f"a ControlNet's picture is {factor} times as large as what the network sees, {wanted[0]} x {wanted[1]}, not "
        f"{picture.shape[1]} x {picture.shape[2]}: resize it"
      )
    h, number = nn.silu(self.conv(self.hint[0], "hint_in")(picture.astype(x.dtype))), 0
    for before, after in zip(self.hint[:-1], self.hint[1:], strict=True):
      h = nn.silu(self.conv(before, f"hint_{number}")(h))
      h = nn.silu(self.conv(after, f"hint_{number + 1}", stride=2, padding=((1, 1), (1, 1)))(h))
      number += 2
    h = self.zero(self.channels, "hint_out", 3)(h)
    h = self.conv(self.channels, "in")(x) + h
    h, maps = self.down(h, self.heard(t, told), index)
    named = [*((f"zero_{i}", value) for i, value in enumerate(maps)), ("zero_middle", h)]
    return [self.zero(value.shape[-1], name, 1)(value) for name, value in named]

  def zero(self, features: int, name: str, kernel: int) -> Conv:
    """A convolution that starts at zero."""
    return Conv(features, kernel, kernel_init=nn.initializers.zeros, name=name, **self.dtypes())


class Controlled(nn.Module):
  """A `CrossUNet` with a `ControlNet`: told what the first is told, and "control", the picture.

  Attributes:
    network, control: both, "network" and "control" in the parameters.
    scale: the factor of the additions, unless examples have their own, "scale" [B].
  """

  network: CrossUNet
  control: ControlNet
  scale: float = 1.0

  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width out_channels"]:
    """The network's output, as `CrossUNet`'s. Raises a UserError if there is no picture."""
    if not isinstance(told, Mapping) or "control" not in told:
      raise UserError("a network with a ControlNet needs 'control', a picture: add it to the condition's entries")
    return self.network(x, t, controlled(self.control, x, t, told, index, self.scale), index)


def controlled(
  control: ControlNet, x: Array, t: Array, told: Mapping[str, Any], index: Any, scale: float
) -> dict[str, Any]:
  """What a `CrossUNet` is told with a ControlNet beside it: "residuals" in place of "control" and "scale".

  Args:
    control, x, t, index: the ControlNet, and what it is called with.
    told: with "control", the picture, and optionally "scale" [B], each example's factor of the additions.
    scale: the factor where there is no "scale".
  """
  rest = {name: value for name, value in told.items() if name not in ("control", "scale")}
  more = control(x, t, {name: value for name, value in rest.items() if name != "picture"}, told["control"], index)
  factor = lambda value: per_example(jnp.asarray(told.get("scale", scale), value.dtype), value)
  return {**rest, "residuals": [factor(value) * value for value in more]}


def shared(network: Mapping[str, Any]) -> dict[str, Any]:
  """The parameters of a `CrossUNet` that a ControlNet has too: all but the way up and the output."""
  return {name: value for name, value in network.items() if not name.startswith(("up_", "out"))}


def started(control: Any, network: Any) -> dict[str, Any]:
  """A ControlNet's parameters, those that it shares with a U-Net from there: the paper's trainable copy.

  Args:
    control: as they are initialised.
    network: the U-Net's.
  """
  copied = shared(network)
  return {name: copied.get(name, value) for name, value in control.items()}
