"""Fine-tuning, reward models, DPO and best-of-n, against plain sums, closed forms and an independent estimator."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import Policy, Values

from jaxgen import decoding
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.engine import frozen
from jaxgen.methods.feedback import best, rows
from jaxgen.methods.feedback.preference import conservative, ipo, preferences
from jaxgen.methods.feedback.reward import bradley_terry, reward_model
from jaxgen.methods.feedback.tuning import fine_tuning
from jaxgen.methods.sequence.language import within
from jaxgen.methods.sequence.seq2seq import Marks
from jaxgen.nn.sequence.scorer import Scorer
from jaxgen.nn.sequence.transformer import LanguageModel, gpt

V, T, END = 8, 7, 2
KEY = jnp.zeros(())  # of evaluations that draw nothing
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
pytestmark = pytest.mark.usefixtures("x64")


def some_rows(count, seed=0):
  """Rows of all kinds: ends early, late and never, and end tokens within prompts; 0 fills what follows an end."""
  random = np.random.default_rng(seed)
  tokens = random.choice([END, 3, 4, 5, 6, 7], (count, T), p=[0.2] + [0.16] * 5)
  tokens[:, 0] = 1
  prompt = random.integers(1, T - 1, count)
  for row, first in zip(tokens, prompt, strict=True):
    if END in (answer := row[first:].tolist()):
      row[first + answer.index(END) + 1 :] = 0
  return {"tokens": tokens.astype(np.int32), "prompt": prompt.astype(np.int32), "index": np.arange(count)}


def answer_places(row, first):
  """The places of an answer's tokens, found by reading."""
  found = []
  for place in range(first, T):
    found.append(place)
    if row[place] == END:
      break
  return found


def put(batch):
  return {name: jnp.asarray(x) for name, x in batch.items()}


def randomised(params, seed=1):
  random = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape) / 2), params)


def transformer(kind=LanguageModel):
  return kind(V, gpt(8, 2, 1, T, dtype=jnp.float64))


def trained(method, batch, params, steps):
  batch = put(batch)
  state = method.init(jax.random.key(0), batch)
  state = state.replace(params={**state.params, **params})
  return jit(lambda state: jax.lax.fori_loop(0, steps, lambda i, s: method.step(s, batch)[0], state))(state)


def test_the_answer_is_what_follows_the_prompt_up_to_its_end():
  batch = some_rows(200)
  there = put(batch)
  mask = np.asarray(rows.answers(there["tokens"], there["prompt"], END))
  last = np.asarray(rows.last(there["tokens"], there["prompt"], END))
  kinds = set()
  for row, first, real, final in zip(batch["tokens"], batch["prompt"], mask, last, strict=True):
    places = answer_places(row, first)
    assert (np.flatnonzero(real) + 1).tolist() == places
    assert final == places[-1]
    kinds.add((END in row[1:first].tolist(), row[final] == END, final == T - 1))
  assert len(kinds) == 6  # an end or none in the prompt, and the answer's end within, at the edge, or nowhere


def test_fine_tuning_is_of_the_answer_alone():
  batch, network = some_rows(24), transformer()
  method = fine_tuning(network, spec=Spec((T,), V, feature="tokens", dtype=np.int32), optimizer=optax.sgd(1.0))
  state = jit(method.init)(jax.random.key(0), put(batch))
  state = state.replace(params={"network": randomised(state.params["network"])})
  logits = np.asarray(jit(network.apply)({"params": state.params["network"]}, jnp.asarray(batch["tokens"])))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  each = zip(batch["tokens"], batch["prompt"], log_p, strict=True)
  nats = [-sum(p[place - 1, row[place]] for place in answer_places(row, first)) for row, first, p in each]
  found = jit(method.evaluate)(state, put(batch), KEY)
  np.testing.assert_allclose(found["nll_nats"], nats, atol=1e-12)
  counts = [len(answer_places(*pair)) for pair in zip(batch["tokens"], batch["prompt"], strict=True)]
  np.testing.assert_array_equal(found["tokens"], counts)
  step = jit(method.step)
  new, metrics = step(state, put(batch))
  np.testing.assert_allclose(metrics["loss"], np.mean(nats) / (T - 1), atol=1e-12)
  filled = batch["tokens"].copy()  # what follows the end changes nothing, gradient included
  for row, first in zip(filled, batch["prompt"], strict=True):
    row[answer_places(row, first)[-1] + 1 :] = 5
  other, _ = step(state, put({**batch, "tokens": filled}))
  jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), new.params, other.params)


