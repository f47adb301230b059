"""Conditions: what a network is conditioned on, such as a class, a text or a picture, or several of them.

A `Condition` says how to read it from a batch, which value stands for "no condition", and how often training drops it.
Networks receive the pytree as it is. Guidance, dropout and sampling only use the fact that its leaves are [B, ...].

    labels(spec, dropout=0.1)                                            a class, or none for one example in ten
    entries({"tokens": jnp.zeros(16, jnp.int32), "token_mask": ...})     a text and which of its tokens are there
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec

Told = PyTree  # the values of a condition, a network's input, leaves [B, ...]; None: the network is unconditional


class Condition(NamedTuple):
  """A condition of a network, by example.

  Attributes:
    names: the batch's entries that `read` uses. `sample` takes arguments of the same names.
    read: batch -> the condition's values, the network's input: a pytree with leaves [B, ...].
    nothing: one example's pytree, leaves [...], that stands for "no condition".
    dropout: the probability that training drops an example's condition. Classifier-free guidance needs it above 0.
    draw: keys [N] -> conditions for samples that are requested without any; None: a request must give them.
    check: network -> None; raises a UserError if the network does not fit this condition.
  """

  names: tuple[str, ...]
  read: Callable[[Mapping[str, Any]], Told]
  nothing: PyTree
  dropout: float = 0.0
  draw: Callable[[Key[Array, " n"]], Told] | None = None
  check: Callable[[Any], None] = lambda network: None

  def of(self, batch: Mapping[str, Any]) -> Told:
    """The condition's values for a batch.

    Raises:
      UserError: the batch lacks an entry.
    """
    missing = [name for name in self.names if name not in batch]
    if missing:
      raise UserError(
        f"the model's condition needs {' and '.join(map(repr, missing))}, which this data does not have: use other "
        "data, or no condition"
      )
    return self.read(batch)

  def dropped(self, told: Told, keys: Key[Array, " batch"]) -> Told:
    """The values, of which each example's is replaced by `nothing` with probability `dropout`, drawn by its key."""
    if not self.dropout:
      return told
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, self.dropout))(keys)
    return jax.tree.map(lambda a, nothing: jnp.where(per_example(drop, a), nothing, a), told, self.nothing)

  def absent(self, told: Told) -> Told:
    """`nothing` for each example, in the shape of `told`."""
    like = lambda a, nothing: jnp.broadcast_to(jnp.asarray(nothing, jnp.result_type(a, nothing)), a.shape)
    return jax.tree.map(like, told, self.nothing)

  def asked(self, given: Mapping[str, Any], keys: Key[Array, " n"]) -> Told:
    """The condition's values for samples: the arguments of `sample`, or, without any, values from `draw`.

    Raises:
      UserError: some of the names are missing, or all are and there is no `draw`.
    """
    given = {name: jnp.asarray(given[name]) for name in self.names if given.get(name) is not None}
    if not given and self.draw is not None:
      return self.draw(keys)
    missing = [name for name in self.names if name not in given]
    if missing:
      raise UserError(f"samples of this model need {', '.join(self.names)}: give {', '.join(missing)}")
    return self.read(given)


UNCONDITIONAL = Condition((), lambda batch: None, None)


def labels(spec: Spec, dropout: float = 0.0) -> Condition:
  """The class, batch["label"] [B] in 0 .. classes - 1. If labels are dropped, the number `classes` stands for no label.

  Samples that are requested without labels draw them uniformly. A network with an attribute `classes` must have an
  embedding for each class, and one more for "no label" if labels are dropped.

  Raises:
    UserError: data without classes.
  """
  if spec.classes is None:
    raise UserError("a class-conditional model needs data with classes, and this data has none: use other data")
  needed = spec.classes + (dropout > 0)

  def check(network: Any) -> None:
    if getattr(network, "classes", needed) != needed:
      raise UserError(
        f"the network has embeddings for {network.classes} classes and the method needs {needed}"
        f"{', one of them for no label' if dropout else ''}: set the network's classes to that"
      )

  draw = lambda keys: jax.vmap(lambda key: jax.random.randint(key, (), 0, spec.classes))(keys)
  return Condition(("label",), lambda batch: batch["label"], np.int32(spec.classes), dropout, draw, check)


def entries(nothing: Mapping[str, Any], dropout: float = 0.0) -> Condition:
  """Several entries of a batch, as a dict with the same names: a text's tokens and their mask, a small picture.

  Args:
    nothing: one example's arrays by name, which stand for "no condition". All entries are dropped together.
    dropout: the probability that training drops an example's condition.
  """
  return Condition(tuple(nothing), lambda batch: {name: batch[name] for name in nothing}, dict(nothing), dropout)


def check_condition(condition: Condition, network: Any) -> None:
  """Raises a UserError if a condition's dropout is not a probability below 1, or the network does not fit it."""
  if not 0 <= condition.dropout < 1:
    raise UserError(f"a condition's dropout must be a probability below 1, not {condition.dropout:g}")
  condition.check(network)


def check_names(given: Mapping[str, Any], *conditions: Condition) -> None:
  """Raises a UserError if `sample` was given an argument that none of the conditions uses."""
  known = [name for condition in conditions for name in condition.names]
  unknown = [name for name, value in given.items() if value is not None and name not in known]
  if unknown:
    takes = f"takes {', '.join(known)}" if known else "is unconditional"
    raise UserError(f"this model {takes} and has no condition {', '.join(unknown)}: sample without it")
