"""Maximum likelihood of sequences of tokens x_1 .. x_T by any network that says what follows each:

    (L1)  log p(x) = sum_t log p(x_t | x_1 .. x_{t-1}, conditions)

Text, pixels in a row (van den Oord et al. 2016, https://arxiv.org/abs/1601.06759, eq. 1) and waves (van den Oord et al.
2016, https://arxiv.org/abs/1609.03499, eq. 1) are read as tokens and written from them by a `Code`. A network is
`nn.transformer.LanguageModel`, `nn.wavenet.WaveNet`, or what is called as they are:

    logits = network.apply({"params": params}, tokens [B, T], index=index, **conditions)      # [B, T, V], what follows
    step, carry = network.stepper(params, tokens [B, T], length, **conditions)                # see `jaxgen.decoding`

The carry has read `tokens`, and serves sequences of at most `length`. Samples are drawn in one scan.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen import decoding
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.data.audio import mu_law_inverse
from jaxgen.probability.distributions import to_integers, to_values

Tokens = Int[Array, "batch tokens"]


class Code(NamedTuple):
  """encode: a batch -> its tokens [B, T]. decode: tokens [N, T] -> samples [N, ...]."""

  encode: Callable[[Batch], Array]
  decode: Callable[[Array], Array]


def as_they_are() -> Code:
  """The batch's "tokens"; samples are tokens."""
  return Code(lambda batch: batch["tokens"], lambda tokens: tokens)


def pixels(shape: tuple[int, int, int], levels: int) -> Code:
  """The values of images in [-1, 1], [B, H, W, C], row by row and all channels of a pixel in turn."""

  def encode(batch: Batch) -> Tokens:
    return to_integers(batch["image"], levels).reshape(-1, math.prod(shape))

  def decode(tokens: Tokens) -> Float[Array, "batch height width channels"]:
    return to_values(tokens.reshape(-1, *shape), levels, jnp.result_type(float))

  return Code(encode, decode)


def waves(levels: int = 256) -> Code:
  """The batch's "tokens", of `data.audio.mu_law`; samples are waves in [-1, 1]."""
  return Code(lambda batch: batch["tokens"], partial(mu_law_inverse, levels=levels))


