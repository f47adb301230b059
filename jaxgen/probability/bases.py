"""Base distributions of normalising flows: latents with independent, identically distributed entries."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array


class Base(NamedTuple):
  """A distribution of one entry.

  Attributes:
    log_density: z -> the log-density of each entry, in nats.
    draw: (key, shape) -> an array of that shape.
  """

  log_density: Callable[[Array], Array]
  draw: Callable[[Array, tuple[int, ...]], Array]


gaussian = Base(lambda z: -0.5 * (z**2 + math.log(2 * math.pi)), jax.random.normal)
logistic = Base(lambda z: -jax.nn.softplus(z) - jax.nn.softplus(-z), jax.random.logistic)
BASES = {"gaussian": gaussian, "logistic": logistic}
