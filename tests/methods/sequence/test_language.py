"""Models of tokens against enumeration of all sequences, and on sources whose entropy is known."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import decoding
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.engine.flops import flops
from jaxgen.methods.sequence.language import Sampling, language, pixels, waves
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.nn.sequence.wavenet import WaveNet

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})

V, START, T = 3, 3, 4
DOUBLE = jnp.float64
NETWORKS = {
  "Transformer": LanguageModel(V + 1, gpt(8, 2, 2, T, dtype=DOUBLE)),
  "WaveNet": WaveNet(V + 1, (1, 2), features=4, hidden=4, skip=6, dtype=DOUBLE, param_dtype=DOUBLE),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
SEQUENCES = np.array(list(itertools.product(range(V), repeat=T)), np.int32)


def tokens_spec(length, vocabulary):
  return Spec((length,), vocabulary, feature="tokens", dtype=np.int32)


SPEC = tokens_spec(T, V)


def batch_of(tokens):
  return {"tokens": jnp.asarray(tokens), "index": jnp.arange(len(tokens), dtype=jnp.int32)}


def build(network, seed=0, **options):
  """(method, its state with random parameters, none of them at its initial value)."""
  method = language(network, **dict(spec=SPEC, start=START, optimizer=optax.sgd(0.1)) | options)
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch_of(SEQUENCES[:1]))
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape)), shapes.params)
  return method, shapes.replace(params=params)


def keys_of(count, seed=0):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


# --- Probabilities and samples ----------------------------------------------------------------------------------------


@every_network
def test_probabilities_of_all_sequences_sum_to_one(name, x64):
  """Of examples that are tokens, [T] integers of 0 .. V - 1, as their spec says and nothing else does."""
  method, state = build(NETWORKS[name])
  values = jit(method.evaluate)(state, batch_of(SEQUENCES), jax.random.key(0))
  p = np.exp(-values["nll_nats"])
  assert p.sum() == pytest.approx(1, abs=1e-12)
  assert p.max() > 3 * p.min()
  assert (values["tokens"] == T).all()


def kept_tokens(p, top_k, top_p):
  """The distribution that is left of one, by sorting and counting."""
  order = sorted(range(len(p)), key=lambda i: -p[i])[:top_k]
  q = np.zeros(len(p))
  q[order] = p[order]
  q /= q.sum()
  if top_p is not None:
    total, nucleus = 0.0, []
    for i in order:
      nucleus.append(i)
      total += q[i]
      if total >= top_p:
        break
    q = np.array([q[i] if i in nucleus else 0.0 for i in range(len(p))])
  return q / q.sum()


SAMPLINGS = {
  "as it is": Sampling(),
  "temperature": Sampling(temperature=0.5),
  "top k": Sampling(top_k=2),
  "nucleus": Sampling(top_p=0.7),
  "all at once": Sampling(temperature=0.5, top_k=2, top_p=0.7),
}


@pytest.mark.parametrize(("name", "drawn"), [("Transformer", s) for s in SAMPLINGS] + [("WaveNet", "as it is")])
def test_samples_have_their_probabilities(name, drawn, x64):
  sampling = SAMPLINGS[drawn]
  method, state = build(NETWORKS[name], sampling=sampling)
  params, count = state.params["network"], 20_000
  inputs = jnp.pad(SEQUENCES[:, :-1], ((0, 0), (1, 0)), constant_values=START)
  logits = np.asarray(jit(lambda p: NETWORKS[name].apply({"params": p}, inputs))(params))[..., :V]
  p = np.ones(len(SEQUENCES))
  for i, t in itertools.product(range(len(SEQUENCES)), range(T)):
    q = np.exp(logits[i, t] / sampling.temperature)
    p[i] *= kept_tokens(q / q.sum(), sampling.top_k, sampling.top_p)[SEQUENCES[i, t]]
  assert p.sum() == pytest.approx(1)

  samples = np.asarray(jit(method.sample)(state, keys_of(count)))
  seen = np.bincount(samples @ V ** np.arange(T)[::-1], minlength=len(p))
  assert (seen[p == 0] == 0).all()
  likely = p > 0
  assert likely.sum() == len(p) if drawn in ("as it is", "temperature") else 4 < likely.sum() < 40
  # Pearson's statistic has mean and half its variance `freedom`.
  freedom = likely.sum() - 1
  statistic = np.sum((seen - count * p)[likely] ** 2 / (count * p)[likely])
  assert statistic < freedom + 5 * math.sqrt(2 * freedom)
  assert np.sum((seen - count / 81) ** 2 / (count / 81)) > 1000  # it would have seen another distribution


def test_truncation_against_counting(x64):
  logits = 2 * np.random.default_rng(0).normal(size=(50, 7))
  p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  for k, top_p in itertools.product((None, 1, 3, 7, 9), (None, 1e-9, 0.3, 0.9, 1.0)):
    ours = jax.nn.softmax(decoding.truncated(jnp.asarray(logits), k, top_p))
    np.testing.assert_allclose(ours, [kept_tokens(row, k, top_p) for row in p], atol=1e-12)


def test_equally_likely_tokens_stay_together():
  logits = jnp.log(jnp.array([0.2, 0.4, 0.2, 0.2]))
  many = jax.random.normal(jax.random.key(0), (1000,)) * 5
  np.testing.assert_array_equal(decoding.truncated(many, top_p=1.0), many)  # though sums of 1,000 numbers round
  np.testing.assert_allclose(jax.nn.softmax(decoding.truncated(logits, top_k=2)), [0.2, 0.4, 0.2, 0.2], atol=1e-6)
  np.testing.assert_allclose(jax.nn.softmax(decoding.truncated(logits, top_p=0.5)), [0.2, 0.4, 0.2, 0.2], atol=1e-6)
  np.testing.assert_allclose(jax.nn.softmax(decoding.truncated(logits, top_k=1)), [0, 1, 0, 0], atol=1e-6)


# --- Cached and naive -------------------------------------------------------------------------------------------------


def naive(network, params, seen, length):
  """(step, carry) without a cache: the network reads all tokens again at every step."""

  def step(carry, tokens):
    t = carry["t"][0]
    said = carry["said"].at[:, t].set(tokens)
    return network.apply({"params": params}, said)[:, t, :V], {"t": carry["t"] + 1, "said": said}

  batch, read = seen.shape
  return step, {"t": jnp.full(batch, read), "said": jnp.zeros((batch, length), seen.dtype).at[:, :read].set(seen)}


@every_network
@pytest.mark.parametrize("prompted", [0, 2])
def test_cached_samples_are_the_naive_ones(name, prompted, x64):
  network = NETWORKS[name]
  method, state = build(network)
  keys, prompt = keys_of(20), jnp.asarray(SEQUENCES[-20:, :prompted])
  tokens = jit(method.sample)(state, keys, prompt)

  @jit
  def by_hand(params):
    seen = jnp.pad(prompt, ((0, 0), (1, 0)), constant_values=START)
    step, carry = naive(network, params, seen[:, :-1], T)
    return decoding.ancestral(step, carry, seen[:, -1], keys, length=T - prompted)

  expected, log_p = by_hand(state.params["network"])
  np.testing.assert_array_equal(tokens[:, :prompted], prompt)
  np.testing.assert_array_equal(tokens[:, prompted:], expected)
  assert len(np.unique(np.asarray(tokens), axis=0)) > 4
  if not prompted:
    nats = jit(method.evaluate)(state, batch_of(tokens), jax.random.key(0))["nll_nats"]
    np.testing.assert_allclose(log_p, -nats, atol=1e-10)


@pytest.mark.parametrize("length", [8, 32])
@every_network
def test_a_cache_saves_a_factor_of_the_length(name, length):
  """By count of the multiplications: T passes over T tokens, or T passes over one, each seeing T at most."""
  small = {"Transformer": LanguageModel(V, gpt(8, 2, 3, length)), "WaveNet": WaveNet(V, (1, 2, 4), features=4)}
  network, keys, start = small[name], keys_of(2), jnp.zeros(2, jnp.int32)
  variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))

  def count(stepper):
    sample = lambda params: decoding.ancestral(*stepper(params), start, keys, length=length)
    return flops(jax.make_jaxpr(sample)(variables["params"]).jaxpr)

  nothing = jnp.zeros((2, 0), jnp.int32)
  cached = count(lambda params: network.stepper(params, nothing, length))
  assert count(lambda params: naive(network, params, nothing, length)) == length * cached
  once = jax.make_jaxpr(lambda params: network.apply({"params": params}, jnp.zeros((2, length), jnp.int32)))
  assert cached == flops(once(variables["params"]).jaxpr)  # as much as reading the whole once


@pytest.mark.parametrize(("context", "prompted"), [(4, 1), (4, 6), (5, 2), (1, 1)])
def test_a_text_longer_than_the_context_goes_on_from_its_last_half(context, prompted, x64):
  length, count = 15, 7
  network = LanguageModel(V, gpt(8, 2, 1, context, dtype=DOUBLE))
  spec = tokens_spec(context + 1, V)
  method = language(network, spec=spec, length=length, start=None, context=context, optimizer=optax.sgd(0.1))
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch_of(np.zeros((1, context + 1), np.int32)))
  rng = np.random.default_rng(0)
  state = shapes.replace(params=jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes.params))
  keys, prompt = keys_of(count), rng.integers(0, V, (count, prompted)).astype(np.int32)
  tokens = np.asarray(jit(method.sample)(state, keys, jnp.asarray(prompt)))
  assert tokens.shape == (count, length)

  predict = jit(lambda x: network.apply({"params": state.params["network"]}, x))
  half, said = max(1, context // 2), [list(row) for row in prompt]
  seen = [row[-half:] if len(row) > context else list(row) for row in said]
  for t in range(length - prompted):
    if len(seen[0]) > context:
      seen = [row[-half:] for row in seen]
    read = np.pad(seen, ((0, 0), (0, context - len(seen[0])))).astype(np.int32)
    logits = predict(jnp.asarray(read))[:, len(seen[0]) - 1]
    drawn = jax.vmap(lambda k, l, t=t: jax.random.categorical(jax.random.fold_in(k, t), l))(keys, logits)
    for b in range(count):
      said[b].append(int(drawn[b]))
      seen[b].append(int(drawn[b]))
  np.testing.assert_array_equal(tokens, said)


def test_temperature_of_each_sample(x64):
  method, state = build(NETWORKS["WaveNet"])
  one, sample = method.sample(state, keys_of(6)), jit(method.sample)
  cold = sample(state, keys_of(6), temperature=jnp.array([1e-3, 1e-3, 1e-3, 1.0, 1.0, 1.0]))
  assert (cold[:3] == cold[0]).all()  # the likeliest tokens, whatever the key
  np.testing.assert_array_equal(cold[3:], one[3:])


@every_network
def test_only_the_past_is_seen_and_all_of_it(name, x64):
  network, params = NETWORKS[name], build(NETWORKS[name])[1].params["network"]
  x = np.random.default_rng(0).normal(size=(1, T, 8 if name == "Transformer" else V + 1))
  if name == "Transformer":
    run = lambda x: network.apply({"params": params}, x, method=lambda m, x: m.embedding.logits(m.decoder(x)))[0]
  else:
    run = lambda x: network.apply({"params": params}, x, method="from_one_hot")[0]
  seen = np.abs(jit(jax.jacobian(run))(jnp.asarray(x))[:, :, 0]).max(axis=(1, 3))
  np.testing.assert_array_equal(seen > 0, np.tri(T, dtype=bool))


# --- Sources whose entropy is known -----------------------------------------------------------------------------------


def trained(method, draw, steps, batch=32):
  """The state after so many steps on what draw(key) gives, [batch, T], in one program."""

  @jax.jit
  def run(state):
    def body(state, key):
      return method.step(state, {"tokens": draw(key, batch), "index": jnp.arange(batch, dtype=jnp.int32)})

    return jax.lax.scan(body, state, jax.random.split(jax.random.key(1), steps))

  state = jax.jit(method.init)(
    jax.random.key(0), {"tokens": draw(jax.random.key(0), 1), "index": jnp.zeros(1, jnp.int32)}
  )
  state, metrics = run(state)
  assert int(state.skipped) == 0
  return state


LONG = 32
LEARNERS = {
  "Transformer": LanguageModel(4, gpt(32, 2, 2, LONG)),
  "WaveNet": WaveNet(4, (1, 2, 4), features=16, hidden=16, skip=32),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_is_learned_where_there_is_nothing(name):
  """Fresh uniform tokens: nobody says them with fewer than log V nats each."""
  draw = lambda key, n: jax.random.randint(key, (n, LONG), 0, 3)
  method = language(LEARNERS[name], spec=tokens_spec(LONG, 3), start=3, optimizer=optax.adam(3e-3))
  state = trained(method, draw, 100)
  fresh = {"tokens": draw(jax.random.key(2), 2000), "index": jnp.arange(2000, dtype=jnp.int32)}
  nats = np.asarray(jax.jit(method.evaluate)(state, fresh, jax.random.key(0))["nll_nats"], np.float64)
  mean, error = nats.mean(), nats.std(ddof=1) / math.sqrt(len(nats))
  assert mean > LONG * math.log(3) - 4 * error
  assert mean < LONG * (math.log(3) + 0.02)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_markov_chain_of_second_order_is_learned_to_its_entropy_rate(name):
  rng = np.random.default_rng(3)
  p = rng.dirichlet([0.5] * 4, size=(4, 4))  # of the next token given the last two
  pairs = np.zeros((16, 16))
  for a, b, c in itertools.product(range(4), repeat=3):
    pairs[4 * a + b, 4 * b + c] = p[a, b, c]
  stationary = np.linalg.matrix_power(pairs, 10_000)[0]
  rate = -np.sum(stationary.reshape(4, 4, 1) * p * np.log(p))
  assert 0.5 < rate < 1.2
  # Of less than two tokens before, less is known: what a window's first prediction costs.
  after_one = np.einsum("ab,abc->bc", stationary.reshape(4, 4), p)
  of_one = after_one.sum(axis=1)
  first = -np.sum(after_one * np.log(after_one / of_one[:, None]))
  assert first > rate + 0.1
  log_p, log_start = jnp.log(jnp.asarray(p, jnp.float32)), jnp.log(jnp.asarray(stationary, jnp.float32))

  def draw(key, n):
    start_key, key = jax.random.split(key)
    pair = jax.random.categorical(start_key, log_start, shape=(n,))

    def body(pair, key):
      new = jax.random.categorical(key, log_p[pair // 4, pair % 4])
      return 4 * (pair % 4) + new, new

    _, tokens = jax.lax.scan(body, pair, jax.random.split(key, LONG - 1))
    return jnp.concatenate([(pair % 4)[:, None], tokens.T], axis=1)

  steps = 500
  optimizer = optax.adam(optax.cosine_decay_schedule(1e-2 if name == "WaveNet" else 3e-3, steps))
  method = language(LEARNERS[name], spec=tokens_spec(LONG, 4), start=None, optimizer=optimizer)
  state = trained(method, draw, steps)
  fresh = {"tokens": draw(jax.random.key(2), 4000), "index": jnp.arange(4000, dtype=jnp.int32)}
  nats = np.asarray(jax.jit(method.evaluate)(state, fresh, jax.random.key(0))["nll_nats"], np.float64)
  mean, error = nats.mean(), nats.std(ddof=1) / math.sqrt(len(nats))
  best = first + (LONG - 2) * rate
  assert best - 4 * error < mean < best + 0.02 * (LONG - 1)


# --- Codes ------------------------------------------------------------------------------------------------------------


def test_pixels_are_read_row_by_row_with_all_channels_of_a_pixel_in_turn():
  image = np.arange(12).reshape(1, 2, 2, 3)
  code = pixels(Spec((2, 2, 3), 12))
  tokens = code.encode({"image": jnp.asarray(2 * image / 11 - 1, jnp.float32)})
  np.testing.assert_array_equal(tokens, np.arange(12)[None])
  np.testing.assert_allclose(code.decode(tokens), 2 * image / 11 - 1, atol=1e-6)


def test_samples_of_waves_are_waves():
  sound = waves(tokens_spec(3, 256)).decode(jnp.array([[0, 128, 255]]))
  np.testing.assert_allclose(sound, [[-1, 0, 1]], atol=1e-4)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("options", "names"),
  [
    (dict(sampling=Sampling(temperature=0.0)), "temperature must be above 0"),
    (dict(sampling=Sampling(top_k=0)), "top_k, the number"),
    (dict(sampling=Sampling(top_p=1.5)), "top_p must lie in"),
    (dict(spec=tokens_spec(T, 5)), "set the network's vocabulary"),
    (dict(spec=tokens_spec(T + 1, V)), r"shape \(5,\) and the data has \(4,\)"),
    (dict(spec=Spec((T,), None, feature="tokens")), "real numbers"),
    (dict(start=9), "set the network's vocabulary"),
    (dict(conditions=("speaker",)), "conditioned on 'speaker' of each example, and this data has none"),
    (dict(context=3), "examples of 4 tokens to read, and a context of 3"),
  ],
)
def test_what_does_not_fit_is_said(options, names, x64):
  with pytest.raises(UserError, match=names):
    build(NETWORKS["Transformer"], **options)


def test_prompts_that_do_not_fit(x64):
  method, state = build(NETWORKS["WaveNet"])
  keys = keys_of(2)
  with pytest.raises(UserError, match="prompt of 4 tokens leaves nothing to say of 4"):
    jax.eval_shape(method.sample, state, keys, jnp.zeros((2, 4), jnp.int32))
  prompt = jnp.array([[0, 3], [0, 1]])
  with pytest.raises(UserError, match="outside of the vocabulary, 0 to 2"):
    method.sample(state, keys, prompt)
  tokens = jit(method.sample)(state, keys, prompt)  # where the compiler does not know the tokens
  assert (tokens[0] == -1).all()
  np.testing.assert_array_equal(tokens[1, :2], [0, 1])
  method, state = build(LanguageModel(V, gpt(8, 2, 1, T, dtype=DOUBLE)), start=None)
  with pytest.raises(UserError, match="continues a prompt, and none was given"):
    jax.eval_shape(method.sample, state, keys)
