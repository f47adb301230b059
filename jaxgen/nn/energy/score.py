"""Scores of energies: a network that gives one number per example made into one that gives vectors."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float


class Score(nn.Module):
  """-grad E(x) of an energy network, x [B, ...] -> [B, ...]: the score of exp(-E).

  What else the network takes (noise levels, labels) is handed on, so that an energy may stand wherever a score network
  does: in `methods.energy.score_matching`, and with the prediction "score" in `methods.diffusion.gaussian`.

  Attributes:
    energy: x, ... -> [B], each a function of its own example.
  """

  energy: Any

  def __call__(self, x: Float[Array, "batch *shape"], *args, **kwargs) -> Float[Array, "batch *shape"]:
    (gradient,) = nn.grad(lambda energy, x: energy(x, *args, **kwargs).sum(), self.energy, x)
    return -gradient

  def energies(self, x: Float[Array, "batch *shape"], *args, **kwargs) -> Array:
    return self.energy(x, *args, **kwargs)
