import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import DISCRETE, EVERY, spread
from scipy import integrate

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.diffusion import SCHEDULES, constant, cosine, linear, posterior, scaled_linear, shift, zero_terminal_snr


def times(T):
  return np.arange(T + 1, dtype=np.float64)


def at(schedule, t):
  """(alpha, sigma) at one time, as numbers."""
  return float(schedule.alpha(np.array([float(t)]))[0]), float(schedule.sigma(np.array([float(t)]))[0])


def ratio(schedule, t):
  alpha, sigma = at(schedule, t)
  return sigma / alpha


def test_published_values():
  # Ho et al. 2020, section 4: beta from 1e-4 to 0.02, which is known to leave alpha_bar_T = 4.0358e-5.
  schedule = linear()
  np.testing.assert_allclose(1 - schedule.alpha(np.array([1.0])) ** 2, 1e-4, rtol=1e-12)
  np.testing.assert_allclose(schedule.alpha(np.array([1000.0])) ** 2, 4.0358e-5, rtol=1e-4)
  np.testing.assert_allclose(constant(10, 0.3).alpha(times(10)) ** 2, 0.7 ** times(10), rtol=1e-12)
  # Nichol and Dhariwal 2021, eq. 17: the product telescopes to f(t) / f(0) where no beta is clipped.
  f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
  t = times(999)
  np.testing.assert_allclose(cosine().alpha(t) ** 2, f(t) / f(0), rtol=1e-9)
  np.testing.assert_allclose(1 - (cosine().alpha(np.array([1000.0])) / cosine().alpha(np.array([999.0]))) ** 2, 0.999)
  # Stable Diffusion's noise levels run from 0.0292 to 14.6146, in the units of Karras et al. 2022.
  np.testing.assert_allclose([ratio(scaled_linear(), 1), ratio(scaled_linear(), 1000)], [0.0292, 14.6146], atol=1e-4)
  # Karras et al. 2022, Appendix C.1: with beta_d = 19.9 and beta_min = 0.1, sigma(1) of the VP SDE is about 152.
  np.testing.assert_allclose(ratio(diffusion.vp(), 1), 152, atol=0.3)
  # Jabri et al. 2022: the sigmoid with start -3 and end 3 is even about t = T / 2, where alpha_bar is a half.
  np.testing.assert_allclose(diffusion.sigmoid().alpha(np.array([500.0])) ** 2, 0.5, rtol=1e-12)
  alpha_bar = diffusion.sigmoid().alpha(times(999)) ** 2
  np.testing.assert_allclose(alpha_bar[1:] + alpha_bar[:0:-1], 1, rtol=1e-9)
  # Xu et al. 2022: betas on a logistic curve between their ends, which they nearly reach.
  betas = 1 - np.exp(2 * np.diff(np.log(diffusion.sigmoid_betas().alpha(times(1000)))))
  off = 0.0199 / (1 + np.exp(6))  # where the curve is at -6 and at 6
  np.testing.assert_allclose(betas[[0, -1]], [1e-4 + off, 0.02 - off], rtol=1e-9)
  logit = np.log((betas - 1e-4) / (0.02 - betas))
  np.testing.assert_allclose(logit, np.linspace(-6, 6, 1000), atol=1e-9)


@pytest.mark.parametrize(("t", "r"), [(0.25, 0.5), (0.5, 2.0), (1.0, 50.0)])
def test_continuous_processes_by_their_definition(t, r):
  # Song et al. 2021, eq. 30 (VE, geometric), 27 and 29 (VP and sub-VP: the variances that solve the moment ODE).
  np.testing.assert_allclose(at(diffusion.ve(0.01, 50.0), t), (1, 0.01 ** (1 - t) * 50.0**t), rtol=1e-12)
  integral = integrate.quad(lambda u: 0.1 + u * 19.9, 0, t)[0]
  np.testing.assert_allclose(at(diffusion.vp(), t), (np.exp(-integral / 2), np.sqrt(1 - np.exp(-integral))), rtol=1e-12)
  np.testing.assert_allclose(at(diffusion.sub_vp(), t), (np.exp(-integral / 2), 1 - np.exp(-integral)), rtol=1e-12)
  assert at(diffusion.edm(), r) == (1, r)
  np.testing.assert_allclose(at(diffusion.rectified_flow(), t), (1 - t, t))


