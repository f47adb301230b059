"""Which deterministic solvers are one and the same; their coefficients; how often they call; how they do in float32."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from processes import EVERY

from jaxgen.core.errors import UserError
from jaxgen.diffusion import (
  SOLVERS,
  cosine,
  ddim,
  deis,
  dpm2,
  dpm_solver,
  dpmpp_2m,
  dpmpp_2s,
  dpmpp_3m,
  edm,
  heun,
  karras,
  linear,
  lms,
  log_snr,
  network_calls,
  plms,
  pndm,
  probability_flow,
  rectified_flow,
  sample,
  trailing,
  unipc,
  ve,
  vp,
)
from jaxgen.diffusion.convergence import MIXTURE, errors
from jaxgen.diffusion.multistep import Past, correction, weights
from jaxgen.diffusion.solvers.unipc import Carry

SOME = ["sub_vp", "ve", "rectified_flow", "linear"]
KEYS = jax.random.split(jax.random.key(0), 3)


def stub(schedule):
  """A network that no data explains, so that nothing holds by luck."""

  def denoise(x, t):
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    v = jnp.sin(3 * x / (alpha + sigma)) + 0.3 * jnp.cos(3 * sigma / (alpha + sigma))
    norm2 = alpha**2 + sigma**2
    return (alpha * x - sigma * v) / norm2, (sigma * x + alpha * v) / norm2

  return denoise


def start(schedule):
  return schedule.prior_std * jax.random.normal(jax.random.key(1), (3, 4))


def draw(make, schedule, times):
  run = lambda x: sample(make(schedule), stub(schedule), times, x, KEYS)
  return jax.jit(run)(start(schedule))


def agree(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * float(jnp.abs(a).max()))


def differ(a, b):
  assert jnp.abs(a - b).max() > 1e-4 * jnp.abs(a).max()


# --- Identities -----------------------------------------------------------------------------------------------------

FIRST = {
  "DPM-Solver-1": partial(dpm_solver, order=1),
  "UniP-1": partial(unipc, order=1, corrector=False),
  "UniP-1, B1": partial(unipc, order=1, corrector=False, B="bh1"),
  "UniP-1 in noise": partial(unipc, order=1, corrector=False, form="noise"),
  "LMS-1": partial(lms, order=1),
  "DEIS-1": partial(deis, order=1),
  "DEIS-1 in t": partial(deis, order=1, variable="t"),
}
STARTS = {"3M": dpmpp_3m, "LMS-4": lms, "DEIS-3": deis, "UniPC-3": unipc}


@pytest.mark.parametrize("name", SOME)
def test_solvers_of_first_order_are_ddim(name, x64):
  # And so is the first step of those that start with lower orders. That DDIM is Euler's method: test_solvers.
  schedule = EVERY[name]
  times = log_snr(schedule, 7)
  expected = draw(ddim, schedule, times)
  for make in FIRST.values():
    agree(expected, draw(make, schedule, times))
  differ(expected, draw(dpm2, schedule, times))
  for make in STARTS.values():
    solver = lambda schedule, make=make: make(schedule)._replace(order=1)
    agree(draw(ddim, schedule, times[1:3]), draw(solver, schedule, times[1:3]))


def test_the_flow_is_ddim_where_alpha_and_sigma_are_straight(x64):
  for schedule in (rectified_flow(), edm()):
    agree(draw(ddim, schedule, trailing(schedule, 9)), draw(probability_flow, schedule, trailing(schedule, 9)))
  differ(draw(ddim, vp(), trailing(vp(), 9)), draw(probability_flow, vp(), trailing(vp(), 9)))


@pytest.mark.parametrize("name", SOME)
def test_solvers_of_second_order(name, x64):
  times = log_snr(EVERY[name], 9)
  of = lambda make, **options: draw(partial(make, **options), EVERY[name], times)
  agree(of(dpm2), of(dpm_solver, order=2))
  agree(of(heun), of(dpm_solver, order=2, r1=1.0))
  agree(of(dpmpp_2m), of(unipc, order=2, corrector=False))  # Zhao et al. 2023, section 3.4


def test_solvers_of_second_order_that_differ(x64):
  of = lambda make, **options: draw(partial(make, **options), vp(), log_snr(vp(), 9))
  different = [
    of(dpm2),
    of(heun),
    of(dpmpp_2s),
    of(dpmpp_2s, r=1.0),
    of(dpmpp_2m),
    of(unipc, order=2, corrector=False, B="bh1"),
    of(unipc, order=2, corrector=False, form="noise"),
    of(lms, order=2),
    of(deis, order=2),
    of(plms),
  ]
  for i, a in enumerate(different):
    for b in different[:i]:
      differ(a, b)


@pytest.mark.parametrize("name", SOME)
def test_solvers_of_third_order(name, x64):
  schedule = EVERY[name]
  times = log_snr(schedule, 9)
  agree(draw(partial(dpmpp_3m, exact_d2=True), schedule, times), draw(partial(unipc, corrector=False), schedule, times))
  differ(draw(dpmpp_3m, schedule, times), draw(partial(dpmpp_3m, exact_d2=True), schedule, times))
  # UniP-3 in the noise form is DEIS-3 but for the start, where its second step has a_1 = 1/2: so, with a known past.
  x, outputs = start(schedule), tuple(jax.random.normal(KEYS[i], (3, 4)) for i in range(3))
  at = -schedule.log_snr(jnp.asarray(times[[3, 2, 1]])) / 2
  step = lambda solver, carry: sample(solver, stub(schedule), times[4:6], x, KEYS, carry)
  one_step = lambda make, **options: make(schedule, **options)._replace(order=1)
  expected = step(one_step(deis), Past(outputs, at))
  for B in ("bh1", "bh2"):  # which does not matter
    unip = one_step(unipc, corrector=False, form="noise", B=B)
    agree(expected, step(unip, Carry(Past(outputs, -at), x)))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_deis_over_three_variables(order, x64):
  # EDM's t is sigma / alpha, and VE's its logarithm.
  in_t = partial(deis, order=order, variable="t")
  lms_, deis_ = (lambda s: lms(s, order)._replace(to_clean="first order")), partial(deis, order=order)
  agree(draw(lms_, edm(), log_snr(edm(), 9)), draw(in_t, edm(), log_snr(edm(), 9)))
  agree(draw(deis_, ve(), karras(ve(), 9)), draw(in_t, ve(), karras(ve(), 9)))
  differ(draw(lms_, ve(), karras(ve(), 9)), draw(in_t, ve(), karras(ve(), 9)))


# --- Coefficients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("h", [0.01, 0.3, 8.0])
@pytest.mark.parametrize("there", [1, 2, 3, 4])
def test_weights(there, h, dtype, x64):
  # Beside scipy's adaptive quadrature of the polynomials that numpy makes.
  nodes = 1.7 + h * np.array([0.0, -1.0, -2.2, -2.9])[:there]
  padded = jnp.asarray(np.append(nodes, [np.inf] * (4 - there)), dtype)
  low, high = jnp.asarray(1.7, dtype), jnp.asarray(1.7 + h, dtype)
  for rate in (0, 1, -1):
    got = weights(padded, low, high, lambda u, rate=rate: jnp.exp(rate * u))
    assert got.dtype == dtype
    for j in range(4):
      if j >= there:
        assert got[j] == 0
        continue
      others = np.delete(nodes, j)
      l = np.poly1d(others, r=True) / np.prod(nodes[j] - others)
      expected, _ = scipy.integrate.quad(lambda u, l=l, rate=rate: np.exp(rate * u) * l(u), 1.7, 1.7 + h)
      np.testing.assert_allclose(got[j], expected, rtol=1e-9 if dtype == "float64" else 2e-3 if h < 0.1 else 2e-5)


def test_correction_leaves_what_is_constant():
  x = jnp.ones((2, 3))
  np.testing.assert_array_equal(correction(jnp.array([3.0, 5.0, 7.0]), (x, x, x)), 0 * x)
  np.testing.assert_array_equal(correction(jnp.array([3.0]), (x,)), 0 * x)
  np.testing.assert_array_equal(correction(jnp.array([3.0, 5.0]), (x, 3 * x)), 10 * x)


def test_unipc_is_exact_where_x_0_is_a_polynomial_in_lambda(x64):
  # Of degree 3 in the predictor of order 4, with exact past outputs: x_s / sigma_s - x_t / sigma_t = int e^lambda x_0.
  schedule, polynomial = vp(), np.poly1d([0.3, -0.2, 0.5, 0.1])
  times = log_snr(schedule, 12)[2:8]
  lambda_ = schedule.log_snr(times) / 2
  denoise = lambda x, t: (0 * x + jnp.polyval(jnp.asarray(polynomial.c), schedule.log_snr(t) / 2), x)
  x = jnp.ones((3, 1))
  past = Past(tuple(polynomial(lambda_[i]) * x for i in (3, 2, 1, 0)), jnp.asarray(lambda_[[3, 2, 1, 0]]))
  solver = unipc(schedule, order=4, corrector=False)
  got = sample(solver, denoise, times[4:], x, KEYS, Carry(past, x))
  integral, _ = scipy.integrate.quad(lambda u: np.exp(u) * polynomial(u), lambda_[4], lambda_[5], epsabs=1e-13)
  expected = schedule.sigma(times[5:]) * (1 / schedule.sigma(times[4:5]) + integral)
  np.testing.assert_allclose(got, expected * np.ones((3, 1)), rtol=1e-10)


@pytest.mark.parametrize("make", [pndm, plms, lms, deis, dpmpp_2m, dpmpp_3m, unipc])
def test_a_known_past_is_gone_on_from(make, x64):
  """Some steps one by one and the others by `sample`, fewer than the solver's order in the end."""
  schedule = linear(100, 1e-3, 0.2)
  solver, denoise, times = make(schedule), stub(schedule), trailing(schedule, 6)

  def begin(x):
    carry = solver.init(x)
    for t, s in itertools.pairwise(jnp.asarray(times[:5])):
      x, carry = solver.step(denoise, carry, x, t, s, KEYS)
    return x, carry

  x = start(schedule)
  whole = jax.jit(lambda x: sample(solver, denoise, times, x, KEYS))(x)
  halves = jax.jit(lambda x: (lambda x, carry: sample(solver, denoise, times[4:], x, KEYS, carry))(*begin(x)))(x)
  np.testing.assert_allclose(halves, whole, rtol=1e-12)
  fresh = jax.jit(lambda x: sample(solver._replace(order=1), denoise, times[4:], begin(x)[0], KEYS))(x)
  assert np.abs(fresh - whole).max() > 1e-6  # without its past it is another
  with pytest.raises(UserError, match=f"carries a {type(solver.init(x)).__name__}, and was given a dict"):
    sample(solver, denoise, times[4:], x, KEYS, {})


