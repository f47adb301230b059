"""Decoding against enumeration of everything there is to say, and with the networks that it serves."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.decoding import beam_search, greedy
from jaxgen.nn.sequence.seq2seq import Multiplicative, Seq2Seq
from jaxgen.nn.sequence.transformer import EncoderDecoder, Options

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})

BATCH, VOCABULARY, LENGTH, END, START = 3, 4, 4, 2, 1


def network(seed: int = 0, sharpness: float = 1.0):
  """Logits that depend on everything said so far, as plain matrices."""
  rng = np.random.default_rng(seed)
  return dict(
    a=rng.normal(size=(6, 6)), b=rng.normal(size=(VOCABULARY, 6)), c=sharpness * rng.normal(size=(6, VOCABULARY)),
    first=rng.normal(size=(BATCH, 6)),
  )  # fmt: skip


def stepper(weights):
  weights = {name: jnp.asarray(w) for name, w in weights.items()}

  def step(carry, tokens):
    h = jnp.tanh(carry["h"] @ weights["a"] + weights["b"][tokens])
    return h @ weights["c"], {"h": h}

  return step, {"h": weights["first"]}


def log_probability(weights, example, sequence) -> float:
  """By numpy, one sequence at a time."""
  h, token, total = weights["first"][example], START, 0.0
  for following in sequence:
    h = np.tanh(h @ weights["a"] + weights["b"][token])
    logits = h @ weights["c"]
    total += logits[following] - np.log(np.sum(np.exp(logits)))
    token = following
  return total


def everything() -> list[tuple[int, ...]]:
  """All sequences: those that end within LENGTH, and those that never do, cut off."""
  found = []
  for n in range(1, LENGTH + 1):
    for tokens in itertools.product(range(VOCABULARY), repeat=n):
      if END not in tokens[:-1] and (tokens[-1] == END or n == LENGTH):
        found.append(tokens)
  return found


options = dict(length=LENGTH, end=END, pad=0)
start = jnp.full((BATCH,), START)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_full_width_is_enumeration(alpha, x64):
  weights, sequences = network(1), everything()
  step, carry = stepper(weights)
  width = len(sequences)
  tokens, scores = jit(partial(beam_search, step, width=width, alpha=alpha, **options))(carry, start)
  for b in range(BATCH):
    scored = {s: log_probability(weights, b, s) / ((5 + len(s)) / 6) ** alpha for s in sequences}
    best = sorted(sequences, key=scored.get, reverse=True)
    np.testing.assert_allclose(scores[b], [scored[s] for s in best], atol=1e-12)
    np.testing.assert_array_equal(tokens[b], [s + (0,) * (LENGTH - len(s)) for s in best])


def test_the_length_penalty_changes_what_is_best(x64):
  """Otherwise the test above would not tell one alpha from another."""
  weights, sequences = network(1), everything()
  best = lambda b, alpha: max(sequences, key=lambda s: log_probability(weights, b, s) / ((5 + len(s)) / 6) ** alpha)
  assert any(best(b, 0.0) != best(b, 2.0) for b in range(BATCH))


def test_wider_is_not_worse_and_narrow_is_not_exact(x64):
  """Greedy misses the best sequence of some example here, so that width matters."""
  missed = 0
  for seed in range(4):
    step, carry = stepper(network(seed))
    scores = [jit(partial(beam_search, step, width=w, **options))(carry, start)[1][:, 0] for w in (1, 121)]
    assert (scores[1] >= scores[0] - 1e-12).all()
    missed += int((scores[1] > scores[0] + 1e-6).sum())
  assert missed > 0


@pytest.mark.parametrize("seed", range(3))
def test_width_one_is_greedy(seed, x64):
  step, carry = stepper(network(seed))
  tokens, total = jit(partial(greedy, step, **options))(carry, start)
  beam, scores = jit(partial(beam_search, step, width=1, **options))(carry, start)
  np.testing.assert_array_equal(beam[:, 0], tokens)
  np.testing.assert_allclose(scores[:, 0], total, atol=1e-12)
  for b in range(BATCH):
    said = list(np.asarray(tokens[b]))
    said = said[: said.index(END) + 1] if END in said else said
    np.testing.assert_allclose(total[b], log_probability(network(seed), b, said), atol=1e-12)
    assert not any(tokens[b, len(said) :])


# --- With the networks ------------------------------------------------------------------------------------------------

SOURCE = jax.random.randint(jax.random.key(0), (3, 5), 0, 9)
MASK = jnp.arange(5) < jnp.array([5, 2, 3])[:, None]


def transformer():
  options = Options(features=8, heads=2, hidden=8, depth=2, dtype=jnp.float64, param_dtype=jnp.float64)
  return EncoderDecoder(9, options)


def recurrent():
  dtypes = dict(dtype=jnp.float64, param_dtype=jnp.float64)
  return Seq2Seq(9, 9, 6, 5, "lstm", 2, Multiplicative, **dtypes)


NETWORKS = {"Transformer": transformer, "recurrent": recurrent}


def sharpened(network):
  """Random parameters that have made up their mind, so that decoding says something."""
  variables = jit(network.init)(jax.random.key(1), SOURCE, SOURCE, MASK)
  return jax.tree.map(lambda p: 2 * p, variables)["params"]


@pytest.mark.parametrize("name", NETWORKS)
def test_serves_the_networks(name, x64):
  """Beams that a network's carry follows give what whole passes over each beam's tokens give; width 1 is greedy."""
  network, length, how = NETWORKS[name](), 6, dict(length=6, end=4)
  params, start = sharpened(network), jnp.full((3,), 1)

  def whole():
    """No carry but the tokens: the network reads them all again at every step."""

    def step(carry, tokens):
      t, said = carry["t"], carry["said"]
      said = jax.vmap(lambda said, t, token: said.at[t].set(token))(said, t, tokens)
      logits = network.apply({"params": params}, SOURCE, said, MASK)
      return jnp.take_along_axis(logits, t[:, None, None], axis=1)[:, 0], {"t": t + 1, "said": said}

    return step, {"t": jnp.zeros(3, jnp.int32), "said": jnp.zeros((3, length), SOURCE.dtype)}

  def search(step, carry, width):
    return jit(partial(beam_search, step, width=width, alpha=0.6, **how))(carry, start)

  tokens, scores = search(*network.stepper(params, SOURCE, MASK, length), 4)
  expected, expected_scores = search(*whole(), 4)
  np.testing.assert_array_equal(tokens, expected)
  np.testing.assert_allclose(scores, expected_scores, atol=1e-10)
  assert len(np.unique(np.asarray(tokens).reshape(12, -1), axis=0)) > 4  # beams that say different things

  step, carry = network.stepper(params, SOURCE, MASK, length)
  best, total = jit(partial(greedy, step, **how))(carry, start)
  one, score = jit(partial(beam_search, step, width=1, **how))(carry, start)
  np.testing.assert_array_equal(one[:, 0], best)
  np.testing.assert_allclose(score[:, 0], total, atol=1e-10)
