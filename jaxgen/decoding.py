"""Decoding: sequences from a network that gives the probabilities of each next token.

    step, carry = network.stepper(params, source, mask, length)
    tokens, log_probability = greedy(step, carry, start, length=length, end=end)
    tokens, log_probability = ancestral(step, carry, start, keys, length=length, temperature=0.8)

`step(carry, tokens [B]) -> (logits [B, V], carry)` reads one token of each example and returns logits of the next. The
carry is the state after the earlier tokens: a Transformer's keys and values, or a recurrent state. Its leaves are [B,
...]. `step` closes over arrays that do not change, such as the source. Each function here is one `lax.scan`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core.arrays import wide, wide_dtype
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in

Carry = PyTree
Step = Callable[[Carry, Array], tuple[Array, Carry]]


class Given(NamedTuple):
  """Prompts: the first tokens of sequences, which are read and not drawn.

  Attributes:
    tokens: [B, length], of which the first count[b] are given.
    count: [B].
  """

  tokens: Int[Array, "batch length"]
  count: Int[Array, "batch"]


def _log_probabilities(logits: Float[Array, "*batch V"]) -> Float[Array, "*batch V"]:
  return jax.nn.log_softmax(wide(logits))


def greedy(
  step: Step, carry: Carry, start: Int[Array, "batch"], *, length: int, end: int, pad: int = 0
) -> tuple[Int[Array, "batch {length}"], Float[Array, "batch"]]:
  """The likeliest token at every step: (tokens, their log-probability in nats).

  Args:
    start: the token that is read first; it is not part of the result.
    length: the largest number of tokens of a sequence.
    end: the token that ends a sequence; it is part of the result.
    pad: the token that fills the result after the end.
  """

  def body(state, _):
    carry, token, ended, total = state
    logits, carry = step(carry, token)
    log_p = _log_probabilities(logits)
    best = jnp.argmax(log_p, axis=-1).astype(token.dtype)
    total = total + jnp.where(ended, 0, jnp.take_along_axis(log_p, best[:, None], axis=-1)[:, 0])
    token = jnp.where(ended, pad, best)
    return (carry, token, ended | (token == end), total), token

  logits = jax.eval_shape(step, carry, start)[0]
  total = wide(jnp.zeros(start.shape, logits.dtype))
  state = (carry, start, jnp.zeros(start.shape, bool), total)
  (_, _, _, total), tokens = jax.lax.scan(body, state, length=length)
  return tokens.T, total


def beam_search(
  step: Step,
  carry: Carry,
  start: Int[Array, "batch"],
  *,
  width: int,
  length: int,
  end: int,
  pad: int = 0,
  alpha: float = 0.0,
) -> tuple[Int[Array, "batch {width} {length}"], Float[Array, "batch {width}"]]:
  """The `width` best sequences that beam search finds: (tokens, scores), the best first.

  A sequence Y's score is log P(Y) / ((5 + |Y|) / 6)^alpha, Wu et al. 2016, https://arxiv.org/abs/1609.08144, eq. 14
  (without its coverage). Every step keeps the `width` best continuations; a sequence that has ended does not change but
  still competes. With width 1 and alpha 0 it is `greedy`; with a width of all possible sequences it is exact.
  A sequence without `end` within `length` tokens is scored as it stands. Scores are -inf where there are fewer
  sequences than `width`.

  start, length, end and pad: as in `greedy`.
  """
  step = jax.vmap(step, 1, 1)  # over the beam: the arrays that step closes over are shared, not repeated
  spread = lambda x: jnp.repeat(x[:, None], width, axis=1)
  carry, token = jax.tree.map(spread, (carry, start))
  batch, logits = token.shape[0], jax.eval_shape(step, carry, token)[0]
  dtype, vocabulary = wide_dtype(logits.dtype), logits.shape[-1]

  def body(state, t):
    carry, token, tokens, lengths, ended, total = state
    logits, carry = step(carry, token)
    # A sequence that has ended has one continuation, itself.
    itself = jnp.where(jnp.arange(vocabulary) == pad, 0.0, -jnp.inf).astype(dtype)
    total = total[..., None] + jnp.where(ended[..., None], itself, _log_probabilities(logits))
    lengths = lengths + ~ended
    scores = total / ((5 + lengths.astype(dtype)) / 6)[..., None] ** alpha
    scores, best = jax.lax.top_k(scores.reshape(batch, -1), width)
    parent, token = best // vocabulary, (best % vocabulary).astype(token.dtype)
    carry, tokens, lengths, ended = jax.vmap(lambda tree, p: jax.tree.map(lambda x: x[p], tree))(
      (carry, tokens, lengths, ended), parent
    )
    total = jnp.take_along_axis(total.reshape(batch, -1), best, axis=1)
    tokens = tokens.at[:, :, t].set(token)
    return (carry, token, tokens, lengths, ended | (token == end), total), scores

  total = jnp.full((batch, width), -jnp.inf, dtype).at[:, 0].set(0)  # at first there is one sequence, the empty one
  tokens = jnp.full((batch, width, length), pad, token.dtype)
  state = (carry, token, tokens, jnp.zeros(token.shape, jnp.int32), jnp.zeros(token.shape, bool), total)
  (_, _, tokens, _, _, _), scores = jax.lax.scan(body, state, jnp.arange(length))
  return tokens, scores[-1]


def truncated(
  logits: Float[Array, "*batch V"], top_k: int | None = None, top_p: float | None = None
) -> Float[Array, "*batch V"]:
  """The logits of likely tokens, and -inf for the others.

  Args:
    top_k: keep the k likeliest tokens: Fan et al. 2018, https://arxiv.org/abs/1805.04833, section 5.4.
    top_p: of these keep the nucleus, the smallest set of likeliest tokens with at least this probability: Holtzman et
      al. 2019, https://arxiv.org/abs/1904.09751, section 3.1.

  Tokens that are as likely as the last kept one are kept, too.
  """
  if top_k is not None:
    least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p is not None and top_p < 1:  # 1 keeps all tokens, which the rounded sums below might not
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    p = jax.nn.softmax(ordered)
    needed = jnp.cumsum(p, axis=-1) - p < top_p  # True if the likelier tokens do not suffice; always for the first
    least = jnp.min(jnp.where(needed, ordered, jnp.inf), axis=-1, keepdims=True)
    logits = jnp.where(logits < least, -jnp.inf, logits)
  return logits


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
  """Raises a UserError if these are not valid options of `ancestral`."""
  if temperature <= 0:
    raise UserError(f"the temperature must be above 0, not {temperature:g}: a small one samples the likeliest tokens")
  if top_k is not None and top_k < 1:
    raise UserError(f"top_k, the number of tokens to choose from, must be at least 1, not {top_k}")
  if top_p is not None and not 0 < top_p <= 1:
    raise UserError(f"top_p must lie in (0, 1], and is {top_p:g}: 1 keeps all tokens")


def ancestral(
  step: Step,
  carry: Carry,
  start: Int[Array, "batch"],
  keys: Key[Array, "batch"],
  *,
  length: int,
  first: int | Int[Array, ""] = 0,
  temperature: float | Float[Array, "batch"] = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  given: Given | None = None,
  end: int | None = None,
  pad: int = 0,
) -> tuple[Int[Array, "batch {length}"], Float[Array, "batch"]]:
  """Draws each token given those before it: (tokens, their log-probability in nats under the model).

  Args:
    start: the token that is read first; it is not part of the result.
    keys: one for each sample. Token t is drawn with fold_in(key, first + t).
    first: the position of the first token, if earlier tokens were drawn with the same keys.
    temperature: logits are divided by it before `top_k` and `top_p`.
    top_k, top_p: see `truncated`.
    given: the first tokens, if sequences begin with a prompt; their probability does not count.
    end: the drawn token that ends a sequence; None: all sequences have the full length.
    pad: the token that fills the result after the end.
  """
  temperature = jnp.broadcast_to(jnp.asarray(temperature), start.shape)[:, None]

  def body(state, t):
    carry, token, total, ended = state
    logits, carry = step(carry, token)
    log_p = _log_probabilities(logits)
    kept = truncated(log_p / temperature.astype(log_p.dtype), top_k, top_p)
    token = jax.vmap(jax.random.categorical)(fold_in(keys, t), kept)
    token = token.astype(start.dtype)
    nats = jnp.take_along_axis(log_p, token[:, None], axis=-1)[:, 0]
    if given is not None:
      read = t - first < given.count
      nats = jnp.where(read, 0, nats)
      token = jnp.where(read, given.tokens[:, t - first].astype(start.dtype), token)
    if end is not None:
      token, nats = jnp.where(ended, pad, token), jnp.where(ended, 0, nats)
      ended = ended | (token == end) & (True if given is None else ~read)
    return (carry, token, total + nats, ended), token

  logits = jax.eval_shape(step, carry, start)[0]
  total = wide(jnp.zeros(start.shape, logits.dtype))
  state = (carry, start, total, jnp.zeros(start.shape, bool))
  (_, _, total, _), tokens = jax.lax.scan(body, state, first + jnp.arange(length))
  return tokens.T, total