# --- Calls ----------------------------------------------------------------------------------------------------------


def times_called(solver, times):
  called = []

  def denoise(x, t):
    jax.debug.callback(lambda t: called.append(float(t)), t, ordered=True)
    return stub(solver.schedule)(x, t)

  jax.jit(lambda x: sample(solver, denoise, times, x, KEYS))(start(solver.schedule))
  jax.effects_barrier()
  return called


@pytest.mark.parametrize(("make", "extra"), [(pndm, [3, 3, 3]), (plms, [1])])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("schedule", [linear(100, 1e-3, 0.15), rectified_flow()], ids=["alpha > 0", "alpha = 0"])
def test_starts_call_more_often(make, extra, clean, schedule):
  # By hand: one call a step, with more in the first steps of its own that do not lead to clean data.
  for n in (4, 5, 9):
    times = trailing(schedule, n + 1 - clean)[: n + 1]
    called = times_called(make(schedule), times)
    own = n - schedule.is_noise(schedule.T) - clean
    assert len(called) == n + sum(extra[:own]) == network_calls(make(schedule), times)
    assert min(called) > 0


def test_pndm_from_its_own_start(x64):
  # On equal steps in r (EDM's schedule) the pseudo methods are the classical ones: of fourth order with the Runge-Kutta
  # start; with PLMS's, whose second step has two eps, of third.
  schedule = edm()
  x = jnp.linspace(-1.5, 1.5, 20)[:, None]
  exact, keys = MIXTURE.transport(schedule, x, 0.5, 0.3), jax.random.split(KEYS[0], 20)

  def error(make, n):
    times = np.linspace(0.5, 0.3, n + 1)
    return float(jnp.abs(sample(make(schedule), MIXTURE.denoiser(schedule), times, x, keys) - exact).max())

  np.testing.assert_allclose(np.log2(error(pndm, 48) / error(pndm, 96)), 4, atol=0.2)
  np.testing.assert_allclose(np.log2(error(plms, 48) / error(plms, 96)), 3, atol=0.2)


