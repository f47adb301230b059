"""What every solver must satisfy, and which of them are one and the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY

from jaxgen.core.errors import UserError
from jaxgen.diffusion import (
  PREDICTIONS,
  SOLVERS,
  ancestral,
  annealed_langevin,
  cosine,
  ddim,
  dpmpp_2m,
  dpmpp_sde_2m,
  euler,
  euler_ancestral,
  heun,
  leading,
  learned,
  linear,
  log_snr,
  network_calls,
  pndm,
  predictor_corrector,
  rectified_flow,
  reverse_diffusion,
  sample,
  trailing,
)
from jaxgen.diffusion.closed_form import Mixture
from jaxgen.diffusion.guidance import clipped
from jaxgen.diffusion.predictions import to_x0_eps

SHORT = linear(100, 1e-3, 0.2)
FEW = ["linear", "sub_vp", "ve", "rectified_flow"]
# With options that make each of them noisy, corrected or churned, beside the defaults.
MORE = SOLVERS | {
  "annealed_langevin": lambda s: annealed_langevin(s, corrections=30),
  "predictor_corrector of pndm": lambda s: predictor_corrector(s, pndm, corrections=2),
  "heun churned": lambda s: heun(s, churn=0.3),
  "euler churned": lambda s: euler(s, churn=0.3),
  "ddim noisy": lambda s: ddim(s, 0.5),
}
STOCHASTIC = [
  *("ancestral", "annealed_langevin", "ddim noisy", "dpmpp_sde_2m", "euler churned", "euler_ancestral"),
  *("euler_maruyama", "heun churned", "predictor_corrector", "predictor_corrector of pndm"),
  "reverse_diffusion",
]


def stub(schedule, clip=False, kind="v"):
  """A network that no data explains, so that nothing holds by luck; samples leave [-1, 1] with it."""

  def denoise(x, t):
    at = schedule.at(t).like(x)
    u = at.sigma / (at.alpha + at.sigma)  # a time from 0 to 1, whatever the schedule's
    y = x / (at.alpha + at.sigma)
    output = jnp.sin(3 * y) + 0.3 * jnp.cos(3 * u) * y**2 / (1 + y**2)
    return to_x0_eps(PREDICTIONS[kind], output, x, at)

  return clipped(denoise, schedule) if clip else denoise


def start(n, shape=(3, 2, 1), seed=0):
  keys = jax.random.split(jax.random.key(seed), n)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys), keys


def draw(solver, times, x, keys, **options):
  return jax.jit(lambda x, keys: sample(solver, stub(solver.schedule, **options), times, x, keys))(x, keys)


def agree(a, b, digits=1e-9):
  np.testing.assert_allclose(a, b, rtol=0, atol=digits * float(jnp.abs(a).max()))


# --- Identities -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_ddim_with_eta_one_is_ancestral(name, x64):
  schedule = EVERY[name]
  times = trailing(schedule, 11)
  x, keys = start(2)
  x = schedule.prior_std * x
  a = draw(ancestral(schedule, "posterior"), times, x, keys)
  agree(a, draw(ddim(schedule, 1.0), times, x, keys))
  assert jnp.abs(draw(ddim(schedule, 0.0), times, x, keys) - a).max() > 0.03  # the noise matters


def test_ddim_with_eta_one_is_ancestral_when_clipped(x64):
  x, keys = start(4)
  a, b = (draw(solver, trailing(SHORT, 13), x, keys, clip=True) for solver in (ancestral(SHORT), ddim(SHORT, 1.0)))
  agree(a, b)


@pytest.mark.parametrize("name", FEW)
def test_euler_ancestral_is_ddim(name, x64):
  schedule = EVERY[name]
  times = log_snr(schedule, 7)
  x, keys = start(2)
  for eta in (0.6, 1.0):
    a = draw(ddim(schedule, eta), times, schedule.prior_std * x, keys)
    agree(a, draw(euler_ancestral(schedule, eta), times, schedule.prior_std * x, keys))


def test_euler_ancestral_beyond_one(x64):
  # k-diffusion's rule: no more noise than there is at s, all of it new then, so that x_s is x_0 + noise.
  schedule, (x, keys) = EVERY["edm"], start(2)
  times = np.array([10.0, 7.0])
  x_0, _ = stub(schedule)(10 * x, jnp.asarray(10.0))
  step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 0)
  z = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(step_keys)
  np.testing.assert_allclose(draw(euler_ancestral(schedule, 5.0), times, 10 * x, keys), x_0 + 7 * z, rtol=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_the_first_order_step_by_all_its_names(name, x64):
  # Euler's method on (18), by hand here, is DDIM, Euler without churn, and the first step of DPM-Solver++(2M).
  schedule = EVERY[name]
  times = log_snr(schedule, 8)[1:5]
  r = schedule.sigma(times) / schedule.alpha(times)
  x, keys = start(2)
  x = float(np.hypot(schedule.alpha(times), schedule.sigma(times))[0]) * x
  y = x / schedule.alpha(times)[0]
  for i in range(3):
    _, eps = stub(schedule)(y * schedule.alpha(times)[i], jnp.asarray(times[i]))
    y = y + (r[i + 1] - r[i]) * eps
    if i == 0:
      one = y * schedule.alpha(times)[1]
  expected = y * schedule.alpha(times)[-1]
  agree(expected, draw(ddim(schedule), times, x, keys))
  agree(expected, draw(euler(schedule), times, x, keys))
  for solver in (dpmpp_2m(schedule), dpmpp_sde_2m(schedule, 0.0)):
    agree(one, draw(solver._replace(order=1), times[:2], x, keys))


@pytest.mark.parametrize("name", ["ve", "rectified_flow"])
def test_sde_dpm_solver(name, x64):
  # Without noise it is DPM-Solver++(2M); its first step is the ancestral one: Lu et al. 2022, their relation to DDIM.
  schedule = EVERY[name]
  times = log_snr(schedule, 9)[1:-1]
  x, keys = start(2)
  agree(draw(dpmpp_2m(schedule), times, x, keys), draw(dpmpp_sde_2m(schedule, 0.0), times, x, keys))
  first = dpmpp_sde_2m(schedule)._replace(order=1)
  agree(draw(ancestral(schedule), times[:2], x, keys), draw(first, times[:2], x, keys))
  assert jnp.abs(draw(ancestral(schedule), times[:3], x, keys) - draw(first, times[:3], x, keys)).max() > 1e-3


@pytest.mark.parametrize("name", ["linear", "geometric"])
def test_reverse_diffusion_by_its_algorithms(name, monkeypatch, x64):
  # Song et al. 2021, Algorithms 2 (VE) and 3 (VP), of discrete steps: the betas are Ho et al.'s, the sigmas NCSN's.
  x, keys = start(2)
  z = jax.random.normal(jax.random.key(7), x.shape)
  monkeypatch.setattr("jaxgen.diffusion.solvers.reverse_diffusion.normal", lambda keys, shape, dtype: z)
  schedule, i = EVERY[name], 8
  _, eps = stub(schedule)(x, jnp.asarray(float(i)))
  if name == "linear":
    beta, alpha_bar = np.linspace(1e-4, 0.02, 1000)[i - 1], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[i - 1]
    score = -eps / np.sqrt(1 - alpha_bar)
    expected = (2 - np.sqrt(1 - beta)) * x + beta * score + np.sqrt(beta) * z
  else:
    sigma, below = np.geomspace(0.01, 50.0, 12)[[i - 1, i - 2]]
    expected = x + (sigma**2 - below**2) * (-eps / sigma) + np.sqrt(sigma**2 - below**2) * z
  agree(expected, draw(reverse_diffusion(schedule), np.array([i, i - 1.0]), x, keys))


# S_churn / N, the gamma it gives, and S_tmin, S_tmax
CHURNS = [(0.2, 0.2, 1.0, 20.0), (5.0, 2**0.5 - 1, 10.0, 10.0), (0.2, 0.0, 10.1, 20.0), (0.2, 0.0, 0.0, 9.9)]


@pytest.mark.parametrize("make", [euler, heun])
def test_churn(make, monkeypatch, x64):
  # Karras et al. 2022, Algorithm 2, lines 5 and 6, then the step from t_hat: by hand, with the noise z known.
  schedule, (x, keys) = EVERY["edm"], start(2)
  z = jax.random.normal(jax.random.key(7), x.shape)
  monkeypatch.setattr("jaxgen.diffusion.solvers.churn.normal", lambda keys, shape, dtype: z)
  times, x = np.array([10.0, 7.0]), 10 * x
  for churn, gamma, low, high in CHURNS:
    got = draw(make(schedule, churn, low, high, noise=1.003), times, x, keys)
    t_hat = 10 + gamma * 10
    x_hat = x + np.sqrt(t_hat**2 - 10**2) * 1.003 * z
    agree(draw(make(schedule), np.array([t_hat, 7.0]), x_hat, keys), got)


@pytest.mark.parametrize("name", EVERY)
def test_churn_keeps_the_distribution(name, x64):
  # Noisier by r_hat^2 - r^2 and on the schedule's curve; no noisier than x_T.
  schedule = EVERY[name]
  stir = euler(schedule, churn=0.3).step  # the network sees what was stirred
  seen = []

  def denoise(x, t):
    seen.append((x, t))
    return x, x

  data, n = 0.7, 20_000
  for t, expected in ((0.4 * schedule.T, 1.3), (schedule.T - 1e-9, 1.0)):
    t = jnp.asarray(t)
    (x, _), (_, keys) = start(n, (1,), seed=0), start(n, (1,), seed=1)
    x = schedule.alpha(t) * data + schedule.sigma(t) * x
    stir(denoise, (), x, t, t / 2, keys)
    x_hat, t_hat = seen.pop()
    alpha, sigma = float(schedule.alpha(t_hat)), float(schedule.sigma(t_hat))
    np.testing.assert_allclose(x_hat.mean(), alpha * data, atol=4 * sigma / n**0.5)
    np.testing.assert_allclose(x_hat.std(), sigma, rtol=4 / (2 * n) ** 0.5)
    raised = sigma / alpha / float(schedule.sigma(t) / schedule.alpha(t))
    if not (expected == 1 and schedule.is_noise(schedule.T)):  # r_T is infinite then
      np.testing.assert_allclose(raised, expected, rtol=1e-5)


# --- What every solver satisfies ------------------------------------------------------------------------------------


def count(solver, denoise, times):
  """The times at which the network was called, and how often it was traced, over two runs of one program."""
  traced, called = [], []

  def counting(x, t):
    traced.append(x.shape)
    jax.debug.callback(lambda t: called.append(np.ravel(t)[0]), t, ordered=True)
    return denoise(x, t)

  run = jax.jit(lambda x, keys: sample(solver, counting, times, x, keys))
  run(*start(2, seed=0))
  jax.effects_barrier()
  once, traces = list(called), len(traced)
  run(*start(2, seed=1))  # another key and another input: the same program
  jax.effects_barrier()
  assert len(traced) == traces
  assert called[len(once) :] == once
  return once, traces


@pytest.mark.parametrize("name", [name for name, make in MORE.items() if make(SHORT).solve is None])
def test_network_calls(name):
  for schedule, more in ((SHORT, 1), (rectified_flow(), 5)):
    solver = MORE[name](schedule)
    times = trailing(schedule, solver.order + more)
    called, traces = count(solver, stub(schedule), times)
    assert len(called) == network_calls(solver, times)
    assert traces <= 12  # a fixed number, not one for each step
    if name in ("ancestral", "ddim", "euler", "euler_maruyama", "dpmpp_2m", "deis", "lms"):
      np.testing.assert_array_equal(called, np.float32(times[:-1]))


def test_network_calls_by_hand():
  times = trailing(SHORT, 10)
  calls = lambda make, schedule=SHORT: network_calls(make(schedule), trailing(schedule, 10))
  assert calls(ddim) == 10
  assert calls(heun) == 2 * 9 + 1  # Karras et al. 2022: 2 n - 1
  assert calls(lambda s: predictor_corrector(s, corrections=3)) == 4 * 9 + 1
  assert calls(lambda s: annealed_langevin(s, corrections=7)) == 7 * 9 + 1
  assert calls(heun, rectified_flow()) == 1 + 2 * 8 + 1
  assert calls(heun, cosine()) == 1 + 2 * 8 + 1  # from 20 thousand to 6 in the first step
  assert calls(heun, linear()) == 2 * 9 + 1  # from 160 to 60
  assert network_calls(heun(SHORT), times[:-1]) == 2 * 9  # not to clean data
  assert network_calls(heun(rectified_flow()), np.array([1.0, 0.0])) == 1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("of", ["zero_terminal_snr", "ve", "sub_vp"])
def test_every_solver_with_every_schedule(name, of):
  # Finite, in its dtype, and near the data, from noise to clean data, in float32, also where alpha_T = 0.
  schedule, data = EVERY[of], Mixture(np.array([0.4, 0.6]), np.array([[-0.8], [0.6]]), np.array([[0.1], [0.2]]))
  solver = MORE[name](schedule)
  times = log_snr(schedule, 12)
  x, keys = start(4, (1,))
  run = jax.jit(lambda x, keys: sample(solver, data.denoiser(schedule), times, x, keys))
  got = run(jnp.float32(schedule.prior_std) * x, keys)
  assert got.dtype == jnp.float32
  assert jnp.all(jnp.isfinite(got))
  assert jnp.abs(got).max() < 1.6


@pytest.mark.parametrize("name", SOLVERS)
def test_with_a_learned_schedule(name):
  # Traced parameters: nothing is known of the schedule beforehand, not even its ends.
  def run(b, x, keys):
    schedule = learned(lambda t: -6 + b * t)
    return sample(MORE[name](schedule), stub(schedule), log_snr(schedule, 6), x, keys)

  got = jax.jit(run)(11.0, *start(2))
  assert jnp.all(jnp.isfinite(got))


@pytest.mark.parametrize("name", MORE)
def test_a_sample_depends_on_its_own_key_alone(name):
  x, keys = start(3)
  solver = MORE[name](SHORT)
  run = jax.jit(lambda x, keys: sample(solver, stub(SHORT, clip=True), leading(SHORT, 10), x, keys))
  pick = lambda i, j: run(x[jnp.array(i)], keys[jnp.array(j)])
  np.testing.assert_array_equal(pick([0, 1], [0, 1])[1], pick([2, 1], [2, 1])[1])
  same = pick([0, 0], [0, 1])
  assert (jnp.abs(same[0] - same[1]).max() > 0.01) == (name in STOCHASTIC)


@pytest.mark.parametrize("name", MORE)
def test_too_few_steps(name):
  solver = MORE[name](SHORT)
  with pytest.raises(UserError, match="at least 1 step, not 0"):
    draw(solver, np.array([100.0]), *start(1))
  if solver.order > 1:
    with pytest.raises(UserError, match=f"takes {solver.order} steps or more, not {solver.order - 1}"):
      draw(solver, trailing(SHORT, solver.order - 1), *start(1))


# --- Distributions --------------------------------------------------------------------------------------------------


def test_posterior_variance_is_exact_for_one_point(x64):
  # Data that is one point y: the network is exact, every step exact, and x_s has mean alpha_s y and variance sigma_s^2.
  y, n = 0.6, 20_000
  denoise = lambda x, t: (jnp.full_like(x, y), (x - SHORT.alpha(t) * y) / SHORT.sigma(t))
  times = np.array([100.0, 60, 25, 10])
  z, keys = start(n, (1, 1, 1))
  x = SHORT.alpha(times[:1]) * y + SHORT.sigma(times[:1]) * z
  for solver in (ancestral(SHORT), ddim(SHORT, 0.0), ddim(SHORT, 0.6)):
    x_s = sample(solver, denoise, times, x, keys)
    alpha, sigma = SHORT.alpha(times[-1:]), SHORT.sigma(times[-1:])
    np.testing.assert_allclose(x_s.mean(), alpha * y, atol=4 * sigma[0] / n**0.5)
    np.testing.assert_allclose(x_s.var(), sigma**2, rtol=4 * (2 / n) ** 0.5)
    np.testing.assert_allclose(sample(solver, denoise, np.append(times, 0), x, keys), y, rtol=1e-9)


def test_beta_variance_is_exact_for_normal_data(x64):
  # Data that is N(0, I): so is every x_t, whatever the grid, as long as it does not end in clean data.
  n = 20_000
  denoise = lambda x, t: (SHORT.alpha(t) * x, SHORT.sigma(t) * x)
  x, keys = start(n, (1, 1, 1))
  x_s = sample(ancestral(SHORT, "beta"), denoise, np.array([100.0, 80, 30, 5]), x, keys)
  np.testing.assert_allclose(x_s.var(), 1, rtol=4 * (2 / n) ** 0.5)
  assert sample(ancestral(SHORT, "posterior"), denoise, np.array([100.0, 80, 30, 5]), x, keys).var() < 0.9


def test_learned_variance_lies_between(x64):
  # Nichol and Dhariwal 2021, eq. 15: at fraction 0 the posterior's variance, at 1 beta; geometric between them.
  x, keys = start(3)
  times = np.array([100.0, 60.0])

  def of(fraction):
    denoise = lambda x, t: (*stub(SHORT)(x, t), jnp.full_like(x, fraction))
    return sample(ancestral(SHORT, "learned"), denoise, times, x, keys)

  low, high = (draw(ancestral(SHORT, variance), times, x, keys) for variance in ("posterior", "beta"))
  agree(low, of(0.0))
  agree(high, of(1.0))
  # Of the standard deviations sqrt(c), (b c)^(1/4), sqrt(b), where c / b = sigma_s^2 / sigma_t^2 = q.
  q = (SHORT.sigma(times[1:])[0] / SHORT.sigma(times[:1])[0]) ** 2
  np.testing.assert_allclose((of(0.5) - low) / (high - low), (q**0.25 - q**0.5) / (1 - q**0.5), rtol=1e-6)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_bad_input(eta):
  with pytest.raises(UserError, match="eta lies between 0"):
    ddim(SHORT, eta)


def test_half_precision_is_refused():
  x, keys = start(2)
  with pytest.raises(UserError, match="float32 or float64, not in bfloat16"):
    draw(ddim(SHORT), trailing(SHORT, 4), x.astype(jnp.bfloat16), keys)