def test_cosine_in_continuous_time():
  # Salimans and Ho 2022: alpha = cos(pi t / 2), but for log-SNR's ends at -20 and 20.
  schedule = diffusion.continuous_cosine(-20.0, 20.0)
  np.testing.assert_allclose(schedule.log_snr(np.array([1e-9, 1.0])), [20, -20], rtol=1e-3)
  t = np.linspace(0.01, 1, 50)
  # At a log-SNR of -20 alpha is exp(-10), and not 0.
  np.testing.assert_allclose(schedule.alpha(t), np.cos(np.pi * t / 2), atol=1.01 * np.exp(-10))
  np.testing.assert_allclose(schedule.log_snr(1 - t[:-1]), -schedule.log_snr(t[:-1]), atol=1e-9)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_by_name_goes_from_data_to_noise(make):
  schedule = make(1000)
  t = times(1000)
  alpha, sigma = schedule.alpha(t), schedule.sigma(t)
  assert schedule.steps == 1000
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
  assert alpha[-1] ** 2 < 5e-3


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule(name):
  schedule = EVERY[name]
  t = times(int(schedule.T)) if schedule.steps else np.append(0, np.linspace(schedule.t_min, schedule.T, 100))
  alpha, sigma = schedule.alpha(t), schedule.sigma(t)
  assert alpha.dtype == sigma.dtype == np.float64
  assert alpha.shape == sigma.shape == t.shape
  assert (alpha[0], sigma[0]) == (1, 0)
  assert np.all(np.diff(alpha) <= 0)
  assert np.all(np.diff(sigma) >= 0)
  with np.errstate(divide="ignore"):
    log_snr = schedule.log_snr(t)
    np.testing.assert_allclose(log_snr, np.log(alpha**2 / sigma**2), rtol=1e-6, atol=1e-9)
  assert log_snr[0] == np.inf
  assert np.all(np.diff(log_snr) < 0)
  assert schedule.is_clean(0.0)
  assert not schedule.is_clean(schedule.t_min)
  assert (
    schedule.is_noise(schedule.T)
    == (alpha[-1] == 0)
    == (name in ("zero_terminal_snr", "rectified_flow", "shifted flow", "trig_flow"))
  )
  assert not schedule.is_noise(float(t[-2]))
  # What sampling starts from is x_T of data of standard deviation 1 or less, up to one part in ten (SD's own flaw).
  np.testing.assert_allclose(sigma[-1], schedule.prior_std, rtol=0.1)


@pytest.mark.parametrize("name", EVERY)
def test_time_is_the_inverse_of_log_snr(name):
  schedule = EVERY[name]
  log_snr = np.linspace(-2 * np.log(10), -2 * np.log(0.05), 200)
  t = schedule.time(log_snr)
  assert np.all(np.diff(t) < 0)
  np.testing.assert_allclose(schedule.log_snr(t), log_snr, rtol=0, atol=1e-9)
  # In float32 t has 24 bits; where log-SNR is steep in t that leaves it fewer.
  single = schedule.log_snr(jax.jit(schedule.time)(jnp.asarray(log_snr, jnp.float32)))
  assert single.dtype == jnp.float32
  slope = np.abs(np.gradient(log_snr, t))
  assert np.all(np.abs(single - log_snr) < 1e-5 + 4e-7 * slope * t)


@pytest.mark.parametrize("name", EVERY)
def test_a_schedule_stays_on_its_curve(name):
  schedule = EVERY[name]
  t = spread(schedule)
  point = schedule.alpha(t), schedule.sigma(t)
  for scale in (1, 0.3, 20):  # only the ratio counts
    np.testing.assert_allclose(schedule.curve(scale * point[0], scale * point[1]), point, rtol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_single_precision(name):
  # Alpha, sigma and what follows keep their digits where they are small: near data, and near noise.
  schedule = EVERY[name]
  exact_t = spread(schedule, low=0.0)
  t = jnp.asarray(exact_t, jnp.float32)
  exact_t = np.float64(t)  # rounded alike
  for f in (schedule.alpha, schedule.sigma):
    got = jax.jit(f)(t)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, f(exact_t), rtol=3e-6)
  assert schedule.sigma(jnp.float32(schedule.t_min)).shape == ()


