"""Processes, predictions, losses and draws of discrete diffusion, each by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import discrete
from jaxgen.core.errors import UserError
from jaxgen.discrete import closed_form, logs, losses
from jaxgen.discrete.draws import categorical, exponential

V, T = 5, 6
PROCESSES = {
  "uniform": discrete.uniform(discrete.cosine(), V, T),
  "absorbing": discrete.absorbing(discrete.linear(), V, T),
  "geometric": discrete.absorbing(discrete.geometric(), V, T),
  "marginal": discrete.marginal(discrete.polynomial(), np.array([0.5, 0.25, 0.25, 0, 0]), T),
  "gaussian": discrete.discretized_gaussian(V, T, 0.01, 1.0),
  "nearest neighbours": discrete.nearest_neighbour(np.arange(V)[:, None] ** 1.5, 2, T),
}
every = pytest.mark.parametrize("name", PROCESSES)


@every
def test_steps_compose_to_the_marginal(name, x64):
  """Chapman and Kolmogorov: the product of the steps' matrices is q(x_t | x_0), forwards and backwards."""
  process = PROCESSES[name]
  K = process.states
  x = jnp.arange(K)[None]
  product = np.eye(K)
  for count in range(1, T + 1):
    s, t = jnp.array([(count - 1) / T]), jnp.array([count / T])
    one = np.exp(process.backward(x, s, t))[0].T
    np.testing.assert_allclose(one.sum(1), 1, atol=1e-12)
    product = product @ one
    np.testing.assert_allclose(np.exp(process.log_q(x, t))[0], product, atol=1e-10)
    np.testing.assert_allclose(np.exp(process.backward(x, jnp.zeros(1), t))[0].T, product, atol=1e-10)


def test_transitions_are_the_papers(x64):
  """Austin's A.2: 1 / (T - t + 1) to the mask; the Gaussian's matrices are symmetric and fall with the distance."""
  x = jnp.arange(V + 1)[None]
  for count in range(1, T + 1):
    s, t = jnp.array([(count - 1) / T]), jnp.array([count / T])
    Q = np.exp(PROCESSES["absorbing"].backward(x, s, t))[0].T
    np.testing.assert_allclose(Q[:V, V], 1 / (T - count + 1))
    Q = np.exp(PROCESSES["gaussian"].backward(x[:, :V], s, t))[0].T
    np.testing.assert_allclose(Q, Q.T)
    assert (np.diff(Q[0, 1:]) < 0).all()
    beta = np.linspace(0.01, 1.0, T)[count - 1]
    np.testing.assert_allclose(np.log(Q[0, 1] / Q[0, 2]), -4 * (1 - 4) / (16 * beta))


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_one_hot_probabilities_give_no_nan(name, dtype, x64):
  """In values and gradients, at both ends of t, also where the token cannot be what it is."""
  process = PROCESSES[name]
  x_0 = jnp.arange(V)[:, None] * jnp.ones((1, process.states), jnp.int32)
  x_t = jnp.broadcast_to(jnp.arange(process.states), x_0.shape)
  for count in (1, 2, T):
    s, t = (jnp.full(V, c / T, dtype) for c in (count - 1, count))
    for prediction in ("x_0", "posterior"):

      def loss(output, s=s, t=t, prediction=prediction):
        predicted = discrete.PREDICTIONS[prediction](process, output, x_t, t)
        return jnp.sum(losses.term(process, predicted, x_0, x_t, s, t)), predicted

      for output in (jnp.where(jnp.eye(V, dtype=bool)[x_0], 0.0, logs.NEVER), jnp.where(jnp.eye(V)[x_0], 800.0, -800)):
        (value, predicted), gradient = jax.value_and_grad(loss, has_aux=True)(output.astype(dtype))
        assert np.isfinite(value), (count, prediction)
        assert np.isfinite(gradient).all(), (count, prediction)
        assert np.isfinite(predicted.log_u).all()
        assert np.isfinite(predicted.log_ratios).all()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial"])