def test_answers_are_written_after_prompts_of_any_length_with_the_probability_of_the_whole_network():
  batch, network = put(some_rows(64)), transformer()
  params = randomised(jit(network.init)(jax.random.key(0), batch["tokens"])["params"])
  keys = jax.random.split(jax.random.key(2), 64)
  marks = Marks()

  @jit
  def drawn(params):
    step, carry = network.stepper(params, batch["tokens"][:, :0], T - 1)
    given = decoding.Given(batch["tokens"][:, 1:], batch["prompt"] - 1)
    options = dict(length=T - 1, given=given, end=END, pad=0)
    new, nats = decoding.ancestral(within(step, V), carry, batch["tokens"][:, 0], keys, **options)
    whole = rows.write(network, params, batch["tokens"], batch["prompt"], keys, levels=V, marks=marks)
    return new, nats, whole, rows.log_p(network, params, whole, V) * rows.answers(whole, batch["prompt"], END)

  new, nats, whole, each = drawn(params)
  np.testing.assert_array_equal(whole[:, 1:], new)
  whole, ended = np.asarray(whole), 0
  for row, old, first in zip(whole, batch["tokens"], batch["prompt"], strict=True):
    np.testing.assert_array_equal(row[:first], old[:first])
    final = answer_places(row, first)[-1]
    assert (row[final + 1 :] == 0).all()
    ended += row[final] == END
  assert 0 < ended < 64
  np.testing.assert_allclose(nats, each.sum(1), atol=1e-10)


def test_rankings_are_all_their_pairs():
  scores = np.random.default_rng(0).normal(size=(5, 4))
  pairs = [[np.log1p(np.exp(s[j] - s[i])) for i, j in itertools.combinations(range(4), 2)] for s in scores]
  np.testing.assert_allclose(bradley_terry(jnp.asarray(scores)), np.mean(pairs, axis=1), atol=1e-12)
  np.testing.assert_allclose(bradley_terry(jnp.ones((3, 5))), np.log(2), atol=1e-15)


def strengths(wins):
  """Bradley-Terry's maximum likelihood by Hunter 2004's MM algorithm: log strengths of mean 0, from wins[i, j]."""
  games, p = wins + wins.T, np.ones(len(wins))
  for _ in range(5_000):
    p = wins.sum(1) / (games / (p[:, None] + p)).sum(1)
    p = p / np.exp(np.log(p).mean())
  return np.log(p)


def test_a_table_of_scores_reaches_the_maximum_likelihood_of_bradley_and_terry():
  random, items = np.random.default_rng(0), [3, 4, 5, 6, 7]
  wins = random.integers(1, 6, (5, 5)) * (1 - np.eye(5, dtype=int))
  pairs = [(i, j) for i in range(5) for j in range(5) for _ in range(wins[i, j])]
  tokens = np.array([[[1, items[k], END][:3] for k in pair] for pair in pairs], np.int32)
  tokens = tokens[:, :, :2]  # without an end, the score is that of the item
  batch = {"tokens": tokens, "prompt": np.ones(len(pairs), np.int32), "index": np.arange(len(pairs))}
  spec = Spec((2, 2), V, feature="tokens", dtype=np.int32)
  method = reward_model(Values(V), spec=spec, optimizer=optax.sgd(2.0))
  state = trained(method, batch, {}, 600)
  found = np.asarray(state.params["network"]["values"])[items]
  np.testing.assert_allclose(found - found.mean(), strengths(wins.astype(float)), atol=1e-6)
  start = jit(method.init)(jax.random.key(0), put(batch))
  np.testing.assert_allclose(method.evaluate(start, put(batch), KEY)["pair_nats"], np.log(2), atol=1e-15)


def test_a_score_is_that_of_the_last_token_of_the_answer():
  network, batch = transformer(Scorer), some_rows(40)
  there = put(batch)
  params = randomised(jit(network.init)(jax.random.key(0), there["tokens"])["params"])
  found = jit(lambda p: rows.score(network, p, there["tokens"], there["prompt"], END))(params)
  for row, first, one in list(zip(batch["tokens"], batch["prompt"], found, strict=True))[:3]:
    alone = row[: answer_places(row, first)[-1] + 1]
    np.testing.assert_allclose(jit(network.apply)({"params": params}, jnp.asarray(alone[None]))[0, -1], one, atol=1e-10)


