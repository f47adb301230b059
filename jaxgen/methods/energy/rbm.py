"""Restricted Boltzmann machines, `jaxgen.nn.energy.rbm`, trained by contrastive divergence and its relatives.

The gradient of the likelihood is that of the free energy F over the data q, less that over the model:

    (C1)  grad -log p = g(q) - g(p),   g(r) = E_{v ~ r} grad F(v)

and a negative phase puts something that can be drawn in the place of p. The loss is

    (C2)  E_q F(v) - E F(v'),   no gradient through v'

where v' is, with T the step v -> h -> v of Gibbs sampling,

    cd          drawn by T^k from the example: Hinton 2002, Training products of experts by minimizing contrastive
                divergence
    persistent  drawn by T^k from where the chains were: Younes 1989; Tieleman 2008, Training restricted Boltzmann
                machines using approximations to the likelihood gradient
    mean_field  the k-th term of the deterministic recursion m_h = sigmoid(c + m_v W), m_v = sigmoid(b + W m_h), from
                the example: Welling and Hinton 2002, A new learning algorithm for mean field Boltzmann machines
    tempered    as in persistent, of chains with copies at several temperatures: Desjardins et al. 2010, Tempered Markov
                chain Monte Carlo for training of restricted Boltzmann machines

F itself is no likelihood: `exact` and `ais` of `evaluation.partition` give its log Z to the evaluator `likelihood`. The
loss, (C2) in nats per example, does not measure progress; the reconstruction error falls early in training, and
afterwards only the likelihood shows progress.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from jaxgen import mcmc
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, split
from jaxgen.core.method import Batch, Buffers, Method, Metrics, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.mcmc.rbm import from_visible, kernel, to_visible
from jaxgen.mcmc.tempering import check_betas, tempering
from jaxgen.nn.energy.rbm import RBM
from jaxgen.probability.distributions import check_values, nll_name

LEAST = 1e-4  # variance that a unit starts with at least
Visible = Float[Array, "batch D"]
Event = Float[Array, "batch *shape"]


class Negative(NamedTuple):
  """A negative phase.

  Attributes:
    draw: (network, params, v [B, D], buffers, key, index [B]) -> (v' [n, D], buffers, metrics).
    init: (network, params, key) -> buffers; {} where nothing lives across steps.
    mean: each example has its own v'.
  """

  draw: Callable[[RBM, Params, Array, Buffers, Array, Array], tuple[Array, Buffers, Metrics]]
  init: Callable[[RBM, Params, Array], Buffers] = lambda network, params, key: {}
  mean: bool = True


def check_k(k: int) -> None:
  """Raises a UserError for fewer steps than one."""
  if k < 1:
    raise UserError(f"the negative phase of contrastive divergence takes k >= 1 steps, and k is {k}: change it")


def check_chains(chains: int) -> None:
  """Raises a UserError for fewer chains than one."""
  if chains < 1:
    raise UserError(f"the negative phase needs 1 or more chains, not {chains}: change it")


def cd(k: int = 1) -> Negative:
  """Contrastive divergence, CD-k."""
  check_k(k)

  def draw(network: RBM, params: Params, v: Array, buffers: Buffers, key: Array, index: Array):
    return mcmc.run(kernel(network, params), v, example_keys(key, index), k)[0], buffers, {}

  return Negative(draw)


def persistent(k: int = 1, chains: int = 100) -> Negative:
  """Persistent contrastive divergence, also called stochastic maximum likelihood. The chains, `buffers["chains"]`
  [chains, D], start from independent units of biases b."""
  check_k(k)
  check_chains(chains)

  def init(network: RBM, params: Params, key: Array) -> Buffers:
    keys = example_keys(key, jnp.arange(chains))
    return {"chains": network.apply({"params": params}, keys, method="draw_base")}

  def draw(network: RBM, params: Params, v: Array, buffers: Buffers, key: Array, index: Array):
    v, *_ = mcmc.run(kernel(network, params), buffers["chains"], example_keys(key, jnp.arange(chains)), k)
    return v, {**buffers, "chains": v}, {}

  return Negative(draw, init, mean=False)


def mean_field(k: int = 1) -> Negative:
  """Mean-field contrastive divergence. Nothing is drawn."""
  check_k(k)

  def draw(network: RBM, params: Params, v: Array, buffers: Buffers, key: Array, index: Array):
    step = lambda _, m: network.apply({"params": params}, m, method="reconstruct")
    return jax.lax.fori_loop(0, k, step, v), buffers, {}

  return Negative(draw)


def tempered(k: int = 1, chains: int = 100, betas: Sequence[float] = tuple(np.linspace(0, 1, 10).tolist())) -> Negative:
  """Parallel tempering along (R7). `buffers["chains"]` is [chains, temperatures, D].

  The base is what b starts from, the first batch's means, `buffers["base"]`. The metric "swaps" is the probability that
  neighbours exchange.

  Args:
    betas: inverse temperatures, rising to 1.
  """
  check_k(k)
  check_chains(chains)
  check_betas(betas)

  def init(network: RBM, params: Params, key: Array) -> Buffers:
    keys = example_keys(key, jnp.arange(chains))
    copies = lambda keys: network.apply({"params": params}, keys, method="draw_base")
    chained = jax.vmap(copies)(split(keys, len(betas)).T)
    return {"chains": chained, "base": jnp.copy(params["b"])}

  def draw(network: RBM, params: Params, v: Array, buffers: Buffers, key: Array, index: Array):
    base = buffers["base"]
    energy = lambda v, beta: network.apply({"params": params}, v, beta, base, method="free_energy")
    exchange = tempering(lambda beta: kernel(network, params, beta, base), energy, betas)
    x, swaps, _ = mcmc.run(exchange, buffers["chains"], example_keys(key, jnp.arange(chains)), k)
    return x[:, -1], {**buffers, "chains": x}, {"swaps": swaps.mean()}

  return Negative(draw, init, mean=False)


def check(network: RBM, spec: Spec) -> None:
  """Raises a UserError where a machine's visible units are not of the data's kind or number."""
  if network.units.levels == 2 and spec.levels != 2:
    kind = "real numbers" if spec.levels is None else f"integers of {spec.levels} levels"
    raise UserError(f"Bernoulli visible units need binary data, and these are {kind}: binarize them")
  if network.units.levels is None and spec.levels == 2:
    raise UserError("Gaussian visible units need real numbers, and these are binary: use Bernoulli ones")
  if network.visible != spec.size:
    raise UserError(f"the machine has {network.visible} visible units, and an example {spec.size} values")


def rbm(
  network: RBM,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  negative: Negative,
  sparsity: float = 0.0,
  target: float = 0.02,
  sampling_steps: int = 1_000,
  drawn: bool = True,
) -> Method:
  """A machine trained by (C2). Batch {feature: [B, *shape], "index": [B]}. Weight decay and momentum are optax's.

  Args:
    network: its visible units are an example's values, in order.
    spec: the data's, of 2 levels for Bernoulli units. Gaussian ones take real numbers, levels=None, or integers that
      `data.transforms.dequantize(levels)` spread over [-1, 1).
    negative: `cd(k)`, `persistent(k, chains)`, `mean_field(k)` or `tempered(k, chains, betas)`. Persistent chains take
      no microbatches.
    sparsity: lambda of lambda sum_j (target - mean over the batch of p(h_j = 1 | v))^2, added to (C2): Lee et al. 2008,
      Sparse deep belief net model for visual area V2, eq. 4. Such a loss is no mean over examples.
    target: of it.
    sampling_steps: of the Gibbs chain that makes a sample.
    drawn: samples are visible units; else their means given the hidden ones, as papers often show.

  `init` uses the values of its batch: b starts at what gives the batch's means, Hinton's guide, section 8.1, and the
  variances that Gaussian units learn from the batch's.

  `evaluate` gives "unnormalised_nll_nats", F(v), with D log(levels / 2) of dequantized data; see
  `evaluation.partition`.

  `sample(state, keys)` gives [N, *shape]: each from its own chain, which starts from independent units with biases b.
  The samples are independent of the start only if the chain mixes in so many steps.

  Raises:
    UserError: data of another kind or shape than the visible units, or negative sparsity; fewer than one sampling step.
  """
  check(network, spec)
  if sparsity < 0:
    raise UserError(f"sparsity is the weight of a penalty, at least 0, and this is {sparsity:g}: change it")
  if sampling_steps < 1:
    raise UserError(f"a sample takes 1 or more steps of its chain, not {sampling_steps}: change sampling_steps")
  _, integers = nll_name(network.units.levels, spec.levels, spec.size)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], Buffers]:
    check_batch(spec, batch)
    v = to_visible(network, batch[spec.feature])
    params_key, chains_key = jax.random.split(key)
    params = dict(network.init(params_key, v[:1])["params"])
    params["b"] = network.units.bias(v.mean(axis=0)).astype(params["b"].dtype)
    if network.units.learned:
      params["z"] = jnp.log(jnp.maximum(v.var(axis=0), LEAST)).astype(params["z"].dtype)
    return {"network": params}, negative.init(network, params, chains_key)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    apply = partial(network.apply, {"params": params})
    v = to_visible(network, batch[spec.feature]).astype(params["W"].dtype)
    fixed = jax.lax.stop_gradient(params)
    model, buffers, metrics = negative.draw(network, fixed, v, state.buffers, key, batch["index"])
    F = jnp.mean(apply(v))
    value = F - jnp.mean(apply(jax.lax.stop_gradient(model)))
    active = jnp.mean(jax.nn.sigmoid(apply(v, method="hidden_logits")), axis=0)
    if sparsity:
      value += sparsity * jnp.sum(jnp.square(target - active))
    error = jnp.mean(jnp.square(v - apply(v, method="reconstruct")))
    metrics = {"free_energy": F, "reconstruction": error, "active": jnp.mean(active), **metrics}
    return value, (metrics, buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    v = to_visible(network, batch[spec.feature])
    return {"unnormalised_nll_nats": network.apply({"params": state.averaged()}, v) + integers}

  def sample(state: State, keys: Key[Array, " n"]) -> Float[Array, "n *shape"]:
    params = state.averaged()
    apply = partial(network.apply, {"params": params})
    start, chain, end = (fold_in(keys, i) for i in range(3))
    v, *_ = mcmc.run(kernel(network, params), apply(start, method="draw_base"), chain, sampling_steps)
    if not drawn:
      v = network.units.mean(apply(apply(end, v, method="draw_hidden"), method="location"))
    return from_visible(network, v, spec.shape)

  return compose(
    init,
    [("network", Player(loss, optimizer, mean=negative.mean and not sparsity))],
    evaluate=evaluate,
    sample=sample,
    check=check_values(spec.levels, network.units.levels is None, spec.feature),
  )


def weights_only(params: Params) -> dict[str, bool]:
  """The mask for optax's weight decay without biases, Hinton's guide, section 10."""
  return {name: name == "W" for name in params}


def filters(network: RBM, spec: Spec) -> Callable[[State], Float[Array, "H h w c"]]:
  """state -> the weights of each hidden unit, as images, for figures."""
  return lambda state: state.averaged()["W"].T.reshape(network.hidden, *spec.shape)


def walk(network: RBM, frames: int = 12, every: int = 20) -> Callable[[State, Event, Key[Array, " n"]], Array]:
  """(state, examples [n, *shape], keys [n]) -> where Gibbs chains from there are at every 20th step, as means of the
  visible given the hidden units, [frames, n, *shape]; for figures."""

  def trajectory(state: State, x: Event, keys: Key[Array, " n"]) -> Array:
    apply = partial(network.apply, {"params": state.averaged()})
    step = kernel(network, state.averaged())

    def frame(v: Array, number: Array) -> tuple[Array, Array]:
      v, *_ = mcmc.run(step, v, fold_in(keys, number), every)
      return v, from_visible(network, apply(v, method="reconstruct"), x.shape[1:])

    return jax.lax.scan(frame, to_visible(network, x), jnp.arange(frames))[1]

  return trajectory
