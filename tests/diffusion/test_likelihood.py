import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate as quadrature
from scipy import stats

import jaxgen.diffusion as d
from jaxgen.core.errors import UserError
from jaxgen.data import transforms
from jaxgen.diffusion import likelihood, losses
from jaxgen.diffusion.closed_form import Mixture, gaussian
from jaxgen.diffusion.likelihood import continuous_bound, dopri5, encode, exact, heun, hutchinson, log_likelihood, rk4
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.nn.unets.unet import UNet

SCHEDULES = {
  "vp": d.vp(),
  "sub_vp": d.sub_vp(),
  "ve": d.ve(),
  "edm": d.edm(),
  "rectified_flow": d.rectified_flow(),
  "shift": d.shift(d.rectified_flow(), 3.0),
  "continuous_cosine": d.continuous_cosine(),
  "learned": d.learned(lambda t: -13.3 + 18.3 * t + 0.3 * jnp.sin(3 * t)),
  "linear": d.linear(),
  "cosine": d.cosine(),
  "zero_terminal_snr": d.zero_terminal_snr(d.linear()),
  "geometric": d.geometric(),
}
MEAN, STD = np.linspace(-0.9, 0.9, 6), np.array([0.005, 0.02, 0.1, 0.3, 0.5, 0.7])
DATA = gaussian(MEAN, STD)
LINE = Mixture(np.array([0.3, 0.5, 0.2]), np.array([[-0.8], [0.1], [0.7]]), np.array([[0.1], [0.2], [0.05]]))
# In two dimensions: its denoiser's Jacobian is not diagonal.
PLANE = Mixture(
  np.array([0.3, 0.5, 0.2]),
  np.array([[-0.6, -0.5], [0.5, 0.4], [-0.3, 0.7]]),
  np.array([[0.15, 0.3], [0.2, 0.1], [0.3, 0.2]]),
)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
some_schedules = pytest.mark.parametrize(
  "schedule", [SCHEDULES[k] for k in ("vp", "ve", "rectified_flow")], ids=["vp", "ve", "rectified_flow"]
)