def test_a_reward_model_starts_from_a_language_model_but_for_its_head():
  language, scorer = transformer(), transformer(Scorer)
  tokens = jnp.zeros((1, T), jnp.int32)
  learnt = randomised(jit(language.init)(jax.random.key(0), tokens)["params"])
  source = Frozen("a run", lambda: {"params": learnt, "codebook": np.zeros(3)})
  spec = Spec((2, T), V, feature="tokens", dtype=np.int32)
  method = averaged(reward_model(scorer, spec=spec, optimizer=optax.sgd(1.0), start=source), 0.9)
  state = jit(method.init)(jax.random.key(1), put(two_rows(some_rows(4))))
  started = frozen.start(method.frozen, state)
  assert set(started.params) == {"network"}
  for found in (started.params["network"], started.ema["network"]):
    jax.tree.map(np.testing.assert_array_equal, {k: found[k] for k in ("embedding", "decoder")}, dict(learnt))
    np.testing.assert_array_equal(found["head"]["kernel"], state.params["network"]["head"]["kernel"])
  wider = Frozen("a run", lambda: {"params": {**learnt, "embedding": {"table": np.zeros((V + 1, 8))}}}, ("network",))
  with pytest.raises(UserError, match=r"not that of a run: embedding/table is \[9, 8\] there and \[8, 8\] here"):
    frozen.start({"start": wider}, state)


def two_rows(batch):
  other = some_rows(len(batch["tokens"]), seed=3)["tokens"]
  for row, old, first in zip(other, batch["tokens"], batch["prompt"], strict=True):
    row[:first] = old[:first]
    row[first:] = [4, 3, 4, 5, 6, 7, 3][first:]
  return {**batch, "tokens": np.stack([batch["tokens"], other], axis=1)}


def test_dpo_begins_with_ln_2_and_rewards_of_0_and_sums_over_the_answers():
  batch, network = two_rows(some_rows(24)), transformer()
  spec = Spec((2, T), V, feature="tokens", dtype=np.int32)
  method = preferences(network, spec=spec, optimizer=optax.sgd(1.0), beta=0.3)
  state = jit(method.init)(jax.random.key(0), put(batch))
  evaluate = jit(method.evaluate)
  start = evaluate(state, put(batch), KEY)
  np.testing.assert_allclose(start["loss"], np.log(2), atol=1e-12)
  np.testing.assert_allclose(start["reward_preferred"], 0, atol=1e-12)
  state = state.replace(params={**state.params, "network": randomised(state.params["network"])})

  apply = jit(lambda params, tokens: jax.nn.log_softmax(network.apply({"params": params}, tokens)))
  flat = jnp.asarray(batch["tokens"].reshape(-1, T))

  def whole(log_p, row, first):
    return sum(log_p[place - 1, row[place]] for place in answer_places(row, first))

  each = [state.params["network"], state.params["reference"]["params"]]
  policy, reference = (np.asarray(apply(params, flat)).reshape(-1, 2, T, V) for params in each)
  found = evaluate(state, put(batch), KEY)
  for i, (pair, first) in enumerate(zip(batch["tokens"], batch["prompt"], strict=True)):
    rewards = [
      0.3 * (whole(policy[i, k], row, first) - whole(reference[i, k], row, first)) for k, row in enumerate(pair)
    ]
    np.testing.assert_allclose([found["reward_preferred"][i], found["reward_other"][i]], rewards, atol=1e-10)
    np.testing.assert_allclose(found["loss"][i], np.log1p(np.exp(rewards[1] - rewards[0])), atol=1e-10)


def table_of_pairs(pairs):
  tokens = np.array([[[1, winner], [1, loser]] for winner, loser in pairs], np.int32)
  return {"tokens": tokens, "prompt": np.ones(len(pairs), np.int32), "index": np.arange(len(pairs))}


SPEC = Spec((2, 2), V, feature="tokens", dtype=np.int32)
REFERENCE = np.log([0.1, 0.05, 0.05, 0.3, 0.2, 0.1, 0.1, 0.1])


def test_dpo_reaches_its_tabular_optimum():
  """Preferences of Bradley and Terry with rewards 0, ln 3 and 2 ln 3, as exact shares: p ~ q exp(r / beta)."""
  pairs = [(4, 3)] * 3 + [(3, 4)] + [(5, 4)] * 3 + [(4, 5)] + [(5, 3)] * 9 + [(3, 5)]
  batch, beta = table_of_pairs(pairs), 2.0
  method = preferences(Policy(V), spec=SPEC, optimizer=optax.sgd(1.0), beta=beta)
  start = {"network": {"logits": jnp.asarray(REFERENCE)}, "reference": {"params": {"logits": jnp.asarray(REFERENCE)}}}
  state = trained(method, batch, start, 2_000)
  found = np.asarray(state.params["network"]["logits"])
  optimum = REFERENCE + np.array([0, 0, 0, 0, 1, 2, 0, 0]) * np.log(3) / beta
  np.testing.assert_allclose(found[3:6] - found[3], optimum[3:6] - optimum[3], atol=1e-6)


