"""The likelihood by the probability-flow ODE, of continuous and of quantised data."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.diffusion.likelihood.integrators import Flow, Integrator, rk4
from jaxgen.diffusion.likelihood.path import position, sum_dims, time, time_range
from jaxgen.diffusion.likelihood.traces import Probes, Trace, hutchinson
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule

# The bins of quantised data, k = 0 .. levels - 1, by the transform (`jaxgen.data.transforms`) of the training data:
# "dequantize": from 2 k / levels - 1 to 2 (k + 1) / levels - 1, over which it spreads noise. They fill [-1, 1]. x_0 is
#   such data, of which the bin alone matters, or data that `scale` made.
# "scale": of width 2 / (levels - 1) around the values 2 k / (levels - 1) - 1 that it gives; those of (11), but closed
#   at the ends. x_0 is such data.
Bins = Literal["dequantize", "scale"]


def encode(
  denoise: Denoise,
  schedule: Schedule,
  x: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  trace: Trace | None = None,
  integrator: Integrator | None = None,
  t_min: float | None = None,
) -> Flow:
  """Solves the ODE (L2) from x at t_min to T.

  The arguments are those of `log_likelihood`.

  Returns:
    x_T [B, ...], and log|det dx_T / dx| [B], which is an estimate if the trace is one.
  """
  trace, integrator = trace or hutchinson(), integrator or rk4()
  t_min, T = time_range(schedule, t_min, x.dtype)
  norm = lambda t: jnp.hypot(schedule.alpha(t), schedule.sigma(t))

  def derivative(u: Array, flow: Flow, probes: Probes) -> Flow:
    z, _ = flow
    t = jnp.clip(time(schedule, u), t_min, T)
    alpha, sigma, n = (per_example(value, z) for value in (schedule.alpha(t), schedule.sigma(t), norm(t)))

    def velocity(z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
      x_0, eps = denoise(n * z, t)[:2]
      return sigma / n**2 * (alpha * eps - sigma * x_0)  # (L2)

    dz, pull = jax.vjp(velocity, z)
    add = lambda total, v: (total + sum_dims(v * pull(v)[0]), None)
    n_probes = probes.shape[1]
    return dz, jax.lax.scan(add, jnp.zeros_like(flow[1]), probes.swapaxes(0, 1), unroll=n_probes == 1)[0]

  ends = position(schedule, t_min), position(schedule, T)
  z, integral = integrator(derivative, *ends, (x / norm(t_min), jnp.zeros(len(x), x.dtype)), trace(x, keys))
  return norm(T) * z, x[0].size * jnp.log(norm(T) / norm(t_min)) + integral


def log_likelihood(
  denoise: Denoise,
  schedule: Schedule,
  x: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  trace: Trace | None = None,
  integrator: Integrator | None = None,
  t_min: float | None = None,
  terminal: Callable[[Float[Array, "batch ..."]], Float[Array, " batch"]] | None = None,
) -> Float[Array, " batch"]:
  """log p(x), the density of x_t at t_min, by the probability-flow ODE (L3); nats per example.

  Each example has its own probes and does not depend on the other examples. The arithmetic is in x's dtype.

  Args:
    denoise: (x [B, ...], t [], or [B] with dopri5) -> (x_0, eps). It must not clip: clipped predictions give no
      density. The integrator sets the number of calls; each is differentiated with respect to x in reverse mode for
      each probe.
    keys: one per example, for the trace's probes.
    trace: exact() or hutchinson(probes); by default hutchinson with one probe.
    integrator: rk4(steps), heun(steps) or dopri5(rtol, atol); by default rk4.
    t_min: the time of x; by default the schedule's.
    terminal: log-density of x_T, [B, ...] -> [B]; by default that of N(0, prior_std^2 I).

  Raises:
    UserError: t_min is 0, where there is no noise, or is not below T.
  """
  x_T, log_det = encode(denoise, schedule, x, keys, trace=trace, integrator=integrator, t_min=t_min)
  return (terminal or functools.partial(_prior, schedule))(x_T) + log_det


def ode_nll(
  denoise: Denoise,
  schedule: Schedule,
  x_0: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  levels: int | None,
  bins: Bins = "dequantize",
  samples: int = 1,
  **options: Any,
) -> Float[Array, " batch"]:
  """Upper bound of -log P(x_0) for quantised data by dequantization, (L5) and (L6); nats per example.

  It is an estimate of the bound with one set of draws per example. Its name should say so: "nll_nats_dequantized_20"
  for 20 draws.

  (L6) needs p itself, and an unbiased estimate of log p gives an estimate of p that is too large. Therefore all draws
  of an example have the same probes, whose error is nearly the same in each p(x_k), and the bound is nearly kept. As
  the error varies within the bin, the result with samples > 1 and an estimated trace is too low: by 0.1 to 0.4 nats for
  a mixture in 2 dimensions and bins of width 0.5 (by up to 5 if each draw had its own probes). Finer bins and more
  probes help.

  Args:
    x_0: data in [-1, 1].
    levels: number of values per dimension (256 for bytes); None for continuous data, for which the result is
      -log p(x_0), (L3).
    bins: the bins that the model was trained on, see `Bins`.
    samples: K of (L6); 1 is (L5). The ODE is solved K times, one after the other.
    **options: trace, integrator, t_min and terminal of `log_likelihood`.

  Raises:
    UserError: fewer than two levels, samples < 1, and as `log_likelihood`.
  """
  nll = lambda x, keys: -log_likelihood(denoise, schedule, x, keys, **options)
  if levels is None:
    return nll(x_0, keys)
  if samples < 1:
    raise UserError(f"the bound by dequantization draws 1 or more samples, not {samples}: change their number")
  low, width = bin_of(x_0, levels, bins)
  probe_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)

  def one(k: Array) -> Float[Array, " batch"]:
    noise = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, k), x_0.shape[1:], x_0.dtype))(noise_keys)
    return nll(low + width * noise, probe_keys)

  each = jax.lax.map(one, jnp.arange(samples))
  return float(np.log(samples)) - logsumexp(-each, axis=0) - x_0[0].size * float(np.log(width))


def bin_of(x_0: Float[Array, "..."], levels: int, bins: Bins) -> tuple[Float[Array, "..."], float]:
  """(the lower end of the bin of x_0, the width of all bins), see `Bins`.

  Raises:
    UserError: fewer than two levels.
  """
  if levels < 2:
    raise UserError(f"data of {levels} levels is not quantised: give 2 or more, or None for continuous data")
  if bins == "scale":
    width = 2 / (levels - 1)
    return jnp.round((x_0 + 1) / width) * width - 1 - width / 2, width
  width = 2 / levels
  return jnp.clip(jnp.floor((x_0 + 1) / width), 0, levels - 1) * width - 1, width


def _prior(schedule: Schedule, x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
  """log N(x; 0, prior_std^2 I)."""
  z = x / schedule.prior_std
  return -sum_dims(0.5 * z**2 + float(np.log(schedule.prior_std) + 0.5 * np.log(2 * np.pi)))
