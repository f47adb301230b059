"""Discrete diffusion as one method. The mathematics, with the numbers used here, is in `jaxgen.discrete`.

D3PM, multinomial diffusion, MDLM, SEDD and discrete flows of other noise are choices of a process, an objective and a
sampler; `configs/discrete/` has them.

    discrete_diffusion(DDiT(65, **SIZES["tiny"]), absorbing(linear(), 65), data.spec, optimizer)             MDLM
    discrete_diffusion(network, uniform(cosine(), 65, 1000), .., objective=Objective(hybrid=0.01))           D3PM
    discrete_diffusion(network, uniform(geometric(), 65), .., objective=Objective(PREDICTIONS["score"]))     SEDD
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.arrays import per_example, wide
from jaxgen.core.condition import UNCONDITIONAL, Condition, Told, check_condition, check_names
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.discrete import (
  PREDICTIONS,
  Predict,
  Predicted,
  Prediction,
  Process,
  Solver,
  ancestral,
  logs,
  losses,
  predictions,
  sampling,
  uniform_grid,
)
from jaxgen.discrete.processes import check_interpolating, check_mask
from jaxgen.probability.distributions import check_values, to_integers, to_values

Tokens = Int[Array, "n ..."]


class Objective(NamedTuple):
  """The network's output and its loss: bound times the bound (7) or (8), plus hybrid times the cross-entropy.

  Attributes:
    prediction: the network's output.
    bound: the factor of the bound; with 0 the loss is only the unweighted cross-entropy of x_0, as in MaskGIT.
    hybrid: lambda of Austin's eq. 5; the paper has 0.01 for text and 0.001 for images.
    batch_size: of the global batch: times are then low-discrepancy over it, as in MDLM; None: independent times.
  """

  prediction: Prediction = PREDICTIONS["x_0"]
  bound: float = 1.0
  hybrid: float = 0.0
  batch_size: int | None = None


BOUND = Objective()


class Sampler(NamedTuple):
  """How samples are drawn from noise.

  Attributes:
    solver: process -> the solver.
    grid: the time grid.
    steps: number of steps.
    length: tokens of a sample; longer ones than the data's are written semi-autoregressively, see `discrete_diffusion`.
      None: as many as the data's.
  """

  solver: Callable[[Process], Solver] = ancestral
  grid: sampling.Grid = uniform_grid
  steps: int = 128
  length: int | None = None


ANCESTRAL = Sampler()


def discrete_diffusion(
  network: Any,
  process: Process,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  objective: Objective = BOUND,
  condition: Condition = UNCONDITIONAL,
  sampler: Sampler = ANCESTRAL,
  terms: int | None = None,
) -> Method:
  """Learns tokens by the bound, in nats per token. Batch {feature: [B, *shape] of integers below V, "index": [B]}.

  Values in [-1, 1], such as pictures', become integers by the spec's levels, and samples values again.

  Args:
    network: a Flax module; `network.apply({"params": p}, x_t, t [B], told, index=index, rngs={"dropout": key})`, with t
      in 0 .. 1 -> logits [B, *shape, V]. `told` is the condition's values, or None.
    process: of as many data states as the spec has levels.
    spec: the data's.
    optimizer: the network's optimizer.
    objective: the network's output and its loss.
    condition: the network's condition; by default there is none.
    sampler: the solver, its grid and the length of samples.
    terms: draws of t for each evaluated example; None: all steps, or 128 in continuous time.

  `evaluate` gives "nll_nats", an unbiased estimate of the bound, and "tokens". `sample(state, keys, prompt=None,
  weight=None, **conditions)` gives [N, *shape]; weight [N] mixes the predictions with and without the condition,
  log u = log u_0 + weight (log u_1 - log u_0), which is classifier-free guidance of each token.

  An absorbing process continues a prompt [N, P]: its tokens are there from the first step on. Text longer than the
  data's is written semi-autoregressively: the last half of the tokens so far is the next window's prompt (Sahoo et al.
  2024).

  Raises:
    UserError: the choices do not fit each other, or the data has another shape or vocabulary or lacks the condition.
  """
  _check(process, spec, objective, sampler)
  check_condition(condition, network)
  solver, times = sampler.solver(process), sampler.grid(sampler.steps)
  if solver.solve is None:
    sampling.check(process, times)
  steps, count = process.steps, spec.size
  whole = np.issubdtype(spec.dtype, np.integer)

  def tokens_of(batch: Batch) -> Tokens:
    x = jnp.asarray(batch[spec.feature])
    return x if whole else to_integers(x, spec.levels)

  def predict_with(params: Params, told: Told, **options: Any) -> Predict:
    def predict(x: Tokens, t: Float[Array, " n"]) -> Predicted:
      logits = network.apply({"params": params}, x, t, told, **options)[..., : process.vocabulary]
      return objective.prediction(process, wide(logits).astype(t.dtype), x, t)

    return predict

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    one = jax.tree.map(lambda x: x[:1], batch)
    output, variables = network.init_with_output(key, tokens_of(one), jnp.zeros(1), condition.of(one))
    if output.shape[-1] < process.vocabulary:
      raise UserError(
        f"the network predicts {output.shape[-1]} values of a token and the data has {process.vocabulary}: raise its "
        "vocabulary"
      )
    check_output("the network's output", output.shape[1:-1], spec.shape, "change the network")
    return {"network": variables["params"]}, {}

  def draw_times(key: Array, keys: Key[Array, " batch"], index: Array) -> tuple[Array, Array]:
    """(s, t): a step of the process, or twice the same time in (FIRST, LAST)."""
    if objective.batch_size is None:
      u = jax.vmap(lambda key: jax.random.uniform(key, (), float))(keys)
    else:
      u = (jax.random.uniform(key, (), float) + index / objective.batch_size) % 1.0
    if steps is None:
      t = jnp.minimum(losses.FIRST + (1 - losses.FIRST) * u, losses.LAST)
      return t, t
    step = jnp.minimum(jnp.floor(u * steps), steps - 1)
    return step / steps, (step + 1) / steps

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, dropout_key, times_key, told_key = jax.random.split(key, 4)
    x_0, index = tokens_of(batch), batch["index"]
    t_keys, x_keys = split(example_keys(noise_key, index))
    s, t = draw_times(times_key, t_keys, index)
    x_t = losses.diffuse(process, x_0, t, x_keys)
    told = condition.dropped(condition.of(batch), example_keys(told_key, index))
    predicted = predict_with(params, told, index=index, rngs={"dropout": dropout_key})(x_t, t)
    nats = jnp.zeros(len(x_0), t.dtype)
    if objective.bound:
      if steps is None:
        of_t = (1 - losses.FIRST) * losses.integrand(process, predicted, x_0, x_t, t)
      else:
        of_t = steps * losses.term(process, predicted, x_0, x_t, s, t)
      nats += objective.bound * (losses.prior(process, x_0, t.dtype) + of_t)
    if objective.hybrid:
      nats += objective.hybrid * losses.cross_entropy(process, predicted, x_0, x_t, t)
    return jnp.mean(nats) / count, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    predict = predict_with(state.averaged(), condition.of(batch))
    keys, x_0 = example_keys(key, batch["index"]), tokens_of(batch)
    nats = losses.bound(process, predict, x_0, keys, terms=terms, dtype=jnp.result_type(float))
    return {"nll_nats": nats, "tokens": jnp.full(len(x_0), count, nats.dtype)}

  def sample(
    state: State,
    keys: Key[Array, " n"],
    prompt: Int[Array, "n prompt"] | None = None,
    weight: Float[Array, " n"] | None = None,
    **given: Any,
  ) -> Array:
    params = state.averaged()
    own_keys, told_keys = split(keys)
    check_names(given, condition)
    told = condition.asked(given, told_keys)
    predict = predict_with(params, told)
    if weight is not None:
      predict = guided(process, predict, predict_with(params, _nothing(condition, told)), weight)

    def window(known: Tokens | None, keys: Key[Array, " n"]) -> Tokens:
      start_keys, solver_keys = split(keys)
      x = sampling.start(process, start_keys, spec.shape)
      if known is None:
        return sampling.sample(solver, predict, times, x, solver_keys)
      hold = lambda x: jnp.concatenate([known.astype(x.dtype), x[:, known.shape[1] :]], axis=1)
      held = solver._replace(step=lambda *now: hold(solver.step(*now)))  # remasking would take it away
      return sampling.sample(held, predict, times, hold(x), solver_keys)

    if prompt is not None:
      check_mask(process, "a prompt")
      if spec.size != spec.shape[0] or prompt.shape[1] >= count:
        raise UserError(f"a prompt of {prompt.shape[1]} tokens leaves none of {count} to generate: shorten it")
      prompt = prompt.clip(0, process.vocabulary - 1)
    text = window(prompt, fold_in(own_keys, 0))
    half, i = max(1, count // 2), 1
    while sampler.length is not None and text.shape[1] < sampler.length:
      more = window(text[:, -half:], fold_in(own_keys, i))
      text, i = jnp.concatenate([text, more[:, half:]], axis=1), i + 1
    text = text if sampler.length is None else text[:, : sampler.length]
    return text if whole else to_values(text, spec.levels, jnp.result_type(float))

  def check(batch: Batch) -> None:
    if not whole:
      return check_values(spec.levels, False, spec.feature)(batch)
    x = np.asarray(batch[spec.feature])
    if x.size and (x.min() < 0 or x.max() >= process.vocabulary):
      raise UserError(
        f"tokens from {x.min()} to {x.max()}, and the process's data states are 0 to {process.vocabulary - 1}: change "
        "the data or the process"
      )

  calls = count if solver.solve is not None else len(times) - 1
  windows = 1 if sampler.length is None else 1 + max(0, -(-(sampler.length - count) // (count - max(1, count // 2))))
  facts = {"A sample": f"{calls * windows:,} network calls"}
  player = Player(loss, optimizer, mean=True)
  method = compose(init, [("network", player)], evaluate=evaluate, sample=sample, facts=facts, check=check)
  return method._replace(network_calls=calls * windows)


def guided(process: Process, better: Predict, worse: Predict, weight: Float[Array, " n"]) -> Predict:
  """log u of both predictions, log u_0 + weight (log u_1 - log u_0): classifier-free guidance, Ho and Salimans 2022.

  Weight 1 is the better prediction's u, weight 0 the worse one's. The network is called twice.
  """

  def predict(x: Tokens, t: Float[Array, " n"]) -> Predicted:
    of_better, of_worse = better(x, t), worse(x, t)
    w = per_example(weight.astype(t.dtype), of_better.log_u)
    never = (of_better.log_u < logs.IMPOSSIBLE) | (of_worse.log_u < logs.IMPOSSIBLE)
    log_u = of_worse.log_u + w * (of_better.log_u - of_worse.log_u)
    return predictions.of_u(process, logs.normalized(jnp.where(never, logs.NEVER, log_u)), x, t)

  return predict


def _nothing(condition: Condition, told: Told) -> Told:
  if not condition.dropout:
    raise UserError("guidance needs a network that was also trained without conditions: train it with some dropped")
  return condition.absent(told)


def _check(process: Process, spec: Spec, objective: Objective, sampler: Sampler) -> None:
  """Raises a UserError if the choices do not fit together."""
  if spec.levels is None:
    raise UserError("discrete diffusion models tokens, and this data has real numbers: give it data with levels")
  if spec.levels != process.vocabulary:
    raise UserError(
      f"the process has {process.vocabulary} data states and the data {spec.levels} levels: give both the same"
    )
  factors = objective.bound, objective.hybrid
  if not all(0 <= factor < float("inf") for factor in factors) or not any(factors):
    raise UserError(
      "the loss's factors of the bound and of the cross-entropy must be finite, 0 or more, and not both 0: they are "
      f"{factors[0]:g} and {factors[1]:g}"
    )
  if objective.batch_size is not None and objective.batch_size < 1:
    raise UserError(f"low-discrepancy times need the batch's size, not {objective.batch_size}: give 1 or more")
  if process.steps is None and objective.bound:
    check_interpolating(process, "the bound in continuous time")
  if objective.prediction is PREDICTIONS["score"]:
    check_interpolating(process, "a network of scores")
  if sampler.length is not None:
    check_mask(process, "semi-autoregressive sampling")
    if spec.size != spec.shape[0] or spec.size < 2:
      raise UserError("semi-autoregressive sampling needs rows of 2 or more tokens: leave the length out")
  if sampler.length is not None and sampler.length < 1:
    raise UserError(f"samples have 1 or more tokens, not {sampler.length}: change the length")