@pytest.mark.parametrize(
  ("objective", "h"), [(ipo, 1 / (2 * 0.5)), (conservative(0.2), np.log(0.8 / 0.2) / 0.5)], ids=["ipo", "conservative"]
)
def test_other_objectives_have_a_finite_optimum_of_one_pair(objective, h):
  method = preferences(Policy(V), spec=SPEC, optimizer=optax.sgd(0.3), beta=0.5, objective=objective)
  start = {"network": {"logits": jnp.asarray(REFERENCE)}, "reference": {"params": {"logits": jnp.asarray(REFERENCE)}}}
  state = trained(method, table_of_pairs([(5, 3)]), start, 1_000)
  found = np.asarray(state.params["network"]["logits"]) - REFERENCE
  np.testing.assert_allclose(found[5] - found[3], h, atol=1e-6)


def test_best_of_n_and_rejection_sampling_draw_what_they_say():
  q, r, n, count = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.3, -1.0, 1.2, 0.5]), 3, 40_000
  keys = jax.random.split(jax.random.key(0), count)
  draw = lambda keys: jax.vmap(lambda key: jax.random.categorical(key, np.log(q)))(keys)
  found = np.bincount(best.best_of_n(draw, lambda y: jnp.asarray(r)[y], keys, n), minlength=4) / count
  below = np.array([q[r <= x].sum() for x in r])
  exact = below**n - (below - q) ** n
  np.testing.assert_allclose(found, exact, atol=4 * 0.5 / count**0.5)
  for n in (1, 2, 5, 50):
    p = below**n - (below - q) ** n
    kl = np.sum(p * np.log(p / q), where=p > 0)
    assert kl <= best.best_of_n_kl(n) + 1e-12
  fine = np.full(20_000, 1 / 20_000)  # nearly continuous: the bound is reached
  p = np.diff(np.linspace(0, 1, 20_001) ** 4)
  np.testing.assert_allclose(np.sum(p * np.log(p / fine)), best.best_of_n_kl(4), atol=1e-3)

  y = np.asarray(draw(keys))
  kept = np.asarray(best.accepted(jnp.asarray(r)[y], jax.random.split(jax.random.key(1), count), 0.7))
  target = q * np.exp(r / 0.7)
  np.testing.assert_allclose(np.bincount(y[kept], minlength=4) / kept.sum(), target / target.sum(), atol=0.02)
  np.testing.assert_allclose(kept.mean(), best.share_accepted(jnp.asarray(r)[y], 0.7), atol=0.01)


def test_bad_input_is_one_sentence():
  spec, optimizer = Spec((2, T), V, feature="tokens", dtype=np.int32), optax.sgd(1.0)
  network = transformer()
  with pytest.raises(UserError, match="the reward model is of a vocabulary of 9 tokens, and the data's has 8"):
    reward_model(Values(9), spec=spec, optimizer=optimizer)
  with pytest.raises(UserError, match="both must use one tokenizer"):
    preferences(Policy(5), spec=spec, optimizer=optimizer)
  for beta in (0.0, float("nan"), float("inf")):
    with pytest.raises(UserError, match="beta must be a finite number above 0"):
      preferences(network, spec=spec, optimizer=optimizer, beta=beta)
    with pytest.raises(UserError, match="beta must be a finite number above 0"):
      best.accepted(jnp.zeros(3), jax.random.split(jax.random.key(0), 3), beta)
  with pytest.raises(UserError, match="share of wrong preferences"):
    conservative(0.5)
  with pytest.raises(UserError, match="best of n"):
    best.best_of_n_kl(0)
  method = preferences(network, spec=spec, optimizer=optimizer)
  batch = two_rows(some_rows(8))
  method.check(batch)
  with pytest.raises(UserError, match="the same text"):
    method.check({**batch, "tokens": batch["tokens"][:, :1].repeat(2, 1)})
  with pytest.raises(UserError, match="a prompt of 7 tokens leaves no room for an answer in a context of 7"):
    method.check({**batch, "prompt": np.full(8, T)})
  with pytest.raises(UserError, match="outside of the vocabulary"):
    method.check({**batch, "tokens": batch["tokens"] + V})
  with pytest.raises(UserError, match="padded and has no end"):
    method.check({**batch, "tokens": np.where(batch["tokens"] == END, 0, batch["tokens"]), "prompt": np.ones(8, int)})
  with pytest.raises(UserError, match="no 'prompt'"):
    method.init(jax.random.key(0), {"tokens": batch["tokens"], "index": batch["index"]})
