"""Score matching: s(x), the gradient of the log-density of data, learned without a normaliser.

s is a network, or -grad E of an energy. With J = ds/dx, v a random vector with E[v v^T] = I, and z ~ N(0, I),

    (S1)  implicit         E[tr J(x) + |s(x)|^2 / 2]
    (S2)  sliced           E[v^T J(x) v + (v^T s(x))^2 / 2]
    (S3)  sliced, reduced  E[v^T J(x) v + |s(x)|^2 / 2]
    (S4)  denoising        E[|s(x + sigma z) + z / sigma|^2 / 2]

(S1): Hyvärinen 2005, https://www.jmlr.org/papers/v6/hyvarinen05a.html, eq. 4. By partial integration it is half the
mean squared distance of s from the score of the data, but for a constant.

(S2) and (S3): Song et al. 2019, https://arxiv.org/abs/1905.07088, where (S3) is SSM-VR; in expectation over v they are
(S1), and in (S3) the second term has no variance from v.

(S4): Vincent 2011, https://doi.org/10.1162/NECO_a_00142, section 4. It is (S1), but for a constant, of the data
blurred by N(0, sigma^2 I), whose score it finds. Times 2 sigma^2 / D it is the loss of `methods.diffusion.gaussian` at
that noise: with many noise levels, as an input of the network, it is NCSN (configs/diffusion/ncsn.py), and
`jaxgen.nn.energy.score.Score` turns an energy E(x, level) into a network for it.

Each is a sum over an example's D entries, which `evaluate` gives, and a loss is its mean over D: a squared error per
entry of a score. These are no nats: their unit is one over the square of the data's.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, normal
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion.likelihood import Trace, exact, hutchinson
from jaxgen.mcmc import one_per_chain, resampling
from jaxgen.mcmc.langevin import Adjusted
from jaxgen.mcmc.resampling import Chains
from jaxgen.nn.energy.score import Score
from jaxgen.probability.distributions import nll_name
from jaxgen.probability.noise import Noise, fitted_gaussian

Event = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]
ScoreOf = Callable[[Event], Event]


class Objective(NamedTuple):
  """A loss.

  Attributes:
    loss: (s, x [B, ...], keys [B]) -> [B], a sum over entries.
    blur: standard deviation of the noise in the density whose score is learned, 0 for the data's own.
  """

  loss: Callable[[ScoreOf, Event, Key[Array, " batch"]], PerExample]
  blur: float = 0.0


def _flat(x: Event) -> Float[Array, "batch d"]:
  return x.reshape(len(x), -1)


def _along(score: ScoreOf, x: Event, v: Float[Array, "batch probes *shape"]) -> tuple[Event, PerExample]:
  """(s, the sum over probes of v^T J v). In reverse mode, which the custom derivatives of `jaxgen.nn` support."""
  s, pull = jax.vjp(score, x)
  (pulled,) = jax.vmap(pull, in_axes=1, out_axes=1)(v)
  return s, _flat(pulled * v).sum(axis=1)


def _reduced(trace: Trace) -> Objective:
  def loss(score: ScoreOf, x: Event, keys: Key[Array, " batch"]) -> PerExample:
    s, of_jacobian = _along(score, x, trace(x, keys))
    return of_jacobian + 0.5 * jnp.square(_flat(s)).sum(axis=1)

  return Objective(loss)


def implicit() -> Objective:
  """(S1), with the exact trace: as many backward passes as an example has values."""
  return _reduced(exact())


def sliced(
  projections: int = 1, reduced: bool = True, directions: Literal["rademacher", "gaussian"] = "rademacher"
) -> Objective:
  """(S3), or (S2) if not `reduced`; a backward pass for each projection.

  Args:
    directions: v's distribution, signs or N(0, I).

  Raises:
    UserError: fewer projections than one.
  """
  if projections < 1:
    raise UserError(f"scores are sliced along 1 or more projections, not {projections}: change their number")
  trace = hutchinson(projections, directions)
  if reduced:
    return _reduced(trace)

  def loss(score: ScoreOf, x: Event, keys: Key[Array, " batch"]) -> PerExample:
    v = trace(x, keys)  # scaled such that sums over projections are means
    s, of_jacobian = _along(score, x, v)
    return of_jacobian + 0.5 * jnp.square((v * s[:, None]).reshape(*v.shape[:2], -1).sum(axis=2)).sum(axis=1)

  return Objective(loss)


def denoising(sigma: float) -> Objective:
  """(S4).

  Raises:
    UserError: sigma <= 0.
  """
  if not sigma > 0:
    raise UserError(f"denoising takes noise of a standard deviation larger than 0, not {sigma:g}: change it")

  def loss(score: ScoreOf, x: Event, keys: Key[Array, " batch"]) -> PerExample:
    z = normal(keys, x.shape[1:], x.dtype)
    return 0.5 * jnp.square(_flat(score(x + sigma * z) + z / sigma)).sum(axis=1)

  return Objective(loss, float(sigma))


def energies(network: Any) -> Callable[[State, Event], PerExample]:
  """(state, x) -> E(x), nats, of an energy that score matching has trained: for partition functions and figures."""
  return lambda state, x: Score(network).apply({"params": state.averaged()}, x, method="energies")


def score_matching(
  network: Any,
  objective: Objective,
  *,
  energy: bool,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  start: Noise = fitted_gaussian,
  chains: Chains | None = None,
) -> Method:
  """(S1) to (S4). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    network: a Flax module; `network.apply({"params": p}, x)` -> [B], nats, or [B, *shape] like x.
    objective: `implicit()`, `sliced(...)` or `denoising(sigma)`.
    energy: the network gives an energy, whose score is minus its gradient; else it gives the score.
    spec: the data's; its integers are those that `data.transforms.dequantize(levels)` spread over [-1, 1).
    start: where chains begin, a distribution that is not trained; it may start from the first batch's values.
    chains: how samples are made; None for none. A score without an energy takes one candidate, and kernels that use
      only the gradient: `langevin` and `underdamped`. Of blurred data the last step is x + sigma^2 s(x), the mean of
      the data given x.

  `evaluate` gives "score_matching", the objective summed over entries, and of an energy "unnormalised_nll_nats", E(x).

  Raises:
    UserError: chains that weigh or reject without an energy; a network whose output is neither of the two.
  """
  if chains is not None:
    resampling.check_chains(chains)
    if not energy and chains.candidates > 1:
      raise UserError("a score has no energy to choose among candidates by: take Chains(1, ...), or an energy network")
  module = Score(network) if energy else network

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    x = batch[spec.feature]
    network_key, start_key = jax.random.split(key)
    if energy:
      variables = module.init(network_key, x[:1], method="energies")
      jax.eval_shape(lambda x: one_per_chain(lambda x: module.apply(variables, x, method="energies"), x), x)
    else:
      s, variables = module.init_with_output(network_key, x[:1])
      check_output("the score", s.shape[1:], spec.shape, "change the network's outputs, or set energy=True")
    params = {"network": variables["params"]}
    if chains is not None:
      if not energy:
        _check_gradient_alone(chains, x)
      params["noise"] = start.init(start_key, x)
    return params, {}

  def score_of(params: Params) -> ScoreOf:
    return lambda x: module.apply({"params": params}, x)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    each = objective.loss(score_of(params), batch[spec.feature], example_keys(key, batch["index"]))
    return jnp.mean(each) / spec.size, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, PerExample]:
    x = batch[spec.feature]
    values = {"score_matching": objective.loss(score_of(state.averaged()), x, example_keys(key, batch["index"]))}
    if energy:
      _, integers = nll_name(None, spec.levels, spec.size)
      values["unnormalised_nll_nats"] = energies(network)(state, x) + integers
    return values

  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    score = score_of(state.averaged())
    # Without an energy, a function with the right gradient stands in for one.
    slope = lambda x: -_flat(jax.lax.stop_gradient(score(x)) * x).sum(axis=1)
    potential = (lambda x: energies(network)(state, x)) if energy else slope
    x = resampling.sample(potential, start, state.params["noise"], keys, chains)
    return x + objective.blur**2 * score(x) if objective.blur else x

  return compose(
    init,
    [("network", Player(loss, optimizer))],
    evaluate=evaluate,
    sample=None if chains is None else sample,
  )


def _check_gradient_alone(chains: Chains, x: Event) -> None:
  """Raises a UserError where a chain's kernel asks for energies, of which a score has none."""
  if chains.kernel is None:
    return
  carry = jax.eval_shape(chains.kernel(lambda x: _flat(x).sum(axis=1)).init, x)
  if isinstance(carry, Adjusted):
    raise UserError("a score has no energy to reject by: take langevin or underdamped, or an energy network")
