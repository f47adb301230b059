"""Gibbs sampling of restricted Boltzmann machines (`jaxgen.nn.energy.rbm`), and examples as their visible units."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.method import Params
from jaxgen.mcmc import Kernel
from jaxgen.mcmc.gibbs import gibbs
from jaxgen.nn.energy.rbm import RBM

Visible = Float[Array, "batch D"]
Event = Float[Array, "batch *shape"]


def kernel(network: RBM, params: Params, beta: Any = 1.0, base: Array | None = None) -> Kernel:
  """The Gibbs kernel T for x = v [chains, D], of (R7) at the inverse temperature `beta`."""
  apply = partial(network.apply, {"params": params})
  return gibbs(
    lambda keys, v: apply(keys, v, beta, base, method="draw_hidden"),
    lambda keys, h: apply(keys, h, beta, base, method="draw_visible"),
  )


def to_visible(network: RBM, x: Event | np.ndarray) -> Visible:
  """Examples -> visible units. Binary values -1 and 1 become 0 and 1."""
  v = jnp.asarray(x).reshape(len(x), -1)
  return (v + 1) / 2 if network.units.levels == 2 else v


def from_visible(network: RBM, v: Float[Array, "*batch D"], shape: tuple[int, ...]) -> Float[Array, "*rest"]:
  """The inverse of `to_visible`."""
  x = 2 * v - 1 if network.units.levels == 2 else v
  return x.reshape(*x.shape[:-1], *shape)
