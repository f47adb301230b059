"""Conditions: what a network is conditioned on, such as a class, a text or a picture, or several of them.

A `Condition` says how to read it from a batch, which value stands for "no condition", and how often training drops it.
Networks receive the pytree as it is. Guidance, dropout and sampling only use the fact that its leaves are [B, ...].

    labels(spec, dropout=0.1)                                            a class, or none for one example in ten
    entries({"tokens": jnp.zeros(16, jnp.int32), "token_mask": ...})     a text and which of its tokens are there
    together({"picture": entries(..., 0.05), "text": entries(..., 0.05)})     several, each dropped by itself
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key, PyTree

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.core.spec import Spec

CORRUPT_STREAM = 0xC0000000  # fold_in data of the keys that corrupt a condition, beside those that drop it
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
    corrupt: (what it is told, keys [B]) -> the same with noise, in training and for samples, not in `evaluate`.
    parts: the conditions of `together`, each told as a dict; (): there is one.
    drops: of `together`: keys [N] -> which parts training drops, [N, parts].
  """

  names: tuple[str, ...]
  read: Callable[[Mapping[str, Any]], Told]
  nothing: PyTree
  dropout: float = 0.0
  draw: Callable[[Key[Array, " n"]], Told] | None = None
  check: Callable[[Any], None] = lambda network: None
  corrupt: Callable[[Told, Key[Array, " n"]], Told] | None = None
  parts: tuple["Condition", ...] = ()
  drops: Callable[[Key[Array, " n"]], Bool[Array, "n parts"]] | None = None

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
    """The values in training: corrupted, and each example's replaced by `nothing` with probability `dropout`."""
    told = self._corrupted(told, keys)
    if not self.dropout:
      return told
    if self.parts:
      drop = self.drops(keys)
      return self._merged(lambda i, part, told: part._where(drop[:, i], told), told)
    return self._where(jax.vmap(lambda key: jax.random.bernoulli(key, self.dropout))(keys), told)

  def _where(self, drop: Bool[Array, " batch"], told: Told) -> Told:
    return jax.tree.map(lambda a, nothing: jnp.where(per_example(drop, a), nothing, a), told, self.nothing)

  def _corrupted(self, told: Told, keys: Key[Array, " n"]) -> Told:
    if self.parts:
      return self._merged(lambda i, part, told: part._corrupted(told, fold_in(keys, i)), told)
    return told if self.corrupt is None else self.corrupt(told, fold_in(keys, CORRUPT_STREAM))

  def _merged(self, of: Callable[[int, "Condition", Told], Told], told: Told) -> Told:
    """of(number, part, what it is told) of all parts, as one dict."""
    each = [of(i, part, {name: told[name] for name in part.nothing}) for i, part in enumerate(self.parts)]
    return {name: value for part in each for name, value in part.items()}

  def absent(self, told: Told) -> Told:
    """`nothing` for each example, in the shape of `told`. Parts of `together` that are never dropped stay."""
    if self.parts:
      return self._merged(lambda i, part, told: part.absent(told) if part.dropout else told, told)
    like = lambda a, nothing: jnp.broadcast_to(jnp.asarray(nothing, jnp.result_type(a, nothing)), a.shape)
    return jax.tree.map(like, told, self.nothing)

  def ways(self, told: Told, away: Told) -> list[Told]:
    """From `away` to what is told, by one part more each: of K parts that are dropped, or have a negative condition."""
    if not self.parts:
      return [away, told]
    found = [away]
    for part in self.parts:
      if part.dropout or any(away[name] is not told[name] for name in part.nothing):
        found.append({**found[-1], **{name: told[name] for name in part.nothing}})
    return found

  def away(self, told: Told, negative: Mapping[str, Any]) -> Told:
    """What guidance leads away from: `absent`, and negative conditions, which take its place where they are given.

    Args:
      told: the condition, [N, ...].
      negative: by the names of `names`; {}: none.

    Raises:
      UserError: some names of a condition are given and others are not.
    """
    if self.parts:
      away = self.absent(told)
      own = lambda part: {name: negative[name] for name in part.names if name in negative}
      return {**away, **self._merged(lambda i, part, told: part.away(told, own(part)) if own(part) else {}, told)}
    if not negative:
      return self.absent(told)
    if missing := [name for name in self.names if name not in negative]:
      raise UserError(f"a negative condition has {', '.join(self.names)}: give negative_{', negative_'.join(missing)}")
    read = self.read({name: jnp.asarray(value) for name, value in negative.items()})
    if not isinstance(read, Mapping):
      return read
    rest = {name: value for name, value in told.items() if name not in read}
    return {**self._replace(nothing={name: self.nothing[name] for name in rest}).absent(rest), **read}

  def asked(self, given: Mapping[str, Any], keys: Key[Array, " n"]) -> Told:
    """The condition's values for samples: the arguments of `sample`, or, without any, values from `draw`.

    Raises:
      UserError: some of the names are missing, or all are and there is no `draw`.
    """
    if self.parts:
      each = [part.asked(given, fold_in(keys, i)) for i, part in enumerate(self.parts)]
      return {name: value for told in each for name, value in told.items()}
    given = {name: jnp.asarray(given[name]) for name in self.names if given.get(name) is not None}
    if not given and self.draw is not None:
      return self.draw(keys)
    missing = [name for name in self.names if name not in given]
    if missing:
      raise UserError(f"samples of this model need {', '.join(self.names)}: give {', '.join(missing)}")
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


