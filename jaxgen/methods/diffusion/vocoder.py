"""A generator of mel spectrograms with a vocoder behind it: samples are waves.

This is AudioLDM's form: Liu et al. 2023, https://arxiv.org/abs/2301.12503, section 3. A diffusion model, of latents or
not, draws mel spectrograms as pictures of one channel, and a vocoder that was trained before makes waves of them.

    vocoded(first_stage(latent_diffusion, ...), vocoder, of_picture, runs.frozen("runs/wavegrad_speech"))
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from jaxgen.core.keys import fold_in
from jaxgen.core.method import Batch, Frozen, Method, Metrics, State

VOCODER = "vocoder"  # the frozen entry of `params`
STREAM = 0x70000002


def vocoded(
  method: Method,
  vocoder: Method,
  spectrogram: Callable[[Float[Array, "n frames bands 1"]], Float[Array, "n frames bands"]],
  frozen: Frozen | None = None,
) -> Method:
  """The method, whose samples a vocoder turns into waves [N, L, C]; the vocoder is the frozen entry "vocoder".

  Args:
    method: draws pictures [N, frames, bands, 1].
    vocoder: the vocoder's method, one network whose samples are conditioned on {"mel": [N, frames, bands]}. A batch
      must have what it learns from, "wave" and "mel", since its parameters' shapes come from it.
    spectrogram: a picture -> the vocoder's condition.
    frozen: where the vocoder's values come from, its run; None: they stay as initialised, and the waves are noise.
  """

  def without(state: State) -> State:
    return state.replace(params={name: p for name, p in state.params.items() if name != VOCODER})

  def init(key: Array, batch: Batch) -> State:
    state = method.init(key, batch)
    values = vocoder.init(jax.random.fold_in(key, STREAM), batch).params["network"]
    return state.replace(params={**state.params, VOCODER: {"params": values}})

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    new, metrics = method.step(without(state), batch, **options)
    return new.replace(params={**new.params, VOCODER: state.params[VOCODER]}), metrics

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Array]:
    return method.evaluate(without(state), batch, key)

  def sample(state: State, keys: Key[Array, " n"], **asked: Any) -> Float[Array, "n length channels"]:
    mel = spectrogram(method.sample(without(state), keys, **asked))
    speaks = state.replace(params={"network": state.params[VOCODER]["params"]}, ema={}, buffers={})
    return vocoder.sample(speaks, fold_in(keys, STREAM), mel=mel)

  stages = {**method.frozen, **({} if frozen is None else {VOCODER: frozen})}
  return method._replace(init=init, step=step, evaluate=evaluate, sample=sample, frozen=stages)
