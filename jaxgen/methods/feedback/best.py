"""Baselines without training: the best of n answers, and rejection sampling.

The best of n samples of q by a score without ties has, with F(y) the probability of a score up to y's,

    (N1)  p(y) = F(y)^n - (F(y) - q(y))^n
    (N2)  KL(p, q) <= log n - (n - 1) / n

with equality in (N2) where q is continuous: Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, appendix G.3;
Beirami et al. 2024, https://arxiv.org/abs/2401.01879, show the bound. Rejection sampling accepts a sample of q with
probability exp((r - r_max) / beta), and so draws from q exp(r / beta) / Z, the policy that PPO and DPO aim at.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Shaped

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError

Draw = Callable[[Key[Array, "n"]], Array]
Score = Callable[[Any], Array]


def best_of_n_kl(n: int) -> float:
  """(N2), in nats.

  Raises:
    UserError: n below 1.
  """
  _check(n)
  return math.log(n) - (n - 1) / n


def best_of_n(draw: Draw, score: Score, keys: Key[Array, "count"], n: int) -> Shaped[Array, "count *shape"]:
  """For each key the sample of highest score among n.

  Args:
    draw: keys [N] -> samples [N, ...], each a function of its key.
    score: samples [N, ...] -> [N].
    n: samples for each key; the i-th is drawn with fold_in(key, i).

  Raises:
    UserError: n below 1.
  """
  _check(n)

  def body(best, i):
    samples = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, i))
    scores = score(samples)
    better = scores > best[1]
    take = lambda new, old: jnp.where(per_example(better, new), new, old)
    return (take(samples, best[0]), jnp.where(better, scores, best[1])), None

  first = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, 0))
  (samples, _), _ = jax.lax.scan(body, (first, score(first)), jnp.arange(1, n))
  return samples


def accepted(
  scores: Float[Array, "n"], keys: Key[Array, "n"], beta: float, most: float | None = None
) -> Shaped[Array, "n"]:
  """Rejection sampling: which samples of q to keep, so that these are samples of q exp(r / beta) / Z.

  Args:
    scores: r of each sample.
    beta: the temperature.
    most: the highest score that there is; None: the highest of these, which is exact only as their number grows.

  Raises:
    UserError: a beta that is not above 0.
  """
  if not 0 < beta < float("inf"):
    raise UserError(f"beta must be a finite number above 0, not {beta:g}: a small one keeps only the best samples")
  uniform = jax.vmap(jax.random.uniform)(keys)
  return jnp.log(uniform) < (scores - (jnp.max(scores) if most is None else most)) / beta


def share_accepted(scores: Float[Array, "n"], beta: float) -> Float[Array, ""]:
  """The share of samples that rejection sampling keeps, on average."""
  return jnp.mean(jnp.exp((scores - jnp.max(scores)) / beta))


def _check(n: int | Int[Array, ""]) -> None:
  if n < 1:
    raise UserError(f"the best of n samples takes n of 1 or more, not {n}")
