"""Sequence to sequence with any network that encodes a source and decodes a target: cross-entropy of the next token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.decoding import greedy

SOURCE = "source"
Tokens = Int[Array, "batch tokens"]


class Marks(NamedTuple):
  """The tokens that start a sequence, end it, and fill it up; `data.text`'s by default."""

  start: int = 1
  end: int = 2
  pad: int = 0


MARKS = Marks()


def seq2seq(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  marks: Marks = MARKS,
  label_smoothing: float = 0.0,
) -> Method:
  """A model of targets given sources, batch {"source": [B, S], "target": [B, T], "index": [B]}, all integers.

  Padding comes last. A target ends with `marks.end`; what starts it is no part of it. In training the network reads the
  true target up to each token (teacher forcing).

  The loss is in nats per token of the width: the mean over examples of the sum over an example's tokens, divided by the
  targets' width T, so that every token of every example counts alike, and the mean over a part of the batch is a part
  of the whole's. The metric "accuracy" is the share of an example's tokens that were the likeliest ones.

  Args:
    network: `nn.sequence.transformer.EncoderDecoder`, `nn.sequence.seq2seq.Seq2Seq`, or what is called as they are.
    spec: the data's, of targets: T tokens, the most of a sample; its levels are the vocabulary's number of tokens.
    optimizer: optax's.
    marks: the special tokens.
    label_smoothing: share of the target's mass that is spread over all tokens; Vaswani et al. 2017,
      https://arxiv.org/abs/1706.03762, section 5.4. In training only.

  `evaluate` gives "nll_nats", the cross-entropy without smoothing, summed over an example's tokens; "tokens", their
  number; and "correct", 1 where each was the likeliest, which is where greedy decoding writes exactly the target.

  `sample(state, keys, source=[N, S])` decodes greedily: [N, T], int32. The keys are not used.

  Raises:
    UserError: tokens outside the vocabulary, smoothing outside [0, 1), data that is not as the spec says or has no
      sources, or a network with another number of logits.
  """
  vocabulary = spec.levels or 0
  for name, token in marks._asdict().items():
    if not 0 <= token < vocabulary:
      raise UserError(
        f"the token {name}={token} is none of the vocabulary's, 0 to {vocabulary - 1}: change one of them"
      )
  if not 0 <= label_smoothing < 1:
    raise UserError(f"label_smoothing lies in [0, 1), and this is {label_smoothing:g}: change it")

  def logits_of(params: Params, batch: Batch, **options) -> Float[Array, "batch tokens v"]:
    source = batch[SOURCE]
    read = delayed(batch[spec.feature], marks.start)
    return wide(network.apply({"params": params}, source, read, source != marks.pad, **options))

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    if SOURCE not in batch:
      raise UserError(f"sequence to sequence learns from sources and targets, and this data has no {SOURCE!r}")
    source, target = batch[SOURCE][:1], batch[spec.feature][:1]
    logits, variables = network.init_with_output(key, source, delayed(target, marks.start), source != marks.pad)
    check_output("the network's output", logits.shape[1:], (*spec.shape, vocabulary), "set its vocabulary")
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    logits = logits_of(params, batch, index=batch["index"], rngs={"dropout": key})
    target = batch[spec.feature]
    nats, right, real = terms(logits, target, marks.pad, label_smoothing)
    accuracy = jnp.mean(right.sum(axis=1) / jnp.maximum(real.sum(axis=1), 1))
    return jnp.mean(nats), ({"accuracy": accuracy}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    target = batch[spec.feature]
    nats, right, real = terms(logits_of(state.averaged(), batch), target, marks.pad, 0.0)
    tokens = real.sum(axis=1)
    return {"nll_nats": nats.sum(axis=1), "tokens": tokens, "correct": (right.sum(axis=1) == tokens).astype(nats.dtype)}

  def sample(state: State, keys: Key[Array, "batch"], source: Int[Array, "batch source"]) -> Int[Array, "batch length"]:
    source = source.astype(jnp.int32)
    (length,) = spec.shape
    step, carry = network.stepper(state.averaged(), source, source != marks.pad, length)
    first = jnp.full(len(source), marks.start, jnp.int32)
    return greedy(step, carry, first, length=length, end=marks.end, pad=marks.pad)[0]

  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate, sample=sample)


def delayed(target: Tokens, start: int) -> Tokens:
  """What the network has read when it writes each token: the one before, or `start`."""
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def terms(
  logits: Float[Array, "batch tokens v"], target: Tokens, pad: int, smoothing: float
) -> tuple[Float[Array, "batch tokens"], Float[Array, "batch tokens"], Float[Array, "batch tokens"]]:
  """(cross-entropy in nats, 1 where the likeliest token is the target's, 1 where there is a token), 0 on padding."""
  real = (target != pad).astype(logits.dtype)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
  right = (jnp.argmax(logits, axis=-1) == target).astype(logits.dtype)
  return ((1 - smoothing) * nll + smoothing * uniform) * real, right * real, real