def test_dtype_is_that_of_the_times():
  schedule = linear()
  t = jnp.asarray([0, 1, 500.0, 1000])
  got = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))(t)
  for table, exact in zip(got, (schedule.alpha(np.float64(t)), schedule.sigma(np.float64(t))), strict=True):
    assert table.dtype == jnp.float32
    np.testing.assert_allclose(table, exact, rtol=1e-6)  # sigma_1 has no fewer digits than the others


@pytest.mark.parametrize("name", EVERY)
def test_times_may_be_integers(name):
  schedule, t = EVERY[name], np.array([0, 1] if EVERY[name].T < 3 else [1, 2, 5])
  for f in (schedule.alpha, schedule.sigma):
    np.testing.assert_array_equal(f(t), f(t.astype(float)))
    np.testing.assert_array_equal(f(jnp.asarray(t)), f(jnp.asarray(t, jnp.float32)))
  now = jnp.asarray(t[-1:])
  np.testing.assert_array_equal(schedule.at(now), schedule.at(now.astype(float)))


@pytest.mark.parametrize("name", EVERY)
def test_point_has_the_derivatives(name, x64):
  schedule = EVERY[name]
  t = spread(schedule, 20, high=20.0)
  if schedule.steps:
    t = np.floor(t) + 0.37  # inside a step
  h = 1e-6 * np.minimum(t, schedule.T - t)
  point = jax.vmap(schedule.at)(jnp.asarray(t))
  np.testing.assert_allclose(
    point.d_alpha, (schedule.alpha(t + h) - schedule.alpha(t - h)) / (2 * h), rtol=1e-5, atol=1e-8
  )
  np.testing.assert_allclose(
    point.d_sigma, (schedule.sigma(t + h) - schedule.sigma(t - h)) / (2 * h), rtol=1e-5, atol=1e-8
  )
  slope = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
  np.testing.assert_allclose(point.d_log_snr, slope, rtol=1e-5)
  np.testing.assert_allclose(point.log_snr, schedule.log_snr(t), rtol=1e-9, atol=1e-9)
  np.testing.assert_allclose(point.diffusion2, -(point.sigma**2) * slope, rtol=1e-5)  # (15), the other form


@pytest.mark.parametrize("name", EVERY)
def test_the_forward_sde_has_these_moments(name, x64):
  # dx = f x dt + g dw from x_0 = 1: its mean m and variance V solve m' = f m, V' = 2 f V + g^2. Solved by scipy.
  schedule = EVERY[name]
  drift, diffusion_ = jax.jit(schedule.drift), jax.jit(schedule.diffusion)

  def slope(t, y):
    f, g = float(drift(t)), float(diffusion_(t))
    return [f * y[0], 2 * f * y[1] + g**2]

  if schedule.steps:  # within one step, where it is smooth
    first, last = schedule.T // 10 + 0.01, schedule.T // 10 + 0.99
  else:
    first, last = spread(schedule, 2, low=0.5, high=3.0)[::-1]
  start = at(schedule, first)
  got = integrate.solve_ivp(slope, (first, last), [start[0], start[1] ** 2], rtol=1e-9, atol=1e-12).y[:, -1]
  end = at(schedule, last)
  np.testing.assert_allclose(got, [end[0], end[1] ** 2], rtol=1e-6)
  assert abs(end[1] / start[1] - 1) > 1e-4


