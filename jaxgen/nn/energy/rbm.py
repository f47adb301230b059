"""Restricted Boltzmann machines: D visible and H binary hidden units, with connections only between the two kinds.

With h in {0, 1}^H the energies, in nats, are

    (R1)  E(v, h) = -b v - c h - v W h                              v in {0, 1}^D
    (R2)  E(v, h) = sum_i u_i^2 / 2 - c h - u W h                   v in R^D, u = (v - b) / sigma

and p(v, h) = exp(-E) / Z. (R1) is Smolensky 1986 and Hinton 2002, Training products of experts by minimizing
contrastive divergence. (R2) is Hinton 2010, A practical guide to training restricted Boltzmann machines, section 13.2,
but with u in place of v / sigma. That is the same model with another c; with v / sigma hidden units saturate if b is
many sigma. sigma is fixed, or learned by z = log sigma^2 as in Cho, Ilin and Raiko 2011, Improved learning of
Gaussian-Bernoulli restricted Boltzmann machines. With u = v and sigma = 1 in (R1), both have

    (R3)  p(h_j = 1 | v) = sigmoid(c + u W)_j
    (R4)  p(v_i | h) has the location m_i = (b + sigma W h)_i: a logit in (R1), the mean of a Gaussian in (R2)
    (R5)  F(v) = -log sum_h exp(-E(v, h)) = -b v - sum_j softplus(c + u W)_j    in (R2) with sum_i u_i^2 / 2 for -b v
    (R6)  -log int exp(-E(v, h)) dv = -c h - sum_i A(m_i)    with A(m) = softplus(m), or in (R2)
          ((m - b) / sigma)^2 / 2 + log(2 pi sigma^2) / 2

The path from a model with independent visible units, of biases a, to the machine also consists of machines:

    (R7)  E_beta: W beta, c beta, a + beta (b - a)

In Salakhutdinov and Murray 2008, On the quantitative analysis of deep belief networks, eq. 15, a are the base rates of
the data. Every function below takes the inverse temperature `beta`, one number or one for each row, and `base`, which
is a and by default b.

    network = RBM(784, 500)
    F = network.apply({"params": p}, v, method="free_energy")       # [B, 784] in {0, 1} -> [B] nats
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError

Visible = Float[Array, "*batch D"]
Hidden = Float[Array, "*batch H"]
Energies = Float[Array, "*batch"]
Base = Float[Array, " D"] | None
Beta = float | Float[Array, "..."]
Side = Literal["visible", "hidden"]
MOST = 25  # the largest number of units over whose states `log_partition` sums: 2^25 states take minutes


class Units(NamedTuple):
  """A kind of visible units, with biases b, location m given h, and standard deviation sigma.

  Attributes:
    levels: number of values that a unit takes; None: real numbers.
    standard: (v, b, sigma) -> u.
    energy: (v, b, sigma) -> each unit's energy for W = 0.
    log_partition: (m, b, sigma) -> A(m) of (R6).
    mean: m -> the mean of v.
    draw: (key, m, sigma) -> v.
    bias: mean of the data -> the b that gives this mean for W = 0.
    sigma: the standard deviation, if it is not learned.
    learned: z = log sigma^2 is a parameter for each unit.
  """

  levels: int | None
  standard: Callable[[Array, Array, Array], Array]
  energy: Callable[[Array, Array, Array], Array]
  log_partition: Callable[[Array, Array, Array], Array]
  mean: Callable[[Array], Array]
  draw: Callable[[Array, Array, Array], Array]
  bias: Callable[[Array], Array]
  sigma: float = 1.0
  learned: bool = False


def _bernoulli(key: Array, m: Array, sigma: Array | float = 1.0) -> Array:
  return jax.random.bernoulli(key, jax.nn.sigmoid(m)).astype(m.dtype)


def bernoulli() -> Units:
  """Units with values 0 or 1. For biases, means are clipped to 0.01 .. 0.99: some pixels are equal in all examples."""

  def bias(mean: Array) -> Array:
    p = jnp.clip(mean, 0.01, 0.99)
    return jnp.log(p) - jnp.log1p(-p)

  return Units(
    2,
    standard=lambda v, b, sigma: v,
    energy=lambda v, b, sigma: -b * v,
    log_partition=lambda m, b, sigma: jax.nn.softplus(m),
    mean=jax.nn.sigmoid,
    draw=_bernoulli,
    bias=bias,
  )


def gaussian(sigma: float | None = 1.0) -> Units:
  """Units with real values, with standard deviation sigma given h.

  Args:
    sigma: the standard deviation, for data that is scaled to it; None: it is learned for each unit.

  Raises:
    UserError: sigma <= 0.
  """
  if sigma is not None and not sigma > 0:
    raise UserError(f"sigma is larger than 0, and this is {sigma:g}: change it, or give None to learn it")
  standard = lambda v, b, sigma: (v - b) / sigma
  return Units(
    None,
    standard=standard,
    energy=lambda v, b, sigma: jnp.square(standard(v, b, sigma)) / 2,
    log_partition=lambda m, b, sigma: jnp.square(standard(m, b, sigma)) / 2 + jnp.log(2 * math.pi * sigma**2) / 2,
    mean=lambda m: m,
    draw=lambda key, m, sigma: m + sigma * jax.random.normal(key, m.shape, m.dtype),
    bias=lambda mean: mean,
    sigma=1.0 if sigma is None else sigma,
    learned=sigma is None,
  )


class RBM(nn.Module):
  """(R1), or with `gaussian` units (R2). Parameters: W [D, H], b [D], c [H], and z [D] if the variance is learned.

  W starts from a Gaussian of standard deviation 0.01, as in Hinton's guide, section 8; b, c and z start at 0.

  Attributes:
    visible, hidden: D and H.
  """

  visible: int
  hidden: int
  units: Units = bernoulli()
  param_dtype: Any = jnp.float32

  def setup(self):
    small, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
    self.W = self.param("W", small, (self.visible, self.hidden), self.param_dtype)
    self.b = self.param("b", zeros, (self.visible,), self.param_dtype)
    self.c = self.param("c", zeros, (self.hidden,), self.param_dtype)
    if self.units.learned:
      self.sigma = jnp.exp(self.param("z", zeros, (self.visible,), self.param_dtype) / 2)
    else:
      self.sigma = jnp.full((self.visible,), self.units.sigma, self.param_dtype)

  def __call__(self, v: Visible) -> Energies:
    return self.free_energy(v)

  def energy(self, v: Visible, h: Hidden) -> Energies:
    """(R1) or (R2)."""
    u = self.units.standard(v, self.b, self.sigma)
    return jnp.sum(self.units.energy(v, self.b, self.sigma), axis=-1) - h @ self.c - jnp.sum(u @ self.W * h, axis=-1)

  def hidden_logits(self, v: Visible, beta: Beta = 1.0, base: Base = None) -> Hidden:
    """(R3)."""
    beta = _column(beta)
    return beta * (self.c + self.units.standard(v, self._bias(beta, base), self.sigma) @ self.W)

  def location(self, h: Hidden, beta: Beta = 1.0, base: Base = None) -> Visible:
    """(R4)."""
    beta = _column(beta)
    return self._bias(beta, base) + beta * self.sigma * (h @ self.W.T)

  def free_energy(self, v: Visible, beta: Beta = 1.0, base: Base = None) -> Energies:
    """(R5)."""
    own = self.units.energy(v, self._bias(_column(beta), base), self.sigma)
    return jnp.sum(own, axis=-1) - jnp.sum(jax.nn.softplus(self.hidden_logits(v, beta, base)), axis=-1)

  def free_energy_of_hidden(self, h: Hidden) -> Energies:
    """(R6)."""
    return -h @ self.c - jnp.sum(self.units.log_partition(self.location(h), self.b, self.sigma), axis=-1)

  def log_partition_at_base(self, base: Float[Array, " D"]) -> Float[Array, ""]:
    """log Z of (R7) with beta = 0."""
    return jnp.sum(self.units.log_partition(base, base, self.sigma)) + self.hidden * math.log(2)

  def draw_hidden(
    self, keys: Key[Array, " rows"], v: Float[Array, "rows D"], beta: Beta = 1.0, base: Base = None
  ) -> Float[Array, "rows H"]:
    """h ~ p(h | v), row i from keys[i]."""
    return jax.vmap(_bernoulli)(keys, self.hidden_logits(v, beta, base))

  def draw_visible(
    self, keys: Key[Array, " rows"], h: Float[Array, "rows H"], beta: Beta = 1.0, base: Base = None
  ) -> Float[Array, "rows D"]:
    """v ~ p(v | h), row i from keys[i]."""
    return jax.vmap(self.units.draw, (0, 0, None))(keys, self.location(h, beta, base), self.sigma)

  def draw_base(self, keys: Key[Array, " rows"], base: Base = None) -> Float[Array, "rows D"]:
    """v of (R7) with beta = 0."""
    m = self.b if base is None else base
    return jax.vmap(self.units.draw, (0, None, None))(keys, m, self.sigma)

  def reconstruct(self, v: Visible) -> Visible:
    """The mean of v given the mean of h given v.

    For (R1), its repetition is the mean-field recursion of Welling and Hinton 2002, A new learning algorithm for mean
    field Boltzmann machines.
    """
    return self.units.mean(self.location(jax.nn.sigmoid(self.hidden_logits(v))))

  def _bias(self, beta: Array | float, base: Base) -> Array:
    return self.b if base is None else base + beta * (self.b - base)


def _column(beta: Beta) -> Array | float:
  return beta[..., None] if isinstance(beta, jax.Array) and beta.ndim else beta


def summed_side(network: RBM, side: Side | None = None) -> Side:
  """The side over whose states `log_partition` sums: `side`, or the one with fewer units.

  Raises:
    UserError: this side has more than 25 units, or its units have real values.
  """
  sizes = {"visible": network.visible, "hidden": network.hidden}
  if network.units.levels is None:
    sizes.pop("visible")
  side = side or min(sizes, key=lambda name: sizes[name])
  if side not in sizes:
    raise UserError("real visible units have no states to sum over: sum over the hidden ones")
  if sizes[side] > MOST:
    raise UserError(
      f"the sum over all states of {sizes[side]} {side} units is too long, {MOST} at most: estimate it by ais(...)"
    )
  return side


def log_partition(network: RBM, params: Any, side: Side | None = None, chunk: int = 4096) -> Float[Array, ""]:
  """log Z in nats, exactly, by a sum over all states of one side's units; the other side is summed in closed form.

  Args:
    side: as in `summed_side`, whose errors it raises.
    chunk: number of states in memory at once, rounded up to a power of 2.
  """
  side = summed_side(network, side)
  n, method = {
    "visible": (network.visible, "free_energy"),
    "hidden": (network.hidden, "free_energy_of_hidden"),
  }[side]
  low = min(n, math.ceil(math.log2(chunk)))
  dtype = params["W"].dtype
  bits = lambda numbers, count: (numbers[:, None] >> jnp.arange(count) & 1).astype(dtype)
  lower = bits(jnp.arange(2**low), low)

  def add(total: Array, upper: Array) -> tuple[Array, None]:
    states = jnp.concatenate([lower, jnp.broadcast_to(upper, (len(lower), n - low))], axis=1)
    F = network.apply({"params": params}, states, method=method)
    return jnp.logaddexp(total, jax.nn.logsumexp(-F)), None

  return jax.lax.scan(add, jnp.asarray(-jnp.inf, dtype), bits(jnp.arange(2 ** (n - low)), n - low))[0]