# --- In float32 -----------------------------------------------------------------------------------------------------

DETERMINISTIC = [
  *("ddim", "heun", "dpm2", "dpm_solver_2", "dpm_solver_3", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m", "pndm", "plms", "lms"),
  *("deis", "unipc", "probability_flow"),
]
RUNS = {
  "linear": (linear(), partial(trailing, n=1000)),
  "cosine": (cosine(), partial(trailing, n=50)),
  "rectified_flow": (rectified_flow(), partial(karras, n=50)),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_rounding(name, run, x64):
  # Float32 beside float64, from noise to clean data.
  schedule, grid = RUNS[run]
  solver, data, times = SOLVERS[name](schedule), MIXTURE, grid(schedule)
  x = schedule.prior_std * jax.random.normal(jax.random.key(1), (16, 1))
  keys = jax.random.split(KEYS[0], 16)
  draw = lambda x: sample(solver, data.denoiser(schedule), times, x, keys)
  single, double = jax.jit(lambda x: (draw(x.astype("float32")), draw(x)))(x)
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(single, double, rtol=0, atol=1e-3)


@pytest.mark.parametrize("make", [heun, pndm, plms])
def test_no_average_over_a_step_from_noise_alone(make, x64):
  """On the cosine schedule sigma / alpha falls from 20 thousand to 13 in the first of 20 steps: an average of eps over
  that step makes an error of the data's size (Heun, PLMS) or 1e5 times it (PNDM)."""
  schedule = cosine()
  times = trailing(schedule, 20)
  x, keys = jax.random.normal(jax.random.key(1), (64, 1)), jax.random.split(KEYS[0], 64)
  got = jax.jit(lambda x: sample(make(schedule), MIXTURE.denoiser(schedule), times, x, keys))(x)
  exact = MIXTURE.transport(schedule, x, float(times[0]), 0.0)
  assert jnp.abs(got - exact).mean() < 0.02


@pytest.mark.parametrize("times", [[0.1, 1.0], [1.0, 0.5, 0.5, 0.0], [1.5, 0.5], [0.5, -0.1], [1.0, np.nan, 0.0]])
def test_times_that_do_not_fall(times):
  """Increasing ones, a step of no length, and times that the schedule does not have."""
  schedule = vp()
  with pytest.raises(UserError, match="at times that fall from 1 or less to 0 or more, and these are "):
    sample(dpmpp_2m(schedule)._replace(order=1), stub(schedule), np.array(times), start(schedule), KEYS)


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("make", "options", "message"),
  [
    (dpm_solver, {"order": 4}, "order 1, 2 or 3, not 4"),
    (dpm_solver, {"r1": 0.7}, "0 < r1 < r2 <= 1, not 0.7"),
    (dpm_solver, {"order": 2, "r1": 0.0}, "0 < r1 < r2 <= 1, not 0"),
    (dpmpp_2s, {"r": 1.5}, "0 < r <= 1 of the step, not 1.5"),
    (lms, {"order": 5}, "order 1 to 4, not 5"),
    (deis, {"order": 0}, "order 1 to 4, not 0"),
    (unipc, {"order": 5}, "order 1 to 4, not 5"),
  ],
)
def test_bad_options(make, options, message):
  with pytest.raises(UserError, match=message):
    make(vp(), **options)


def test_orders_are_measured_in_float64():
  with pytest.raises(UserError, match="in float64"):
    errors(ddim, vp())