def test_published_drift_and_diffusion(x64):
  # Song et al. 2021, eq. 30 to 32.
  t = jnp.linspace(0.05, 1, 30)
  beta = 0.1 + t * 19.9
  integral = np.array([integrate.quad(lambda u: 0.1 + u * 19.9, 0, end)[0] for end in t])
  vp, sub_vp, ve = diffusion.vp(), diffusion.sub_vp(), diffusion.ve(0.01, 50.0)
  np.testing.assert_allclose(vp.drift(t), -beta / 2, rtol=1e-9)
  np.testing.assert_allclose(vp.diffusion(t), np.sqrt(beta), rtol=1e-9)
  np.testing.assert_allclose(sub_vp.drift(t), -beta / 2, rtol=1e-9)
  np.testing.assert_allclose(sub_vp.diffusion(t), np.sqrt(beta * (1 - np.exp(-2 * integral))), rtol=1e-9)
  np.testing.assert_allclose(ve.drift(t), 0, atol=1e-12)
  np.testing.assert_allclose(ve.diffusion(t), 0.01 ** (1 - t) * 50.0**t * np.sqrt(2 * np.log(50 / 0.01)), rtol=1e-9)
  # Karras et al. 2022, Table 1: sigma(t) = t, so g^2 = 2 t. Rectified flow: f = -1 / (1 - t), g^2 = 2 t / (1 - t).
  np.testing.assert_allclose(diffusion.edm().diffusion(t), np.sqrt(2 * t), rtol=1e-9)
  t = t[:-1]
  np.testing.assert_allclose(diffusion.rectified_flow().drift(t), -1 / (1 - t), rtol=1e-9)
  np.testing.assert_allclose(diffusion.rectified_flow().diffusion(t) ** 2, 2 * t / (1 - t), rtol=1e-9)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_schedules_between_their_steps(name):
  schedule = DISCRETE[name]
  if name == "shifted linear":
    pytest.skip("a shift bends it")
  middle = times(schedule.steps - 2)[1:] + 0.25
  low, high = np.floor(middle), np.ceil(middle)
  # Straight in log alpha (VP: beta is constant within a step) or in log sigma (VE: geometric).
  log = (lambda t: np.log(schedule.sigma(t))) if name == "geometric" else (lambda t: np.log(schedule.alpha(t)))
  np.testing.assert_allclose(log(middle), 0.75 * log(low) + 0.25 * log(high), rtol=1e-9)
  if name == "zero_terminal_snr":  # straight in alpha itself, down to 0
    last = np.linspace(schedule.T - 1, schedule.T, 9)
    np.testing.assert_allclose(schedule.alpha(last), schedule.alpha(last[:1]) * np.linspace(1, 0, 9), rtol=1e-9)
    np.testing.assert_allclose(schedule.alpha(last) ** 2 + schedule.sigma(last) ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize("make", [linear, scaled_linear, cosine])
def test_zero_terminal_snr(make):
  # Lin et al. 2023, section 3.1: alpha_T becomes 0, alpha_1 stays, and all lie on a straight line over the old.
  old, new = make(1000), zero_terminal_snr(make(1000))
  t = times(1000)[1:]
  a, b = old.alpha(t), new.alpha(t)
  assert b[-1] == 0
  np.testing.assert_allclose(b[0], a[0], rtol=1e-14)
  slope = (b[0] - b[1:]) / (a[0] - a[1:])
  np.testing.assert_allclose(slope, slope[0], rtol=1e-9)
  np.testing.assert_allclose(new.sigma(t) ** 2 + b**2, 1, rtol=1e-14)
  assert new.is_noise(1000.0)
  assert not old.is_noise(1000.0)
  assert new.steps == 1000


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_shift(factor):
  t = np.linspace(0, 1, 101)
  # Esser et al. 2024, eq. 23: for rectified flow it is another time.
  flow = diffusion.rectified_flow()
  moved = factor * t / (1 + (factor - 1) * t)
  # Some four roundings of numbers up to 1: 1e-14 is ten times as many.
  np.testing.assert_allclose(shift(flow, factor).alpha(t), flow.alpha(moved), rtol=0, atol=1e-14)
  np.testing.assert_allclose(shift(flow, factor).sigma(t), flow.sigma(moved), rtol=0, atol=1e-14)
  # Hoogeboom et al. 2023, eq. 4: log-SNR falls by 2 log(factor), and alpha^2 = sigmoid(log-SNR) as before.
  cosine = diffusion.continuous_cosine()
  log_snr = cosine.log_snr(t[1:]) - 2 * np.log(factor)
  np.testing.assert_allclose(shift(cosine, factor).alpha(t[1:]) ** 2, 1 / (1 + np.exp(-log_snr)), rtol=1e-9)
  np.testing.assert_allclose(shift(cosine, factor).sigma(t[1:]) ** 2, 1 / (1 + np.exp(log_snr)), rtol=1e-9)
  # VE and EDM: sigma itself, and with it the noise that sampling starts from.
  edm = shift(diffusion.edm(), factor)
  np.testing.assert_allclose(edm.sigma(t), factor * t, rtol=1e-14)
  assert edm.prior_std == 80 * factor
  assert shift(flow, factor).prior_std == 1
  assert shift(linear(), factor).steps == 1000


def test_learned_with_a_known_gamma_is_that_schedule(x64):
  # VDM's log-SNR is -gamma: with the VP SDE's, it is the VP SDE.
  vp = diffusion.vp()
  got = diffusion.learned(lambda t: -vp.log_snr(t))
  t = jnp.linspace(0.001, 1, 50)
  np.testing.assert_allclose(got.alpha(t), vp.alpha(t), rtol=1e-9)
  np.testing.assert_allclose(got.sigma(t), vp.sigma(t), rtol=1e-9)
  np.testing.assert_allclose(got.time(vp.log_snr(t)), t, atol=1e-9)
  for a, b in zip(jax.vmap(got.at)(t), jax.vmap(vp.at)(t), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
  assert not got.is_clean(0.0)
  assert not got.is_noise(1.0)


def test_learned_is_differentiable_by_its_parameters():
  # log-SNR at t = 0.5 of gamma(t) = a + b t is -(a + b / 2).
  log_snr = lambda ab: diffusion.learned(lambda t: ab[0] + ab[1] * t).log_snr(jnp.asarray(0.5))
  np.testing.assert_allclose(jax.grad(log_snr)(jnp.asarray([-5.0, 9.0])), [-1, -0.5], rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.98), (1.0, 0.2), (0.4, 0.38), (0.4, 0.1), (0.6, 0.0)])
