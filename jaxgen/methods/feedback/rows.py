"""Rows of tokens: a prompt, an answer, the token that ends it, and padding.

    tokens [B, T], prompt [B]: its number of tokens, at least one, as there is a token that starts every row

The network reads tokens 1 .. T - 1 and predicts tokens 2 .. T. An answer is what follows the prompt, its end included;
without an end it goes to the end of the row. All that is learnt, scored or penalised here is the answer's: neither the
prompt, nor what follows the end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import decoding
from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, Params, State
from jaxgen.core.spec import Spec, check_batch
from jaxgen.methods.sequence.language import AS_LEARNED, Sampling, within
from jaxgen.methods.sequence.seq2seq import Marks

PROMPT, REFERENCE = "prompt", "reference"
Tokens = Int[Array, "batch tokens"]
Counts = Int[Array, "batch"]


def answers(tokens: Tokens, prompt: Counts, end: int) -> Bool[Array, "batch predicted"]:
  """Of the predicted tokens 2 .. T, those of the answer [B, T - 1]."""
  place = jnp.arange(1, tokens.shape[1])
  begun = place >= prompt[:, None]
  ended = jnp.cumsum((tokens[:, 1:] == end) & begun, axis=1) - ((tokens[:, 1:] == end) & begun)  # before this token
  return begun & (ended == 0)


def last(tokens: Tokens, prompt: Counts, end: int) -> Counts:
  """The place of the answer's last token in the row; that of the prompt's, if the answer has none."""
  return prompt - 1 + jnp.sum(answers(tokens, prompt, end), axis=1)


def log_p(network: Any, params: Params, tokens: Tokens, levels: int, **options: Any) -> Float[Array, "batch predicted"]:
  """log p(token | those before it), in nats, of tokens 2 .. T: [B, T - 1].

  Args:
    network: as in `methods.sequence.language`.
    levels: the number of tokens; logits beyond are ignored.
    options: of the network: `index`, `rngs`.
  """
  logits = network.apply({"params": params}, tokens[:, :-1], **options)[..., :levels]
  return -optax.softmax_cross_entropy_with_integer_labels(wide(logits), tokens[:, 1:])


def score(network: Any, params: Params, tokens: Tokens, prompt: Counts, end: int, **options: Any):
  """The score [B] of each row: a scorer's number (`nn.sequence.scorer`) at the answer's last token."""
  found = wide(network.apply({"params": params}, tokens, **options))
  return jnp.take_along_axis(found, last(tokens, prompt, end)[:, None], axis=1)[:, 0]


def write(
  network: Any,
  params: Params,
  tokens: Tokens,
  prompt: Counts,
  keys: Key[Array, "batch"],
  *,
  levels: int,
  marks: Marks,
  sampling: Sampling = AS_LEARNED,
) -> Tokens:
  """Rows [B, T] with an answer to each prompt, by the network's cached sampler, padded after the end.

  Prompts of different lengths are read token by token within the same scan, so that none needs padding.

  Args:
    tokens: rows that begin with prompts; what else they hold is not used.
    keys: one for each row.
  """
  length = tokens.shape[1] - 1
  step, carry = network.stepper(params, tokens[:, :0], length)
  given = decoding.Given(tokens[:, 1:], prompt - 1)
  options = dict(length=length, given=given, end=marks.end, pad=marks.pad, **sampling._asdict())
  new, _ = decoding.ancestral(within(step, levels), carry, tokens[:, 0], keys, **options)
  return jnp.concatenate([tokens[:, :1], new], axis=1)


def sampler(network: Any, spec: Spec, marks: Marks, sampling: Sampling) -> Callable[..., Tokens]:
  """`Method.sample` of a network that answers: sample(state, keys, tokens=[N, T], prompt=[N]) -> rows [N, T].

  Without conditions a row begins with only `marks.start`. A wrong prompt gives a row of -1.
  """
  decoding.check_sampling(*sampling)

  def sample(
    state: State, keys: Key[Array, "n"], tokens: Int[Array, "n t"] | None = None, prompt: Int[Array, "n"] | None = None
  ) -> Int[Array, "n t"]:
    if tokens is None:
      tokens, prompt = jnp.full((len(keys), spec.shape[-1]), marks.start, jnp.int32), jnp.ones(len(keys), jnp.int32)
    read = jnp.arange(tokens.shape[1]) < prompt[:, None]
    wrong = jnp.any(((tokens < 0) | (tokens >= spec.levels)) & read, axis=1)
    wrong |= (prompt < 1) | (prompt >= tokens.shape[1])
    seen = jnp.where(read, tokens, marks.start).astype(jnp.int32).clip(0, spec.levels - 1)
    options = dict(levels=spec.levels, marks=marks, sampling=sampling)
    rows = write(network, state.averaged(), seen, prompt.clip(1, tokens.shape[1] - 1), keys, **options)
    return jnp.where(wrong[:, None], -1, rows)

  return sample


def check_network(network: Any, spec: Spec, marks: Marks, what: str) -> None:
  """Raises a UserError where a network has another vocabulary than the data, or the data has no such special tokens."""
  if spec.levels is None:
    raise UserError("answers consist of tokens, and this data has real numbers: use data with levels")
  if (known := getattr(network, "vocabulary", spec.levels)) < spec.levels:
    raise UserError(
      f"{what} has a vocabulary of {known} tokens, and the data's has {spec.levels}: both must use one tokenizer"
    )
  for name, token in marks._asdict().items():
    if not 0 <= token < spec.levels:
      raise UserError(f"the token {name}={token} is none of the vocabulary's, 0 to {spec.levels - 1}: change it")


def check_scorer(network: Any, spec: Spec, what: str) -> None:
  """Raises a UserError where a reward model's vocabulary is not the data's."""
  known = getattr(network, "vocabulary", spec.levels)
  if known != spec.levels:
    raise UserError(
      f"{what} is of a vocabulary of {known} tokens, and the data's has {spec.levels}: train one with this tokenizer"
    )


def check_rows(spec: Spec, batch: Mapping[str, Any]) -> None:
  """Raises a UserError if a batch, of arrays or their shapes, has no rows or no prompts as the spec says."""
  check_batch(spec, batch)
  if PROMPT not in batch:
    raise UserError(
      f"answers follow prompts, and this data has no {PROMPT!r}, their numbers of tokens: use data.text.answers"
    )


def check_values(batch: Mapping[str, np.ndarray], spec: Spec, marks: Marks) -> None:
  """Checks a batch's values, on the host.

  Raises:
    UserError: tokens outside the vocabulary, a prompt that is empty or fills the row, padding within an answer, or a
      ranking with the same answer twice.
  """
  tokens, prompt = np.asarray(batch[spec.feature]), np.asarray(batch[PROMPT])
  if tokens.min() < 0 or tokens.max() >= spec.levels:
    raise UserError(f"the data has tokens outside of the vocabulary, 0 to {spec.levels - 1}: change one of them")
  width = tokens.shape[-1]
  if prompt.min() < 1:
    raise UserError("a prompt has at least one token, the one that starts a row, but one here is empty: put it first")
  if prompt.max() >= width:
    raise UserError(f"a prompt of {prompt.max()} tokens leaves no room for an answer in a context of {width}: cut it")
  ranked = tokens.reshape(len(tokens), -1, width)
  for row, count in zip(ranked, prompt, strict=True):
    if len({tuple(answer[count:]) for answer in row}) < len(row):
      raise UserError("a prompt's answers are ranked, and two of one prompt are the same text: leave such pairs out")
    for answer in row:
      tail = answer[count:].tolist()
      if marks.pad in tail and marks.end not in tail:
        raise UserError(f"an answer is padded and has no end, the token {marks.end}: end it, so that padding is known")


def starting(name: str, source: Frozen | None, *networks: str) -> dict[str, Frozen]:
  """`compose`'s `frozen`: the entry `name` has the parameters of a source, and trained networks start from them.

  Args:
    source: where variables {"params": ..} come from, as `interop.runs.frozen(RUN)` gives it; None: there is none.
  """
  if source is None:
    return {}
  return {name: Frozen(source.source, lambda: {"params": source.load()["params"]}, networks)}
