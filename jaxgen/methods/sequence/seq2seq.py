"""Sequence to sequence with any network that encodes a source and decodes a target: cross-entropy of the next token."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.decoding import greedy


def seq2seq(
  network: Any,
  *,
  optimizer: optax.GradientTransformation,
  vocabulary: int,
  length: int,
  start: int = 1,
  end: int = 2,
  pad: int = 0,
  label_smoothing: float = 0.0,
  ema: float | Callable[[jax.Array], jax.Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A model of targets given sources, batch {"source": [B, S], "target": [B, T], "index": [B]}, all integers.

  Padding comes last. A target ends with `end`; what starts it is no part of it. In training the network reads the true
  target up to each token (teacher forcing).

  Args:
    network: `nn.transformer.EncoderDecoder`, `nn.seq2seq.Seq2Seq`, or what is called as they are.
    optimizer: optax's.
    vocabulary: number of the target's tokens.
    length: most tokens of a sample.
    start, end, pad: tokens that start a sequence, end it, and fill it up.
    label_smoothing: share of the target's mass that is spread over all tokens; Vaswani et al. 2017,
      https://arxiv.org/abs/1706.03762, section 5.4. In training only.
    ema: decay of the averaged parameters that evaluation and sampling then use; None keeps none.
    microbatches, axis: as in `compose`.

  The loss is the mean over examples of the sum over an example's tokens, divided by the batch's width T: every token of
  every example counts alike, and the mean over a part of the batch is a part of the whole's. The metric "accuracy" is
  the share of an example's tokens that were the likeliest ones.

  `evaluate` gives "nll_nats", the cross-entropy without smoothing, summed over an example's tokens; "tokens", their
  number; and "correct", 1 where each was the likeliest, which is where greedy decoding writes exactly the target.

  `sample(state, keys, source=[N, S])` decodes greedily: [N, length], int32. The keys are not used.

  Raises:
    UserError: tokens outside the vocabulary, smoothing outside [0, 1), data without sources and targets, or a network
      with another number of logits.
  """
  for name, token in dict(start=start, end=end, pad=pad).items():
    if not 0 <= token < vocabulary:
      raise UserError(
        f"the token {name}={token} is none of the vocabulary's, 0 to {vocabulary - 1}: change one of them"
      )
  if not 0 <= label_smoothing < 1:
    raise UserError(f"label_smoothing lies in [0, 1), and this is {label_smoothing:g}: change it")

  def read(target: Int[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """What the network has read when it writes each token: the one before."""
    return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=start)

  def init(key: jax.Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    if missing := {"source", "target"} - batch.keys():
      raise UserError(f"sequence to sequence learns from sources and targets, and this data has no {min(missing)!r}")
    source, target = batch["source"][:1], batch["target"][:1]
    logits, variables = network.init_with_output(key, source, read(target), source != pad)
    if logits.shape != (*target.shape, vocabulary):
      raise UserError(
        f"the network's output for a target of {target.shape[1]} tokens is {logits.shape}, not "
        f"(1, {target.shape[1]}, {vocabulary}): set its vocabulary"
      )
    return {"network": variables["params"]}, {}

  def terms(
    logits: Float[Array, "batch tokens v"], target: Int[Array, "batch tokens"], smoothing: float
  ) -> tuple[Float[Array, "batch tokens"], Float[Array, "batch tokens"], Float[Array, "batch tokens"]]:
    """(cross-entropy, 1 where the likeliest token is the target's, 1 where there is a token), 0 on padding."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    real = (target != pad).astype(logits.dtype)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    right = (jnp.argmax(logits, axis=-1) == target).astype(logits.dtype)
    return ((1 - smoothing) * nll + smoothing * uniform) * real, right * real, real

  def loss(params: Params, state: State, batch: Batch, key: jax.Array):
    source, target = batch["source"], batch["target"]
    logits = network.apply(
      {"params": params}, source, read(target), source != pad, index=batch["index"], rngs={"dropout": key}
    )
    nats, right, real = terms(logits, target, label_smoothing)
    metrics = {"accuracy": jnp.mean(right.sum(axis=1) / jnp.maximum(real.sum(axis=1), 1))}
    return jnp.mean(nats), (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
    source, target = batch["source"], batch["target"]
    params = state.averaged()
    nats, right, real = terms(network.apply({"params": params}, source, read(target), source != pad), target, 0.0)
    tokens = real.sum(axis=1)
    return {"nll_nats": nats.sum(axis=1), "tokens": tokens, "correct": (right.sum(axis=1) == tokens).astype(nats.dtype)}

  def sample(state: State, keys: jax.Array, source: Int[Array, "batch source"]) -> Int[Array, "batch length"]:
    params = state.averaged()
    source = source.astype(jnp.int32)
    step, carry = network.stepper(params, source, source != pad, length)
    tokens, _ = greedy(step, carry, jnp.full(len(source), start, jnp.int32), length=length, end=end, pad=pad)
    return tokens

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  return compose(init, players, evaluate=evaluate, sample=sample, ema=averages, microbatches=microbatches, axis=axis)