def keys_of(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


def log_p(data, schedule, x, trace=None, **options):
  """With the exact denoiser, trace (unless told otherwise) and terminal marginal."""
  terminal = data.at(schedule, schedule.T).log_density
  run = lambda x: log_likelihood(
    data.denoiser(schedule), schedule, x, keys_of(len(x)), trace=trace or exact(), terminal=terminal, **options
  )
  return np.asarray(jax.jit(run)(x))


# --- The exact likelihood -------------------------------------------------------------------------------------------


@every_schedule
def test_gaussian_data(schedule, x64):
  marginal = DATA.at(schedule, schedule.t_min)
  x = marginal.sample(keys_of(30))
  off = np.abs(log_p(DATA, schedule, x) - marginal.log_density(x)) / len(MEAN)
  assert off.max() < 1e-4  # nats per dimension


@some_schedules
def test_gaussian_data_in_float32(schedule):
  marginal = DATA.at(schedule, schedule.t_min)
  x = marginal.sample(keys_of(30))
  assert x.dtype == jnp.float32
  off = np.abs(log_p(DATA, schedule, x) - marginal.log_density(x)) / len(MEAN)
  assert off.max() < 1e-4


@some_schedules
def test_a_mixture(schedule, x64):
  marginal = PLANE.at(schedule, schedule.t_min)
  x = marginal.sample(keys_of(40, 1))
  got = log_p(PLANE, schedule, x, integrator=rk4(192))
  np.testing.assert_allclose(got, marginal.log_density(x), atol=2e-5)


@some_schedules
def test_the_code_is_where_the_flow_ends(schedule, x64):
  x = LINE.at(schedule, schedule.t_min).sample(keys_of(20))
  x_T, log_det = encode(LINE.denoiser(schedule), schedule, x, keys_of(20), trace=exact(), integrator=rk4(192))
  np.testing.assert_allclose(x_T, LINE.transport(schedule, x, schedule.t_min, schedule.T), rtol=1e-6, atol=1e-6)
  expected = LINE.at(schedule, schedule.t_min).log_density(x) - LINE.at(schedule, schedule.T).log_density(x_T)
  np.testing.assert_allclose(log_det, expected, atol=2e-5)


def test_t_min_is_a_choice(x64):
  schedule, t = d.vp(), 0.02
  x = LINE.at(schedule, t).sample(keys_of(20))
  got = log_p(LINE, schedule, x, t_min=t, integrator=rk4(128))
  np.testing.assert_allclose(got, LINE.at(schedule, t).log_density(x), atol=2e-5)


@pytest.mark.parametrize(("integrator", "order", "steps"), [(heun, 2, 32), (rk4, 4, 16)])
@pytest.mark.parametrize("schedule", [d.vp(), d.rectified_flow()], ids=["vp", "rectified_flow"])
def test_order_of_the_integration(integrator, order, steps, schedule, x64):
  marginal = LINE.at(schedule, schedule.t_min)
  x = marginal.sample(keys_of(20))
  error = [
    np.abs(log_p(LINE, schedule, x, integrator=integrator(n)) - marginal.log_density(x)).mean()
    for n in (4 * steps, 8 * steps)
  ]
  np.testing.assert_allclose(np.log2(error[0] / error[1]), order, atol=0.3)


@pytest.mark.parametrize("name", ["vp", "zero_terminal_snr"])
def test_adaptive_steps(name, x64):
  schedule = SCHEDULES[name]
  x = PLANE.at(schedule, schedule.t_min).sample(keys_of(10))
  fixed = log_p(PLANE, schedule, x, integrator=rk4(256))
  assert np.abs(log_p(PLANE, schedule, x, integrator=dopri5(1e-8, 1e-8)) - fixed).max() < 1e-5
  loose = np.abs(log_p(PLANE, schedule, x, integrator=dopri5(1e-3, 1e-3)) - fixed).max()
  assert 1e-5 < loose < 0.1


def test_adaptive_steps_that_do_not_suffice():
  x = LINE.sample(keys_of(3))
  assert np.isnan(log_p(LINE, d.vp(), x, integrator=dopri5(1e-5, 1e-5, max_steps=5))).all()


@pytest.mark.parametrize("integrator", [rk4(8), dopri5(1e-3, 1e-3)], ids=["rk4", "dopri5"])
def test_an_example_does_not_depend_on_its_neighbours(integrator, x64):
  schedule, keys = d.rectified_flow(), keys_of(6)
  x = PLANE.sample(keys_of(6, 1)).at[0].set(30.0)  # a hard one beside them
  shift = jnp.arange(6.0)[:, None]  # what a network may be given with each example, such as its label

  def run(x, keys, shift):
    denoise = lambda x, t: PLANE.denoiser(schedule)(x + 0.1 * shift, t)
    return log_likelihood(denoise, schedule, x, keys, trace=hutchinson(2, "gaussian"), integrator=integrator)

  together, alone = (jax.jit(run)(x[part], keys[part], shift[part]) for part in (slice(0, 6), slice(3, 5)))
  np.testing.assert_allclose(alone, together[3:5], rtol=1e-10)
  assert np.isfinite(together).all()
  same = jax.jit(run)(x[jnp.array([3, 3, 3])], keys[jnp.array([3, 3, 4])], shift[jnp.array([3, 4, 3])])
  assert len(np.unique(np.round(same, 6))) == 3  # the shift and the key matter


# --- The trace ------------------------------------------------------------------------------------------------------


def test_hutchinson_is_unbiased(x64):
  schedule, n = d.vp(), 2000
  x = jnp.asarray([[-0.1, 0.3], [0.35, 0.2]])
  expected = log_p(PLANE, schedule, x, integrator=rk4(24))
  spread = {}
  for noise in ("rademacher", "gaussian"):
    for probes in (1, 4):
      trace = hutchinson(probes, noise)
      run = lambda x, keys, trace=trace: log_likelihood(
        PLANE.denoiser(schedule),
        schedule,
        x,
        keys,
        trace=trace,
        integrator=rk4(24),
        terminal=PLANE.at(schedule, schedule.T).log_density,
      )
      got = jax.jit(run)(jnp.repeat(x, n, axis=0), keys_of(2 * n)).reshape(2, n)
      spread[noise, probes] = np.asarray(got.std(1))
      error = spread[noise, probes] / n**0.5
      assert (error < 0.07).all()
      assert (np.abs(got.mean(1) - expected) < 4 * error).all()
    np.testing.assert_allclose(spread[noise, 4] * 2, spread[noise, 1], rtol=0.15)
  assert (spread["rademacher", 1] < 0.85 * spread["gaussian", 1]).all()
  assert (spread["rademacher", 1] > 0.1).all()


def test_rademacher_is_exact_where_the_jacobian_is_diagonal(x64):
  x = DATA.sample(keys_of(10))
  np.testing.assert_allclose(log_p(DATA, d.edm(), x, trace=hutchinson()), log_p(DATA, d.edm(), x), rtol=1e-9)


def test_a_network(x64):
  # The log-determinant against that of the encoder's whole Jacobian, by finite differences.
  kinds = dict(dtype=jnp.float64, param_dtype=jnp.float64)
  network = UNet(channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=1, **kinds)
  schedule, D = d.vp(), 4
  x = jax.random.normal(jax.random.key(0), (2, 2, 2, 1))
  params = jax.jit(network.init)(jax.random.key(1), x, jnp.zeros(2))
  leaves, tree = jax.tree.flatten(params)
  noise = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys_of(len(leaves)), leaves, strict=True)]
  params = jax.tree.unflatten(tree, [leaf + 0.1 * z for leaf, z in zip(leaves, noise, strict=True)])

  def denoise(x, t):
    t = jnp.broadcast_to(t, x.shape[:1])
    return to_x0_eps(d.PREDICTIONS["v"], network.apply(params, x, 999 * t), x, schedule.at(t).like(x))

  h = 1e-5
  step = h * jnp.eye(D).reshape(D, 1, 2, 2, 1)
  around = jnp.concatenate([x[None], x + step, x - step]).reshape(-1, 2, 2, 1)
  run = lambda x: encode(denoise, schedule, x, keys_of(len(x)), trace=exact(), integrator=rk4(32))
  x_T, log_det = jax.jit(run)(around)
  x_T, log_det = x_T.reshape(1 + 2 * D, 2, D), log_det[:2]
  sign, expected = np.linalg.slogdet((x_T[1 : 1 + D] - x_T[1 + D :]).swapaxes(0, 1) / (2 * h))
  assert (sign == 1).all()
  assert np.abs(expected).min() > 0.1
  np.testing.assert_allclose(log_det, expected, atol=2e-4)


