"""Diffusion of tokens' codes: a bound and samples that are known, bits, rounding, clamping, and self-conditioning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from discrete_cases import OfVectors

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion import ancestral, heun, sampling, vp
from jaxgen.methods.discrete import embedding
from jaxgen.methods.discrete.embedding import Codes, bits, bound, embedding_diffusion, nearest, remembering, square_root
from jaxgen.nn.transformers.ddit import DDiT

SPEC = Spec((4,), levels=3, feature="tokens", dtype=np.int32)
P = np.array([0.5, 0.3, 0.2])


def exact(schedule, table):
  """(x_t, t) -> (E[z | x_t], eps) of independent tokens with the probabilities P, by Bayes' rule."""

  def denoise(x, t):
    at = schedule.at(jnp.broadcast_to(t, x.shape[:1])).like(x)
    away = jnp.sum((x[:, :, None] - at.alpha[..., None] * table) ** 2, axis=-1)
    p = jax.nn.softmax(jnp.log(P) - away / (2 * at.sigma**2), axis=-1)
    z = p @ table
    return z, (x - at.alpha * z) / at.sigma

  return denoise


def test_the_bound_and_samples_of_independent_tokens(x64):
  """With the exact predictor the bound is -log p on average, to what the schedule's end and x_0's noise leave, and
  many small steps draw the tokens with their probabilities."""
  codes, schedule, n = bits(3), square_root(), 1500
  table, denoise = jnp.asarray(codes.fixed), exact(square_root(), jnp.asarray(codes.fixed))
  tokens = jnp.asarray(np.random.default_rng(0).choice(3, (n, 4), p=P))

  @jax.jit
  def run(keys):
    nats = bound(denoise, schedule, tokens, table, None, keys, terms=64)
    x = jax.random.normal(jax.random.key(1), (n, 4, 2))
    x_0 = sampling.sample(ancestral(schedule), denoise, jnp.linspace(1, 0, 101), x, keys)
    return nats, jnp.argmax(embedding.log_rounding(x_0, table, None, schedule), axis=-1)

  nats, drawn = run(jax.random.split(jax.random.key(0), n))
  away = np.asarray(nats) + np.log(P)[np.asarray(tokens)].sum(1)
  assert abs(away.mean()) < 4 * away.std() / np.sqrt(n), (away.mean(), away.std())
  assert away.std() / np.sqrt(n) < 0.02 * 4 * -(P * np.log(P)).sum()
  np.testing.assert_allclose(np.bincount(np.asarray(drawn).ravel(), minlength=3) / drawn.size, P, atol=0.03)


def test_codes_and_rounding(x64):
  assert bits(5).fixed.tolist() == [[-1, -1, -1], [-1, -1, 1], [-1, 1, -1], [-1, 1, 1], [1, -1, -1]]
  assert bits(65, 2.0).fixed.shape == (65, 7)
  rng = np.random.default_rng(0)
  table, x, bias = (jnp.asarray(rng.normal(size=s)) for s in ((6, 3), (2, 4, 3), (6,)))
  far = ((np.asarray(x)[:, :, None] - np.asarray(table)) ** 2).sum(-1)
  np.testing.assert_array_equal(nearest(x, table), np.asarray(table)[far.argmin(-1)])
  schedule = square_root()
  log_p = jax.jit(lambda bias: embedding.log_rounding(x, table, bias, schedule))
  p = np.exp(log_p(None))
  alpha, sigma = float(schedule.alpha(jnp.zeros(()))), float(schedule.sigma(jnp.zeros(())))
  assert sigma == pytest.approx(1e-4**0.25, rel=1e-3)
  q = np.exp(-((np.asarray(x)[:, :, None] - alpha * np.asarray(table)) ** 2).sum(-1) / (2 * sigma**2))
  np.testing.assert_allclose(p, q / q.sum(-1, keepdims=True), rtol=1e-8, atol=1e-30)
  q = np.exp(np.asarray(x) @ np.asarray(table).T + np.asarray(bias))
  np.testing.assert_allclose(np.exp(log_p(bias)), q / q.sum(-1, keepdims=True))


def test_a_solver_remembers_the_last_prediction():
  seen = []

  def denoise(x, t, last):
    seen.append(np.asarray(last))
    return x + 1, x

  solver, x, t = remembering(ancestral(vp())), jnp.ones((2, 1)), jnp.array([0.9, 0.6, 0.3])
  carry, keys = solver.init(x), jax.random.split(jax.random.key(0), 2)
  for i in range(2):
    before = x
    x, carry = solver.step(denoise, carry, x, t[i], t[i + 1], keys)
  assert not seen[0].any()
  np.testing.assert_array_equal(seen[1], np.full((2, 1), 2.0))
  np.testing.assert_array_equal(carry[1], before + 1)


def test_wrong_choices_are_one_sentence():
  make = lambda codes=Codes(2), spec=SPEC, network=None, **more: embedding_diffusion(  # noqa: B008
    network or OfVectors(2, "float32"), codes, spec, optax.sgd(0.1), **more
  )
  batch = {"tokens": np.zeros((2, 4), np.int32), "index": np.arange(2)}
  init = lambda method: jax.eval_shape(method.init, jax.random.key(0), batch)
  for do, words in [
    (lambda: bits(1), "2 or more tokens"),
    (lambda: square_root(0.0), "offset is positive"),
    (lambda: make(spec=SPEC._replace(levels=None)), "rows of tokens"),
    (lambda: make(spec=SPEC._replace(shape=(2, 2))), "rows of tokens"),
    (lambda: make(Codes(0)), "1 or more values"),
    (lambda: make(bits(5)), "codes of 5 tokens and the data has 3"),
    (lambda: make(schedule=vp()), "take square_root"),
    (lambda: make(solver=heun), "one network call"),
    (lambda: make(sampling_steps=0), "at least 1 step"),
    (lambda: make().check({"tokens": np.full((1, 4), 3)}), "not among 3"),
    (lambda: init(make(network=OfVectors(3, "float32"))), "width of outputs"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
  assert "embedding" not in init(make(bits(3))).params["network"]
  shapes = init(make(Codes(2), network=DDiT(2, 8, 1, 2, told=4)))
  assert shapes.params["network"]["embedding"].shape == (3, 2)
