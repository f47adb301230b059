"""Diffusion models and flows as one method. The mathematics, with the numbers used here, is in `jaxgen.diffusion`.

DDPM, improved DDPM, NCSN, score SDE, EDM, rectified flow and flow matching are choices of an objective, a condition and
a sampler; `configs/diffusion/` has each as published.

    gaussian_diffusion(UNet(), cosine(1000), data.spec, optimizer)                                          DDPM
    gaussian_diffusion(
      UNet(classes=11), cosine(1000), data.spec, optimizer,
      objective=Objective(prediction=PREDICTIONS["v"]), condition=labels(data.spec, dropout=0.1),
    )                                                                              conditional, with guidance
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.condition import UNCONDITIONAL, Condition, check_condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Frozen, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion import Schedule
from jaxgen.methods.diffusion.objective import (
  SIMPLE,
  Loss,
  Model,
  Objective,
  check_prior,
  preserving,
  training_loss,
  with_uncertainty,
)
from jaxgen.methods.diffusion.sampler import DDIM, Sampler, check_start, cost, sampling_function
from jaxgen.methods.diffusion.teacher import LEARNS
from jaxgen.methods.diffusion.tuning import Adapter, sources

Likelihood = Callable[..., Float[Array, " batch"]]


def gaussian_diffusion(
  network: Any,
  schedule: Schedule,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  objective: Objective = SIMPLE,
  condition: Condition = UNCONDITIONAL,
  sampler: Sampler = DDIM,
  likelihoods: Mapping[str, Likelihood] = MappingProxyType({}),
  adapter: Adapter | None = None,
  base: Frozen | None = None,
  prior: float | None = None,
) -> Method:
  """Learns x_0 from x_t by a weighted squared error, a mean per entry. Batch {feature: [B, *shape], "index": [B]}.

  Examples have any shape: images [H, W, C] and clips [T, H, W, C] in [-1, 1], waves [L, C], sets of points [N, C] with
  padding, which the spec's mask names: noise, loss, network and samples leave it out.

  Args:
    network: a Flax module, called as in `Model`.
    schedule: the noise schedule.
    spec: the data's spec; the bound uses its levels.
    optimizer: the network's optimizer.
    objective: the network's output and its loss.
    condition: the network's condition; by default nothing.
    sampler: the solver, its grid and the guidance of `sample`.
    likelihoods: {name: (denoise, schedule, x_0, keys) -> -log p(x_0) or a bound on it, nats [B]} for `evaluate`, such
      as {"nll_nats": partial(losses.bound_nll, levels=256)}, `likelihood.continuous_bound`, or {"nll_nats_dequantized":
      partial(likelihood.ode_nll, levels=256)}.
    adapter: train only this change of the network, which has its own entry in `params` beside "network": `LoRA` or one
      of `methods.diffusion.tuning`.
    base: the source of the parameters of the network that is changed; None: they keep their initialisation.
    prior: the weight of the loss of a second row of examples, "prior_image" and so on in a batch: DreamBooth's prior
      preservation, `objective.preserving`. None: there is none.

  `sample(state, keys, weight=None, **conditions)` gives [N, *shape]. Conditions have the names of the batch's entries.
  If none are given, the condition draws them. weight [N] is the sampler's guidance weight; None: no guidance.

  Raises:
    UserError: the choices do not fit each other, or the data has another shape or lacks the condition.
  """
  if base is not None and adapter is None:
    raise UserError("a base is what an adapter changes: give the adapter, or train the network itself")
  objective = objective.on(schedule)
  model = Model(network, schedule, objective.prediction, objective.time_input, objective.variance == "learned")
  sample = sampling_function(sampler, model, condition, spec)
  if likelihoods or objective.vlb:
    check_start(schedule, objective.prediction, schedule.T)
  if likelihoods and spec.mask is not None:
    raise UserError("likelihoods of examples with padding are not here: give none")
  check_condition(condition, network)

  def player(loss: Loss, optimizer: optax.GradientTransformation) -> Player:
    return Player(loss, optimizer, mean=objective.times.mean)

  networks = {"network": (network, condition)}  # with their conditions
  learned = training_loss(model, objective, condition, spec)
  second = (spec.feature, *condition.names, *([spec.mask] if spec.mask else [])) if prior is not None else ()
  if prior is not None:
    learned = preserving(learned, prior, second)
  changed = lambda state, trained: adapter.merged(state.params["network"], trained)
  players = [("network", player(learned, optimizer))]
  if adapter is not None:
    of_change = lambda trained, state, batch, key: learned(changed(state, trained), state, batch, key)
    players = [(adapter.name, player(of_change, optimizer))]
  if guide := sampler.guidance.guide:
    networks[guide.name] = guide.network, guide.condition(condition)
    players.append((guide.name, player(guide.loss(model, objective, condition, spec), guide.optimizer)))

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    check_prior(batch, second)
    one = jax.tree.map(lambda x: x[:1], batch)
    x = one[spec.feature]
    options = {"mask": one[spec.mask]} if spec.mask else {}
    params, shapes = {}, {}
    for name, (module, told) in networks.items():
      output, variables = module.init_with_output(key, x, jnp.zeros(1, x.dtype), told.of(one), **options)
      params[name], shapes[name] = variables["params"], output.shape[1:]
      key = jax.random.fold_in(key, 1)
    params["network"] = with_uncertainty(objective.uncertainty, params["network"], key, x.dtype)
    *outer, channels = spec.shape
    expected = (*outer, 2 * channels) if model.learned_variance else spec.shape
    check_output("the network's output", shapes["network"], expected, "change its out_channels")
    if adapter is not None:
      params["network"], params[adapter.name] = adapter.split(jax.random.fold_in(key, 1), params["network"])
    buffers = objective.times.init()
    return params, {"times": buffers} if buffers else {}

  def whole(state: State) -> State:
    """The state in which the network is the changed one."""
    if adapter is None:
      return state
    params = {**state.params, "network": changed(state, state.averaged(adapter.name))}
    # An average of the frozen part alone lacks the change.
    return state.replace(params=params, ema={name: a for name, a in state.ema.items() if name != "network"})

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    state = whole(state)
    keys = example_keys(key, batch["index"])
    denoise = model.denoise(state.averaged(), condition.of(batch))
    return {name: nll(denoise, schedule, batch[spec.feature], keys) for name, nll in likelihoods.items()}

  facts, calls = cost(sampler, schedule, condition)
  frozen = {} if adapter is None else sources(adapter, base)
  if adapter is not None:
    facts = {**facts, LEARNS: f"changed by its {adapter.name}"}
  drawn = lambda state, keys, **given: sample(whole(state), keys, **given)
  method = compose(init, players, frozen=frozen, evaluate=evaluate, sample=drawn, facts=facts)
  return method._replace(network_calls=calls)
