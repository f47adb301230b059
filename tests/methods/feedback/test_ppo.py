"""PPO: advantages, ratios and penalties against plain loops, the optimum of a bandit, and a run that is cut."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import Policy, Values

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.hashing import state_hash
from jaxgen.methods.feedback.ppo import Networks, Penalty, Settings, gae, ppo, whitened
from jaxgen.nn.sequence.scorer import Scorer
from jaxgen.nn.sequence.transformer import LanguageModel, gpt

V, T, END = 8, 7, 2
SPEC = Spec((T,), V, feature="tokens", dtype=np.int32)
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
pytestmark = pytest.mark.usefixtures("x64")


def test_advantages_are_those_of_a_plain_loop():
  random = np.random.default_rng(0)
  rewards, values = random.normal(size=(2, 6, 9))
  first, count = random.integers(0, 5, 6), random.integers(1, 5, 6)
  mask = (np.arange(9) >= first[:, None]) & (np.arange(9) < (first + count)[:, None])
  expected = np.zeros((6, 9))
  for b in range(6):
    for t in range(first[b], first[b] + count[b]):
      for later in range(t, first[b] + count[b]):  # the sum of discounted errors of the value
        following = values[b, later + 1] if later + 1 < first[b] + count[b] else 0
        error = rewards[b, later] + 0.9 * following - values[b, later]
        expected[b, t] += (0.9 * 0.8) ** (later - t) * error
  found = gae(*map(jnp.asarray, (rewards, values, mask)), 0.9, 0.8)
  np.testing.assert_allclose(found, expected, atol=1e-12)
  white = np.asarray(whitened(jnp.asarray(expected), jnp.asarray(mask)))
  np.testing.assert_allclose([white[mask].mean(), white[mask].std()], [0, 1], atol=1e-7)
  assert (white[~mask] == 0).all()


def prompts(count=32):
  tokens = np.random.default_rng(0).integers(3, V, (count, T))
  tokens[:, 0] = 1
  batch = {"tokens": tokens, "prompt": 1 + np.arange(count) % 4, "index": np.arange(count)}
  return {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


def transformers(**options):
  """A method, and its state with all parameters drawn at random, those of the reference apart from the policy's."""
  network, scorer = (kind(V, gpt(8, 2, 1, T, dtype=jnp.float64)) for kind in (LanguageModel, Scorer))
  rates = dict(optimizer=optax.adam(1e-2), value_optimizer=optax.adam(1e-2))
  method = ppo(Networks(network, scorer), spec=SPEC, **rates, **options)
  state = jit(method.init)(jax.random.key(0), prompts())
  random = np.random.default_rng(1)
  draw = lambda x: jnp.asarray(random.normal(size=x.shape) / 4)
  return method, state.replace(params=jax.tree.map(draw, state.params)), network, scorer


