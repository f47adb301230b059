"""Maximum likelihood of sequences of tokens x_1 .. x_T by any network that predicts the next token:

    (L1)  log p(x) = sum_t log p(x_t | x_1 .. x_{t-1}, conditions)

Text, pixels in a row (van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, eq. 1) and waves (van den Oord et al.
2016, https://arxiv.org/abs/1609.03499, eq. 1) are converted to tokens and back by a `Code`. A network is
`nn.sequence.transformer.LanguageModel`, `nn.sequence.wavenet.WaveNet`, or any with the same methods:

    logits = network.apply({"params": params}, tokens [B, T], index=index, **conditions)      # [B, T, V], of the next
    step, carry = network.stepper(params, tokens [B, T], length, **conditions)                # see `jaxgen.decoding`

The carry has read `tokens` and has room for sequences of at most `length` tokens. One scan draws the samples.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import decoding
from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.data.audio import mu_law_inverse
from jaxgen.probability.distributions import to_integers, to_values

Tokens = Int[Array, "batch tokens"]


class Code(NamedTuple):
  """How examples become tokens and tokens become samples.

  Attributes:
    encode: a batch -> its tokens [B, T].
    decode: tokens [N, T] -> samples [N, ...].
  """

  encode: Callable[[Batch], Array]
  decode: Callable[[Array], Array]


def tokens_of(spec: Spec) -> Code:
  """The tokens that the data has; samples are tokens."""
  return Code(lambda batch: batch[spec.feature], lambda tokens: tokens)


def pixels(spec: Spec) -> Code:
  """The values of images in [-1, 1], [B, H, W, C], row by row and all channels of a pixel in turn."""

  def encode(batch: Batch) -> Tokens:
    return to_integers(batch[spec.feature], spec.levels).reshape(-1, spec.size)

  def decode(tokens: Tokens) -> Float[Array, "batch height width channels"]:
    return to_values(tokens.reshape(-1, *spec.shape), spec.levels, jnp.result_type(float))

  return Code(encode, decode)


def waves(spec: Spec) -> Code:
  """The data's tokens, of `data.audio.mu_law`; samples are waves in [-1, 1]."""
  return Code(lambda batch: batch[spec.feature], partial(mu_law_inverse, levels=spec.levels))


class Sampling(NamedTuple):
  """How samples are drawn: see `decoding.ancestral`."""

  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None


AS_LEARNED = Sampling()


