"""Pictures that are changed by a diffusion model that knows nothing of the change: what a sampler is started from.

    noised      x_0 at a time of the way, from which `sampling.sample` goes on: SDEdit, image to image
    repaint     the part of a picture that is not known, given the part that is
    rebuilt     the same by the gradient of how well the known part is predicted, as for the frames of a clip
    inverted    the noise that DDIM makes a picture of

All work for any schedule and denoiser, latents as well as pixels, and guided predictions too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, normal, split
from jaxgen.diffusion.sampling import Denoise, Solver, apart, check_times, first_order
from jaxgen.diffusion.schedules import Schedule

Examples = Float[Array, "n ..."]
Times = Float[np.ndarray | Array, " times"]


def beginning(n: int, strength: float | Float[Array, ""]) -> Int[Array, ""]:
  """The number, from 0, of the first of n steps where the last share `strength` of them is taken, at least one.

  The share is rounded down, as in diffusers' pipelines.

  Raises:
    UserError: strength outside (0, 1]; a traced one is clipped.
  """
  if not isinstance(strength, jax.core.Tracer) and not 0 < float(strength) <= 1:
    raise UserError(
      f"strength is the share of the way that a picture is noised and taken back, above 0 and at most 1, not "
      f"{float(strength):g}: change it"
    )
  # Rounding must not lose a step of 0.3 of 10.
  kept = jnp.floor(n * jnp.asarray(strength, jnp.result_type(float)) + 1e-4).astype(jnp.int32)
  return n - jnp.clip(kept, 1, n)


def noised(schedule: Schedule, x_0: Examples, t: Float[Array, ""], keys: Key[Array, " n"]) -> Float[Array, "n ..."]:
  """alpha_t x_0 + sigma_t eps: SDEdit begins there, Meng et al. 2021, https://arxiv.org/abs/2108.01073, Algorithm 1."""
  return schedule.alpha(t) * x_0 + schedule.sigma(t) * normal(keys, x_0.shape[1:], x_0.dtype)


def visits(n: int, jump: int, resampling: int) -> Int[np.ndarray, " visits"]:
  """The places of a grid of n steps that `repaint` visits, from 0, noise, to n, data.

  From place n - 1 - k jump, k = 0, 1, .., the walk goes back by `jump` steps, until it has been there `resampling`
  times: the authors' `get_schedule_jump`.

  Raises:
    UserError: fewer than 1 of anything.
  """
  if n < 1 or jump < 1 or resampling < 1:
    raise UserError(
      f"RePaint takes 1 step or more, jumps back by 1 or more and passes 1 time or more, not {n}, {jump} and "
      f"{resampling}: change them"
    )
  left = {k: resampling - 1 for k in range(0, n - jump, jump)}  # by the number of steps before the last one
  order, k = [], n
  while k >= 1:
    k -= 1
    order.append(k)
    if left.get(k, 0) > 0:
      left[k] -= 1
      for _ in range(jump):
        k += 1
        order.append(k)
  return n - 1 - np.array([*order, -1])


def repaint(
  solver: Solver,
  denoise: Denoise,
  times: Times,
  x: Examples,
  keys: Key[Array, " n"],
  known: Examples,
  keep: Bool[Array, "n ..."],
  jump: int = 10,
  resampling: int = 10,
) -> Float[Array, "n ..."]:
  """RePaint: Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865, Algorithm 1, with jumps as in their Appendix B.

  After each step the known part is replaced by itself with the noise of that time. What is made beside it does not know
  it yet, so the walk goes back by `jump` steps' noise, and again, until each stretch was passed `resampling` times.
  With resampling = 1 the known part is only replaced. The result's known part is `known`, bit for bit.

  Args:
    solver: one that needs no past and takes the grid's steps; the paper's is ancestral, `ddim(eta=1)`.
    denoise: (x, t) -> (x_0, eps).
    times: the grid, from noise to data.
    x: noise, at times[0].
    keys: one for each example.
    known: examples whose part is known.
    keep: True where it is, for the leading axes of an example: [N, H, W] of pictures.
    jump, resampling: j and r of the paper.

  Raises:
    UserError: a solver with a past or steps of its own, or a mask of another size.
  """
  check_times(solver.schedule, times)
  if solver.solve is not None or solver.order > 1 or jax.tree.leaves(solver.init(x)):
    raise UserError("RePaint goes back and forth: choose a solver without a past and with steps of the grid, as ddim")
  check_mask(keep, known)
  keep = per_example(keep, x)
  n, schedule = len(times) - 1, solver.schedule
  first, last = apart(solver, times)
  at = visits(n, jump, resampling)
  # 0: back to more noise; 1: a step of the solver; 2: a first-order step
  apart_ones = ([0] if first else []) + ([n - 1] if last else [])
  kinds = np.where(np.diff(at) < 0, 0, np.where(np.isin(at[:-1], apart_ones), 2, 1))
  times = jnp.asarray(times, x.dtype)

  def back(x, t, s, keys):
    ratio = schedule.alpha(s) / schedule.alpha(t)
    variance = schedule.sigma(s) ** 2 - (ratio * schedule.sigma(t)) ** 2
    return ratio * x + jnp.sqrt(jnp.maximum(variance, 0)) * normal(keys, x.shape[1:], x.dtype)

  def forth(step):
    def take(x, t, s, keys):
      step_keys, known_keys = split(keys)
      x, _ = step(denoise, solver.init(x), x, t, s, step_keys)
      return jnp.where(keep, noised(schedule, known, s, known_keys), x)

    return take

  ways = [back, forth(solver.step), forth(first_order(schedule))]
  used = sorted(set(kinds.tolist()))  # each is compiled, with the network

  def move(x, now):
    number, kind, t, s = now
    return jax.lax.switch(kind, [ways[kind] for kind in used], x, t, s, fold_in(keys, number)), None

  order = jnp.asarray(np.searchsorted(used, kinds))
  x, _ = jax.lax.scan(move, x, (jnp.arange(len(kinds)), order, times[at[:-1]], times[at[1:]]))
  return jnp.where(keep, known, x)


