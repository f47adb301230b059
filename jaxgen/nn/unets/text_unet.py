"""A U-Net that reads a text by itself: a tower for tokens, a `CrossUNet`, and optionally a ControlNet.

The text tower is a part of the network and learns with it, as in Rombach et al. 2022,
https://arxiv.org/abs/2112.10752, section 4.3.1.

    TextUNet(TextTower(1_000, clip(64, 4, 2, context=24), end=2), CrossUNet(32, (1, 2), 1, (0, 1), out_channels=3))
"""

from collections.abc import Mapping

from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError
from jaxgen.nn.joint.text import TextTower
from jaxgen.nn.unets.controlnet import ControlNet, controlled
from jaxgen.nn.unets.cross import CrossUNet


class TextUNet(nn.Module):
  """A network of x_t, a time and tokens.

  Attributes:
    text, unet, control: the parts, by their names in the parameters; without a ControlNet control is None.
    scale: the factor of the ControlNet's outputs, unless examples have their own, "scale" [B].
  """

  text: TextTower
  unet: CrossUNet
  control: ControlNet | None = None
  scale: float = 1.0

  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width out_channels"]:
    """The U-Net's output.

    Args:
      x, t, index: as in `CrossUNet`.
      told: "tokens" [B, T], and what else the U-Net is told; with a ControlNet "control", its picture.

    Raises:
      UserError: there are no tokens, or there is no picture for a ControlNet.
    """
    if not isinstance(told, Mapping) or "tokens" not in told:
      raise UserError("this network reads 'tokens': take the condition entries({'tokens': ..})")
    text = self.text(told["tokens"], index=index)
    rest = {name: value for name, value in told.items() if name != "tokens"}
    rest |= {"text": text.tokens} | ({} if self.unet.micro is None else {"pooled": text.whole})
    if self.control is not None:
      if "control" not in rest:
        raise UserError("a network with a ControlNet needs 'control', a picture: add it to the condition's entries")
      rest = controlled(self.control, x, t, rest, index, self.scale)
    return self.unet(x, t, rest, index)
