"""Diffusion of waves where the best network is known, a Gaussian process; and DiffWave's shorter processes.

x_0 ~ N(0, K), K the covariance of an autoregressive process of the first order. Then x_t ~ N(0, alpha^2 K + sigma^2 I),
and E[eps | x_t] = sigma (alpha^2 K + sigma^2 I)^-1 x_t.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion import losses
from jaxgen.diffusion.grids import of_variances
from jaxgen.diffusion.likelihood import exact, ode_nll, rk4
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.schedules import posterior
from jaxgen.diffusion.times import aligned
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.audio.diffwave import DiffWave

LENGTH, STEPS, N = 12, 200, 1024
K = 0.04 * 0.9 ** np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
SCHEDULE = diffusion.linear(STEPS, 1e-4, 0.08)  # alpha_bar_T = 2e-4
FAST = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)
SPEC = Spec((LENGTH, 1), None, None, "wave", np.float64)


class Exact(nn.Module):
  """E[eps | x_t], times a factor that is learned."""

  @nn.compact
  def __call__(self, x, t, told=None, index=None):
    factor = self.param("factor", nn.initializers.ones, (), x.dtype)
    at = SCHEDULE.at(t + 1)
    variance = at.alpha[:, None, None] ** 2 * K + at.sigma[:, None, None] ** 2 * np.eye(LENGTH)
    return factor * at.sigma[:, None, None] * jnp.linalg.solve(variance, x)


def test_the_exact_denoiser_has_the_floor_of_the_loss_and_the_likelihood_of_the_process(x64):
  """The floor is the mean of alpha^2 lambda / (alpha^2 lambda + sigma^2) over t and K's modes.

  The probability-flow ODE gives log p of the process, and the variational bound has its expectation in closed form.
  """
  likelihoods = {
    "exact": partial(ode_nll, levels=None, trace=exact(), integrator=rk4(60), t_min=0.02),
    "bound": partial(bound_nll, levels=None, clip=False),
  }
  method = gaussian_diffusion(Exact(), SCHEDULE, SPEC, optax.sgd(0.0), likelihoods=likelihoods)
  waves = np.random.default_rng(0).multivariate_normal(np.zeros(LENGTH), K, N)
  batch = {"wave": jnp.asarray(waves[:, :, None]), "index": jnp.arange(N)}
  state = method.init(jax.random.key(0), batch)

  t = np.arange(1, STEPS + 1.0)
  alpha2, sigma2 = SCHEDULE.alpha(t)[:, None] ** 2, SCHEDULE.sigma(t)[:, None] ** 2
  signal = alpha2 * np.linalg.eigvalsh(K)
  floor, explained = (signal / (signal + sigma2)).mean(), (sigma2 / (signal + sigma2)).mean()
  step, errors = jax.jit(method.step), []
  for _ in range(8):
    state, metrics = step(state, batch)
    errors.append(float(metrics["loss"]))
  error = np.std(errors) / 8**0.5
  assert error < 0.03 * floor
  assert abs(np.mean(errors) - floor) < 4 * error
  # With a factor of f the error grows by (1 - f)^2 E |E[eps | x_t]|^2.
  other = state.replace(params={"network": {"factor": jnp.asarray(0.5)}})
  assert abs(float(step(other, batch)[1]["loss"]) - floor - 0.25 * explained) < 0.02

  # The absolute error of a Gaussian is sqrt(2 / pi) of its deviation, here of each sample's eps given x_t.
  absolute = gaussian_diffusion(Exact(), SCHEDULE, SPEC, optax.sgd(0.0), objective=Objective(error=losses.absolute))
  _, modes = np.linalg.eigh(K)
  deviations = np.sqrt((signal / (signal + sigma2)) @ (modes**2).T)
  found = float(jax.jit(absolute.step)(absolute.init(jax.random.key(0), batch), batch)[1]["loss"])
  assert abs(found / (np.sqrt(2 / np.pi) * deviations.mean()) - 1) < 0.05

  some = jax.tree.map(lambda x: x[:32], batch)
  found = jax.jit(method.evaluate)(state, some, jax.random.key(1))
  nats = -scipy.stats.multivariate_normal(np.zeros(LENGTH), K).logpdf(waves[:32])
  np.testing.assert_allclose(found["exact"], nats, rtol=0, atol=0.02)
  bound = np.asarray(found["bound"])
  assert abs(bound.mean() - expected_bound(SCHEDULE)) < 4 * bound.std() / 32**0.5
  assert bound.mean() > nats.mean()


def expected_bound(schedule):
  """E of the bound (8) with the exact denoiser and v = c, in nats: E |x_0 - E[x_0 | x_t]|^2 is known for each mode."""
  t, modes = np.arange(1.0, schedule.steps + 1), np.linalg.eigvalsh(K)
  alpha2, sigma2 = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
  prior = 0.5 * (alpha2[-1] * modes.sum() + LENGTH * (sigma2[-1] - 1 - np.log(sigma2[-1])))
  error = (modes * sigma2[:, None] / (alpha2[:, None] * modes + sigma2[:, None])).sum(1)
  q = posterior(schedule, t[1:], t[:-1])
  first = error[0] / (2 * q.c[0]) + LENGTH / 2 * np.log(2 * np.pi * q.c[0])
  return prior + (q.b**2 / (2 * q.c) * error[1:]).sum() + first


# --- Shorter processes ------------------------------------------------------------------------------------------------

BETAS = np.linspace(1e-4, 0.05, 50)  # DiffWave Base's
BASE = diffusion.linear(50, 1e-4, 0.05)


def test_a_shorter_process_is_the_paper_s(x64):
  """Each step's mean is (x - eta / sqrt(1 - gamma_bar) eps) / sqrt(1 - eta), and its variance theirs."""
  times = of_variances(FAST)(BASE, 6)
  assert times[-1] == 0
  assert (np.diff(times) < 0).all()
  gamma_bar = np.append(1.0, np.cumprod(1 - np.array(FAST)))
  np.testing.assert_allclose(BASE.alpha(times[:-1]) ** 2, gamma_bar[:0:-1], rtol=1e-12)
  x, eps = 0.7, -1.3
  for i, s in enumerate(range(6, 0, -1)):
    q = posterior(BASE, times[i : i + 1], times[i + 1 : i + 2])
    x_0 = (x - np.sqrt(1 - gamma_bar[s]) * eps) / np.sqrt(gamma_bar[s])
    eta = FAST[s - 1]
    wanted = (x - eta / np.sqrt(1 - gamma_bar[s]) * eps) / np.sqrt(1 - eta)
    np.testing.assert_allclose(q.a * x + q.b * x_0, wanted, rtol=1e-10)
    np.testing.assert_allclose(q.c, (1 - gamma_bar[s - 1]) / (1 - gamma_bar[s]) * eta, rtol=1e-9, atol=1e-15)


