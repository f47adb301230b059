"""The score of an energy network, as a network itself."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float


class Score(nn.Module):
  """-grad E(x) of an energy network, x [B, ...] -> [B, ...]: the score of exp(-E).

  Further arguments (noise levels, labels) go to the energy network, so that it can be used like any score network: in
  `methods.energy.score_matching`, and with the prediction "score" in `methods.diffusion.gaussian`.

  Attributes:
    energy: x, ... -> [B], each a function of its example.
  """

  energy: Any

  def __call__(self, x: Float[Array, "batch *shape"], *args, **kwargs) -> Float[Array, "batch *shape"]:
    (gradient,) = nn.grad(lambda energy, x: energy(x, *args, **kwargs).sum(), self.energy, x)
    return -gradient

  def energies(self, x: Float[Array, "batch *shape"], *args, **kwargs) -> Array:
    return self.energy(x, *args, **kwargs)