def test_the_absorbing_bound_is_mdlms(schedule, x64):
  """Every term of (7) is (alpha_s - alpha_t) / (1 - alpha_t) times the masks' cross-entropy, and (8) is (9)."""
  schedule = discrete.SCHEDULES[schedule]()
  process = discrete.absorbing(schedule, V, 1000)
  rng = np.random.default_rng(0)
  x_0 = jnp.asarray(rng.integers(0, V, (64, 7)))
  t = jnp.asarray(np.append(rng.integers(2, 1000, 62), [1, 1000]) / 1000)
  s = t - 1 / 1000
  x_t = losses.diffuse(process, x_0, t, jax.random.split(jax.random.key(0), 64))
  logits = rng.normal(size=(64, 7, V)) * 3
  predicted = discrete.PREDICTIONS["x_0"](process, jnp.asarray(logits), x_t, t)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  nll = -np.take_along_axis(log_p, np.asarray(x_0)[..., None], -1)[..., 0]
  masked = (np.where(np.asarray(x_t) == V, nll, 0)).sum(-1)
  alpha = lambda t: np.asarray(schedule.alpha(t))
  weight = (alpha(s) - alpha(t)) / (1 - alpha(t))
  np.testing.assert_allclose(losses.term(process, predicted, x_0, x_t, s, t), weight * masked, rtol=1e-10, atol=1e-10)
  t = jnp.minimum(t, losses.LAST)
  predicted = discrete.PREDICTIONS["x_0"](process, jnp.asarray(logits), x_t, t)
  h = 1e-6
  slope = -(alpha(t + h) - alpha(t - h)) / (2 * h)
  found = losses.integrand(process, predicted, x_0, x_t, t)
  np.testing.assert_allclose(found, slope / (1 - alpha(t)) * masked, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "absorbing"])
def test_predictions_say_the_same(kind, x64):
  """The exact p(x_0 | x_t) and the exact ratios, enumerated, give the exact u; so all three are one model."""
  process = getattr(discrete, kind)(discrete.linear(), 2)
  rng = np.random.default_rng(1)
  table = closed_form.markov(rng.dirichlet(np.ones(4)).reshape(2, 2), rng.dirichlet(np.ones(2), (2, 2)), 3)
  K, t = process.states, jnp.full(1, 0.4)
  x_t = jnp.asarray([[process.states - 1, 0, process.states - 1]])
  x, q_of = np.asarray(x_t[0]), np.exp(process.log_q(jnp.arange(2)[None], t))[0]  # [V, K]
  joint = np.zeros((3, 2))
  p_t = lambda y: sum(
    p * np.prod([q_of[a, b] for a, b in zip(row, y, strict=True)])
    for row, p in zip(table.sequences, table.p.ravel(), strict=True)
  )
  for row, p in zip(table.sequences, table.p.ravel(), strict=True):
    for i in range(3):
      joint[i, row[i]] += p * np.prod([q_of[a, b] for a, b in zip(row, x, strict=True)])
  ratios = np.zeros((3, K))
  for i in range(3):
    for y in range(K):
      ratios[i, y] = p_t([*x[:i], y, *x[i + 1 :]]) / p_t(x)
  exact = table.predict(process)(x_t, t)
  np.testing.assert_allclose(np.exp(exact.log_ratios[0]), ratios, rtol=1e-9, atol=1e-12)
  with np.errstate(divide="ignore"):
    log_joint, log_ratio = np.maximum(np.log(joint), -1e30), np.maximum(np.log(ratios), -1e30)
  of = lambda name, output: discrete.PREDICTIONS[name](process, jnp.asarray(output)[None], x_t, t)
  output = jnp.asarray(rng.normal(size=(1, 3, 2)))  # at the end of the noise, where alpha is 0, u is still a law
  at_noise = discrete.PREDICTIONS["score"](process, output, jnp.full((1, 3), process.states - 1), jnp.ones(1)).log_u
  if kind == "absorbing":
    np.testing.assert_allclose(np.exp(at_noise)[..., :2], jax.nn.softmax(output, -1), atol=1e-9)
  shows = np.asarray(x_t[0]) < 2 if kind == "absorbing" else np.zeros(3, bool)  # where u is free
  scale = np.log(0.6 / 0.4) if kind == "absorbing" else 0.0
  for found in (of("posterior", log_joint), of("score", log_ratio[:, :2] - scale)):
    u = np.exp(found.log_u[0])
    np.testing.assert_allclose(u[~shows], np.exp(exact.log_u[0])[~shows], atol=1e-9)
    s = jnp.full(1, 0.1)
    step = lambda log_u, s=s: np.exp(process.log_posterior(log_u, x_t, s, t))
    np.testing.assert_allclose(step(found.log_u), step(exact.log_u), atol=1e-9)


