"""A U-Net that is told a text's features, and the text tower that reads it, trained together: text to image at home.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.3: the tower is tau_theta. The network is told tokens.

    Captioned(CrossUNet(..), TextTower(1_000, options, causal=False))
"""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError
from jaxgen.nn.joint.text import TextTower
from jaxgen.nn.unets.cross import CrossUNet


class Captioned(nn.Module):
  """Both networks.

  Attributes:
    unet: told "text", the features of every token.
    tower: reads the tokens.
  """

  unet: CrossUNet
  tower: TextTower

  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
    **options: Any,
  ) -> Float[Array, "batch height width channels"]:
    """The U-Net's output at x [B, H, W, C] and times t [B].

    Args:
      told: "tokens" [B, T], and what else the U-Net is told.

    Raises:
      UserError: it is not told tokens.
    """
    if not isinstance(told, dict) or "tokens" not in told:
      raise UserError("this network is told 'tokens': take the condition entries({'tokens': ..})")
    rest = {name: value for name, value in told.items() if name != "tokens"}
    return self.unet(x, t, {**rest, "text": self.tower(told["tokens"]).tokens.astype(x.dtype)}, index, **options)