# --- What the end of the integration and the prior cost -------------------------------------------------------------


def test_the_table_of_costs(x64):
  # log p is additive over dimensions and quadratic in each, for Gaussian data: its mean is that over mean +- std.
  rows = re.findall(r"^    (\w+\(.*?\)) +(\S+) +(\S+)$", likelihood.__doc__, re.MULTILINE)
  assert len(rows) >= 8
  for row, *numbers in rows:
    schedule = eval(row, vars(d))
    x = jnp.asarray([MEAN - STD, MEAN + STD])
    run = lambda x, schedule=schedule: encode(
      DATA.denoiser(schedule), schedule, x, keys_of(2), trace=exact(), integrator=rk4(96)
    )
    x_T, log_det = jax.jit(run)(x)
    true, prior = (q.log_density(x_T) for q in (DATA.at(schedule, schedule.T), gaussian(0 * MEAN, schedule.prior_std)))
    measured = np.mean(DATA.log_density(x) - true - log_det) / len(MEAN), np.mean(true - prior) / len(MEAN)
    print(f"    {row:24}{measured[0]:10.5f}{measured[1]:10.5f}")
    np.testing.assert_allclose(measured, [float(v) for v in numbers], atol=1e-5, err_msg=row)


# --- Quantised data -------------------------------------------------------------------------------------------------

