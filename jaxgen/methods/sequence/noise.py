"""Noise for denoising encoder-decoders: BART's noise and MASS's; drawn anew for each example.

Lewis et al. 2019, BART, https://arxiv.org/abs/1910.13461, section 2.2: `token_masking`, `token_deletion`,
`text_infilling` (spans of Poisson(3) tokens, each replaced by one [MASK]; a span of none inserts one),
`sentence_permutation` and `document_rotation`. Song et al. 2019, MASS, https://arxiv.org/abs/1905.02450, section 3.1:
`mass`, one span of half of the text, which only the decoder reads, at its original positions.

A noise is (tokens [T], key) -> tokens [T] of one text, which is followed by padding. Special tokens stay as they are
where a noise masks or deletes; the last of them, END, keeps its place behind the text where a noise moves tokens.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core.errors import UserError

Row = Int[Array, "tokens"]
Noise = Callable[[Row, Key[Array, ""]], Row]


class Tokens(NamedTuple):
  """The special tokens, which noise treats differently.

  Attributes:
    mask: the mask.
    pad: what fills a row up.
    special: tokens that are never masked or deleted, padding among them.
  """

  mask: int
  pad: int
  special: tuple[int, ...]

  def ordinary(self, row: Row) -> Bool[Array, "tokens"]:
    """Where a row has tokens that may be masked."""
    return ~jnp.isin(row, jnp.asarray((self.pad, *self.special)))

  def check(self, vocabulary: int) -> None:
    """Raises a UserError where one of them is not in the vocabulary."""
    for name, token in (("mask", self.mask), ("pad", self.pad), *(("special", token) for token in self.special)):
      if not 0 <= token < vocabulary:
        raise UserError(f"the token {name}={token} is none of the vocabulary's, 0 to {vocabulary - 1}: change it")


def _check_share(share: float) -> None:
  if not 0 <= share <= 1:
    raise UserError(f"the share of the tokens that noise hides lies in [0, 1], and this is {share:g}: change it")


def _some(known: Tokens, row: Row, share: float, key: Array) -> Bool[Array, "tokens"]:
  """A random selection of ordinary tokens with this share, rounded; all are equally likely."""
  ordinary = known.ordinary(row)
  order = jnp.where(ordinary, jax.random.uniform(key, row.shape), 2.0)
  rank = jnp.argsort(jnp.argsort(order))
  return ordinary & (rank < jnp.round(share * jnp.sum(ordinary)))


def closed(known: Tokens, row: Row, kept: Bool[Array, "tokens"]) -> Row:
  """The remaining tokens, moved together, and padding."""
  kept = kept & (row != known.pad)
  order = jnp.argsort(~kept, stable=True)
  return jnp.where(jnp.arange(len(row)) < jnp.sum(kept), row[order], known.pad)


def token_masking(known: Tokens, share: float = 0.15) -> Noise:
  """Tokens are masked independently, as in BERT.

  Raises:
    UserError: a share outside [0, 1].
  """
  _check_share(share)
  return lambda row, key: jnp.where(_some(known, row, share, key), known.mask, row).astype(row.dtype)


def token_deletion(known: Tokens, share: float = 0.15) -> Noise:
  """Tokens are left out; the model has to tell where.

  Raises:
    UserError: a share outside [0, 1].
  """
  _check_share(share)
  return lambda row, key: closed(known, row, ~_some(known, row, share, key)).astype(row.dtype)


def text_infilling(known: Tokens, share: float = 0.3, mean: float = 3.0) -> Noise:
  """Spans of Poisson(mean) tokens are replaced by one mask each, until `share` of the tokens are hidden.

  A span of no tokens puts a mask between two tokens. Lengths are drawn until their sum is the number that is to be
  hidden, the last one cut; spans are placed so that they do not touch, each arrangement equally likely, among what the
  masks leave (no mask follows another, unless a span is empty). Where a row has no room for a mask more, an empty span
  is left out. A span continues after a special token.

  Raises:
    UserError: a share outside [0, 1], or a mean that is not above 0.
  """
  _check_share(share)
  if not mean > 0:
    raise UserError(f"the mean length of a span is above 0, and this is {mean:g}: change it")

  def noise(row: Row, key: Array) -> Row:
    length, (length_key, place_key, gap_key) = len(row), jax.random.split(key, 3)
    ordinary = known.ordinary(row)
    total = jnp.sum(ordinary)
    hidden = jnp.round(share * total).astype(jnp.int32)
    drawn = jax.random.poisson(length_key, mean, (length,)).astype(jnp.int32)
    before = jnp.cumsum(drawn) - drawn
    spans = jnp.where(before < hidden, jnp.minimum(drawn, hidden - before), -1)  # -1: not needed
    filled, empty = spans > 0, jnp.sum(spans == 0)

    # Spans of one token and more among the tokens that stay: their starts are a random choice of the places between
    # these, no place twice, so that no two spans touch; where there are too few, they do.
    count, stay = jnp.sum(filled), total - hidden
    order = jnp.argsort(jnp.where(jnp.arange(length) <= stay, jax.random.uniform(place_key, (length,)), 2.0))
    gap = jnp.where(jnp.arange(length) < count, order % (stay + 1), length)  # staying tokens before each span
    gap = jnp.sort(gap)
    size = spans[jnp.argsort(~filled, stable=True)]  # their lengths, in the order in which they were drawn
    size = jnp.where(jnp.arange(length) < count, size, 0)
    start = jnp.where(jnp.arange(length) < count, gap + jnp.cumsum(size) - size, length)

    # [T] over the ordinary tokens, the spans' marks: 1 at the first token of a span, 0 within, -1 outside.
    place = jnp.arange(length)
    number = jnp.searchsorted(start, place, side="right") - 1
    within = (number >= 0) & (place < start[number] + size[number])
    first = within & (place == start[number])
    rank = jnp.cumsum(ordinary) - 1  # of each token of the row among the ordinary
    in_span, at_first = ordinary & within[rank], ordinary & first[rank]
    shown = jnp.where(at_first, known.mask, row)
    kept = (row != known.pad) & (~in_span | at_first)

    # Empty spans: a mask before a kept ordinary token, as far as there is room.
    room = length - jnp.sum(kept)
    empty = jnp.minimum(empty, room)
    where = jnp.where(kept & ordinary, jax.random.uniform(gap_key, (length,)), 2.0)
    insert = kept & ordinary & (jnp.argsort(jnp.argsort(where)) < empty)
    doubled = jnp.stack([jnp.where(insert, known.mask, known.pad), jnp.where(kept, shown, known.pad)], axis=1).ravel()
    present = jnp.stack([insert, kept], axis=1).ravel()
    order = jnp.argsort(~present, stable=True)[:length]
    return jnp.where(jnp.arange(length) < jnp.sum(present), doubled[order], known.pad).astype(row.dtype)

  return noise


def sentence_permutation(known: Tokens, stops: tuple[int, ...]) -> Noise:
  """A text's sentences, each up to one of the tokens `stops`, in a random order.

  Raises:
    UserError: there is no token that ends a sentence.
  """
  if not stops:
    raise UserError("sentences end at a token, such as the full stop, and none is given: name them")

  def noise(row: Row, key: Array) -> Row:
    body = known.ordinary(row) | jnp.isin(row, jnp.asarray(stops))
    ends = body & jnp.isin(row, jnp.asarray(stops))
    sentence = jnp.cumsum(ends) - ends  # the number of each token's
    turn = jax.random.permutation(key, len(row))
    return _reordered(row, body, turn[sentence])

  return noise


def document_rotation(known: Tokens) -> Noise:
  """A text begins with a random one of its tokens, and what stood before it comes last."""

  def noise(row: Row, key: Array) -> Row:
    body = known.ordinary(row)
    count, rank = jnp.sum(body), jnp.cumsum(body) - 1
    start = jax.random.randint(key, (), 0, jnp.maximum(count, 1))
    return _reordered(row, body, (rank - start) % jnp.maximum(count, 1))

  return noise


def _reordered(row: Row, body: Bool[Array, "tokens"], turn: Int[Array, "tokens"]) -> Row:
  """The body's tokens sorted by their turn, in the body's places; the others where they are."""
  order = jnp.argsort(jnp.where(body, turn, len(row) + 1), stable=True)
  rank = jnp.cumsum(body) - 1
  return jnp.where(body, row[order][rank], row)


def together(*noises: Noise) -> Noise:
  """Applies several kinds of noise in turn: BART's own is `sentence_permutation` and `text_infilling`, section 5.1 of
  its paper."""

  def noise(row: Row, key: Array) -> Row:
    for i, each in enumerate(noises):
      row = each(row, jax.random.fold_in(key, i))
    return row

  return noise


class Lesson(NamedTuple):
  """The inputs and targets of an encoder-decoder for a text [T].

  Attributes:
    source: the encoder's input.
    read: the decoder's input at the position of each token.
    weights: 1 for the tokens to predict.
  """

  source: Row
  read: Row
  weights: Float[Array, "tokens"]


Lessons = Callable[[Row, Key[Array, ""]], Lesson]


def denoising(known: Tokens, noise: Noise, start: int) -> Lessons:
  """BART's: the whole text is predicted from its noisy copy.

  Args:
    start: the token that the decoder reads first.
  """

  def lesson(row: Row, key: Array) -> Lesson:
    weights = (row != known.pad).astype(jnp.result_type(float))
    return Lesson(noise(row, key), jnp.roll(row, 1).at[0].set(start), weights)

  return lesson


def mass(known: Tokens, share: float = 0.5) -> Lessons:
  """MASS's: of a text's ordinary tokens, one span of `share`, rounded, at a place that is drawn uniformly.

  The encoder reads masks instead of it. The decoder predicts only the span: at token t it reads token t - 1, if both
  are within the span, and elsewhere the mask. It has the places of the text, and nothing else of it.

  Raises:
    UserError: a share outside [0, 1].
  """
  _check_share(share)

  def lesson(row: Row, key: Array) -> Lesson:
    ordinary = known.ordinary(row)
    count, rank = jnp.sum(ordinary), jnp.cumsum(ordinary) - 1
    size = jnp.where(count > 0, jnp.maximum(jnp.round(share * count).astype(jnp.int32), 1), 0)
    start = jax.random.randint(key, (), 0, count - size + 1)
    within = ordinary & (rank >= start) & (rank < start + size)
    before = jnp.roll(within, 1).at[0].set(False)
    read = jnp.where(within & before, jnp.roll(row, 1), known.mask)
    source = jnp.where(within, known.mask, row)
    return Lesson(source.astype(row.dtype), read.astype(row.dtype), within.astype(jnp.result_type(float)))

  return lesson