def test_draws_have_no_bias_of_float32_gumbel_noise():
  """A token of probability e^-20 wins as often as that. The usual noise ends at 16.6: it wins never where the other's
  noise is above -3.4, which is e^-30 short of always. Seen by importance: of clocks that ring before 2^-22, a part
  2^22 e^-20 must be first."""
  key, n = jax.random.key(0), 1 << 20
  assert jax.random.gumbel(key, (n,), jnp.float32, mode="low").max() < 16.7  # -log(-log(1 - 2^-24)), however many
  high, low, other = jax.random.bits(key, (3, n), jnp.uint32)
  rare = exponential(high & 1023, low)
  wins = int(jnp.sum(rare / np.exp(-20.0) < exponential(other, low[::-1])))
  expected = n * 2**22 * np.exp(-20.0)
  assert abs(wins - expected) < 4 * np.sqrt(expected), (wins, expected)

  high, low = jnp.array([0, 0, 0, 1, 1 << 16, 1 << 31], jnp.uint32), jnp.array([0, 16, 1 << 30, 0, 0, 0], jnp.uint32)
  u = [(float(h) + (float(x) + 0.5) / 2**32) / 2**32 for h, x in zip(high, low, strict=True)]
  np.testing.assert_allclose(exponential(high, low), -np.log1p(-np.array(u)), rtol=1e-6)

  p, rows = np.array([0.5, 0.3, 0.15, 0.049, 0.001]), 1 << 14
  drawn = categorical(jax.random.split(key, rows), jnp.broadcast_to(jnp.log(p) + 3.0, (rows, 5)))
  assert stats.chisquare(np.bincount(drawn, minlength=5), rows * p).pvalue > 1e-3


def test_samplers_of_masks(x64):
  """First hitting draws from the model exactly; by confidence one token a step the least certain come last."""
  rng = np.random.default_rng(3)
  table = closed_form.markov(rng.dirichlet(np.ones(4)).reshape(2, 2), rng.dirichlet(np.ones(2), (2, 2)), 3)
  process = discrete.absorbing(discrete.cosine(), 2)
  n = 8000
  keys = jax.random.split(jax.random.key(1), n)
  x = discrete.sampling.start(process, keys, (3,))
  assert (x == 2).all()
  solve = lambda solver, grid: jax.jit(lambda x, keys: discrete.sample(solver, table.predict(process), grid, x, keys))(
    x, jax.random.split(jax.random.key(2), n)
  )
  hits = solve(discrete.first_hitting(process), discrete.uniform_grid(1))
  counts = np.bincount(np.asarray(hits) @ [4, 2, 1], minlength=8)
  assert stats.chisquare(counts, n * table.p.ravel()).pvalue > 1e-3
  sure = solve(discrete.confidence(process, 0.0), discrete.uniform_grid(3))
  assert (sure < 2).all()
  entropy = lambda x: stats.entropy(np.bincount(np.asarray(x) @ [4, 2, 1], minlength=8))
  assert entropy(sure) < entropy(hits)


def test_estimates_of_the_bound_are_unbiased(x64):
  """By draws of t and x_t, discrete and continuous, with all terms and with some: the entropy of independent tokens."""
  p = np.array([0.6, 0.3, 0.1])
  table = closed_form.independent(p, 4)
  n = 2000
  x_0 = jax.random.categorical(jax.random.key(0), jnp.log(p), shape=(n, 4))
  for steps, terms in ((5, None), (64, 4), (None, 8)):
    process = discrete.absorbing(discrete.linear(), 3, steps)
    keys = jax.random.split(jax.random.key(1), n)
    nats = np.asarray(losses.bound(process, table.predict(process), x_0, keys, terms=terms, dtype=jnp.float64))
    exact = -np.log(p)[np.asarray(x_0)].sum(1)
    away = nats - exact
    assert abs(away.mean()) < 4 * away.std() / np.sqrt(n), (steps, terms)


def test_wrong_choices_are_one_sentence():
  matrices, uniform = PROCESSES["gaussian"], PROCESSES["uniform"]
  for make, words in [
    (lambda: discrete.first_hitting(uniform), "without|no mask|has none"),
    (lambda: discrete.confidence(uniform), "a vocabulary with a mask token"),
    (lambda: discrete.remasking(uniform), "a vocabulary with a mask token"),
    (lambda: discrete.remasking(PROCESSES["absorbing"], 2.0), "is a probability"),
    (lambda: discrete.euler(matrices), "an interpolating one"),
    (lambda: discrete.first_hitting(PROCESSES["geometric"]), "only masks"),
    (lambda: discrete.uniform(discrete.linear(), 1), "2 or more values, not 1"),
    (lambda: discrete.uniform(discrete.linear(), 3, 0), "1 or more steps, not 0"),
    (lambda: discrete.marginal(discrete.linear(), np.array([0.5, 0.6])), "a probability for each"),
    (lambda: discrete.sampling.check(matrices, discrete.uniform_grid(3)), "its own 6 steps, not in 3"),
    (lambda: discrete.sampling.check(uniform, np.array([0.5, 0.7, 0])), "change the grid"),
    (lambda: discrete.nearest_neighbour(np.array([[0.0], [1.0], [50], [51]]), 1), "far from uniform"),
    (lambda: discrete.discretized_gaussian(4, 10, 0.5, 0.1), "do not fall"),
    (lambda: discrete.polynomial(0.0), "positive power"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      make()
    assert "\n" not in str(found.value)