LEVELS = 5


def log_probability(data, low, width):
  """log of the mass in the bins of lower ends [N, D]."""
  weights, means, stds = (np.asarray(v) for v in data)
  normal = stats.norm(means[:, None], stds[:, None])
  return np.log(np.tensordot(weights, np.prod(normal.cdf(low + width) - normal.cdf(low), axis=-1), 1))


BINS = {  # the values' bins: their lower ends and width
  "dequantize": (np.array([-1, -0.6, -0.2, 0.2, 0.6]), 0.4),
  "scale": (np.array([-1.25, -0.75, -0.25, 0.25, 0.75]), 0.5),
}


@pytest.mark.parametrize("bins", BINS)
def test_dequantization_bounds_the_probability(bins, x64):
  schedule, n = d.edm(), 150
  low, width = BINS[bins]
  model = LINE.at(schedule, schedule.t_min)
  exactly = -log_probability(model, low[:, None], width)
  density = lambda x: float(model.log_density(jnp.full((1, 1), x))[0])
  one_sample = [
    -np.log(width)
    - quadrature.quad(density, a, a + width, points=np.asarray(model.means)[:, 0], epsabs=1e-6)[0] / width
    for a in low
  ]
  x_0 = jnp.repeat(jnp.linspace(-1, 1, LEVELS), n)[:, None]
  terminal = LINE.at(schedule, schedule.T).log_density

  def nll(samples):
    run = lambda x_0, keys: likelihood.ode_nll(
      LINE.denoiser(schedule), schedule, x_0, keys, levels=LEVELS, bins=bins, samples=samples, trace=exact(),
      terminal=terminal,
      integrator=rk4(24),
    )  # fmt: skip
    got = np.asarray(jax.jit(run)(x_0, keys_of(len(x_0)))).reshape(LEVELS, n)
    return got.mean(1), got.std(1) / n**0.5

  (mean_1, error_1), (mean_4, error_4), (mean_32, error_32) = nll(1), nll(4), nll(32)
  assert (np.abs(mean_1 - one_sample) < 4 * error_1).all()
  for mean, error in ((mean_4, error_4), (mean_32, error_32)):
    assert (mean > exactly - 4 * error).all()
  assert (mean_4 < mean_1).all()
  assert (mean_32 < mean_4).all()
  np.testing.assert_allclose(mean_32, exactly, atol=0.2)


def test_bins_of_both_kinds_of_data():
  for levels in (2, 17, 256):
    k = np.arange(levels)
    image = {"image": jnp.asarray(k)[None, :, None, None], "index": jnp.zeros(1, jnp.int32)}
    scaled = transforms.scale(levels)(jax.random.key(0), image)["image"]
    dequantized = transforms.dequantize(levels)(jax.random.key(0), image)["image"]
    for made in (scaled, dequantized):
      low, width = likelihood.bin_of(made, levels, "dequantize")
      np.testing.assert_allclose(low[0, :, 0, 0], 2 * k / levels - 1, atol=1e-6)
      assert width == 2 / levels
    assert ((low <= dequantized) & (dequantized < low + width)).all()
    low, width = likelihood.bin_of(scaled, levels, "scale")
    np.testing.assert_allclose(low[0, :, 0, 0], (2 * k - 1) / (levels - 1) - 1, atol=1e-6)
    assert width == 2 / (levels - 1)


