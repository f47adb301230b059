"""Likelihoods: the exact one by the probability-flow ODE, that of quantised data, and the bound in continuous time.

Numbers without an L stand in `jaxgen.diffusion`. All is in nats per example; bits per dimension, nats / (D ln 2), are
made where people read them (`jaxgen.evaluation.likelihood`).

**The ODE.** Divided by n_t, any schedule's x_t moves as a variance-preserving one's, and the ODE (17), or (18), has no
poles at either end of t:

    (L1)  z = x_t / n = cos(phi) x_0 + sin(phi) eps,    n = sqrt(alpha^2 + sigma^2),  tan(phi) = sigma / alpha
          dz / dphi = cos(phi) eps - sin(phi) x_0
    (L2)  dz / du = sin(phi) (cos(phi) eps - sin(phi) x_0),    u = log tan(phi / 2) = -asinh(alpha / sigma)

(L1)'s right side is v, (6); with y = z / cos(phi) and r = tan(phi) it is (18). u is log(r / 2) where there is little
noise, so that equal steps in u resolve fine structure as equal steps in log-SNR do, and ends at u = 0 where alpha = 0:
rectified flow and zero terminal SNR are integrated up to T itself, where the prior is exact. Along the ODE, which is
solved from the data to T (Chen et al. 2018, https://arxiv.org/abs/1806.07366, Theorem 1; Song et al. 2021,
https://arxiv.org/abs/2011.13456, Appendix D.2),

    (L3)  log p(x_s) = log p(x_T) + D log(n_T / n_s) + int_{u_s}^{u_T} tr(J) du,    J = d(dz / du) / dz

where log p(x_T) is the prior's, N(0, prior_std^2 I), by default. The trace is a sum of vector-Jacobian products, each
as dear as the network's backward pass, over all basis vectors ("exact") or a few random ones ("hutchinson", Grathwohl
et al. 2019, https://arxiv.org/abs/1810.01367; unbiased for log p, not for p):

    (L4)  tr(J) = sum_i e_i^T J e_i = E[v^T J v],   E[v v^T] = I

**Where x lies.** The density is that of x_s at s = t_min > 0, and x is put there as it is, neither scaled by alpha_s
nor noised, as Song et al.'s code does: the density of what the ODE gives when it is stopped at t_min. For Gaussian x_0
in 6 dimensions, means from -0.9 to 0.9 and standard deviations from 0.005 to 0.7, and a perfect network, the mean of
log p(x_0) is lower than that of the data's own density by so many nats per dimension, because t_min is not 0, and
because the prior is not q(x_T):

                                    t_min     prior
    vp()                          0.07488   0.00002
    vp(t_min=1e-5)                0.00006   0.00001
    sub_vp()                      0.00001   0.00002
    ve()                          0.06940   0.00008
    edm()                         0.00088   0.00003
    rectified_flow()              0.00272   0.00000
    rectified_flow(t_min=1e-5)    0.00000   0.00000
    continuous_cosine()           0.00109   0.00000
    linear()                      0.06938   0.00002
    cosine()                      0.02974   0.00000
    geometric()                   0.06939   0.19912

as `tests/diffusion/test_likelihood.py` measures it. t_min costs only where the data is as fine as its sigma / alpha.

**Quantised data.** A density p of real x gives x_0 of `levels` values per dimension the probability of a bin of width w
per dimension, P(x_0) = int_bin p(x) dx. Uniform noise in the bin bounds it (Theis et al. 2016,
https://arxiv.org/abs/1511.01844, section 3.1), and K such draws, importance-weighted, do so more closely (Burda et al.
2016, https://arxiv.org/abs/1509.00519; Hoogeboom et al. 2020, https://arxiv.org/abs/2001.11235); x_k are uniform in it:

    (L5)  -log P(x_0) <= -E[log p(x_1)] - D log w
    (L6)  -log P(x_0) <= -E[log 1/K sum_{k=1..K} p(x_k)] - D log w,    falling in K, to -log P

Which bins are meant depends on what the model was trained on; see `Bins`.

**The continuous-time bound** (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 11 and 17; Song et al. 2021,
https://arxiv.org/abs/2101.09258), with s = t_min:

    (L7)  -log p(x_0) <= KL(q(x_T | x_0) || p(x_T)) - E[log p(x_0 | x_s)] + int_s^T w E||eps - eps_hat||^2 dt
    (L8)  w = -log_snr' / 2,    w ||eps - eps_hat||^2 dt = cos(phi) ||v - v_hat||^2 du,    v as in (L1)

with what the network says under the hats. The right form has no poles, and t is drawn uniformly in u.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.diffusion.losses import decoder_nll, diffuse
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.adaptive import one_by_one

Probes = Float[Array, "batch probes ..."]
Flow = tuple[Float[Array, "batch ..."], Float[Array, " batch"]]  # z, and the integral of the trace so far
Derivative = Callable[[Array, Flow, Probes], Flow]  # (u [] or [B], flow, probes) -> d flow / du
TraceName = Literal["exact", "hutchinson"]
IntegratorName = Literal["heun", "rk4", "dopri5"]
# The bins of quantised data, k = 0 .. levels - 1, by the transform (`jaxgen.data.transforms`) that made what the model
# was trained on:
# "dequantize": from 2 k / levels - 1 to 2 (k + 1) / levels - 1, over which it spreads noise. They fill [-1, 1]. x_0 is
#   such data, of which the bin alone matters, or data that `scale` made.
# "scale": of width 2 / (levels - 1) around the values 2 k / (levels - 1) - 1 that it gives; those of (11), but closed
#   at the ends. x_0 is such data.
Bins = Literal["dequantize", "scale"]


# --- The trace ------------------------------------------------------------------------------------------------------

Trace = Callable[[Float[Array, "batch ..."], Key[Array, " batch"]], Probes]  # vectors over whose v^T J v (L4) sums


def exact() -> Trace:
  """All D basis vectors: D backward passes of the network, and memory of D times the batch. For small D."""

  def probes(x: Float[Array, "batch ..."], keys: Key[Array, " batch"]) -> Probes:
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *x.shape[1:])
    return jnp.broadcast_to(basis, (len(x), *basis.shape))

  return probes


def hutchinson(probes: int = 1, noise: Literal["rademacher", "gaussian"] = "rademacher") -> Trace:
  """So many random vectors per example, the same along the whole ODE; unbiased.

  noise: "rademacher", signs, has the least variance, and none where J is diagonal; "gaussian" is N(0, I).

  Raises:
    UserError: probes < 1.
  """
  if probes < 1:
    raise UserError(f"Hutchinson's trace estimate takes 1 or more probes, not {probes}: change their number")
  draw = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}[noise]

  def of_examples(x: Float[Array, "batch ..."], keys: Key[Array, " batch"]) -> Probes:
    one = lambda key: draw(key, (probes, *x.shape[1:]), x.dtype) / probes**0.5  # a mean over probes is this sum
    return jax.vmap(one)(keys)

  return of_examples


# --- Integration ----------------------------------------------------------------------------------------------------

Integrator = Callable[[Derivative, Array, Array, Flow, Probes], Flow]  # the second and third are u's first and last


def rk4(steps: int = 48) -> Integrator:
  """The classical Runge-Kutta method, equal steps of u: fourth order, 4 network calls a step.

  Raises:
    UserError: steps < 1.
  """
  return _runge_kutta([0.0, 1 / 2, 1 / 2, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6], steps)


def heun(steps: int = 96) -> Integrator:
  """Heun's method, equal steps of u: second order, 2 network calls a step.

  Raises:
    UserError: steps < 1.
  """
  return _runge_kutta([0.0, 1.0], [1 / 2, 1 / 2], steps)


def _runge_kutta(nodes: list[float], weights: list[float], steps: int) -> Integrator:
  """Methods whose every stage starts from the derivative of the one before it, at its own node's distance.

  The network is compiled once, as the body of a scan over stages inside a scan over steps.
  """
  if steps < 1:
    raise UserError(f"the ODE's likelihood takes at least 1 step, not {steps}: change the number of steps")

  def integrate(derivative: Derivative, start: Array, end: Array, flow: Flow, probes: Probes) -> Flow:
    h = (end - start) / steps
    ahead = lambda flow, h, k: jax.tree.map(lambda a, b: a + h * b, flow, k)
    tableau = jnp.asarray(nodes, h.dtype), jnp.asarray(weights, h.dtype)

    def step(flow: Flow, i: Array) -> tuple[Flow, None]:
      def stage(carry: tuple[Flow, Flow], now: tuple[Array, Array]) -> tuple[tuple[Flow, Flow], None]:
        k, total = carry
        node, weight = now
        k = derivative(start + (i + node) * h, ahead(flow, node * h, k), probes)
        return (k, ahead(total, weight * h, k)), None

      nothing = jax.tree.map(jnp.zeros_like, flow)
      return jax.lax.scan(stage, (nothing, flow), tableau)[0][1], None

    return jax.lax.scan(step, flow, jnp.arange(steps, dtype=h.dtype))[0]

  return integrate


def dopri5(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096) -> Integrator:
  """Dormand and Prince's 5(4) pair by diffrax, each example with steps of its own: 6 network calls a step.

  The network is called with the whole batch, t [B], until the last example is done. One that would take more than
  max_steps is NaN.

  rtol, atol: of the error of a step, of z as a root mean square and of the log-density itself.

  Raises:
    UserError: a tolerance that is not positive.
  """
  if min(rtol, atol) <= 0:
    raise UserError(f"an adaptive solver's tolerances are positive, not rtol={rtol:g} and atol={atol:g}: change them")

  def norm(error: Any) -> Array:
    z, log_density = error
    return jnp.maximum(jnp.sqrt(jnp.mean(z**2)), jnp.abs(log_density))

  def integrate(derivative: Derivative, start: Array, end: Array, flow: Flow, probes: Probes) -> Flow:
    import diffrax  # takes a second

    of_one, constants = one_by_one(derivative, jnp.broadcast_to(start, flow[1].shape), flow, probes)

    def one(flow: Any, probes: Array) -> Any:  # of one example, without the batch's axis
      solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda u, flow, given: of_one(given[0], u, flow, given[1])),
        diffrax.Dopri5(),
        t0=start,
        t1=end,
        dt0=None,
        y0=flow,
        args=(constants, probes),
        stepsize_controller=diffrax.PIDController(rtol, atol, norm=norm),
        max_steps=max_steps,
        throw=False,
      )
      solved = solution.result == diffrax.RESULTS.successful
      return jax.tree.map(lambda a: jnp.where(solved, a[0], jnp.nan), solution.ys)

    return jax.vmap(one)(flow, probes)

  return integrate


TRACES = {"exact": exact, "hutchinson": hutchinson}
INTEGRATORS = {"heun": heun, "rk4": rk4, "dopri5": dopri5}


# --- Likelihoods ----------------------------------------------------------------------------------------------------


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
  t_min, T = _ends(schedule, t_min, x.dtype)
  norm = lambda t: jnp.hypot(schedule.alpha(t), schedule.sigma(t))

  def derivative(u: Array, flow: Flow, probes: Probes) -> Flow:
    z, _ = flow
    t = jnp.clip(_time(schedule, u), t_min, T)
    alpha, sigma, n = (_rows(value, z) for value in (schedule.alpha(t), schedule.sigma(t), norm(t)))

    def velocity(z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
      x_0, eps = denoise(n * z, t)[:2]
      return sigma / n**2 * (alpha * eps - sigma * x_0)  # (L2)

    dz, pull = jax.vjp(velocity, z)
    add = lambda total, v: (total + _sum(v * pull(v)[0]), None)
    n_probes = probes.shape[1]
    return dz, jax.lax.scan(add, jnp.zeros_like(flow[1]), probes.swapaxes(0, 1), unroll=n_probes == 1)[0]

  ends = _position(schedule, t_min), _position(schedule, T)
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


# --- The bound in continuous time -----------------------------------------------------------------------------------


def continuous_bound(
  denoise: Denoise,
  schedule: Schedule,
  x_0: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  levels: int | None,
  terms: int = 128,
  t_min: float | None = None,
) -> Float[Array, " batch"]:
  """An unbiased estimate of the bound (L7) on -log p(x_0), nats per example, for any schedule, discrete ones too.

  p(x_0 | x_s) is (11) with the network's x_0 at s as its mean and the standard deviation sigma / alpha.

  Args:
    denoise: (x [B, ...], t [B]) -> (x_0, eps); called terms + 1 times.
    levels: how many values a dimension takes, equidistant in [-1, 1]; None for continuous data.
    terms: draws of t for each example, each from its own part of the integral.
    t_min: s; the schedule's unless given.

  Raises:
    UserError: terms < 1, t_min is 0, where there is no noise, or not below T.
  """
  if terms < 1:
    raise UserError(f"the bound's integral takes 1 or more terms, not {terms}: change their number")
  t_min, T = _ends(schedule, t_min, x_0.dtype)
  first, last = _position(schedule, t_min), _position(schedule, T)

  def add(total: Array, k: Array) -> tuple[Array, None]:
    u_keys, eps_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, k)), out_axes=1)(keys)
    within = jax.vmap(lambda key: jax.random.uniform(key, (), x_0.dtype))(u_keys)
    t = jnp.clip(_time(schedule, first + (last - first) * (k + within) / terms), t_min, T)
    phi = jnp.arctan2(schedule.sigma(t), schedule.alpha(t))
    x_t, eps = diffuse(schedule, x_0, t, eps_keys)
    x_0_hat, eps_hat = denoise(x_t, t)[:2]
    error = _rows(jnp.cos(phi), x_0) * (eps - eps_hat) - _rows(jnp.sin(phi), x_0) * (x_0 - x_0_hat)  # v - v_hat
    return total + (last - first) / terms * jnp.cos(phi) * _sum(error**2), None

  integral = jax.lax.scan(add, jnp.zeros(len(x_0), x_0.dtype), jnp.arange(terms))[0]

  x_s, _ = diffuse(schedule, x_0, jnp.full(len(x_0), t_min), jax.vmap(jax.random.fold_in, (0, None))(keys, terms))
  mean = denoise(x_s, jnp.full(len(x_0), t_min))[0]
  decoder = _sum(decoder_nll(x_0, mean, schedule.sigma(t_min) / schedule.alpha(t_min), levels))

  alpha_T, sigma_T = schedule.alpha(T) / schedule.prior_std, schedule.sigma(T) / schedule.prior_std
  log_variance = 2 * jnp.log(sigma_T)
  prior = 0.5 * _sum((alpha_T * x_0) ** 2 + jnp.expm1(log_variance) - log_variance)  # (9) with the prior's variance
  return prior + decoder + integral


# --- What they share ------------------------------------------------------------------------------------------------


def _ends(schedule: Schedule, t_min: float | None, dtype: Any) -> tuple[Array, Array]:
  """(t_min, T)."""
  t_min = schedule.t_min if t_min is None else t_min
  if schedule.is_clean(t_min) or not t_min < schedule.T:
    raise UserError(f"a likelihood starts at a t_min above 0, with noise, and below {schedule.T:g}, not at {t_min:g}")
  return jnp.asarray(t_min, dtype), jnp.asarray(schedule.T, dtype)


def _position(schedule: Schedule, t: Array) -> Array:
  """u of (L2)."""
  return -jnp.arcsinh(schedule.alpha(t) / schedule.sigma(t))


def _time(schedule: Schedule, u: Array) -> Array:
  """The t at u; log-SNR is -inf at u = 0."""
  return schedule.time(2 * jnp.log(jnp.sinh(jnp.maximum(-u, 0))))  # a last step may round to u > 0


def _prior(schedule: Schedule, x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
  """log N(x; 0, prior_std^2 I)."""
  z = x / schedule.prior_std
  return -_sum(0.5 * z**2 + float(np.log(schedule.prior_std) + 0.5 * np.log(2 * np.pi)))


def _rows(a: Float[Array, "..."], x: Float[Array, "batch ..."]) -> Float[Array, "..."]:
  """[] or [B], to broadcast against x."""
  return a.reshape(a.shape + (1,) * (x.ndim - 1))


def _sum(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
  return jnp.sum(x, axis=range(1, x.ndim))
