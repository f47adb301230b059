"""Noise-contrastive estimation: an energy and its normaliser are learned by classifying data against noise with a known
density.

With p_n the noise's density, nu draws y of it for every example x, c a number that is learned, and s the logistic
function,

    (N1)  log p(u) = -E(u) - c,    G(u) = log p(u) - log p_n(u)
    (N2)  binary       -E[log s(G(x) - log nu)] - nu E[log s(log nu - G(y))]
    (N3)  ranking      -E[log exp G(x) / (exp G(x) + sum_j exp G(y_j))],    in which c cancels
    (N4)  conditional  2 E[log(1 + exp(E(x) - E(y)))],    y drawn around x by a density with q(y | x) = q(x | y)
    (N5)  with a flow  (N2) with nu = 1, made small by E and c, and large by the flow p_n

(N2): Gutmann and Hyvärinen 2012, https://www.jmlr.org/papers/v13/gutmann12a.html, section 2. At its minimum over all E
and c, p is the density of the data. It is normalised without a constraint, for any nu and any p_n that is positive
wherever the data's density is. There and with nu = 1 it is log 4 - 2 JSD(p, p_n).

(N3): Ma and Collins 2018, https://arxiv.org/abs/1809.01812, section 3, here of a density without conditions. It is the
loss of van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4, with a critic G that uses p_n.

(N4): Ceylan and Gutmann 2018, https://arxiv.org/abs/1806.03664, section 2, for symmetric noise. It needs no density but
the energy's and its minimum is any E that differs from -log p of the data by a constant.

(N5): Gao et al. 2020, https://arxiv.org/abs/1912.00589, section 3.3. For the best E it is log 4 - 2 JSD(data, flow), so
that the flow minimises this divergence and becomes a better noise.

Losses are in nats per example, each of which is one decision, (N2) summed over its nu draws. A noise that is trained by
maximum likelihood has nats per value.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.mcmc import one_per_chain, resampling
from jaxgen.mcmc.resampling import OF_THE_NOISE, RESAMPLED, Chains
from jaxgen.probability import noise as noises
from jaxgen.probability.distributions import nll_name
from jaxgen.probability.noise import Noise, draws, fitted_gaussian

Event = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]
Ratios = tuple[PerExample, Float[Array, "batch nu"]]  # G of (N1), of examples and of each one's noise


def binary(G_x: PerExample, G_y: Float[Array, "batch nu"]) -> PerExample:
  """(N2) of each example, nats."""
  log_nu = math.log(G_y.shape[1])
  return jax.nn.softplus(log_nu - G_x) + jax.nn.softplus(G_y - log_nu).sum(axis=1)


def ranking(G_x: PerExample, G_y: Float[Array, "batch nu"]) -> PerExample:
  """(N3) of each example, nats."""
  return jax.nn.logsumexp(jnp.concatenate([G_x[:, None], G_y], axis=1), axis=1) - G_x


def conditional(E_x: PerExample, E_y: Float[Array, "batch nu"]) -> PerExample:
  """(N4) of each example, nats."""
  return 2 * jax.nn.softplus(E_x[:, None] - E_y).mean(axis=1)


def energies(energy: Any) -> Callable[[State, Event], PerExample]:
  """(state, x) -> E(x), nats, of a method of this file: for partition functions and figures."""
  return lambda state, x: energy.apply({"params": state.averaged()["energy"]}, x)


def log_density(energy: Any) -> Callable[[State, Event], PerExample]:
  """(state, x) -> log p(x) = -E(x) - c, nats, of `nce` and `flow_contrastive`, which learn c."""
  return lambda state, x: -energies(energy)(state, x) - state.averaged()["c"]


def nce(
  energy: Any,
  noise: Noise = fitted_gaussian,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  nu: int = 1,
  contrast: Callable[[PerExample, Float[Array, "batch nu"]], PerExample] = binary,
  noise_optimizer: optax.GradientTransformation | None = None,
  chains: Chains = RESAMPLED,
) -> Method:
  """(N2) or (N3). Batch {feature: [B, *shape], "index": [B]}.

  The energy and c are the network "network", the noise's parameters "noise". If both are trained, average only the
  first: `averaged(method, {"network": decay})`.

  Args:
    energy: a Flax module; `energy.apply({"params": p}, x)` -> [B], nats.
    noise: see `jaxgen.probability.noise`. The better it is, the more there is to learn from telling it from data.
    spec: the data's; its integers are those that `data.transforms.dequantize(levels)` spread over [-1, 1).
    nu: draws of noise for each example.
    contrast: `binary`, which learns c, or `ranking`, which leaves the energy without a normaliser.
    noise_optimizer: the noise is trained as well, in each step before the energy, by maximum likelihood; None leaves
      it as it begins.
    chains: how samples are made of the noise's.

  `init` uses the values of the batch that it is given: the noise may start from them, and c starts where G of them is 0
  on average.

  `evaluate` gives "unnormalised_nll_nats", E(x), for `likelihood` with a partition function, such as
  `evaluation.partition.importance`; of `binary` "nll_nats_density_nce", too, E(x) + c, which is minus the logarithm of
  a density only as far as c is right; and "nll_nats_density_noise", the noise's own. With levels, "dequantized" stands
  for "density", and D log(levels / 2) is added.

  Raises:
    UserError: a noise without log-density, nu < 1, or energies that are not one number per example.
  """
  _check_noise(noise, chains, nu)
  normalised = contrast is binary

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x, noise_params = batch[spec.feature], state.params["noise"]
    both = _with_noise(x, draws(noise, noise_params, example_keys(key, batch["index"]), nu))
    G = _log_ratios(energy, params, noise, noise_params, both, len(x))
    total, metrics = _measured(contrast(*G), *G)
    if normalised:
      metrics["c"] = params["c"]
    return total, (metrics, state.buffers)

  def likelihood(params: Params, state: State, batch: Batch, key: Array):
    return -jnp.mean(noise.log_density(params, batch[spec.feature])) / spec.size, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, PerExample]:
    U, name, integers = _unnormalised(energy, spec, state, batch)
    values = {"unnormalised_nll_nats": U}
    values[f"{name}_noise"] = integers - noise.log_density(state.averaged("noise"), batch[spec.feature])
    if normalised:
      values[f"{name}_nce"] = U + state.averaged()["c"]
    return values

  players = [("network", Player(loss, optimizer))]
  if noise_optimizer is not None:
    players.insert(0, ("noise", Player(likelihood, noise_optimizer)))
  return compose(
    _init(energy, noise, spec, normalised), players, evaluate=evaluate, sample=_sample(energy, noise, chains)
  )


def conditional_nce(
  energy: Any,
  stds: Sequence[float],
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  nu: int = 1,
  start: Noise = fitted_gaussian,
  chains: Chains = RESAMPLED,
) -> Method:
  """(N4). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    stds: noise is y = x + std z, z ~ N(0, I), with one of these standard deviations, each as likely. Small ones show
      where the density rises and falls around data and none how much of it lies in clouds that are further apart.
    start: a distribution that is not trained, which `chains` and partition functions begin with.
    energy, spec, nu, chains: as in `nce`.

  `evaluate` gives "unnormalised_nll_nats", E(x).

  Raises:
    UserError: no standard deviation or one that is not positive, nu < 1, a start without log-density, or energies that
      are not one number per example.
  """
  _check_noise(start, chains, nu)
  if not stds or min(stds) <= 0:
    raise UserError(f"noise around examples has standard deviations larger than 0, not {list(stds)}: change them")

  def around(key: Array, x: Array) -> Float[Array, "nu *shape"]:
    which, noise = jax.random.split(key)
    std = jnp.asarray(stds, x.dtype)[jax.random.randint(which, (nu,), 0, len(stds))]
    z = jax.random.normal(noise, (nu, *x.shape), x.dtype)
    return x + per_example(std, z) * z

  def loss(params: Params, state: State, batch: Batch, key: Array):
    x = batch[spec.feature]
    both = _with_noise(x, jax.vmap(around)(example_keys(key, batch["index"]), x))
    E_x, E_y = _apart(energy.apply({"params": params["energy"]}, both), len(x))
    metrics = {"data_found": jnp.mean((E_x[:, None] < E_y).astype(E_x.dtype))}
    return jnp.mean(conditional(E_x, E_y)), (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, PerExample]:
    return {"unnormalised_nll_nats": _unnormalised(energy, spec, state, batch)[0]}

  return compose(
    _init(energy, start, spec, normalised=False),
    [("network", Player(loss, optimizer))],
    evaluate=evaluate,
    sample=_sample(energy, start, chains),
  )


def flow_contrastive(
  energy: Any,
  flow: Noise,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  flow_optimizer: optax.GradientTransformation,
  energy_steps: int = 1,
  chains: Chains = OF_THE_NOISE,
) -> Method:
  """(N5): an energy, the network "network", and a flow, "noise", against each other and in turn.

  Batch {feature: [B, *shape], "index": [B]}.

  Args:
    flow: `of_method` of a flow, whose draws are differentiable functions of its parameters.
    energy_steps: updates of the energy before each update of the flow, each on its own part of the batch. Its optimizer
      counts every one of them.
    chains: how samples are made of the flow's; by default they are the flow's.
    energy, spec: as in `nce`.

  `evaluate` gives "nll_nats_density", the flow's own, which is exact, and the energy's numbers as `nce` does.

  Raises:
    UserError: a flow without log-density, no step of the energy, or energies that are not one number per example.
  """
  _check_noise(flow, chains)
  if energy_steps < 1:
    raise UserError(f"the energy takes 1 or more steps before the flow takes one, not {energy_steps}: change it")

  def ratios(network: Params, flow_params: Params, batch: Batch, key: Array) -> Ratios:
    x = batch[spec.feature]
    both = _with_noise(x, draws(flow, flow_params, example_keys(key, batch["index"]), 1))
    return _log_ratios(energy, network, flow, flow_params, both, len(x))

  def energy_loss(params: Params, state: State, batch: Batch, key: Array):
    G = ratios(params, state.params["noise"], batch, key)
    total, metrics = _measured(binary(*G), *G)
    return total, (metrics | {"c": params["c"]}, state.buffers)

  def flow_loss(params: Params, state: State, batch: Batch, key: Array):
    G = ratios(state.params["network"], params, batch, key)
    return -jnp.mean(binary(*G)), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, PerExample]:
    U, name, integers = _unnormalised(energy, spec, state, batch)
    exact = integers - flow.log_density(state.averaged("noise"), batch[spec.feature])
    return {name: exact, f"{name}_nce": U + state.averaged()["c"], "unnormalised_nll_nats": U}

  return compose(
    _init(energy, flow, spec, normalised=True),
    [("network", Player(energy_loss, optimizer, updates=energy_steps)), ("noise", Player(flow_loss, flow_optimizer))],
    evaluate=evaluate,
    sample=_sample(energy, flow, chains),
  )


# what the three share -------------------------------------------------------------------------------------------------


def _check_noise(noise: Noise, chains: Chains, nu: int = 1) -> None:
  noises.check(noise)
  resampling.check_chains(chains)
  if nu < 1:
    raise UserError(f"every example is compared with 1 or more draws of noise, not {nu}: change nu")


def _init(energy: Any, noise: Noise, spec: Spec, normalised: bool):
  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    x = batch[spec.feature]
    energy_key, noise_key = jax.random.split(key)
    network = {"energy": energy.init(energy_key, x[:1])["params"]}
    E = one_per_chain(lambda x: energy.apply({"params": network["energy"]}, x), x)
    params = {"network": network, "noise": noise.init(noise_key, x)}
    if normalised:
      network["c"] = -jnp.mean(E + noise.log_density(params["noise"], x)).astype(E.dtype)
    return params, {}

  return init


def _with_noise(x: Event, y: Float[Array, "batch nu *shape"]) -> Float[Array, "both *shape"]:
  """Each example and behind it its noise: one call of a network, and no data moves between devices."""
  return jnp.concatenate([x[:, None], y], axis=1).reshape(-1, *x.shape[1:])


def _apart(values: Float[Array, " both"], batch: int) -> Ratios:
  """Values of what `_with_noise` made: the examples', and their noise's."""
  values = values.reshape(batch, -1)
  return values[:, 0], values[:, 1:]


def _log_ratios(
  energy: Any, network: Params, noise: Noise, noise_params: Params, both: Float[Array, "both *shape"], batch: int
) -> Ratios:
  """G of (N1), of what `_with_noise` made; c is 0 if it is not learned."""
  E = energy.apply({"params": network["energy"]}, both)
  return _apart(-E - network.get("c", 0) - noise.log_density(noise_params, both), batch)


def _measured(loss: PerExample, G_x: PerExample, G_y: Float[Array, "batch nu"]) -> tuple[Array, dict[str, Array]]:
  """The loss, and the shares of data and of noise that G classifies correctly; half and half is no better than
  chance."""
  log_nu = math.log(G_y.shape[1])
  share = lambda right: jnp.mean(right.astype(loss.dtype))
  return jnp.mean(loss), {"data_found": share(G_x > log_nu), "noise_found": share(G_y < log_nu)}


def _unnormalised(energy: Any, spec: Spec, state: State, batch: Batch) -> tuple[PerExample, str, float]:
  """(E(x), the likelihood's name, the nats between a density and probabilities of integers, which E includes)."""
  name, integers = nll_name(None, spec.levels, spec.size)
  return energies(energy)(state, batch[spec.feature]) + integers, name, integers


def _sample(energy: Any, noise: Noise, chains: Chains) -> Callable[[State, Key[Array, " n"]], Event]:
  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    return resampling.sample(lambda x: energies(energy)(state, x), noise, state.averaged("noise"), keys, chains)

  return sample