def test_the_first_minibatch_has_ratio_1_and_all_is_of_the_answers_alone():
  """Answers, KL, scores and advantages again from the rows alone, by whole networks and plain loops."""
  settings = Settings(minibatches=1, whiten=False, unfinished=-2.0, pretraining=2.0)
  method, state, network, scorer = transformers(settings=settings, penalty=Penalty(0.3))
  batch = prompts()
  new, metrics = jit(method.step)(state, batch)
  np.testing.assert_allclose(metrics["network/ratio"], 1, atol=1e-12)
  assert metrics["network/clip_fraction"] == 0
  found = jax.tree.map(np.asarray, new.buffers["rollouts"]["chains"])
  kinds, kls, scores, loss, gain = set(), [], [], 0.0, 0.0

  def log_p(params):
    logits = np.asarray(jit(network.apply)({"params": params}, jnp.asarray(found["rows"])))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

  policy, reference = log_p(state.params["network"]), log_p(state.params["reference"]["params"])
  apply = lambda params: np.asarray(jit(scorer.apply)({"params": params}, jnp.asarray(found["rows"])))
  judged, valued = apply(state.params["reward"]["params"]), apply(state.params["value"])
  for b, row in enumerate(found["rows"]):
    first = int(batch["prompt"][b])
    np.testing.assert_array_equal(row[:first], batch["tokens"][b, :first])
    answer = row[first:].tolist()
    ended = END in answer
    places = list(range(first, first + answer.index(END) + 1 if ended else T))
    assert (row[places[-1] + 1 :] == 0).all()
    np.testing.assert_array_equal(np.flatnonzero(found["mask"][b]) + 1, places)
    ours, theirs, values = policy[b], reference[b], valued[b]
    ratio = [ours[p - 1, row[p]] - theirs[p - 1, row[p]] for p in places]
    score = judged[b, places[-1]] if ended else -2.0
    rewards = [-0.3 * r for r in ratio]
    rewards[-1] += score
    advantage = 0.0
    for k in reversed(range(len(places))):
      following = values[places[k]] if k + 1 < len(places) else 0.0
      value = values[places[k] - 1]
      advantage = rewards[k] + following - value + 0.95 * advantage
      np.testing.assert_allclose(found["advantages"][b, places[k] - 1], advantage, atol=1e-9)
      np.testing.assert_allclose(found["targets"][b, places[k] - 1], advantage + value, atol=1e-9)
      loss += advantage**2 / 2
      gain += advantage
    kls.append(sum(ratio))
    scores.append(score)
    kinds.add((ended, places[-1] == T - 1))
  assert len(kinds) == 3
  np.testing.assert_allclose(new.buffers["kl_nats"], np.mean(kls), atol=1e-9)
  np.testing.assert_allclose(new.buffers["reward"], np.mean(scores), atol=1e-9)
  np.testing.assert_allclose(metrics["value/loss"], loss / len(kls) / (T - 1), atol=1e-9)
  logits = jit(network.apply)({"params": state.params["network"]}, batch["tokens"][:, :-1])
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])  # of the rows' own tokens
  place = np.arange(1, T)[None]
  ends = np.where(np.asarray(batch["tokens"][:, 1:]) == END, place, T).min(1, keepdims=True)
  text = np.sum(np.where(place <= ends, nats, 0)) / len(kls) / (T - 1)
  np.testing.assert_allclose(metrics["network/text_nats"], text, atol=1e-9)
  np.testing.assert_allclose(metrics["network/loss"], -gain / len(kls) / (T - 1) + 2 * text, atol=1e-9)


def test_the_controller_steers_beta_and_a_cut_run_goes_on_bit_by_bit(tmp_path):
  """The cut is between two epochs over the same answers, which are in the checkpoint, as is beta."""
  penalty = Penalty(0.3, target=0.5)
  method, state, *_ = transformers(settings=Settings(minibatches=2, epochs=2), penalty=penalty)
  step, batch, states = jit(method.step), prompts(), []
  for _ in range(5):
    state, metrics = step(state, batch)
    states.append(state)
  rows_of = lambda s: np.asarray(s.buffers["rollouts"]["chains"]["rows"])
  assert sorted(map(tuple, rows_of(states[0]))) == sorted(map(tuple, rows_of(states[1])))
  assert sorted(map(tuple, rows_of(states[1]))) != sorted(map(tuple, rows_of(states[2])))
  beta = 0.3
  for k in (0, 2, 4):
    kl = float(states[k].buffers["kl_nats"])
    beta *= 1 + 0.1 * np.clip(kl / 0.5 - 1, -0.2, 0.2)
    np.testing.assert_allclose(states[k].buffers["beta"], beta, rtol=1e-12)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(3, states[2])
  checkpoints.wait()
  _, resumed = checkpoints.restore(jax.eval_shape(lambda: states[2]))
  checkpoints.close()
  for k in (3, 4):
    resumed, _ = step(resumed, batch)
    assert state_hash(resumed) == state_hash(states[k])