def together(
  parts: Mapping[str, Condition], rates: Mapping[tuple[str, ...], float] = MappingProxyType({})
) -> Condition:
  """Several conditions at once, as one dict, each with its own value for "nothing" and its own dropout.

  A part that is told no dict, such as `labels`, has its name in it. Guidance takes a weight for each part that is
  dropped, in the order of `parts`: see `diffusion.guidance.chained`.

  Args:
    parts: by names for `rates`.
    rates: the probability that just these parts are dropped, by their names; {}: each part's is dropped by its own
      rate, whatever happens to the others. {("picture",): 0.05, ("text",): 0.05, ("picture", "text"): 0.05} is
      InstructPix2Pix's: Brooks et al. 2023, https://arxiv.org/abs/2211.09800, section 3.2.1.

  Raises:
    UserError: parts share an entry, rates name others or sum to 1 or more, or are given beside the parts' own.
  """
  own = [part.dropout for part in parts.values()]
  names = [name for part in parts.values() for name in part.names]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise UserError(f"two conditions are told {', '.join(twice)}: give each entry to one")
  if rates and any(own):
    raise UserError("conditions are dropped by their own rates or by those of `rates`: leave one of them out")
  if unknown := sorted({name for group in rates for name in group} - set(parts)):
    raise UserError(f"rates are of {', '.join(parts)}, not of {', '.join(unknown)}")
  if rates and not (min(rates.values()) >= 0 and sum(rates.values()) < 1):
    raise UserError(f"rates are probabilities with a sum below 1, and these are {dict(rates)}: change them")
  groups = np.array([[name in group for name in parts] for group in (*rates, ())])  # the last: none is dropped
  shares = [sum((rate for group, rate in rates.items() if name in group), 0.0) for name in parts] if rates else own
  made = tuple(_as_dict(part)._replace(dropout=share) for part, share in zip(parts.values(), shares, strict=True))

  def drops(keys: Key[Array, " n"]) -> Bool[Array, "n parts"]:
    if rates:
      ends = np.cumsum([*rates.values()])
      which = jax.vmap(lambda key: jnp.searchsorted(jnp.asarray(ends), jax.random.uniform(key), side="right"))(keys)
      return jnp.asarray(groups)[which]
    each = lambda key: [jax.random.bernoulli(jax.random.fold_in(key, i), rate) for i, rate in enumerate(own)]
    return jax.vmap(lambda key: jnp.stack(each(key)))(keys)

  def read(batch: Mapping[str, Any]) -> Told:
    return {name: value for part in made for name, value in part.read(batch).items()}

  def check(network: Any) -> None:
    for part in parts.values():
      check_condition(part, network)

  nothing = {name: value for part in made for name, value in part.nothing.items()}
  return Condition(tuple(names), read, nothing, max(shares, default=0.0), None, check, None, made, drops)


def _as_dict(condition: Condition) -> Condition:
  """A condition that is told as a dict, under its one name where it is none."""
  if isinstance(condition.nothing, Mapping):
    return condition
  (name,) = condition.names
  draw = condition.draw and (lambda keys: {name: condition.draw(keys)})
  return condition._replace(read=lambda b: {name: condition.read(b)}, nothing={name: condition.nothing}, draw=draw)


def check_condition(condition: Condition, network: Any) -> None:
  """Raises a UserError if a condition's dropout is not a probability below 1, or the network does not fit it."""
  if not 0 <= condition.dropout < 1:
    raise UserError(f"a condition's dropout must be a probability below 1, not {condition.dropout:g}")
  condition.check(network)


NEGATIVE = "negative_"  # before the name of a condition that samples are led away from


def negatives(given: Mapping[str, Any], condition: Condition) -> tuple[dict[str, Any], dict[str, Any]]:
  """(negative conditions by the condition's own names, the rest of what `sample` is given)."""
  named = {NEGATIVE + name: name for name in condition.names}
  found = {named[name]: value for name, value in given.items() if name in named and value is not None}
  return found, {name: value for name, value in given.items() if name not in named}


def check_names(given: Mapping[str, Any], *conditions: Condition) -> None:
  """Raises a UserError if `sample` was given an argument that none of the conditions uses."""
  known = [name for condition in conditions for name in condition.names]
  unknown = [name for name, value in given.items() if value is not None and name not in known]
  if unknown:
    takes = f"takes {', '.join(known)}" if known else "is unconditional"
    raise UserError(f"this model {takes} and has no condition {', '.join(unknown)}: sample without it")
