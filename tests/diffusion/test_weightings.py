import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.diffusion import PREDICTIONS, WEIGHTINGS, linear, rectified_flow, ve, vp, zero_terminal_snr
from jaxgen.diffusion.losses import simple as squared
from jaxgen.diffusion.predictions import edm as edm_prediction
from jaxgen.diffusion.weightings import bound, edm, eps, min_snr, p2, sigmoid, simple

T = jnp.asarray([0.05, 0.3, 0.7, 0.95])
EPS, X_0, V = PREDICTIONS["eps"], PREDICTIONS["x_0"], PREDICTIONS["v"]


@pytest.mark.parametrize("schedule", [vp(), ve(0.02, 10.0), rectified_flow()], ids=["vp", "ve", "flow"])
@pytest.mark.parametrize("weighting", [w for name, w in WEIGHTINGS.items() if name != "simple"])
def test_a_weighting_is_the_same_loss_for_every_prediction(schedule, weighting, x64):
  keys = jax.random.split(jax.random.key(0), 3)
  x_0, noise, away = (jax.random.normal(key, (4, 2, 2, 1)) for key in keys)
  at = schedule.at(T.astype(float))
  wide = at.like(x_0)
  x_t = wide.alpha * x_0 + wide.sigma * noise
  x_0_hat = x_0 + away
  eps_hat = (x_t - wide.alpha * x_0_hat) / wide.sigma
  losses = [
    weighting(p, at) * squared(p.target(x_0_hat, eps_hat, wide), p.target(x_0, noise, wide))
    for p in (*PREDICTIONS.values(), edm_prediction(0.8))
  ]
  for loss in losses[1:]:
    np.testing.assert_allclose(loss, losses[0], rtol=1e-9)
  assert np.all(losses[0] > 0)


def test_published_forms(x64):
  at = vp().at(T.astype(float))
  snr = np.asarray(at.alpha / at.sigma) ** 2
  np.testing.assert_allclose(simple(V, at), 1)
  np.testing.assert_allclose(eps(EPS, at), 1)
  np.testing.assert_allclose(eps(PREDICTIONS["score"], at), at.sigma**2)  # Song and Ermon 2019: lambda = sigma^2
  np.testing.assert_allclose(p2(2.0, 0.5)(EPS, at), (2 + snr) ** -0.5)
  # Hang et al. 2023, section 3.4: for x_0, eps and v.
  np.testing.assert_allclose(min_snr()(X_0, at), np.minimum(snr, 5))
  np.testing.assert_allclose(min_snr()(EPS, at), np.minimum(snr, 5) / snr)
  np.testing.assert_allclose(min_snr()(V, at), np.minimum(snr, 5) / (snr + 1))
  # The bound of the VP SDE has beta / (2 sigma^2) on the error of eps, Song et al. 2021, beta = 0.1 + 19.9 t.
  np.testing.assert_allclose(bound(EPS, at), (0.1 + 19.9 * at.t) / (2 * at.sigma**2), rtol=1e-9)
  np.testing.assert_allclose(sigmoid(1.0)(EPS, at), bound(EPS, at) / (1 + snr / np.e), rtol=1e-9)
  # Karras et al. 2022, Table 1: lambda(sigma) on the error of D, and 1 on that of F.
  sigma = jnp.asarray([0.01, 0.5, 20.0])
  at = ve(0.001, 50.0).at(ve(0.001, 50.0).time(-2 * jnp.log(sigma)))
  np.testing.assert_allclose(edm(0.7)(X_0, at), (sigma**2 + 0.49) / (0.7 * sigma) ** 2, rtol=1e-9)
  np.testing.assert_allclose(edm(0.7)(edm_prediction(0.7), at), 1, rtol=1e-9)


def test_bound_is_what_the_discrete_bound_tends_to(x64):
  # Ho et al. 2020, eq. 12: one step's weight on the error of eps is beta^2 / (2 c alpha^2 (1 - alpha_bar)), c of (5).
  T = 20_000
  schedule = linear(T, 1e-4 * 1000 / T, 0.02 * 1000 / T)
  for t in (2000, 10_000, 19_000):
    alpha_bar, before = (float(schedule.alpha(np.array([s]))[0]) ** 2 for s in (float(t), t - 1.0))
    beta = 1 - alpha_bar / before
    c = (1 - before) / (1 - alpha_bar) * beta
    weight = beta**2 / (2 * c * (1 - beta) * (1 - alpha_bar))
    np.testing.assert_allclose(bound(EPS, schedule.at(jnp.asarray(float(t)))), weight, rtol=2e-3)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_where_there_is_no_signal(name, x64):
  # One example of T has t = T on a schedule that ends in noise: its weight is the limit, 0 or not, and never NaN.
  for schedule, just_below in ((rectified_flow(), 1 - 1e-9), (zero_terminal_snr(linear()), 1000 - 1e-9)):
    last, near = (schedule.at(jnp.asarray(t)) for t in (schedule.T, just_below))
    for prediction in (p for p in PREDICTIONS.values() if p.at_noise):
      np.testing.assert_allclose(
        WEIGHTINGS[name](prediction, last), WEIGHTINGS[name](prediction, near), rtol=1e-6, atol=1e-6
      )
    if name in ("simple", "eps", "p2", "min_snr"):
      np.testing.assert_allclose(WEIGHTINGS[name](EPS, last), 1)


def test_bad_input():
  with pytest.raises(UserError, match="gamma is positive"):
    min_snr(0.0)
