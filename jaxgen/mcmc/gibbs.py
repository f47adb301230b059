"""Gibbs sampling of two blocks of variables, which draws x given y and y given x in turn; Geman and Geman 1984."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.keys import split
from jaxgen.mcmc import Kernel

Draw = Callable[[Key[Array, " chains"], Array], Array]  # (keys, the other block [chains, ...]) -> [chains, ...]


class Positions(NamedTuple):
  """The state of the chains.

  Attributes:
    x: positions, [chains, ...].
  """

  x: Array


def gibbs(draw_y: Draw, draw_x: Draw) -> Kernel:
  """x -> y -> x', y ~ p(y | x) and x' ~ p(x' | y). Such a step satisfies detailed balance with p(x).

  Args:
    draw_y, draw_x: draw from the two conditionals, chain i from keys[i].
  """

  def step(carry: Positions, keys: Key[Array, " chains"]) -> tuple[Positions, Float[Array, " chains"]]:
    y_keys, x_keys = split(keys)
    x = draw_x(x_keys, draw_y(y_keys, carry.x))
    return Positions(x), jnp.ones(len(x), x.dtype)

  return Kernel(Positions, step)