def language(
  network: Any,
  *,
  spec: Spec,
  start: int | None,
  optimizer: optax.GradientTransformation,
  code: Code | None = None,
  conditions: tuple[str, ...] = (),
  length: int | None = None,
  sampling: Sampling = AS_LEARNED,
  context: int | None = None,
  documents: str | None = None,
) -> Method:
  """A model of sequences of tokens, by (L1).

  The loss is the mean over examples of nats per token.

  Args:
    network: as above. Its logits of tokens beyond the vocabulary, such as one that only starts sequences, are ignored.
    spec: the data's. Its levels are the number of tokens in the vocabulary.
    start: the token that the network reads before the first one. None: examples are cut out of a longer sequence, so
      an example's first token is read and not predicted, and a sample continues a prompt.
    code: a function from batches to tokens; by default examples of integers are tokens (`tokens_of`), and other
      examples are encoded by `pixels`.
    conditions: names of arrays [B] in the batch that the network takes as conditions.
    length: the number of tokens of a sample, its prompt included; by default as many as an example has.
    sampling: how samples are drawn.
    context: the most tokens that the network reads at a time; None: no limit. When the context of a longer sample is
      full, the network reads the last `context // 2` tokens again and continues from there.
    documents: the name of an array [B, T] in the batch, the number of each token's document in a row of several, and 0
      for padding, as `data.text.documents` has it. The network gets it as `documents=[B, T]`, and neither the first
      token of a document nor padding is predicted. An example's loss is the mean over its predicted tokens.

  `evaluate` gives "nll_nats", the sum over an example's tokens, and "tokens", their number.

  `sample(state, keys, prompt=[N, P], temperature=[N], **conditions)` draws sequences of `length` tokens that begin with
  the P tokens of the prompt, and gives them decoded by `code`, [N, ...]. The temperature may be left out, and so may
  the prompt where there is `start`. In a compiled program, a prompt with a token outside the vocabulary gives a sample
  of tokens -1.

  Raises:
    UserError: invalid options of sampling, data or networks that do not fit, or a prompt that is too long or has tokens
      outside the vocabulary.
  """
  decoding.check_sampling(*sampling)
  if spec.levels is None:
    raise UserError("a language has a finite number of tokens, and this data has real numbers: use data with levels")
  if code is None:
    code = tokens_of(spec) if np.issubdtype(spec.dtype, np.integer) else pixels(spec)
  length = spec.size if length is None else length
  if documents is not None and start is not None:
    raise UserError(f"rows of documents begin with a document, and not with the token {start}: leave out the start")

  def weights(batch: Batch) -> Float[Array, "batch tokens"] | None:
    """1 where a token follows one of the same document; None where all count."""
    if documents is None:
      return None
    here, after = shifted(batch[documents], None)
    return ((here == after) & (after > 0)).astype(jnp.result_type(float))

  def others(batch: Batch) -> dict[str, Array]:
    """The other inputs of the network."""
    rows = {} if documents is None else {"documents": told(batch, (documents,))[documents][:, :-1]}
    return told(batch, conditions) | rows

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    batch = jax.tree.map(lambda x: x[:1], dict(batch))
    inputs, targets = shifted(code.encode(batch), start)
    if targets.shape[1] < 1:
      raise UserError("windows of one token leave nothing to predict: make the data's windows longer")
    if context is not None and inputs.shape[1] > context:
      raise UserError(
        f"examples of {inputs.shape[1]} tokens to read, and a context of {context}: make one as long as the other"
      )
    logits, variables = network.init_with_output(key, inputs, **others(batch))
    if logits.shape[:2] != targets.shape or logits.shape[2] < max(spec.levels, (start or 0) + 1):
      raise UserError(
        f"the network's output for {targets.shape[1]} tokens is {logits.shape}, and tokens are {spec.levels}, begun by "
        f"{start}: set the network's vocabulary"
      )
    return {"network": variables["params"]}, {}

  def nll(params: Params, batch: Batch, **options) -> Float[Array, "batch tokens"]:
    inputs, targets = shifted(code.encode(batch), start)
    logits = network.apply({"params": params}, inputs, **others(batch), **options)[..., : spec.levels]
    return optax.softmax_cross_entropy_with_integer_labels(wide(logits), targets)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    nats, weight = nll(params, batch, index=batch["index"], rngs={"dropout": key}), weights(batch)
    if weight is not None:
      nats = jnp.sum(nats * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)
    return jnp.mean(nats), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    nats, weight = nll(state.averaged(), batch), weights(batch)
    weight = jnp.ones_like(nats) if weight is None else weight
    return {"nll_nats": jnp.sum(nats * weight, axis=1), "tokens": jnp.sum(weight, axis=1).astype(nats.dtype)}

  def sample(
    state: State,
    keys: Key[Array, "n"],
    prompt: Int[Array, "n prompt"] | None = None,
    temperature: Float[Array, "n"] | float = sampling.temperature,
    **given: Int[Array, "n"],
  ) -> Array:
    params = state.averaged()
    prompt = jnp.zeros((len(keys), 0), jnp.int32) if prompt is None else prompt.astype(jnp.int32)
    wrong = check_prompt(prompt, spec.levels, length, start)

    def write(seen: Tokens, count: int, first: int | Array) -> Int[Array, "batch {count}"]:
      step, carry = network.stepper(params, seen[:, :-1], seen.shape[1] + count - 1, **given)
      step = within(step, spec.levels)
      options = dict(length=count, first=first, **sampling._replace(temperature=temperature)._asdict())
      return decoding.ancestral(step, carry, seen[:, -1], keys, **options)[0]

    seen = prompt.clip(0, spec.levels - 1)
    if start is not None:
      seen = jnp.pad(seen, ((0, 0), (1, 0)), constant_values=start)
    tokens = continued(write, seen, length - prompt.shape[1], context)[:, -length:]
    return code.decode(jnp.where(wrong[:, None], -1, tokens))

  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate, sample=sample)


