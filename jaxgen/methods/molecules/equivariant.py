"""Diffusion of molecules that is equivariant to rotations, reflections and permutations: EDM of Hoogeboom et al. 2022.

https://arxiv.org/abs/2203.17003, "Ho" below, and their code. A molecule of N atoms is positions with centre of mass 0,
which are a space of D = 3 (N - 1) dimensions, and for each atom a one-hot type and its charge, the atomic number. All
are scaled, put side by side as z, and noised together; the noise of positions also has centre of mass 0:

    (M1)  z_t = alpha_t z + sigma_t eps,   gamma = log(sigma^2 / alpha^2),   t in 0, 1/T .. 1

    (M2)  alpha_t^2 = (1 - 2 p) (1 - t^2)^2 + p                                                       (their polynomial)

Noise of t = 0 is little and not none. The bound on -log p(x, h, N), nats per molecule (Ho section 3.3, Appendix A):

    (M3)  -log p(N) + D log s + KL(q(z_1 | x, h) || p(z_1)) + sum_t (exp(gamma_t - gamma_s) - 1) / 2 ||eps - eps_hat||^2
          + D (gamma_0 + log 2 pi) / 2 + ||eps_x - eps_x_hat||^2 / 2 - log p(h | z_0)

with s the positions' scale: their density is per cubed angstrom, in D dimensions. p(h | z_0) is the mass that
N(z_0, sigma_0^2) has within half a unit of a type's 1 or a charge, of types relative to all types'. The training loss
is the mean squared error of eps per value: that is no likelihood.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float, Key

from jaxgen.core.arrays import masked, per_example
from jaxgen.core.condition import UNCONDITIONAL, Condition, check_condition, check_names
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, normal, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion import Schedule, Solver, ancestral, learned, losses, sampling
from jaxgen.diffusion.predictions import eps as eps_prediction
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.nn.graphs.egnn import centred

Values = Float[Array, "batch atoms values"]
Mask = Bool[Array, "batch atoms"]
Nats = Float[Array, " batch"]
Noise = Callable[[Values, Float[Array, " batch"]], Values]  # (z_t, t) -> eps


class Molecules(NamedTuple):
  """The types of atoms, and the sizes of molecules. An example is [atoms, 4]: x, y, z in angstrom and the atomic
  number, 0 for no atom.

  Attributes:
    numbers: the atomic numbers, (1, 6, 7, 8, 9) in QM9.
    sizes: the number of molecules of each size: {number of atoms: molecules}; p(N) is in proportion.
    position_scale, type_scale, charge_scale: that positions, one-hot types and charges are divided by; Ho has 1, 4, 10.
    charges: whether charges are part of z.
  """

  numbers: tuple[int, ...]
  sizes: Mapping[int, int]
  position_scale: float = 1.0
  type_scale: float = 4.0
  charge_scale: float = 10.0
  charges: bool = True

  @property
  def values(self) -> int:
    """Values of an atom in z."""
    return 3 + len(self.numbers) + self.charges

  def log_sizes(self, most: int) -> Float[np.ndarray, " sizes"]:
    """log p(N) for N = 0 .. most; -inf for sizes that are not among `sizes`."""
    p = np.array([self.sizes.get(n, 0) for n in range(most + 1)], np.float64)
    with np.errstate(divide="ignore"):
      return np.log(p / p.sum())

  def encode(self, x: Float[Array, "batch atoms four"]) -> tuple[Values, Mask]:
    """(z [B, N, values], which atoms are there)."""
    x = x.astype(jnp.result_type(float))
    mask = x[..., 3] > 0
    kinds = (jnp.round(x[..., 3:]) == jnp.asarray(self.numbers, x.dtype)).astype(x.dtype)
    charges = [x[..., 3:] / self.charge_scale] if self.charges else []
    places = centred(x[..., :3], mask) / self.position_scale
    return masked(jnp.concatenate([places, kinds / self.type_scale, *charges], axis=-1), mask), mask

  def decode(self, places: Float[Array, "batch atoms 3"], z_0: Values, mask: Mask) -> Float[Array, "batch atoms 4"]:
    """Molecules of positions and of the likeliest types."""
    kind = jnp.argmax(z_0[..., 3 : 3 + len(self.numbers)], axis=-1)
    numbers = jnp.asarray(self.numbers, z_0.dtype)[kind][..., None]
    return masked(jnp.concatenate([centred(places, mask) * self.position_scale, numbers], axis=-1), mask)


def polynomial(precision: float = 1e-5) -> Schedule:
  """(M2); p is the precision.

  Raises:
    UserError: p is not between 0 and 1/2.
  """
  if not 0 < precision < 0.5:
    raise UserError(f"the schedule's precision lies between 0 and 1/2, not {precision:g}: change it")

  def gamma(t: Array) -> Array:
    square = 1 - t**2
    signal = (1 - 2 * precision) * square**2 + precision
    noise = precision + (1 - 2 * precision) * t**2 * (1 + square)
    return jnp.log(noise) - jnp.log(signal)

  return learned(gamma)


def noise(keys: Key[Array, " batch"], mask: Mask, values: int, dtype: Any) -> Values:
  """Standard normal values of the atoms that are there, positions with centre of mass 0."""
  eps = masked(normal(keys, (mask.shape[1], values), dtype), mask)
  return jnp.concatenate([centred(eps[..., :3], mask), eps[..., 3:]], axis=-1)


def projected(solver: Solver, mask: Mask) -> Solver:
  """The solver, whose every step is projected to centre of mass 0, and to 0 where there is no atom."""

  def step(denoise, carry, x, t, s, keys):
    x, carry = solver.step(denoise, carry, x, t, s, keys)
    x = masked(x, mask)
    return jnp.concatenate([centred(x[..., :3], mask), x[..., 3:]], axis=-1), carry

  return solver._replace(step=step)


def bound(
  kind: Molecules,
  schedule: Schedule,
  predict: Noise,
  x: Float[Array, "batch atoms 4"],
  keys: Key[Array, " batch"],
  *,
  steps: int = 1000,
  terms: int | None = None,
) -> Nats:
  """An unbiased estimate of (M3), nats per molecule, the term of its size included.

  Args:
    kind: what molecules are made of.
    schedule: of (M1).
    predict: (z_t, t [B]) -> eps; called terms + 1 times.
    x: molecules; an atom that `kind` does not have, or a size without probability there, has an infinite bound.
    keys: of each molecule.
    steps: T.
    terms: draws of t, each from its own part of 1 .. T; None: all.

  Raises:
    UserError: terms outside 1 .. T.
  """
  terms = steps if terms is None else terms
  if not 1 <= terms <= steps:
    raise UserError(f"the bound takes 1 to {steps} terms, or None for all of them, not {terms}: change it")
  z, mask = kind.encode(x)
  x = x.astype(z.dtype)
  gamma = lambda t: -schedule.log_snr(t)
  D = 3.0 * (jnp.sum(mask, axis=1) - 1)
  square = lambda a: jnp.sum(a**2, axis=(1, 2))

  def diffused(t: Array, keys: Array) -> tuple[Values, Values]:
    eps = noise(keys, mask, z.shape[-1], z.dtype)
    return per_example(schedule.alpha(t), z) * z + per_example(schedule.sigma(t), z) * eps, eps

  def add(total: Array, part: tuple) -> tuple[Array, None]:
    k, low, high = part
    t_keys, eps_keys = split(fold_in(keys, k))
    t = jax.vmap(lambda key: jax.random.randint(key, (), low + 1, high + 1))(t_keys).astype(z.dtype) / steps
    z_t, eps = diffused(t, eps_keys)
    weight = jnp.expm1(gamma(t) - gamma(t - 1 / steps)) / 2
    return total + (high - low) * weight * square(eps - predict(z_t, t)), None

  edges = np.arange(terms + 1) * steps // terms
  parts = (jnp.arange(terms), jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(edges[1:], jnp.int32))
  steps_nats = jax.lax.scan(add, jnp.zeros(len(z), z.dtype), parts)[0]

  one, zero = jnp.ones(len(z), z.dtype), jnp.zeros(len(z), z.dtype)
  alpha, sigma = schedule.alpha(one), schedule.sigma(one)
  freedom = D + jnp.sum(mask, axis=1) * (z.shape[-1] - 3)
  prior = 0.5 * (freedom * (sigma**2 - 1 - 2 * jnp.log(sigma)) + alpha**2 * square(z))

  z_0, eps = diffused(zero, fold_in(keys, terms))
  error = square((eps - predict(z_0, zero))[..., :3])
  places = 0.5 * (D * (gamma(zero) + math.log(2 * math.pi)) + error)
  kinds = jnp.sum(_log_features(kind, schedule, x, z_0), axis=1, where=mask)
  log_size = jnp.asarray(kind.log_sizes(x.shape[1]), z.dtype)[jnp.sum(mask, axis=1)]
  return -log_size + D * math.log(kind.position_scale) + prior + steps_nats + places - kinds


def _log_features(kind: Molecules, schedule: Schedule, x: Array, z_0: Values) -> Float[Array, "batch atoms"]:
  """log p(h | z_0) of each atom."""
  sigma = schedule.sigma(jnp.zeros((), z_0.dtype))

  def mass(away: Array, sigma: Array) -> Array:
    """log of N(0, sigma^2)'s mass within 1/2 of `away`."""
    near, far = (-jnp.abs(away) + side for side in (0.5, -0.5))
    upper, lower = log_ndtr(near / sigma), log_ndtr(far / sigma)
    return upper + jnp.log(-jnp.expm1(jnp.minimum(lower - upper, -1e-30)))

  types = len(kind.numbers)
  log_p = jax.nn.log_softmax(mass(z_0[..., 3 : 3 + types] * kind.type_scale - 1, sigma * kind.type_scale), axis=-1)
  is_type = jnp.round(x[..., 3:]) == jnp.asarray(kind.numbers, x.dtype)
  nats = jnp.where(jnp.any(is_type, axis=-1), jnp.sum(log_p, axis=-1, where=is_type), -jnp.inf)
  if kind.charges:
    nats += mass(x[..., 3] - z_0[..., -1] * kind.charge_scale, sigma * kind.charge_scale)
  return nats