def test_samples_share_their_probes(x64):
  # Else (L6) would be nats too low; the numbers are in the docstring of `ode_nll`.
  schedule, n = d.vp(), 500
  x_0 = jnp.asarray([[-0.5, -0.5], [0.5, 0.5], [0.0, 0.5], [0.5, 0.0]])
  exactly = -log_probability(PLANE.at(schedule, schedule.t_min), np.asarray(x_0) - 0.25, 0.5)
  run = lambda x_0, keys: likelihood.ode_nll(
    PLANE.denoiser(schedule), schedule, x_0, keys, levels=LEVELS, bins="scale", samples=16,
    trace=hutchinson(1, "gaussian"), terminal=PLANE.at(schedule, schedule.T).log_density, integrator=rk4(24),
  )  # fmt: skip
  got = jax.jit(run)(jnp.repeat(x_0, n, axis=0), keys_of(4 * n)).reshape(4, n).mean(1)
  assert (np.abs(got - exactly) < 0.7).all()


def test_the_prior_continuous_data_and_the_name_of_the_number(x64):
  x, schedule = DATA.sample(keys_of(5)), d.edm()
  run = lambda function, **options: function(
    DATA.denoiser(schedule), schedule, x, keys_of(5), trace=exact(), integrator=rk4(4), **options
  )
  x_T, log_det = run(encode)
  expected = stats.norm(0, schedule.prior_std).logpdf(x_T).sum(1) + log_det
  np.testing.assert_allclose(run(likelihood.ode_nll, levels=None), -expected, rtol=1e-12)


# --- Bounds ---------------------------------------------------------------------------------------------------------


def divergence(ratio):
  """KL of N(m, ratio) to N(m, 1), the mean being the same."""
  return 0.5 * (ratio - 1 - np.log(ratio))


@pytest.mark.parametrize("name", ["vp", "sub_vp", "edm", "rectified_flow", "learned", "linear"])
def test_continuous_bound_of_gaussian_data(name, x64):
  schedule, n = SCHEDULES[name], 5000
  m, s = 0.4, 0.3
  data = gaussian(np.array([m]), np.array([s]))
  t_min, T = np.array([schedule.t_min]), np.array([schedule.T])
  (snr_T,), (snr,) = (schedule.alpha(t) ** 2 / schedule.sigma(t) ** 2 for t in (T, t_min))
  alpha_T, sigma_T = schedule.alpha(T)[0] / schedule.prior_std, schedule.sigma(T)[0] / schedule.prior_std
  # The integral (L7) at x_0, with the exact denoiser, whose error's square is a rational function of the SNR.
  x_0 = np.array([m - s, m + s, m + 2 * s, m])
  of_snr = lambda snr: 0.5 * (np.log1p(snr * s**2) + (1 - (x_0 - m) ** 2 / s**2) / (1 + snr * s**2))
  off = ((x_0 - m) ** 2 + snr * s**4) / (1 + snr * s**2) ** 2  # E (x_0 - its prediction)^2 at t_min
  decoder = 0.5 * (snr * off + np.log(2 * np.pi / snr))
  prior = 0.5 * ((alpha_T * x_0) ** 2 + sigma_T**2 - 1 - np.log(sigma_T**2))
  expected = prior + decoder + of_snr(snr) - of_snr(snr_T)
  # The chain rule: the bound's mean is the data's entropy and what the two ends cost. x_0 = m +- s have that mean.
  variance = (alpha_T * s) ** 2 + sigma_T**2
  entropy = 0.5 * np.log(2 * np.pi * np.e * s**2)
  costs = divergence(variance) + 0.5 * (alpha_T * m) ** 2 + divergence(snr * s**2 / (1 + snr * s**2))
  np.testing.assert_allclose(expected[:2].mean(), entropy + costs, rtol=1e-9)

  run = lambda x_0, keys: continuous_bound(data.denoiser(schedule), schedule, x_0, keys, levels=None, terms=32)
  got = jax.jit(run)(jnp.repeat(jnp.asarray(x_0)[:, None], n, axis=0), keys_of(4 * n)).reshape(4, n)
  error = np.asarray(got.std(1)) / n**0.5
  assert (error < 0.04).all()
  assert (np.abs(got.mean(1) - expected) < 4 * error).all()


