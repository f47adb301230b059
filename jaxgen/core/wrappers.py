"""Wrappers around a method: averages of its parameters, a return to a snapshot after divergence, a first stage."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxgen.core import edits
from jaxgen.core.arrays import wide
from jaxgen.core.errors import check_decays
from jaxgen.core.keys import example_keys, fold_in
from jaxgen.core.method import Batch, Frozen, Method, Metrics, Params, State
from jaxgen.core.profiles import gamma_of

STAGE = "first_stage"
ENCODE_STREAM = 0xC0000000  # fold_in data of the keys that encode, a number that no update or stage reaches


class Share(NamedTuple):
  """A decay d, given as `of`: (batches consumed before this step, from 0) -> 1 - d, exact even if d rounds to 1."""

  of: Callable[[Array], Array]


Decay = float | Callable[[Array], Array] | Share  # d, or (batches consumed before this step, from 0) -> d


def averaged(method: Method, decays: Decay | Mapping[str, Decay] | None) -> Method:
  """A method that also averages parameters: after every step a <- a + (1 - d) (p - a), in float32 or wider.

  An average starts from the initial parameters. A skipped step does not change it.

  Args:
    decays: d for all trained networks, or a dict: "network" is the average for evaluation and sampling, and
      "network/label" is a further one (`State.averaged("network/label")`). None: the method without averages.

  Raises:
    UserError: a decay that is a number outside [0, 1). `init` raises ValueError: the method has no such network.
  """
  if decays is None:
    return method
  check_decays(decays.values() if isinstance(decays, Mapping) else [decays])
  named = lambda state: decays if isinstance(decays, Mapping) else state.opt

  def init(key: Array, batch: Batch) -> State:
    state = method.init(key, batch)
    for name in (names := named(state)):
      if name.partition("/")[0] not in state.params:
        raise ValueError(f"there is no network {name!r} to average: the method has {', '.join(state.params)}")
    ema = {name: jax.tree.map(lambda p: jnp.copy(wide(p)), state.params[name.partition("/")[0]]) for name in names}
    return state.replace(ema={**state.ema, **ema})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    new, metrics = method.step(state, batch, **options)

    def after(name: str, average: Params) -> Params:
      d = decays[name] if isinstance(decays, Mapping) else decays
      rest = d.of(state.step) if isinstance(d, Share) else 1.0 - (d(state.step) if callable(d) else d)
      share = jnp.where(metrics["skipped"] == 0, rest, 0.0)
      return jax.tree.map(
        lambda a, p: a + share.astype(a.dtype) * (p.astype(a.dtype) - a), average, new.params[name.partition("/")[0]]
      )

    return new.replace(ema={**new.ema, **{name: after(name, state.ema[name]) for name in named(state)}}), metrics

  return method._replace(init=init, step=step)


def warmed_up(decay: float) -> Decay:
  """min(decay, (1 + n) / (10 + n)) after n steps, as in common code: the average forgets the initialisation early.

  Raises:
    UserError: a decay outside [0, 1).
  """
  check_decays([decay])
  return Share(lambda n: jnp.maximum(1.0 - decay, 9.0 / (10.0 + n)))


def power(sigma_rel: float) -> Decay:
  """The power-function average of relative width sigma_rel: Karras et al. 2024, https://arxiv.org/abs/2312.02696.

  Section 3.1: d = (1 - 1 / t)^(gamma + 1) at step t. The weights then have the profile t^gamma; see `core.profiles`.

  Raises:
    UserError: no profile has this width.
  """
  gamma = gamma_of(sigma_rel)
  return Share(lambda n: -jnp.expm1((gamma + 1.0) * jnp.log1p(-1.0 / (n + 1.0))))


def rollback(method: Method, diverged: Callable[[Metrics], Array], every: int) -> Method:
  """A method that returns to an earlier state when a step's metrics say that training diverged.

  `buffers["snapshots"]` has two snapshots of params, opt, ema and buffers. Every `every` steps the newer becomes the
  older and a new one is taken. A rollback restores the older one, because training often goes wrong some time before it
  is noticed. Except at the start it goes back by at least `every` steps. The step number is kept, so data and noise are
  new. The metric "rolled_back" is then 1.

  Args:
    method: a method whose buffers are a dict.
    diverged: metrics of a step -> () bool.
    every: steps between snapshots.
  """
  if every < 1:
    raise ValueError(f"snapshots are taken every 1 or more steps, not {every}")

  keep = lambda state: {"params": state.params, "opt": state.opt, "ema": state.ema, "buffers": state.buffers}
  either = lambda condition, yes, no: jax.tree.map(partial(jnp.where, condition), yes, no)

  def init(key: Array, batch: Batch) -> State:
    state = method.init(key, batch)
    snapshots = {age: jax.tree.map(jnp.copy, keep(state)) for age in ("older", "newer")}
    return state.replace(buffers={**state.buffers, "snapshots": snapshots})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    buffers = dict(state.buffers)
    snapshots = buffers.pop("snapshots")
    new, metrics = method.step(state.replace(buffers=buffers), batch, **options)
    bad = diverged(metrics)
    now = either(bad, snapshots["older"], keep(new))
    take = new.step % every == 0
    older = either(take & ~bad, snapshots["newer"], snapshots["older"])
    newer = either(take | bad, now, snapshots["newer"])
    new = new.replace(**{**now, "buffers": {**now["buffers"], "snapshots": {"older": older, "newer": newer}}})
    return new, metrics | {"rolled_back": bad.astype(jnp.int32)}

  return method._replace(init=init, step=step)


def first_stage(
  method: Method,
  init: Callable[[Array, Array], Params],
  encode: Callable[[Params, Array, Array], Array],
  decode: Callable[[Params, Array], Array],
  frozen: Frozen | None = None,
  feature: str = "image",
) -> Method:
  """A method that models the latents of a first stage, the frozen entry "first_stage" of `params`.

  Args:
    method: the method of latents, which have the examples' name in a batch.
    init: (key, examples [B, ...]) -> the stage's parameters.
    encode: (parameters, examples [B, ...], keys [B]) -> latents [B, ...]; the keys are for stochastic encoders.
    decode: (parameters, latents [N, ...]) -> examples [N, ...].
    frozen: where the stage's values come from; None: they stay as initialised.
  """

  def latents(params: Params, batch: Batch, key: Array) -> Batch:
    return {**batch, feature: jax.lax.stop_gradient(encode(params, batch[feature], example_keys(key, batch["index"])))}

  without = lambda state: state.replace(params={name: p for name, p in state.params.items() if name != STAGE})

  def initial(key: Array, batch: Batch) -> State:
    # Not fold_in(key, 1), which is the second of split(key), the run's key.
    stage_key, encode_key = jax.random.split(jax.random.fold_in(key, ENCODE_STREAM))
    stage = init(stage_key, batch[feature])
    state = method.init(key, latents(stage, batch, encode_key))
    return state.replace(params={**state.params, STAGE: stage})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), ENCODE_STREAM)
    new, metrics = method.step(without(state), latents(state.params[STAGE], batch, key), **options)
    return new.replace(params={**new.params, STAGE: state.params[STAGE]}), metrics

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Array]:
    encode_key, key = jax.random.split(key)
    return method.evaluate(without(state), latents(state.params[STAGE], batch, encode_key), key)

  def sample(state: State, keys: Array, **asked: Any) -> PyTree:
    stage = state.params[STAGE]
    given, finish = edits.through(asked, lambda x: encode(stage, x, fold_in(keys, ENCODE_STREAM)))
    return finish(decode(stage, method.sample(without(state), keys, **given)))

  stages = {**method.frozen, **({} if frozen is None else {STAGE: frozen})}
  return method._replace(init=initial, step=step, evaluate=evaluate, sample=method.sample and sample, frozen=stages)