def test_posterior_is_gaussian_conditioning(name, t, s):
  schedule = EVERY[name]
  t, s = np.array([t * schedule.T]), np.array([s * schedule.T])
  got = posterior(schedule, t, s)
  # The joint Gaussian of (x_s, x_t) given x_0, by its construction as a chain, conditioned by linear algebra.
  a_s, s_s, a_t, s_t = (f(u)[0] for u in (s, t) for f in (schedule.alpha, schedule.sigma))
  k = a_t / a_s
  noise = np.array([[s_s, 0], [k * s_s, np.sqrt(s_t**2 - k**2 * s_s**2)]])  # x_s, x_t by two independent normals
  mean, cov = np.array([a_s, a_t]), noise @ noise.T
  gain = cov[0, 1] / cov[1, 1]
  np.testing.assert_allclose(got.a, gain, rtol=1e-9, atol=1e-14)
  np.testing.assert_allclose(got.b, mean[0] - gain * mean[1], rtol=1e-8)
  np.testing.assert_allclose(got.c, cov[0, 0] - gain * cov[0, 1], rtol=1e-7, atol=1e-15)
  np.testing.assert_allclose(got.beta, noise[1, 1] ** 2, rtol=1e-8)
  single = jax.jit(lambda t, s: posterior(schedule, t, s))(jnp.float32(t), jnp.float32(s))
  for one, exact in zip(single, got, strict=True):
    np.testing.assert_allclose(one, exact, rtol=1e-3 if schedule.steps else 1e-4, atol=1e-7)


def test_single_step_variance_is_beta():
  t = times(1000)[1:]
  np.testing.assert_allclose(posterior(linear(), t, t - 1).beta, np.linspace(1e-4, 0.02, 1000), rtol=1e-9)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: linear(0), "at least one step"),
    (lambda: cosine(-3), "-3"),
    (lambda: linear(2, 0.1, 1.5), "1.5"),
    (lambda: constant(10, 0.0), "between 0 and 1"),
    (lambda: cosine(10, largest=1.0), "between 0 and 1"),
    (lambda: diffusion.sigmoid(0), "at least one step"),
    (lambda: diffusion.vp(20.0, 0.1), "beta_min"),
    (lambda: diffusion.ve(1.0, 0.5), "smallest < largest"),
    (lambda: diffusion.geometric(1), "2 or more steps"),
    (lambda: diffusion.geometric(5, 2.0, 1.0), "smallest < largest"),
    (lambda: diffusion.edm(0.0), "sigma_min"),
    (lambda: shift(linear(), 0.0), "positive factor"),
    (lambda: zero_terminal_snr(diffusion.vp()), "discrete variance-preserving"),
    (lambda: zero_terminal_snr(linear(1)), "discrete variance-preserving"),
    (lambda: zero_terminal_snr(diffusion.geometric(5)), "discrete variance-preserving"),
  ],
)
def test_bad_input(make, names):
  with pytest.raises(UserError, match=names):
    make()
