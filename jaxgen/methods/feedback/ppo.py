"""PPO against a reward model, as Ouyang et al. 2022 (InstructGPT), https://arxiv.org/abs/2203.02155, have it.

A step writes answers y to prompts x with the policy p, and then updates policy and value function on minibatches of
them. Each token is an action; with the frozen reference q and the score R of the whole answer, its reward is

    (P1)  r_t = - beta (log p(y_t) - log q(y_t)) + R [t is the answer's last token]       Ziegler et al. 2019, eq. 2
    (P2)  A_t = d_t + gamma lambda A_{t+1},  d_t = r_t + gamma V_{t+1} - V_t     Schulman et al. 2015, eq. 16 (GAE)
    (P3)  L_p = max(- A_t c_t, - A_t clip(c_t, 1 - e, 1 + e)),  c_t = p(y_t) / p_old(y_t)    Schulman et al. 2017, eq. 7
    (P4)  L_V = max((V_t - G_t)^2, (clip(V_t, V_old - e_V, V_old + e_V) - G_t)^2) / 2,  G_t = A_t + V_old
    (P5)  beta <- beta (1 + k clip(KL / target - 1, -0.2, 0.2))         Ziegler et al. 2019, section 2.2, adaptive beta
    (P6)  L_p - c log p(text)                                           PPO-ptx: InstructGPT's eq. 2

https://arxiv.org/abs/1909.08593, 1506.02438, 1707.06347. p_old, V_old and A are computed when the answers are written,
and the value after an answer's last token is 0. KL is the mean over answers of the sum over their tokens of log p / q,
under the policy that wrote them: the penalised KL is also the reported KL and the one that `target` refers to.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Buffers, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec
from jaxgen.methods.feedback.rows import (
  PROMPT,
  REFERENCE,
  Counts,
  Tokens,
  answers,
  check_network,
  check_rows,
  check_scorer,
  check_values,
  log_p,
  sampler,
  score,
  starting,
  write,
)
from jaxgen.methods.sequence.language import AS_LEARNED, Sampling
from jaxgen.methods.sequence.seq2seq import MARKS, Marks

REWARD, VALUE = "reward", "value"
Steps = Float[Array, "batch predicted"]


class Penalty(NamedTuple):
  """The KL penalty for deviations from the reference.

  Attributes:
    beta: its value, or its first one.
    target: the KL, in nats per answer, to which (P5) adapts beta; None: beta is fixed.
    gain: k of (P5), 0.1 in Ziegler et al.
  """

  beta: float = 0.05
  target: float | None = None
  gain: float = 0.1

  def after(self, beta: Float[Array, ""], kl: Float[Array, ""]) -> Float[Array, ""]:
    """(P5): beta after answers with this KL."""
    if self.target is None:
      return beta
    return beta * (1 + self.gain * jnp.clip(kl / self.target - 1, -0.2, 0.2)).astype(beta.dtype)


class Settings(NamedTuple):
  """The choices of PPO.

  Attributes:
    minibatches: updates of policy and of value function in a step, each from its part of the answers.
    epochs: number of steps that use the same answers, each in another order; every `epochs`-th step writes new ones.
    gamma, lam: of (P2).
    clip, value_clip: e and e_V.
    whiten: advantages are normalised to mean 0 and variance 1 over all tokens of the answers, as in Ziegler et al.'s
      code.
    pretraining: c of (P6), the weight of the language-model loss per token of the row; 0: it is not used.
    unfinished: the score of an answer without an end; None: the reward model's of its last token.
  """

  minibatches: int = 4
  epochs: int = 1
  gamma: float = 1.0
  lam: float = 0.95
  clip: float = 0.2
  value_clip: float = 0.2
  whiten: bool = True
  pretraining: float = 0.0
  unfinished: float | None = None


def gae(rewards: Steps, values: Steps, mask: Bool[Array, "batch predicted"], gamma: float, lam: float) -> Steps:
  """(P2): advantages, 0 where the mask is False. The value after an answer is 0."""
  mask = mask.astype(values.dtype)
  after = lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
  delta = (rewards + gamma * after(values * mask) - values) * mask

  def back(advantage: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
    delta, real = now
    advantage = real * (delta + gamma * lam * advantage)
    return advantage, advantage

  _, found = jax.lax.scan(back, jnp.zeros_like(delta[:, 0]), (delta.T, mask.T), reverse=True)
  return found.T


def whitened(x: Steps, mask: Bool[Array, "batch predicted"]) -> Steps:
  """x with mean 0 and variance 1 over the mask, 0 elsewhere."""
  count = jnp.maximum(jnp.sum(mask), 1)
  mean = jnp.sum(x * mask) / count
  variance = jnp.sum((x - mean) ** 2 * mask) / count
  return (x - mean) * jax.lax.rsqrt(variance + 1e-8) * mask


PENALTY, SETTINGS = Penalty(), Settings()


class Networks(NamedTuple):
  """The four networks of PPO. Those with a source start from it, and frozen ones do not change.

  Attributes:
    policy: a language model; the reference has the same network.
    reward: a scorer, frozen.
    value: a scorer whose output at a token is the expected return after it; None: the same network as `reward`, from
      whose parameters it starts.
    reference_from: a language model's run, as `interop.runs.frozen` gives it.
    reward_from: a reward model's run.
  """

  policy: Any
  reward: Any
  value: Any | None = None
  reference_from: Frozen | None = None
  reward_from: Frozen | None = None


def ppo(
  networks: Networks,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  value_optimizer: optax.GradientTransformation,
  penalty: Penalty = PENALTY,
  settings: Settings = SETTINGS,
  marks: Marks = MARKS,
  sampling: Sampling = AS_LEARNED,
) -> Method:
  """A policy of answers to prompts, batch {"tokens": [B, T], "prompt": [B], "index": [B]}: see `rows`.

  Answers are drawn as the policy has learnt them, at temperature 1, by the cached sampler within the compiled step, and
  kept in `buffers["rollouts"]` with beta and the means of KL and score. Dropout is off: ratios (P3) compare p with
  p_old. Losses are means over examples of the sum over the answer's tokens, divided by T - 1, the most that there can
  be, and not by their number, which would weigh tokens of short answers more.

  What follows the prompts in a batch's rows is used by (P6) alone, and so is "text" [B, T] in place of the rows where
  the data has it.

  Args:
    spec: the data's, of rows of T tokens.
    optimizer, value_optimizer: of the policy and of the value function.
    penalty: of deviations from the reference.
    settings: the choices of PPO.
    marks: the special tokens.
    sampling: how `sample` draws answers.

  `evaluate` writes an answer to each prompt and gives "reward", its score; "kl_nats", the sum of log p / q over its
  tokens; and "answer_tokens", their number.

  `sample(state, keys, tokens=[N, T], prompt=[N])`: as of `fine_tuning`.

  Raises:
    UserError: networks of another vocabulary, settings that make no sense, a batch that does not divide into the
      minibatches, or data that is not as the spec says or as in `rows.check_values`.
  """
  policy, reward = networks.policy, networks.reward
  value = reward if networks.value is None else networks.value
  levels, s = spec.levels, settings
  check_network(policy, spec, marks, "the policy")
  check_scorer(reward, spec, "the reward model")
  check_scorer(value, spec, "the value function")
  _check(settings, penalty)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_rows(spec, batch)
    policy_key, value_key, reward_key = jax.random.split(key, 3)
    tokens = batch[spec.feature]
    params = policy.init(policy_key, tokens[:1, :-1])["params"]
    params = {
      "network": params,
      VALUE: value.init(value_key, tokens[:1])["params"],
      REFERENCE: {"params": jax.tree.map(jnp.copy, params)},
      REWARD: {"params": reward.init(reward_key, tokens[:1])["params"]},
    }
    beta, zero = jnp.asarray(penalty.beta, jnp.result_type(float)), jnp.zeros((), jnp.result_type(float))
    shapes = jax.eval_shape(rollouts, params, beta, tokens, batch[PROMPT], jax.random.split(key, len(tokens)))
    chains = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return params, {"beta": beta, "kl_nats": zero, "reward": zero, "rollouts": {"chains": chains}}

  def spoken(
    params: dict[str, Params], acting: Params, tokens: Tokens, prompt: Counts, keys: Key[Array, "n"]
  ) -> dict[str, Array]:
    """Answers, with the networks' outputs for their tokens."""
    rows = write(policy, acting, tokens, prompt, keys, levels=levels, marks=marks)
    mask = answers(rows, prompt, marks.end)
    ours = log_p(policy, acting, rows, levels)
    theirs = log_p(policy, params[REFERENCE]["params"], rows, levels)
    scores = score(reward, params[REWARD]["params"], rows, prompt, marks.end)
    if s.unfinished is not None:
      ended = jnp.any((rows[:, 1:] == marks.end) & mask, axis=1)
      scores = jnp.where(ended, scores, s.unfinished)
    return {"rows": rows, "mask": mask, "log_p": ours, "log_ratio": jnp.where(mask, ours - theirs, 0), "score": scores}

  def rollouts(
    params: dict[str, Params], beta: Float[Array, ""], tokens: Tokens, prompt: Counts, keys: Key[Array, "n"]
  ) -> dict[str, Array]:
    """Answers, and all that the updates need of them: [B, ..]."""
    found = spoken(params, params["network"], tokens, prompt, keys)
    mask, values = found["mask"], value.apply({"params": params[VALUE]}, found["rows"])[:, :-1]
    is_last = jnp.arange(1, spec.size) == (prompt - 1 + jnp.sum(mask, axis=1))[:, None]
    rewards = -beta.astype(values.dtype) * found["log_ratio"] + found["score"][:, None] * is_last
    advantages = gae(rewards, values, mask, s.gamma, s.lam)
    targets = advantages + values
    if s.whiten:
      advantages = whitened(advantages, mask)
    return found | {"advantages": advantages, "values": values, "targets": targets}

  def stage(state: State, batch: Batch, key: Array) -> tuple[Batch, Buffers]:
    """Writes answers, or takes the last ones in another order; moves beta after those that are new."""
    kept, (order_key, draw_key) = state.buffers, jax.random.split(key)

    def new() -> Buffers:
      keys = example_keys(draw_key, batch["index"])
      found = rollouts(state.params, kept["beta"], batch[spec.feature], batch[PROMPT], keys)
      kl, mean = jnp.mean(jnp.sum(found["log_ratio"], axis=1)), jnp.mean(found["score"])
      numbers = {"kl_nats": kl, "reward": mean}
      numbers = {name: x.astype(kept[name].dtype) for name, x in numbers.items()}
      return {"beta": penalty.after(kept["beta"], kl), **numbers, "rollouts": {"chains": found}}

    def again() -> Buffers:
      order = jax.random.permutation(order_key, len(batch["index"]))
      return {**kept, "rollouts": jax.tree.map(lambda x: x[order], kept["rollouts"])}

    buffers = new() if s.epochs == 1 else jax.lax.cond(state.step % s.epochs == 0, new, again)
    return {**batch, "rollouts": buffers["rollouts"]["chains"]}, buffers

  def mean(each: Steps, mask: Bool[Array, "batch predicted"]) -> Float[Array, ""]:
    return jnp.mean(jnp.sum(jnp.where(mask, each, 0), axis=1)) / (spec.size - 1)

  def policy_loss(params: Params, state: State, batch: Batch, key: Array):
    r = batch["rollouts"]
    ratio = jnp.exp(jnp.where(r["mask"], log_p(policy, params, r["rows"], levels) - r["log_p"], 0))
    clipped = jnp.clip(ratio, 1 - s.clip, 1 + s.clip)
    loss = mean(jnp.maximum(-r["advantages"] * ratio, -r["advantages"] * clipped), r["mask"])
    count = jnp.maximum(jnp.sum(r["mask"]), 1)
    metrics = {
      "ratio": jnp.sum(ratio * r["mask"]) / count,
      "clip_fraction": jnp.sum((jnp.abs(ratio - 1) > s.clip) & r["mask"]) / count,
      **{name: state.buffers[name] for name in ("beta", "kl_nats", "reward")},
    }
    if s.pretraining:
      text = batch.get("text", batch[spec.feature])
      real = answers(text, jnp.ones(len(text), jnp.int32), marks.end)
      metrics["text_nats"] = mean(-log_p(policy, params, text, levels), real)
      loss = loss + s.pretraining * metrics["text_nats"]
    return loss, (metrics, state.buffers)

  def value_loss(params: Params, state: State, batch: Batch, key: Array):
    r = batch["rollouts"]
    found = value.apply({"params": params}, r["rows"])[:, :-1]
    near = r["values"] + jnp.clip(found - r["values"], -s.value_clip, s.value_clip)
    squares = jnp.maximum((found - r["targets"]) ** 2, (near - r["targets"]) ** 2)
    return mean(squares, r["mask"]) / 2, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    keys = example_keys(key, batch["index"])
    found = spoken(state.params, state.averaged(), batch[spec.feature], batch[PROMPT], keys)
    count = jnp.sum(found["mask"], axis=1).astype(found["score"].dtype)
    return {"reward": found["score"], "kl_nats": jnp.sum(found["log_ratio"], axis=1), "answer_tokens": count}

  valued = (VALUE,) if value == reward else ()
  updates = dict(updates=s.minibatches)
  return compose(
    init,
    [("network", Player(policy_loss, optimizer, **updates)), (VALUE, Player(value_loss, value_optimizer, **updates))],
    stages=[stage],
    frozen=starting(REFERENCE, networks.reference_from, "network") | starting(REWARD, networks.reward_from, *valued),
    evaluate=evaluate,
    sample=sampler(policy, spec, marks, sampling),
    check=lambda batch: check_values(batch, spec, marks),
  )


def _check(settings: Settings, penalty: Penalty) -> None:
  for name in ("minibatches", "epochs"):
    if (number := getattr(settings, name)) < 1:
      raise UserError(f"PPO has 1 or more {name}, not {number}")
  for name in ("gamma", "lam"):
    if not 0 <= (number := getattr(settings, name)) <= 1:
      raise UserError(f"{name} lies in [0, 1], and this is {number:g}: change it")
  for part, names in ((settings, ("clip", "value_clip")), (penalty, ("target", "gain"))):
    for name in names:
      if (number := getattr(part, name)) is not None and not 0 < number < math.inf:
        raise UserError(f"PPO's {name} must be a finite number above 0, not {number:g}: change it")
  for name, number in (("pretraining", settings.pretraining), ("beta", penalty.beta)):
    if not 0 <= number < math.inf:
      raise UserError(f"PPO's {name} must be a finite number of 0 or more, not {number:g}: change it")
  if settings.unfinished is not None and not math.isfinite(settings.unfinished):
    raise UserError(f"the score of unfinished answers must be a finite number, not {settings.unfinished:g}: change it")
  if penalty.target is not None and penalty.beta == 0:
    raise UserError("a beta of 0 stays 0, so it cannot be adapted to a target: start with a beta above 0")
