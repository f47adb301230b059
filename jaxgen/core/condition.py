"""What a network is told of an example: its class, a text, a picture, several at once.

A `Condition` says how to read it from a batch, which value stands for "no condition", and how often training drops it.
Networks receive the pytree as it is. Guidance, dropout and sampling only use the fact that its leaves are [B, ...].

    labels(spec, dropout=0.1)                                            a class, or none for one example in ten
    entries({"tokens": jnp.zeros(16, jnp.int32), "token_mask": ...})     a text and which of its tokens are there
    both(entries(..., dropout=0.1), low_resolution())                    a text, and a picture that is never dropped
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.core.spec import Spec

Told = PyTree  # what a network is told, leaves [B, ...]; None: nothing ever
CORRUPT_STREAM = 0xC0000000  # fold_in data of the keys that corrupt a condition, beside those that drop it


class Condition(NamedTuple):
  """What a network is told of each example.

  Attributes:
    names: the batch's entries that `read` uses. `sample` takes arguments of the same names.
    read: batch -> what the network is told, a pytree with leaves [B, ...].
    nothing: one example's pytree, leaves [...], that stands for no condition.
    dropout: the probability that training drops an example's condition. Classifier-free guidance needs it above 0.
    draw: keys [N] -> conditions for samples that are requested without any; None: a request must give them.
    check: network -> None; raises a UserError if the network does not fit this condition.
    kept: entries of what the network is told, a dict, that are never dropped: guidance has them on both sides, and
      `nothing` lacks them.
    corrupt: (what it is told, keys [B]) -> the same with noise, in training and for samples, not in `evaluate`.
  """

  names: tuple[str, ...]
  read: Callable[[Mapping[str, Any]], Told]
  nothing: PyTree
  dropout: float = 0.0
  draw: Callable[[Key[Array, " n"]], Told] | None = None
  check: Callable[[Any], None] = lambda network: None
  kept: tuple[str, ...] = ()
  corrupt: Callable[[Told, Key[Array, " n"]], Told] | None = None

  def of(self, batch: Mapping[str, Any]) -> Told:
    """What the network is told of a batch.

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
    """The condition in training: corrupted, and each example's replaced by `nothing` with probability `dropout`."""
    told = self._corrupted(told, keys)
    if not self.dropout:
      return told
    drop = jax.vmap(lambda key: jax.random.bernoulli(key, self.dropout))(keys)
    return jax.tree.map(lambda a, nothing: jnp.where(per_example(drop, a), nothing, a), told, self.absent(told))

  def absent(self, told: Told) -> Told:
    """`nothing` for each example, like what it is told, and what is never dropped."""
    like = lambda a, nothing: jnp.broadcast_to(jnp.asarray(nothing, jnp.result_type(a, nothing)), a.shape)
    if not self.kept:
      return jax.tree.map(like, told, self.nothing)
    rest = {name: a for name, a in told.items() if name not in self.kept}
    return {**told, **jax.tree.map(like, rest, self.nothing)}

  def _corrupted(self, told: Told, keys: Key[Array, " n"]) -> Told:
    return told if self.corrupt is None else self.corrupt(told, fold_in(keys, CORRUPT_STREAM))

  def asked(self, given: Mapping[str, Any], keys: Key[Array, " n"]) -> Told:
    """The condition of samples: the arguments of `sample`, or, if it was given none, conditions from `draw`.

    Raises:
      UserError: some of the names are missing, or all are and there is no `draw`.
    """
    given = {name: jnp.asarray(given[name]) for name in self.names if given.get(name) is not None}
    if not given and self.draw is not None:
      return self.draw(keys)
    missing = [name for name in self.names if name not in given]
    if missing:
      raise UserError(f"samples of this model are asked for with {', '.join(self.names)}: give {', '.join(missing)}")
    return self._corrupted(self.read(given), keys)


UNCONDITIONAL = Condition((), lambda batch: None, None)


def labels(spec: Spec, dropout: float = 0.0) -> Condition:
  """The class, batch["label"] [B] in 0 .. classes - 1. If labels are dropped, the number `classes` stands for no label.

  Samples that are requested without labels draw them uniformly. A network with an attribute `classes` must have an
  embedding for each class, and one more for "no label" if labels are dropped.

  Raises:
    UserError: data without classes.
  """
  if spec.classes is None:
    raise UserError("a class-conditional model is of data with classes, and this data has none: use other data")
  needed = spec.classes + (dropout > 0)

  def check(network: Any) -> None:
    if getattr(network, "classes", needed) != needed:
      raise UserError(
        f"the network knows {network.classes} classes and the method needs {needed}"
        f"{', one of which is no label' if dropout else ''}: set the network's to that"
      )

  draw = lambda keys: jax.vmap(lambda key: jax.random.randint(key, (), 0, spec.classes))(keys)
  return Condition(("label",), lambda batch: batch["label"], np.int32(spec.classes), dropout, draw, check)


def entries(nothing: Mapping[str, Any], dropout: float = 0.0) -> Condition:
  """Several entries of a batch, as a dict with the same names: a text's tokens and their mask, a small picture.

  Args:
    nothing: one example's arrays by name that stand for no condition. All entries are dropped together.
    dropout: the probability that training drops an example's condition.
  """
  return Condition(tuple(nothing), lambda batch: {name: batch[name] for name in nothing}, dict(nothing), dropout)


def both(first: Condition, second: Condition) -> Condition:
  """Two conditions of which a network is told both, in one dict.

  Args:
    first: its `read` gives a dict.
    second: likewise, and its entries are never dropped.

  Raises:
    UserError: the second drops its entries, or both have one of the same name.
  """
  if second.dropout:
    raise UserError("of two conditions the first is dropped and the second is not: set the second's dropout to 0")
  if common := sorted(set(first.names) & set(second.names)):
    raise UserError(f"two conditions have an entry {common[0]!r} each: rename one")

  def corrupt(told: Told, keys: Key[Array, " n"]) -> Told:
    for number, part in enumerate((first, second)):
      told = told if part.corrupt is None else part.corrupt(told, fold_in(keys, number))
    return told

  def check(network: Any) -> None:
    first.check(network)
    second.check(network)

  return Condition(
    first.names + second.names,
    lambda batch: {**first.read(batch), **second.read(batch)},
    {**first.nothing, **second.nothing},
    first.dropout,
    check=check,
    kept=first.kept + second.kept,
    corrupt=corrupt,
  )


def check_condition(condition: Condition, network: Any) -> None:
  """Raises a UserError if a condition's dropout is not a probability below 1, or the network does not fit it."""
  if not 0 <= condition.dropout < 1:
    raise UserError(f"a condition's dropout is a probability below 1, and this is {condition.dropout:g}: change it")
  condition.check(network)


def check_names(given: Mapping[str, Any], *conditions: Condition) -> None:
  """Raises a UserError if `sample` was given an argument that none of the conditions uses."""
  known = [name for condition in conditions for name in condition.names]
  unknown = [name for name, value in given.items() if value is not None and name not in known]
  if unknown:
    takes = f"takes {', '.join(known)}" if known else "is unconditional"
    raise UserError(f"this model {takes} and is not told {', '.join(unknown)}: sample without")