def test_continuous_bound_of_quantised_data(x64):
  # Data of one value: the network knows x_0, and only the decoder's bin and the prior are left.
  schedule = d.edm(0.05)
  denoise = lambda x, t: (jnp.full_like(x, 0.5), (x - 0.5) / t[:, None])
  got = continuous_bound(denoise, schedule, jnp.full((3, 2), 0.5), keys_of(3), levels=5, terms=4)
  decoder = -2 * np.log(np.diff(stats.norm(0.5, 0.05).cdf([0.25, 0.75])))[0]
  np.testing.assert_allclose(got, decoder + 0.25 / 80**2, rtol=1e-6)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize(
  "schedule", [d.linear(50, 1e-3, 0.3), d.cosine(20), d.geometric(10, 0.05, 3.0)], ids=["linear", "cosine", "geometric"]
)
def test_discrete_bound_of_gaussian_data(schedule, variance, x64):
  # By the chain rule the bound's mean is the data's entropy, the prior's divergence and those of all reverse steps,
  # each of two Gaussians: with the exact denoiser p_theta has the mean of q(x_{t-1} | x_t), and its own variance.
  m, s = MEAN, np.array([0.02, 0.1, 0.3, 0.5, 0.7, 1.0])
  data, T = gaussian(m, s), schedule.steps
  t = np.arange(T + 1.0)
  alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
  marginal = (alpha * s) ** 2 + sigma**2
  alpha_ts = alpha[1:] / alpha[:-1]
  beta = sigma[1:] ** 2 - alpha_ts**2 * sigma[:-1] ** 2
  true = marginal[:-1] * beta / marginal[1:]  # the variance of x_{t-1} given x_t
  posterior = sigma[:-1] ** 2 * beta / sigma[1:] ** 2
  posterior[0] = posterior[1]  # (12)
  model = {"posterior": posterior, "beta": np.concatenate([posterior[:1], beta[1:]])}[variance]
  p = schedule.prior_std**2
  prior = divergence(marginal[-1] / p) + 0.5 * (alpha[-1] * m) ** 2 / p
  expected = np.sum(0.5 * np.log(2 * np.pi * np.e * s**2) + prior + divergence(true / model).sum(0))

  # Every term is quadratic in x_0 and eps: its mean is that over m +- s and +- 1.
  bound = losses.bound(schedule, variance, levels=None)
  x_0 = jnp.asarray([m - s, m + s, m - s, m + s])
  eps = jnp.asarray([-1.0, -1.0, 1.0, 1.0])[:, None]

  def term(t):
    predicted, _ = data.denoiser(schedule)(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, t)
    return bound.term(x_0, predicted, jnp.full(4, t)).mean()

  got = bound.prior(x_0).mean() + jax.vmap(term)(jnp.asarray(t[1:])).sum()
  np.testing.assert_allclose(got, expected, rtol=1e-8)
  assert got > np.sum(0.5 * np.log(2 * np.pi * np.e * s**2)) + 0.1


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_bad_input():
  x, keys = jnp.zeros((2, 3)), keys_of(2)
  run = lambda function, **options: function(DATA.denoiser(d.vp()), d.vp(), x, keys, **options)
  with pytest.raises(UserError, match="t_min above 0"):
    run(log_likelihood, t_min=0.0)
  with pytest.raises(UserError, match="t_min above 0"):
    run(continuous_bound, t_min=1.0, levels=None)
  with pytest.raises(UserError, match="at least 1 step"):
    rk4(0)
  with pytest.raises(UserError, match="tolerances are positive"):
    dopri5(0.0)
  with pytest.raises(UserError, match="1 or more probes"):
    hutchinson(0)
  with pytest.raises(UserError, match="1 or more samples"):
    run(likelihood.ode_nll, levels=256, samples=0)
  with pytest.raises(UserError, match="1 levels"):
    run(likelihood.ode_nll, levels=1)
  with pytest.raises(UserError, match="1 or more terms"):
    run(continuous_bound, levels=None, terms=0)
