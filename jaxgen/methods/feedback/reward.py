"""Reward models: a score of a prompt with its answer, learnt from which of several answers people like better.

In the model of Bradley and Terry 1952, y_i is preferred to y_j with probability sigmoid(r_i - r_j). Ouyang et al. 2022
(InstructGPT), https://arxiv.org/abs/2203.02155, eq. 1, take all pairs of K ranked answers to one prompt together:

    (R1)  L = - 1 / C(K, 2) sum_{i above j} log sigmoid(r(x, y_i) - r(x, y_j))

Scores are free up to a constant, which nothing here fixes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.methods.feedback.rows import PROMPT, check_rows, check_scorer, check_values, score, starting
from jaxgen.methods.sequence.seq2seq import MARKS, Marks


def bradley_terry(scores: Float[Array, "batch k"]) -> Float[Array, "batch"]:
  """(R1) of answers in the order of preference, the best first: nats per pair; ln 2 where all scores are equal."""
  above, below = np.triu_indices(scores.shape[1], 1)
  return jnp.mean(jax.nn.softplus(scores[:, below] - scores[:, above]), axis=1)


def in_order(scores: Float[Array, "batch k"]) -> Float[Array, "batch"]:
  """The share of pairs whose scores are in the order of preference; equal ones count half."""
  above, below = np.triu_indices(scores.shape[1], 1)
  return jnp.mean((1 + jnp.sign(scores[:, above] - scores[:, below])) / 2, axis=1)


def reward_model(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  start: Frozen | None = None,
  marks: Marks = MARKS,
) -> Method:
  """A model of preferences, batch {"tokens": [B, K, T], "prompt": [B], "index": [B]}: K ranked answers, the best first.

  The loss is the mean of (R1), in nats per pair. All answers to a prompt are in one example, because their pairs are
  not independent. A score is the network's number at the answer's last token.

  Args:
    network: `nn.sequence.scorer.Scorer`, or a network with the same interface.
    spec: the data's, of K rows of T tokens; pairs have K = 2.
    start: where the variables of a language model come from, or of a scorer; None: it is initialised.
    marks: the special tokens.

  `evaluate` gives "pair_nats", (R1); "correct", the share of pairs in order; and "score", the mean over the answers.

  Raises:
    UserError: a network of another vocabulary; data that is not as the spec says, or as in `rows.check_values`.
  """
  check_scorer(network, spec, "the reward model")
  if len(spec.shape) != 2 or spec.shape[0] < 2:
    raise UserError(f"a reward model learns from 2 or more ranked answers to a prompt, not {spec.shape}: give rankings")
  answers_of, width = spec.shape

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_rows(spec, batch)
    return {"network": network.init(key, batch[spec.feature][:1, 0])["params"]}, {}

  def scores(params: Params, batch: Batch, **options: Any) -> Float[Array, "batch k"]:
    tokens, prompt = batch[spec.feature].reshape(-1, width), jnp.repeat(batch[PROMPT], answers_of)
    return score(network, params, tokens, prompt, marks.end, **options).reshape(-1, answers_of)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    index = (batch["index"][:, None] * answers_of + jnp.arange(answers_of)).reshape(-1)
    found = scores(params, batch, index=index, rngs={"dropout": key})
    return jnp.mean(bradley_terry(found)), ({"accuracy": jnp.mean(in_order(found))}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    found = scores(state.averaged(), batch)
    return {"pair_nats": bradley_terry(found), "correct": in_order(found), "score": jnp.mean(found, axis=1)}

  return compose(
    init,
    [("network", Player(loss, optimizer))],
    frozen=starting("start", start, "network"),
    evaluate=evaluate,
    check=lambda batch: check_values(batch, spec, marks),
  )
