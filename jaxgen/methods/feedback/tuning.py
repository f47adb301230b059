"""Supervised fine-tuning on answers: Ouyang et al. 2022 (InstructGPT), https://arxiv.org/abs/2203.02155, section 3.5.

    (S1)  L = - sum_t log p(y_t | x, y_1 .. y_{t-1})      of the answer y to a prompt x, its end included

A `Method` for a language model as in `methods.sequence.language`, which it may start from.
"""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.methods.feedback.rows import (
  PROMPT,
  answers,
  check_network,
  check_rows,
  check_values,
  log_p,
  sampler,
  starting,
)
from jaxgen.methods.sequence.language import AS_LEARNED, Sampling
from jaxgen.methods.sequence.seq2seq import MARKS, Marks


def fine_tuning(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  start: Frozen | None = None,
  marks: Marks = MARKS,
  sampling: Sampling = AS_LEARNED,
) -> Method:
  """A model of answers to prompts, batch {"tokens": [B, T], "prompt": [B], "index": [B]}: see `rows`.

  The loss is in nats per token of the width: the mean over examples of the sum over the answer's tokens, divided by
  T - 1, so that every token of every answer counts alike. The prompt and what follows the end count nothing.

  Args:
    network: a language model.
    spec: the data's, of rows of T tokens.
    start: where the language model's variables come from; None: it is initialised.
    marks: the special tokens.
    sampling: how answers are drawn.

  `evaluate` gives "nll_nats", the sum over an answer's tokens, and "tokens", their number.

  `sample(state, keys, tokens=[N, T], prompt=[N])` writes an answer to each prompt: rows [N, T]. Without conditions it
  begins with only `marks.start`.

  Raises:
    UserError: a network of another vocabulary; data that is not as the spec says, or as in `rows.check_values`.
  """
  check_network(network, spec, marks, "the network")

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_rows(spec, batch)
    return {"network": network.init(key, batch[spec.feature][:1, :-1])["params"]}, {}

  def nats(params: Params, batch: Batch, **options: Any) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
    """(sum over an answer, its number of tokens)."""
    tokens = batch[spec.feature]
    found = -log_p(network, params, tokens, spec.levels, **options)
    mask = answers(tokens, batch[PROMPT], marks.end)
    return jnp.sum(found * mask, axis=1), jnp.sum(mask, axis=1).astype(found.dtype)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    total, _ = nats(params, batch, index=batch["index"], rngs={"dropout": key})
    return jnp.mean(total) / (spec.size - 1), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    total, count = nats(state.averaged(), batch)
    return {"nll_nats": total, "tokens": count}

  return compose(
    init,
    [("network", Player(loss, optimizer))],
    frozen=starting("start", start, "network"),
    evaluate=evaluate,
    sample=sampler(network, spec, marks, sampling),
    check=lambda batch: check_values(batch, spec, marks),
  )