def rebuilt(
  denoise: Denoise,
  schedule: Schedule,
  known: Examples,
  keep: Bool[Array, "n ..."],
  weight: float | Float[Array, ""] | Callable[[Array], Array] = 1.0,
) -> Denoise:
  """Reconstruction guidance: Ho et al. 2022, https://arxiv.org/abs/2204.03458, section 3.1, eq. 7.

  With x^a the known part, x^b the rest, and w the weight,

      x_0^b <- x_0^b - (w alpha_t / 2) grad_{x_t^b} ||x^a - x_0^a(x_t)||^2,   x_0^a <- x^a

  The exact conditional prediction is E[x^b | x_t] + (sigma_t^2 / alpha_t) grad log p(x^a | x_t). The guided one is this
  with N(x^a; x_0^a(x_t), (sigma_t^2 / (w alpha_t^2)) I) in place of p(x^a | x_t). So it is exact where x^a given x_t
  has that covariance: w is then the ratio of sigma_t^2 / alpha_t^2 to its variance, 1 or more for Gaussian data.

  The prediction of the known part is the part itself, so that each solver takes it along q(x_s | x_t, x_0): the paper's
  replacement. Each call is one of the network and its gradient.

  Args:
    denoise: (x, t) -> (x_0, eps).
    schedule: its schedule.
    known: examples whose part is known.
    keep: True where it is, for the leading axes of an example: [N, T] for frames of clips.
    weight: w, or a function of t.

  Raises:
    UserError: a mask of another size.
  """
  check_mask(keep, known)
  keep = per_example(keep, known)

  def guided(x, t):
    alpha, sigma = per_example(schedule.alpha(t), x), per_example(schedule.sigma(t), x)
    w = per_example(jnp.asarray(weight(t) if callable(weight) else weight, x.dtype), x)

    def error(x):
      x_0, _, *more = denoise(x, t)
      return jnp.sum(jnp.where(keep, known - x_0, 0) ** 2), (x_0, more)

    gradient, (x_0, more) = jax.grad(error, has_aux=True)(x)
    x_0 = jnp.where(keep, known, x_0 - w * alpha / 2 * gradient)
    return x_0, (x - alpha * x_0) / sigma, *more

  return guided


def check_mask(keep: Bool[Array, "n ..."], known: Examples) -> None:
  """Raises a UserError where a mask's size is not that of the examples' leading axes."""
  if keep.shape != known.shape[: keep.ndim]:
    raise UserError(
      f"a mask of shape {keep.shape[1:]} is of no picture of shape {known.shape[1:]}: give it the picture's size"
    )


def inverted(schedule: Schedule, denoise: Denoise, times: Times, x: Examples, repeats: int = 1) -> Examples:
  """x_T of which DDIM makes x_0: Song et al. 2020, https://arxiv.org/abs/2010.02502, section 4.3.

  DDIM's step from t to s is solved for x_t, with the network's eps at (x_s, t) in place of (x_t, t), as in diffusers.
  The error of going there and back is therefore of the first order of the steps. `repeats` > 1 puts the x_t that was
  found in place of x_s, and so on, which converges to the inverse of DDIM's step where steps are small.

  Args:
    schedule: the noise schedule.
    denoise: (x, t) -> (x_0, eps); a guided prediction is inverted badly.
    times: the grid, from noise to data, which DDIM goes down again.
    x: examples, at times[-1].
    repeats: network calls of a step.

  Raises:
    UserError: times that do not fall, or no calls.
  """
  check_times(schedule, times)
  if repeats < 1:
    raise UserError(f"an inversion calls the network 1 time a step or more, not {repeats}: change it")
  up = jnp.asarray(times, x.dtype)[::-1]

  def step(x, now):
    s, t = now
    x_t = x
    for _ in range(repeats):
      eps = denoise(x_t, t)[1]
      x_t = schedule.alpha(t) * (x - schedule.sigma(s) * eps) / schedule.alpha(s) + schedule.sigma(t) * eps
    return x_t, None

  return jax.lax.scan(step, x, (up[:-1], up[1:]))[0]
