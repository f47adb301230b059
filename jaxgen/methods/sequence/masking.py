"""BERT's masking: which tokens it predicts, and what it reads instead of them; drawn anew for each example of every
step.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3.1 and Appendix A.1: of an example's tokens that are not
special, 15 % are selected; each of these is replaced by the token [MASK] with probability 0.8, by a random one with
0.1, and stays as it is otherwise. Only selected tokens have a loss. The authors' random tokens may be special.

The units of a selection are tokens; words, all of whose pieces are selected together (the authors' later "whole word
masking"); or spans of words whose length is geometric, where a span is masked, replaced or kept as a whole: Joshi et
al. 2019, https://arxiv.org/abs/1907.10529, section 3.1.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core.errors import UserError

Row = Int[Array, "tokens"]


class Masking(NamedTuple):
  """How tokens are selected and replaced.

  Attributes:
    token: [MASK]'s.
    special: tokens that are never selected, and never put in another's place: padding, [CLS], [SEP], [MASK].
    share: the share of an example's other tokens that is selected, rounded, and at least one; of words, as in the
      authors' code, those with more pieces than are left to select are passed over, and it may be fewer, or none.
    masked, replaced: probabilities that a selected unit is masked, or replaced by random tokens, each of those that are
      not special equally likely.
    unit: the unit that is selected as a whole.
    continues: [V], which tokens continue a word, WordPiece's "##ing"; None: none does.
    longest: the most words of a span.
    p: of a span's length l: proportional to p (1 - p)^(l - 1) for l up to `longest`.
  """

  token: int
  special: tuple[int, ...]
  share: float = 0.15
  masked: float = 0.8
  replaced: float = 0.1
  unit: Literal["token", "word", "span"] = "token"
  continues: Any = None
  longest: int = 10
  p: float = 0.2

  def check(self, vocabulary: int) -> None:
    """Raises a UserError if there is no such masking of `vocabulary` tokens."""
    for token in (self.token, *self.special):
      if not 0 <= token < vocabulary:
        raise UserError(f"the special token {token} is none of the vocabulary's, 0 to {vocabulary - 1}: change it")
    if self.token not in self.special:
      raise UserError(f"the token {self.token}, which masks others, is not among the special ones: add it to them")
    if len(set(self.special)) >= vocabulary:
      raise UserError(f"all of the {vocabulary} tokens are special, and none is left to predict: change one of them")
    if not 0 < self.share <= 1:
      raise UserError(f"the share of the tokens that is selected lies in (0, 1], and this is {self.share:g}: change it")
    if min(self.masked, self.replaced) < 0 or self.masked + self.replaced > 1:
      raise UserError(
        f"of the selected tokens {self.masked:g} are masked and {self.replaced:g} replaced: these are shares of a whole"
      )
    if self.unit not in ("token", "word", "span"):
      raise UserError(f"what is masked as a whole is a 'token', a 'word' or a 'span', not {self.unit!r}: change it")
    if self.longest < 1 or not 0 < self.p <= 1:
      raise UserError(f"a span has 1 to {self.longest} words, of p = {self.p:g}: use at least 1 and p in (0, 1]")
    if self.continues is not None and np.shape(self.continues) != (vocabulary,):
      raise UserError(f"`continues` says of {np.shape(self.continues)} tokens, and there are {vocabulary}: change it")

  def most(self, length: int) -> int:
    """The most tokens that are selected of an example of `length` tokens."""
    return max(1, round(self.share * length))


class Masked(NamedTuple):
  """The masked input, and the tokens to predict.

  Attributes:
    tokens: the masked input.
    places: of the tokens to predict; if there are fewer, the last entries are other positions.
    weights: 1 for a token to predict.
  """

  tokens: Int[Array, "*batch tokens"]
  places: Int[Array, "*batch places"]
  weights: Float[Array, "*batch places"]


def mask(masking: Masking, vocabulary: int, tokens: Row, key: Key[Array, ""]) -> Masked:
  """The masked tokens of one example [T]; a function of its own key alone."""
  select, treat, put = jax.random.split(key, 3)
  ordinary = ~jnp.isin(tokens, jnp.asarray(masking.special))
  count = jnp.round(masking.share * jnp.sum(ordinary)).astype(jnp.int32)
  count = jnp.where(jnp.any(ordinary), jnp.clip(count, 1, masking.most(len(tokens))), 0)
  units = _units(masking, tokens, ordinary, count, select)  # [T], the number of each token's unit; -1: not selected
  draw = jax.random.uniform(treat, tokens.shape)
  if masking.unit == "span":
    draw = draw[units]  # a span's tokens share one
  random = _ordinary(masking, vocabulary, tokens.shape, put).astype(tokens.dtype)
  new = jnp.where(draw < masking.masked, masking.token, random)
  read = jnp.where((units >= 0) & (draw < masking.masked + masking.replaced), new, tokens)
  places = jnp.argsort(units < 0, stable=True)[: masking.most(len(tokens))]
  return Masked(read, places, (units >= 0)[places].astype(jnp.result_type(float)))


def _ordinary(masking: Masking, vocabulary: int, shape: tuple[int, ...], key: Key[Array, ""]) -> Int[Array, "*shape"]:
  """Random tokens that are not special."""
  special = sorted(set(masking.special))
  drawn = jax.random.randint(key, shape, 0, vocabulary - len(special))
  for token in special:  # in their order: each moves those from it on
    drawn = drawn + (drawn >= token)
  return drawn


def _units(
  masking: Masking, tokens: Row, ordinary: Bool[Array, "tokens"], count: Int[Array, ""], key: Key[Array, ""]
) -> Row:
  """The number of the selected unit that each token belongs to, below T; -1 where it is not selected."""
  length, place = len(tokens), jnp.arange(len(tokens))
  order_key, length_key = jax.random.split(key)
  if masking.unit == "token":
    order = jnp.where(ordinary, jax.random.uniform(order_key, (length,)), 2.0)
    rank = jnp.argsort(jnp.argsort(order))
    return jnp.where(rank < count, place, -1)
  continues = jnp.zeros(length, bool) if masking.continues is None else jnp.asarray(masking.continues)[tokens]
  begins = ~(continues & ordinary & jnp.roll(ordinary, 1)) | (place == 0)
  word = jnp.cumsum(begins) - 1  # of each token; special tokens are words of their own
  candidate = jnp.isin(place, jnp.where(ordinary & begins, word, -1))
  order = jnp.argsort(jnp.where(candidate, jax.random.uniform(order_key, (length,)), 2.0))
  longest = masking.longest if masking.unit == "span" else 1
  shares = masking.p * (1 - masking.p) ** np.arange(longest)
  spans = 1 + jax.random.categorical(length_key, jnp.log(jnp.asarray(shares)), shape=(length,))

  def take(units: Row, drawn: tuple[Array, Array]) -> tuple[Row, None]:
    start, span = drawn
    free = (units < 0) & ordinary
    within = (word >= start) & (word < start + span)
    # A span ends before a special or selected token, and has no gaps.
    blocked = within & ~free
    end = jnp.min(jnp.where(blocked, word, length))
    within = within & (word < end) & candidate[start]
    left = count - jnp.sum(units >= 0)
    size = jnp.sum(within)
    if masking.unit == "span":  # the last one is cut where enough are selected
      within &= jnp.cumsum(within) <= left
    else:  # a word that does not fit is passed over
      within &= size <= left
    return jnp.where(within, start, units), None

  units, _ = jax.lax.scan(take, jnp.full(length, -1, jnp.int32), (order.astype(jnp.int32), spans.astype(jnp.int32)))
  return units