def test_a_bandit_reaches_the_closed_form():
  """One token, whose reward is known: p = q exp(r / beta) / Z."""
  random, beta = np.random.default_rng(0), 0.5
  reference, reward = random.normal(size=V), random.normal(size=V)
  steps = 300
  method = ppo(
    Networks(Policy(V), Values(V)),
    spec=Spec((2,), V, feature="tokens", dtype=np.int32),
    optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 4 * steps)),
    value_optimizer=optax.adam(0.05),
    penalty=Penalty(beta),
    settings=Settings(whiten=False, value_clip=10.0),
  )
  count = 512
  batch = {"tokens": jnp.ones((count, 2), jnp.int32), "prompt": jnp.ones(count, jnp.int32), "index": jnp.arange(count)}
  state = method.init(jax.random.key(0), batch)
  logits, scores = {"logits": jnp.asarray(reference)}, {"values": jnp.asarray(reward)}
  params = {"network": logits, "reference": {"params": logits}, "reward": {"params": scores}}
  state = state.replace(params={**state.params, **params})
  state = jit(lambda state: jax.lax.fori_loop(0, steps, lambda i, s: method.step(s, batch)[0], state))(state)
  optimum = jax.nn.softmax(reference + reward / beta)
  found = jax.nn.softmax(state.params["network"]["logits"])
  assert jnp.abs(found - optimum).sum() / 2 < 0.01
  assert jnp.abs(jax.nn.softmax(reference) - optimum).sum() / 2 > 0.3
  values = method.evaluate(state, batch, jax.random.key(5))
  exact = jnp.sum(optimum * jnp.log(optimum / jax.nn.softmax(reference)))
  np.testing.assert_allclose(values["kl_nats"].mean(), exact, atol=0.15)
  np.testing.assert_allclose(values["reward"].mean(), jnp.sum(optimum * reward), atol=0.1)


NAN = float("nan")


def test_bad_input_is_one_sentence():
  rates = dict(optimizer=optax.sgd(1.0), value_optimizer=optax.sgd(1.0))
  make = lambda networks, **options: ppo(networks, spec=SPEC, **rates, **options)
  fine = Networks(Policy(V), Values(V))
  for networks, match in (
    (Networks(Policy(V), Values(V + 1)), "the reward model is of a vocabulary of 9 tokens, and the data's has 8"),
    (Networks(Policy(V), Values(V), Values(V - 1)), "the value function is of a vocabulary of 7"),
    (Networks(Policy(V - 1), Values(V)), "the policy has a vocabulary of 7 tokens"),
  ):
    with pytest.raises(UserError, match=match):
      make(networks)
  for options, match in (
    ({"settings": Settings(minibatches=0)}, "1 or more minibatches"),
    ({"settings": Settings(lam=1.5)}, "lam lies in"),
    ({"settings": Settings(clip=0.0)}, "PPO's clip must be a finite number above 0, not 0"),
    ({"settings": Settings(value_clip=NAN)}, "PPO's value_clip must be a finite number above 0, not nan"),
    ({"settings": Settings(pretraining=NAN)}, "PPO's pretraining must be a finite number of 0 or more"),
    ({"settings": Settings(unfinished=-float("inf"))}, "unfinished answers must be a finite number"),
    ({"penalty": Penalty(NAN)}, "PPO's beta must be a finite number of 0 or more, not nan"),
    ({"penalty": Penalty(0.1, target=NAN)}, "PPO's target must be a finite number above 0"),
    ({"penalty": Penalty(0.1, target=1.0, gain=-1.0)}, "PPO's gain must be a finite number above 0, not -1"),
    ({"penalty": Penalty(0.0, target=1.0)}, "a beta of 0 stays 0"),
  ):
    with pytest.raises(UserError, match=match):
      make(fine, **options)
  with pytest.raises(UserError, match="a prompt of 7 tokens leaves no room"):
    make(fine).check(jax.device_get(prompts()) | {"prompt": np.full(32, T)})
