"""Sequence to sequence with any network that encodes a source and decodes a target: cross-entropy of the next token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.decoding import greedy
from jaxgen.methods.sequence.noise import Lesson, Lessons

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
  lessons: Lessons | None = None,
  future: tuple[float, ...] = (1.0,),
) -> Method:
  """A model of targets given sources, batch {"source": [B, S], "target": [B, T], "index": [B]}, all integers.

  Padding comes last. A target ends with `marks.end`; what starts it is no part of it. In training the network reads the
  true target up to each token (teacher forcing).

  The loss is in nats per token of the width: the mean over examples of the sum over an example's tokens, divided by the
  targets' width T, so that every token of every example counts alike, and the mean over a part of the batch is a part
  of the whole's. The metric "accuracy" is the share of an example's tokens that were the likeliest ones.

  Args:
    network: `nn.sequence.transformer.EncoderDecoder`, `nn.sequence.seq2seq.Seq2Seq`, or a network with the same
      interface.
    spec: the data's, of targets: T tokens, the most of a sample; its levels are the vocabulary's number of tokens.
    optimizer: optax's.
    marks: the special tokens.
    label_smoothing: share of the target's mass that is spread over all tokens; Vaswani et al. 2017,
      https://arxiv.org/abs/1706.03762, section 5.4. In training only.
    lessons: a function that makes a source from each target, for pretraining on texts without sources; the batch's
      source, if there is one, is not used. Each example's is drawn anew at every step. See `methods.sequence.noise`.
    future: weights alpha of the losses of ProphetNet's streams, Qi et al. 2020, https://arxiv.org/abs/2001.04063,
      section 3.4: stream j tells each token from those up to j places before it. With more than one the network's
      output is [B, n, T, V].

  `evaluate` gives "nll_nats", the cross-entropy without smoothing, summed over an example's tokens; "tokens", their
  number; and "correct", 1 where each was the likeliest, which is where greedy decoding writes exactly the target.

  `sample(state, keys, source=[N, S])` decodes greedily: [N, T], int32. The keys are not used.

  Raises:
    UserError: tokens outside the vocabulary, smoothing outside [0, 1), weights of streams that are below 0 or all 0,
      data that is not as the spec says or has no sources, or a network with another number of logits.
  """
  vocabulary = spec.levels or 0
  for name, token in marks._asdict().items():
    if not 0 <= token < vocabulary:
      raise UserError(
        f"the token {name}={token} is none of the vocabulary's, 0 to {vocabulary - 1}: change one of them"
      )
  if not 0 <= label_smoothing < 1:
    raise UserError(f"label_smoothing lies in [0, 1), and this is {label_smoothing:g}: change it")

  if not future or min(future) < 0 or not sum(future):
    raise UserError(f"the streams' weights are numbers from 0 on, not all 0, and these are {future}: change them")

  def lesson_of(batch: Batch, key: Array) -> Lesson:
    target = batch[spec.feature]
    if lessons is not None:
      return jax.vmap(lessons)(target, example_keys(key, batch["index"]))
    real = (target != marks.pad).astype(jnp.result_type(float))
    return Lesson(batch[SOURCE], delayed(target, marks.start), real)

  def streams(params: Params, lesson: Lesson, **options) -> list[Float[Array, "batch tokens v"]]:
    """Logits of each stream, the main one first."""
    logits = wide(network.apply({"params": params}, lesson.source, lesson.read, lesson.source != marks.pad, **options))
    return [logits] if len(future) == 1 else list(jnp.moveaxis(logits, 1, 0))

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    if SOURCE not in batch and lessons is None:
      raise UserError(f"sequence to sequence learns from sources and targets, and this data has no {SOURCE!r}")
    one = lesson_of(jax.tree.map(lambda x: jnp.asarray(x[:1]), dict(batch)), jax.random.key(0))
    logits, variables = network.init_with_output(key, one.source, one.read, one.source != marks.pad)
    shape = (*(() if len(future) == 1 else (len(future),)), *spec.shape, vocabulary)
    check_output("the network's output", logits.shape[1:], shape, "set its vocabulary, or the number of streams")
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    lesson_key, key = (key, key) if lessons is None else jax.random.split(key)
    lesson, target = lesson_of(batch, lesson_key), batch[spec.feature]
    main, *others = streams(params, lesson, index=batch["index"], rngs={"dropout": key})
    nats, right, real = terms(main, target, lesson.weights, label_smoothing)
    total = future[0] * jnp.mean(nats)
    for weight, logits in zip(future[1:], others, strict=True):
      total += weight * jnp.mean(terms(logits, target, lesson.weights, label_smoothing)[0])
    accuracy = jnp.mean(right.sum(axis=1) / jnp.maximum(real.sum(axis=1), 1))
    return total, ({"accuracy": accuracy}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    lesson = lesson_of(batch, key)
    main, *_ = streams(state.averaged(), lesson)
    nats, right, real = terms(main, batch[spec.feature], lesson.weights, 0.0)
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
  """The decoder's input at each token: the one before, or `start`."""
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def terms(
  logits: Float[Array, "batch tokens v"], target: Tokens, weights: Float[Array, "batch tokens"], smoothing: float
) -> tuple[Float[Array, "batch tokens"], Float[Array, "batch tokens"], Float[Array, "batch tokens"]]:
  """(cross-entropy in nats, 1 where the likeliest token is the target's, 1 where a token counts), 0 where none does.

  Args:
    weights: 1 where a token counts, 0 elsewhere, on padding for one.
  """
  real = weights.astype(logits.dtype)
  nll = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
  right = (jnp.argmax(logits, axis=-1) == target).astype(logits.dtype)
  return ((1 - smoothing) * nll + smoothing * uniform) * real, right * real, real