def told(batch: Batch, conditions: tuple[str, ...]) -> dict[str, Array]:
  """The conditions of each example. Raises a UserError where the batch lacks one."""
  if missing := set(conditions) - batch.keys():
    raise UserError(
      f"the model is conditioned on {min(missing)!r} of each example, and this data has none: leave it out"
    )
  return {name: batch[name] for name in conditions}


def shifted(tokens: Tokens, start: int | None) -> tuple[Int[Array, "batch n"], Int[Array, "batch n"]]:
  """(the tokens that the network reads, the token that follows each of them); see `language` for `start`."""
  if start is None:
    return tokens[:, :-1], tokens[:, 1:]
  return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start), tokens


def check_prompt(prompt: Tokens, vocabulary: int, length: int, start: int | None) -> Bool[Array, "batch"]:
  """Whether each prompt has tokens outside the vocabulary.

  Raises:
    UserError: prompts as long as samples, none where one is needed, or, outside of a compiled program, a wrong token.
  """
  if prompt.shape[1] >= length:
    raise UserError(f"a prompt of {prompt.shape[1]} tokens leaves nothing to say of {length}: cut it, or say more")
  if start is None and not prompt.shape[1]:
    raise UserError("this model continues a prompt, and none was given: give one of at least one token")
  wrong = ((prompt < 0) | (prompt >= vocabulary)).any(axis=1)
  if not isinstance(wrong, jax.core.Tracer) and wrong.any():
    raise UserError(f"a prompt has tokens outside of the vocabulary, 0 to {vocabulary - 1}: change it")
  return wrong


def within(step: decoding.Step, vocabulary: int) -> decoding.Step:
  """The same step, with logits of only the first `vocabulary` tokens."""

  def of_vocabulary(carry: decoding.Carry, tokens: Int[Array, "batch"]) -> tuple[Array, decoding.Carry]:
    logits, carry = step(carry, tokens)
    return logits[:, :vocabulary], carry

  return of_vocabulary


def continued(
  write: Callable[[Tokens, int, int | Array], Tokens], seen: Tokens, count: int, context: int | None
) -> Int[Array, "batch total"]:
  """Tokens, and `count` more, of which no more than `context` are read at a time.

  If the tokens so far fill the context, its last half is read again and the text continues from there.

  Args:
    write: (tokens seen [B, S], number of tokens, place of the first among all new ones) -> what follows those seen.
  """
  if context is None:
    return jnp.concatenate([seen, write(seen, count, 0)], axis=1)
  half = max(1, context // 2)
  read = seen if seen.shape[1] <= context else seen[:, -half:]
  # After so many tokens the context is full: the last one is generated and not read.
  first = min(count, context + 1 - read.shape[1])
  whole = jnp.concatenate([seen, write(read, first, 0)], axis=1)
  if first == count:
    return whole
  each = context + 1 - half

  def go_on(last: Tokens, place: Array) -> tuple[Tokens, Int[Array, "batch new"]]:
    new = write(last, each, place)
    return jnp.concatenate([last, new], axis=1)[:, -half:], new

  places = first + each * np.arange(math.ceil((count - first) / each))
  _, more = jax.lax.scan(go_on, whole[:, -half:], jnp.asarray(places))
  more = jnp.moveaxis(more, 0, 1).reshape(len(seen), -1)  # [turns, B, each] -> [B, turns each]
  return jnp.concatenate([whole, more], axis=1)[:, : seen.shape[1] + count]
