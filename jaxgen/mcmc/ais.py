"""Annealed importance sampling: Neal 2001, https://arxiv.org/abs/physics/9803008, of a ratio of partition functions.

A family of energies U_beta leads from beta = 0, whose density is normalised and can be drawn from, to the target,
beta = 1. A run draws x from the first and then, for beta_0 = 0 < beta_1 < ... < beta_K = 1,

    (A1)  log w += U_beta_{k-1}(x) - U_beta_k(x),  x <- a Markov step that leaves exp(-U_beta_k) invariant

and E w = Z_1 / Z_0. Over M runs, with the mean and the standard deviation s of w,

    (A2)  log Z = log Z_0 + log mean(w)     with standard error s / (sqrt(M) mean(w)), by the delta method

which is unreliable if a few runs have most of the weight: the estimate is then too low by an unknown amount.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.mcmc import Kernel
from jaxgen.mcmc.tempering import check_betas

PARTS = ((0.0, 0.5, 1), (0.5, 0.9, 8), (0.9, 1.0, 20))  # from, to, 29ths of the steps


class Estimate(NamedTuple):
  """An estimate of log Z.

  Attributes:
    log_z: (A2), nats.
    error: its standard error, nats.
    log_w: the log-weight of each run, [runs].
  """

  log_z: Float[Array, ""]
  error: Float[Array, ""]
  log_w: Float[Array, " runs"]


def schedule(steps: int) -> np.ndarray:
  """Inverse temperatures 0 = beta_0 < ... < beta_K = 1 with K = steps, denser near 1.

  The proportions are those of Salakhutdinov and Murray 2008, section 4.1: 500 steps to 0.5, 4,000 to 0.9 and 10,000 to
  1.

  Raises:
    UserError: there are fewer than three steps.
  """
  if steps < 3:
    raise UserError(f"annealing takes 3 or more steps, not {steps}: change it")
  counts = [max(1, round(steps * share / 29)) for *_, share in PARTS]
  counts[-1] = steps - sum(counts[:-1])
  parts = [np.linspace(low, high, n, endpoint=False) for (low, high, _), n in zip(PARTS, counts, strict=True)]
  return np.append(np.concatenate(parts), 1.0)


def ais(
  kernel: Callable[[Array], Kernel],
  energy: Callable[[Array, Array], Float[Array, " runs"]],
  x: Array,
  log_z_0: Float[Array, ""] | float,
  betas: np.ndarray,
  keys: Key[Array, " runs"],
) -> Estimate:
  """(A1) and (A2), by one `lax.scan` over the temperatures for all runs.

  The sums of log w are compensated (Kahan), so that float32 keeps ten thousand small terms.

  Args:
    kernel: beta -> a kernel with the stationary density exp(-U_beta).
    energy: (x [runs, ...], beta) -> U_beta(x).
    x: draws from exp(-U_0), [runs, ...].
    log_z_0: log of the normaliser of exp(-U_0).
    betas: increasing inverse temperatures from 0 to 1.
    keys: a key for each run.

  Raises:
    UserError: there is a single run, which has no standard error, or betas do not increase from 0 to 1.
  """
  if len(keys) < 2:
    raise UserError("a standard error needs 2 or more runs of annealed importance sampling: ask for more")
  check_betas(betas)
  if betas[0] != 0:
    raise UserError(f"annealing begins at the inverse temperature 0, not at {betas[0]:g}: change it")
  betas = jnp.asarray(betas, x.dtype)

  def anneal(carry: tuple[Array, Array, Array], at: tuple[Array, Array, Array]) -> tuple[tuple, None]:
    x, log_w, lost = carry
    before, beta, k = at
    term = energy(x, before) - energy(x, beta) - lost
    total = log_w + term
    lost = (total - log_w) - term
    chain = kernel(beta)
    moved, _ = chain.step(chain.init(x), fold_in(keys, k))
    return (moved.x, total, lost), None

  nothing = jnp.zeros(len(keys), x.dtype)
  (_, log_w, _), _ = jax.lax.scan(anneal, (x, nothing, nothing), (betas[:-1], betas[1:], jnp.arange(len(betas) - 1)))
  return estimate(log_w, log_z_0)


def estimate(log_w: Float[Array, " runs"], log_z_0: Float[Array, ""] | float = 0.0) -> Estimate:
  """(A2)."""
  w = jnp.exp(log_w - log_w.max())
  log_z = log_z_0 + log_w.max() + jnp.log(w.mean())
  return Estimate(log_z, w.std(ddof=1) / (w.mean() * np.sqrt(len(w))), log_w)