def test_the_network_is_told_the_step_that_the_noise_level_lies_at(x64):
  """The paper's search among the steps of training, for all variances whose noise is within them."""
  told_at = jax.jit(lambda t: aligned(BASE)(BASE.at(t)))
  times = np.concatenate([of_variances(FAST)(BASE, 6)[-2::-1], np.arange(1.0, 51.0)])
  told, of_steps = np.split(np.asarray(told_at(times)), [6])
  level, gamma = np.sqrt(np.cumprod(1 - BETAS)), np.sqrt(np.cumprod(1 - np.array(FAST)))
  for s in range(6):
    t = max(t for t in range(50) if level[t] >= gamma[s] - 1e-12)
    between = (level[t] - gamma[s]) / (level[t] - level[t + 1])
    np.testing.assert_allclose(told[s], t + between, rtol=0, atol=1e-9)
  np.testing.assert_allclose(of_steps, np.arange(50.0), rtol=0, atol=1e-12)


def test_a_shorter_process_agrees_with_the_full_one_as_the_first_order_says(x64):
  """N(0, s^2) through the exact denoiser: n geometric steps leave an error of the variance that halves with 2 n."""
  s2 = 0.04

  def variance(times):
    v = BASE.sigma(times[:1])[0] ** 2 + BASE.alpha(times[:1])[0] ** 2 * s2
    for t, s in zip(times[:-1], times[1:], strict=True):
      q = posterior(BASE, np.array([t]), np.array([s]))
      a2, n2 = BASE.alpha(np.array([t]))[0] ** 2, BASE.sigma(np.array([t]))[0] ** 2
      v = (q.a[0] + q.b[0] * np.sqrt(a2) * s2 / (a2 * s2 + n2)) ** 2 * v + q.c[0] * (s > 0)
    return v

  errors = [abs(variance(diffusion.log_snr(BASE, n)) - s2) for n in (24, 48)]
  assert 1.7 < errors[0] / errors[1] < 2.4
  fast, full = (abs(variance(times) - s2) / s2 for times in (of_variances(FAST)(BASE, 6), np.arange(50.0, -1, -1)))
  assert full < fast < 0.6


def test_variances_that_do_not_fit_are_one_sentence():
  for make, words in [
    (lambda: of_variances(()), "between 0 and 1"),
    (lambda: of_variances((0.1, 1.0)), "between 0 and 1"),
    (lambda: of_variances(FAST)(BASE, 5), "6 variances are as many sampling steps, not 5"),
    (lambda: of_variances((0.5, 0.9))(BASE, 2), "less than the schedule's"),
  ]:
    with pytest.raises(UserError, match=words):
      make()


@pytest.mark.nightly
def test_diffwave_learns_the_process_to_its_floor():
  """A small DiffWave on longer waves of the process: its loss comes to the floor."""
  length, steps = 64, 50
  covariance = 0.04 * 0.9 ** np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
  process = diffusion.linear(steps, 1e-4, 0.2)
  spec = Spec((length, 1), None, None, "wave", np.float32)
  network = DiffWave(channels=16, layers=6, cycle=6, embedding=32, hidden=32)
  optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, 800))
  method = gaussian_diffusion(network, process, spec, optimizer, sampler=Sampler(steps=steps))
  root = np.linalg.cholesky(covariance).astype(np.float32)

  def train(state, key):
    waves = jax.random.normal(key, (32, length)) @ root.T
    state, metrics = method.step(state, {"wave": waves[..., None], "index": jnp.arange(32)})
    return state, metrics["loss"]

  first = {"wave": jnp.zeros((32, length, 1)), "index": jnp.arange(32)}
  state = method.init(jax.random.key(0), first)
  _, errors = jax.jit(lambda s: jax.lax.scan(train, s, jax.random.split(jax.random.key(1), 800)))(state)
  t = np.arange(1, steps + 1.0)
  signal = process.alpha(t)[:, None] ** 2 * np.linalg.eigvalsh(covariance)
  floor = (signal / (signal + process.sigma(t)[:, None] ** 2)).mean()
  learned = float(errors[-200:].mean())
  assert 0.95 * floor < learned < floor + 0.02