def language(
  network: Any,
  *,
  vocabulary: int,
  length: int,
  start: int | None,
  optimizer: optax.GradientTransformation,
  code: Code | None = None,
  conditions: tuple[str, ...] = (),
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  context: int | None = None,
  ema: float | Callable[[Array], Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A model of sequences of tokens, by (L1).

  Args:
    network: as above. What it says of tokens from `vocabulary` on (one that only starts sequences) is left out.
    vocabulary: number of different tokens.
    length: tokens of a sample, its prompt included.
    start: the token that the network reads before the first one. None: examples are cut out of something longer, so an
      example's first token is read and not predicted, and a sample goes on from a prompt.
    code: what the tokens of a batch are; by default `as_they_are`.
    conditions: names of what the batch has, [B], and the network is told.
    temperature, top_k, top_p: of samples; see `decoding.ancestral`.
    context: most tokens that the network reads at a time, None where there is no limit. A longer sample goes on as
      often as need be from the last half of as many tokens.
    ema, microbatches, axis: as in `compose`.

  The loss is the mean over examples of nats per token. `evaluate` gives "nll_nats", the sum over an example's tokens,
  and "tokens", how many they are.

  `sample(state, keys, prompt=[N, P], temperature=[N], **conditions)` gives [N, ...], `code`'s of `length` tokens, the
  first P of which are the prompt's; the temperature may be left out, and the prompt, too, where there is `start`. A
  prompt with a token that is none makes -1 of the whole sample in a compiled program.

  Raises:
    UserError: options of sampling that are none, data or networks that do not fit, a prompt that is too long or has
      tokens that are none.
  """
  decoding.check_sampling(temperature, top_k, top_p)
  code = as_they_are() if code is None else code

  def read(tokens: Tokens) -> tuple[Int[Array, "batch n"], Int[Array, "batch n"]]:
    """(what the network reads, what follows)."""
    if start is None:
      return tokens[:, :-1], tokens[:, 1:]
    return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start), tokens

  def told(batch: Batch) -> dict[str, Array]:
    if missing := set(conditions) - batch.keys():
      raise UserError(f"the model is told {min(missing)!r} of each example, and this data has none: leave it out")
    return {name: batch[name] for name in conditions}

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    batch = jax.tree.map(lambda x: x[:1], dict(batch))
    inputs, targets = read(code.encode(batch))
    if targets.shape[1] < 1:
      raise UserError("windows of one token leave nothing to predict: make the data's windows longer")
    if context is not None and inputs.shape[1] > context:
      raise UserError(
        f"examples of {inputs.shape[1]} tokens to read, and a context of {context}: make one as long as the other"
      )
    logits, variables = network.init_with_output(key, inputs, **told(batch))
    if logits.shape[:2] != targets.shape or logits.shape[2] < max(vocabulary, (start or 0) + 1):
      raise UserError(
        f"the network's output for {targets.shape[1]} tokens is {logits.shape}, and tokens are {vocabulary}, begun by "
        f"{start}: set the network's vocabulary"
      )
    return {"network": variables["params"]}, {}

  def nll(params: Params, batch: Batch, **options) -> Float[Array, "batch tokens"]:
    inputs, targets = read(code.encode(batch))
    logits = network.apply({"params": params}, inputs, **told(batch), **options)[..., :vocabulary]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    return jnp.mean(nll(params, batch, index=batch["index"], rngs={"dropout": key})), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    nats = nll(state.averaged(), batch)
    return {"nll_nats": nats.sum(axis=1), "tokens": jnp.full(len(nats), nats.shape[1], nats.dtype)}

  def sample(
    state: State,
    keys: Key[Array, "n"],
    prompt: Int[Array, "n prompt"] | None = None,
    temperature: Float[Array, "n"] | float = temperature,
    **given: Int[Array, "n"],
  ) -> Array:
    params = state.averaged()
    prompt = jnp.zeros((len(keys), 0), jnp.int32) if prompt is None else prompt.astype(jnp.int32)
    if prompt.shape[1] >= length:
      raise UserError(f"a prompt of {prompt.shape[1]} tokens leaves nothing to say of {length}: cut it, or say more")
    if start is None and not prompt.shape[1]:
      raise UserError("this model goes on from a prompt, and there is none: give one of at least one token")
    unknown = ((prompt < 0) | (prompt >= vocabulary)).any(axis=1)
    if not isinstance(unknown, jax.core.Tracer) and unknown.any():
      raise UserError(f"a prompt has tokens that are none of the {vocabulary}, 0 to {vocabulary - 1}: change it")

    def write(seen: Tokens, count: int, first: int | Array) -> Int[Array, "batch {count}"]:
      """What follows those seen."""
      step, carry = network.stepper(params, seen[:, :-1], seen.shape[1] + count - 1, **given)

      def of_vocabulary(carry, tokens):
        logits, carry = step(carry, tokens)
        return logits[:, :vocabulary], carry

      how = dict(temperature=temperature, top_k=top_k, top_p=top_p)
      return decoding.ancestral(of_vocabulary, carry, seen[:, -1], keys, length=count, first=first, **how)[0]

    whole = prompt.clip(0, vocabulary - 1)
    if start is not None:
      whole = jnp.pad(whole, ((0, 0), (1, 0)), constant_values=start)
    total = whole.shape[1] + length - prompt.shape[1]
    limit = total if context is None else context
    kept = max(1, limit // 2)
    seen = whole if whole.shape[1] <= limit else whole[:, -kept:]
    count = min(total - whole.shape[1], limit + 1 - seen.shape[1])
    whole = jnp.concatenate([whole, write(seen, count, 0)], axis=1)
    if total > whole.shape[1]:
      more = limit + 1 - kept

      def go_on(seen: Tokens, first: Array) -> tuple[Tokens, Int[Array, "batch new"]]:
        new = write(seen, more, first)
        return jnp.concatenate([seen, new], axis=1)[:, -kept:], new

      places = count + more * np.arange(-(-(total - whole.shape[1]) // more))
      _, rest = jax.lax.scan(go_on, whole[:, -kept:], jnp.asarray(places))
      whole = jnp.concatenate([whole, jnp.moveaxis(rest, 0, 1).reshape(len(keys), -1)], axis=1)[:, :total]
    return code.decode(jnp.where(unknown[:, None], -1, whole[:, total - length :]))

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  return compose(init, players, evaluate=evaluate, sample=sample, ema=averages, microbatches=microbatches, axis=axis)