def molecular_diffusion(
  network: Any,
  kind: Molecules,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  schedule: Schedule | None = None,
  steps: int = 1000,
  condition: Condition = UNCONDITIONAL,
  solver: Callable[[Schedule], Solver] = ancestral,
  sampling_steps: int | None = None,
  terms: int | None = 64,
) -> Method:
  """Learns eps of (M1) by the mean squared error of a value of an atom that is there, t uniform on 0, 1/T .. 1.

  The authors also replace the error of features at t = 0 by -log p(h | z_0); here it is the squared error there, too.

  Args:
    network: a Flax module, `network.apply({"params": p}, z_t, t [B], told, mask=mask, index=index)` -> eps:
      `jaxgen.nn.graphs.egnn.EGNN`, or another equivariant one.
    kind: what molecules are made of.
    spec: the data's; examples are [atoms, 4], see `Molecules`.
    optimizer: the network's optimizer.
    schedule: of (M1); by default `polynomial`.
    steps: T, of training and of the bound.
    condition: the network's condition, such as a molecule's properties; by default nothing.
    solver: of samples, whose steps are projected.
    sampling_steps: of a sample; by default T.
    terms: draws of t for each evaluated molecule; None: all T.

  `evaluate` gives "nll_nats_density", (M3): a density of positions and a probability of types and size. `sample(state,
  keys, **conditions)` gives [N, atoms, 4], of sizes drawn from p(N).

  Raises:
    UserError: molecules of one atom, or larger than the data's arrays; a scale at which features are lost in the noise
      of t = 0 (the authors' own check); examples of another shape; too many terms.
  """
  schedule = polynomial() if schedule is None else schedule
  _check(kind, spec, steps, terms)
  most = spec.shape[0]
  check_condition(condition, network)
  sampling_steps = steps if sampling_steps is None else sampling_steps
  chosen = solver(schedule)
  sampling.check(chosen, sampling_steps)
  times = np.linspace(1, 0, sampling_steps + 1)

  def predict_with(params: Params, told: Any, mask: Mask, **options: Any) -> Noise:
    def predict(z: Values, t: Array) -> Values:
      t = jnp.broadcast_to(t, z.shape[:1]).astype(z.dtype)
      return network.apply({"params": params}, z, t, told, mask=mask, **options).astype(z.dtype)

    return predict

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    one = jax.tree.map(lambda x: x[:1], batch)
    z, mask = kind.encode(one[spec.feature])
    output, variables = network.init_with_output(key, z, jnp.zeros(1, z.dtype), condition.of(one), mask=mask)
    check_output("the network's output", output.shape[1:], (most, kind.values), "change the network")
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, dropout_key, told_key = jax.random.split(key, 3)
    z, mask = kind.encode(batch[spec.feature])
    t_keys, eps_keys = split(example_keys(noise_key, batch["index"]))
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, steps + 1))(t_keys).astype(z.dtype) / steps
    eps = noise(eps_keys, mask, kind.values, z.dtype)
    z_t = per_example(schedule.alpha(t), z) * z + per_example(schedule.sigma(t), z) * eps
    told = condition.dropped(condition.of(batch), example_keys(told_key, batch["index"]))
    predict = predict_with(params, told, mask, index=batch["index"], rngs={"dropout": dropout_key})
    return jnp.mean(losses.simple(predict(z_t, t), eps, mask)), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Nats]:
    x, keys = batch[spec.feature], example_keys(key, batch["index"])
    predict = predict_with(state.averaged(), condition.of(batch), x[..., 3] > 0)
    return {"nll_nats_density": bound(kind, schedule, predict, x, keys, steps=steps, terms=terms)}

  def sample(state: State, keys: Key[Array, " n"], **given: Any) -> Float[Array, "n atoms 4"]:
    check_names(given, condition)
    size_keys, start_keys, solver_keys, end_keys, told_keys = split(keys, 5)
    told = condition.asked(given, told_keys)
    log_p = jnp.asarray(kind.log_sizes(most), float)
    size = jax.vmap(lambda key: jax.random.categorical(key, log_p))(size_keys)
    mask = jnp.arange(most) < size[:, None]
    z = noise(start_keys, mask, kind.values, jnp.result_type(float))
    predict = predict_with(state.averaged(), told, mask)

    def denoise(z: Values, t: Array) -> tuple[Values, Values]:
      return to_x0_eps(eps_prediction, predict(z, t), z, schedule.at(jnp.broadcast_to(t, z.shape[:1])).like(z))

    z_0 = sampling.sample(projected(chosen, mask), denoise, jnp.asarray(times, z.dtype), z, solver_keys)
    zero = jnp.zeros((), z.dtype)
    places = denoise(z_0, zero)[0][..., :3]
    spread = schedule.sigma(zero) / schedule.alpha(zero)
    return kind.decode(places + spread * noise(end_keys, mask, 3, z.dtype), z_0, mask)

  def check(batch: Batch) -> None:
    numbers = np.rint(np.asarray(batch[spec.feature])[..., 3])
    if unknown := set(np.unique(numbers[numbers > 0]).astype(int)) - set(kind.numbers):
      raise UserError(
        f"the data has atoms of the atomic number {min(unknown)}, and the model has {kind.numbers}: add it, or leave "
        "such molecules out"
      )
    sizes = np.unique((numbers > 0).sum(1))
    if sizes.min(initial=2) < 2:
      raise UserError(f"the data has molecules of {sizes.min()} atoms, which have no shape: leave them out of the data")
    if missing := [int(n) for n in sizes if not kind.sizes.get(int(n))]:
      raise UserError(f"the data has molecules of {missing[0]} atoms, to which the sizes give no probability: add them")

  calls = sampling.network_calls(chosen, times)
  calls = None if calls is None else calls + 1
  facts = {"A sample": "as its solver needs" if calls is None else f"{calls:,} network calls"}
  players = [("network", Player(loss, optimizer))]
  method = compose(init, players, evaluate=evaluate, sample=sample, facts=facts, check=check)
  return method._replace(network_calls=calls)


def _check(kind: Molecules, spec: Spec, steps: int, terms: int | None) -> None:
  """Raises a UserError if the choices do not fit together."""
  if len(spec.shape) != 2 or spec.shape[1] != 4:
    raise UserError(f"molecules are arrays [atoms, 4] of positions and atomic numbers, and these are {spec.shape}")
  if steps < 1 or (terms is not None and not 1 <= terms <= steps):
    raise UserError(f"the bound has 1 to {steps} terms, not {terms}: change them or the steps")
  if not kind.numbers or min(kind.numbers) < 1 or not kind.sizes or min(kind.sizes.values()) < 0:
    raise UserError("a model of molecules needs atomic numbers, 1 or more, and numbers of molecules by size: give both")
  there = [n for n, count in kind.sizes.items() if count]
  if min(there, default=0) < 2:
    raise UserError(
      f"a molecule of {min(there, default=0)} atoms has no shape once its centre of mass is 0: leave such out"
    )
  if max(there) > spec.shape[0]:
    raise UserError(f"molecules of {max(there)} atoms do not fit arrays of {spec.shape[0]}: make those larger")
