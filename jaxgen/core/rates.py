"""Optimizers that report their learning rate, so that training can log it."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array


class Scheduled(optax.GradientTransformation):
  """A gradient transformation that reports its learning rate; `scheduled` makes one.

  Attributes:
    rate: the learning rate by the count of updates.
  """

  rate: optax.Schedule


def scheduled(optimizer: optax.GradientTransformation, rate: optax.Schedule | None) -> optax.GradientTransformation:
  """The same optimizer, which says that its learning rate is `rate` of its number of updates; of None it says nothing.

  `optax.chain` and the like forget it: call this on what they return.
  """
  if rate is None:
    return optimizer
  said = Scheduled(*optimizer)
  said.rate = rate
  return said


def learning_rate(optimizer: optax.GradientTransformation, state: Any) -> dict[str, Array]:
  """{"learning_rate": of the next update, []}; {} if the optimizer says none or does not count its updates.

  Args:
    optimizer: any; one of optax's `inject_hyperparams` says its rate as well.
    state: the optimizer's, from before the update.
  """
  rate = getattr(optimizer, "rate", None)
  if rate is None:
    injected = optax.tree_utils.tree_get_all_with_path(state, "learning_rate")
    return {"learning_rate": injected[0][1]} if injected else {}
  counts = optax.tree_utils.tree_get_all_with_path(state, "count")
  return {"learning_rate": jnp.asarray(rate(counts[0][1]))} if counts else {}
