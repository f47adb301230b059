"""Learning from preferences without a reward model: DPO, Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.

Of a prompt x, an answer y_w that was preferred and one y_l that was not, with the policy p and a frozen reference q,

    (D1)  h = log p(y_w | x) / q(y_w | x) - log p(y_l | x) / q(y_l | x)
    (D2)  L = - log sigmoid(beta h)                                                              their eq. 7
    (D3)  L = - (1 - e) log sigmoid(beta h) - e log sigmoid(- beta h)       preferences are wrong with probability e
    (D4)  L = (h - 1 / (2 beta))^2            IPO, Azar et al. 2023, https://arxiv.org/abs/2310.12036, their eq. 17

(D3) is conservative DPO, Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO". Probabilities are
those of whole answers, sums over tokens and not means. beta log p / q is the implicit reward, 0 at the start.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.methods.feedback.rows import (
  PROMPT,
  REFERENCE,
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

Objective = Callable[[Array, float], Array]


def dpo(h: Float[Array, "batch"], beta: float) -> Float[Array, "batch"]:
  """(D2), in nats."""
  return jax.nn.softplus(-beta * h)


def conservative(wrong: float) -> Objective:
  """(D3), in nats.

  Args:
    wrong: e, the share of preferences that are wrong.

  Raises:
    UserError: a share outside [0, 1/2).
  """
  if not 0 <= wrong < 0.5:
    raise UserError(f"the share of wrong preferences lies in [0, 0.5), and this is {wrong:g}: change it")
  return lambda h, beta: (1 - wrong) * jax.nn.softplus(-beta * h) + wrong * jax.nn.softplus(beta * h)


def ipo(h: Float[Array, "batch"], beta: float) -> Float[Array, "batch"]:
  """(D4); beta is the paper's tau."""
  return (h - 1 / (2 * beta)) ** 2


def preferences(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  beta: float = 0.1,
  objective: Objective = dpo,
  reference: Frozen | None = None,
  marks: Marks = MARKS,
  sampling: Sampling = AS_LEARNED,
) -> Method:
  """A policy from pairs of answers, batch {"tokens": [B, 2, T], "prompt": [B], "index": [B]}, the preferred one first.

  The loss is the mean over pairs of the objective. `params["reference"]` is the frozen reference.

  Args:
    network: a language model.
    spec: the data's, of 2 rows of T tokens.
    beta: what deviations from the reference cost.
    objective: (h [B], beta) -> [B]: `dpo`, `conservative(e)` or `ipo`.
    reference: the source of the reference's variables, from which the policy starts as well; None: both are
      initialised, and equal.
    marks: the special tokens.
    sampling: how answers are drawn.

  `evaluate` gives "loss", that of a pair; "reward_preferred" and "reward_other", the implicit rewards; and "correct", 1
  if they are in order, 1/2 if they are equal.

  `sample(state, keys, tokens=[N, T], prompt=[N])`: as of `fine_tuning`.

  Raises:
    UserError: a beta that is not above 0, a network of another vocabulary, or data that is not as the spec says or as
      in `rows.check_values`.
  """
  check_network(network, spec, marks, "the network")
  if not 0 < beta < float("inf"):
    raise UserError(f"beta must be a finite number above 0, not {beta:g}: the paper's is 0.1")
  if len(spec.shape) != 2 or spec.shape[0] != 2:
    raise UserError(f"a policy learns from pairs of answers to a prompt, not from {spec.shape}: give pairs")

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_rows(spec, batch)
    params = network.init(key, batch[spec.feature][:1, 0, :-1])["params"]
    return {"network": params, REFERENCE: {"params": jax.tree.map(jnp.copy, params)}}, {}

  def ratios(params: Params, state: State, batch: Batch, **options: Any) -> Float[Array, "batch 2"]:
    """log p / q of both answers."""
    tokens, prompt = batch[spec.feature].reshape(-1, spec.shape[1]), jnp.repeat(batch[PROMPT], 2)
    ours = log_p(network, params, tokens, spec.levels, **options)
    theirs = log_p(network, state.params[REFERENCE]["params"], tokens, spec.levels)
    each = (ours - theirs) * answers(tokens, prompt, marks.end)
    return jnp.sum(each, axis=1).reshape(-1, 2)

  def numbers(found: Float[Array, "batch 2"]) -> dict[str, Float[Array, "batch"]]:
    h = found[:, 0] - found[:, 1]
    rewards = {"reward_preferred": beta * found[:, 0], "reward_other": beta * found[:, 1]}
    return {"loss": objective(h, beta), **rewards, "correct": (1 + jnp.sign(h)) / 2}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    index = (batch["index"][:, None] * 2 + jnp.arange(2)).reshape(-1)
    means = jax.tree.map(jnp.mean, numbers(ratios(params, state, batch, index=index, rngs={"dropout": key})))
    value = means.pop("loss")
    return value, (means, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    return numbers(ratios(state.averaged(), state, batch))

  row = spec._replace(shape=spec.shape[1:])
  return compose(
    init,
    [("network", Player(loss, optimizer))],
    frozen=starting(REFERENCE, reference, "network"),
    evaluate=evaluate,
    sample=sampler(network, row, marks, sampling),
    check=lambda batch: check_values(batch, spec, marks),
  )
