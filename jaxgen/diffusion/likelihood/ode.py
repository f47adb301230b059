"""The likelihood by the probability-flow ODE, and that of quantised data."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.diffusion.likelihood.integrators import Flow, Integrator, rk4
from jaxgen.diffusion.likelihood.path import position, rows, sum_dims, time, time_range
from jaxgen.diffusion.likelihood.traces import Probes, Trace, hutchinson
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule

# The bins of quantised data, k = 0 .. levels - 1, by the transform (`jaxgen.data.transforms`) that made what the model
# was trained on:
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
  """Solves the ODE (L2) from x at t_min to T: (x_T [B, ...], log|det dx_T / dx| [B], an estimate if the trace is one).

  Args: as of `log_likelihood`.
  """
  trace, integrator = trace or hutchinson(), integrator or rk4()
  t_min, T = time_range(schedule, t_min, x.dtype)
  norm = lambda t: jnp.hypot(schedule.alpha(t), schedule.sigma(t))

  def derivative(u: Array, flow: Flow, probes: Probes) -> Flow:
    z, _ = flow
    t = jnp.clip(time(schedule, u), t_min, T)
    alpha, sigma, n = (rows(value, z) for value in (schedule.alpha(t), schedule.sigma(t), norm(t)))

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

  Each example has its own probes, and none depends on those beside it. The arithmetic is in x's dtype.

  Args:
    denoise: (x [B, ...], t [], or [B] with dopri5) -> (x_0, eps), without clipping, which has no density. It is called
      as often as the integrator says, and differentiated by x in reverse mode as often as there are probes.
    keys: one per example, for the trace's probes.
    trace: exact() or hutchinson(probes), the default with one probe.
    integrator: rk4(steps), the default, heun(steps) or dopri5(rtol, atol).
    t_min: where x lies; the schedule's unless given.
    terminal: log-density of x_T, [B, ...] -> [B], where it is known; the default is N(0, prior_std^2 I).

  Raises:
    UserError: t_min is 0, where there is no noise, or not below T.
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
  """-log of the probability of quantised data, bounded by dequantization (L5), (L6); nats per example.

  An estimate of the bound with one set of draws per example; say so in its name, "nll_nats_dequantized_20" of 20.

  (L6) needs p itself, and an estimate of log p that is right in the mean gives one of p that is too large. All samples
  of an example therefore have the same probes: what these get wrong is nearly the same in each p(x_k), and the bound
  stays. As far as it differs within the bin, the result with samples > 1 and an estimated trace is too low: by 0.1 to
  0.4 nats for a mixture in 2 dimensions and bins of width 0.5 (by up to 5 if each sample had its own probes). Finer
  bins and more probes help.

  Args:
    x_0: data in [-1, 1].
    levels: how many values a dimension takes (256 for bytes); None for continuous data, of which this is -log p(x_0),
      (L3), alone.
    bins: what the model was trained on, see `Bins`.
    samples: K of (L6); 1 is (L5). The ODE is solved so many times, one after the other.
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
  """(the lower end of the bin that x_0 lies in, every bin's width), see `Bins`.

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
