"""Data whose diffusion is known in closed form, to test solvers, losses and likelihoods.

Under (1) a mixture of Gaussians stays a mixture of Gaussians, on any schedule. With weights w_k, means m_k and standard
deviations s_k (one for each dimension, without correlations), and v_k = alpha^2 s_k^2 + sigma^2,

    (C1)  q(x_t)          = sum_k w_k N(x_t; alpha m_k, v_k)
    (C2)  p(k | x_t)      = w_k N(x_t; alpha m_k, v_k) / q(x_t)
    (C3)  E[x_0 | x_t, k] = m_k + alpha s_k^2 / v_k (x_t - alpha m_k),   E[eps | x_t, k] = sigma / v_k (x_t - alpha m_k)

and the best network's outputs are the averages of (C3) over (C2). In one dimension the probability-flow ODE keeps
quantiles, so that its map from t to s is F_s^-1(F_t(x)), with F_t the distribution function of (C1):

    mixture = Mixture(weights=np.array([0.3, 0.7]), means=np.array([[-0.8], [0.5]]), stds=np.array([[0.1], [0.2]]))
    x = sample(solver, mixture.denoiser(schedule), times, mixture.at(schedule, times[0]).sample(keys), keys)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, ndtr
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule


class Mixture(NamedTuple):
  """sum_k weights[k] N(means[k], diag(stds[k]^2)), over arrays of one shape.

  Attributes:
    weights: [K], positive, with sum 1.
    means, stds: [K, ...].
  """

  weights: Float[np.ndarray | Array, " k"]
  means: Float[np.ndarray | Array, "k ..."]
  stds: Float[np.ndarray | Array, "k ..."]

  def at(self, schedule: Schedule, t: float | Array) -> "Mixture":
    """The distribution of x_t, (C1); t is a scalar."""
    t = jnp.asarray(t, jnp.result_type(float))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return Mixture(self.weights, alpha * self.means, jnp.sqrt((alpha * self.stds) ** 2 + sigma**2))

  def log_components(self, x: Float[Array, "n ..."]) -> Float[Array, "n k"]:
    """log of weights[k] N(x; means[k], stds[k]^2), nats."""
    z = (x[:, None] - jnp.asarray(self.means, x.dtype)) / self.stds
    log_normal = -0.5 * z**2 - jnp.log(jnp.asarray(self.stds)) - 0.5 * np.log(2 * np.pi)
    return jnp.log(jnp.asarray(self.weights, x.dtype)) + log_normal.sum(range(2, log_normal.ndim))

  def log_density(self, x: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """Nats per example."""
    return logsumexp(self.log_components(x), axis=1)

  def score(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The gradient of `log_density`."""
    return self._average(x, (self.means - x[:, None]) / jnp.asarray(self.stds) ** 2)

  def mean(self) -> Float[Array, "..."]:
    return jnp.tensordot(jnp.asarray(self.weights), jnp.asarray(self.means), 1)

  def variance(self) -> Float[Array, "..."]:
    """Of each dimension."""
    return jnp.tensordot(jnp.asarray(self.weights), self.stds**2 + (self.means - self.mean()) ** 2, 1)

  def sample(self, keys: Key[Array, " n"]) -> Float[Array, "n ..."]:
    def one(key):
      which, noise = jax.random.split(key)
      k = jax.random.categorical(which, jnp.log(jnp.asarray(self.weights)))
      mean = jnp.asarray(self.means, jnp.result_type(float))[k]
      return mean + jnp.asarray(self.stds)[k] * jax.random.normal(noise, mean.shape, mean.dtype)

    return jax.vmap(one)(keys)

  def denoiser(self, schedule: Schedule) -> Denoise:
    """(x [N, ...], t [] or [N]) -> (E[x_0 | x_t = x], E[eps | x_t = x]), the output of a perfect network, (C3)."""

    def denoise(x, t):
      t = jnp.asarray(t, x.dtype)
      shape = t.shape + (1,) * (x.ndim if t.ndim else 0)  # against [N, K, ...]
      alpha, sigma = schedule.alpha(t).reshape(shape), schedule.sigma(t).reshape(shape)
      means, stds = jnp.asarray(self.means, x.dtype), jnp.asarray(self.stds, x.dtype)
      v = (alpha * stds) ** 2 + sigma**2
      away = (x[:, None] - alpha * means) / v
      log_normal = -0.5 * away**2 * v - 0.5 * jnp.log(v)
      log_weights = jnp.log(jnp.asarray(self.weights, x.dtype)) + log_normal.sum(range(2, log_normal.ndim))
      p = jax.nn.softmax(log_weights, axis=1).reshape(*log_weights.shape, *[1] * (x.ndim - 1))
      return (p * (means + alpha * stds**2 * away)).sum(1), (p * sigma * away).sum(1)

    return denoise

  def _average(self, x, values):
    p = jax.nn.softmax(self.log_components(x), axis=1)
    return (p.reshape(*p.shape, *[1] * (x.ndim - 1)) * values).sum(1)

  def cdf(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """The distribution function of one-dimensional data, [N, 1, ..]."""
    self._one_dimensional()
    return jnp.tensordot(jnp.asarray(self.weights), ndtr((x[None] - self._each(self.means)) / self._each(self.stds)), 1)

  def transport(
    self, schedule: Schedule, x: Float[Array, "n ..."], t: float | Array, s: float | Array
  ) -> Float[Array, "n ..."]:
    """The exact solution of the probability-flow ODE from x at time t to time s. Use float64.

    For one Gaussian it is an affine map. For a mixture of one-dimensional data it maps quantiles to quantiles, found by
    bisection to the last digit.

    Raises:
      ValueError: the mixture has more than one dimension, where no closed form is known.
    """
    q_t, q_s = self.at(schedule, t), self.at(schedule, s)
    if len(self.weights) == 1:
      return q_s.means[0] + q_s.stds[0] / q_t.stds[0] * (x - q_t.means[0])
    self._one_dimensional()
    # Upper tails are reflected, since F has no digits close to 1.
    lower = q_t.cdf(x) < 0.5
    reflect = lambda q: Mixture(q.weights, -q.means, q.stds)
    target = jnp.where(lower, q_t.cdf(x), reflect(q_t).cdf(-x))
    reach = jnp.max(jnp.abs(q_s.means)) + 40 * jnp.max(q_s.stds)

    def halve(_, ends):
      low, high = ends
      middle = (low + high) / 2
      below = jnp.where(lower, q_s.cdf(middle), reflect(q_s).cdf(middle)) < target
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 80, halve, (jnp.full_like(x, -reach), jnp.full_like(x, reach)))
    return jnp.where(lower, 1, -1) * (low + high) / 2

  def _each(self, values):
    return jnp.asarray(values).reshape(len(self.weights), *[1] * np.ndim(self.means))

  def _one_dimensional(self):
    if np.size(self.means) != len(self.weights):
      raise ValueError(f"this is known in closed form for one dimension only, not for {np.shape(self.means)[1:]}")


def gaussian(mean: Float[np.ndarray | Array, "..."], std: float | Float[np.ndarray | Array, "..."]) -> Mixture:
  """N(mean, diag(std^2)) as a mixture with one component."""
  mean = np.asarray(mean, np.float64)
  return Mixture(np.ones(1), mean[None], np.broadcast_to(np.asarray(std, np.float64), mean.shape)[None])
