"""Cascades of diffusion models: how a stage is conditioned on the previous one.

Ho et al. 2021, Cascaded diffusion models, https://arxiv.org/abs/2106.15282, section 4.2; Saharia et al. 2022 (Imagen),
https://arxiv.org/abs/2205.11487, section 2.4. In training the low-resolution picture is made from the data
(`data.transforms.low_resolution`) and gets Gaussian noise of a random level (`data.transforms.levels`), so that a stage
does not trust each pixel of samples that another stage has made. The level is an input of the network.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxgen.core.condition import Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.diffusion import Schedule, continuous_cosine
from jaxgen.diffusion.losses import diffuse

LOW, LEVEL = "low", "level"  # names in a batch and of a sample's conditions


def augmented(schedule: Schedule, low: Array, level: Array, keys: Key[Array, " n"]) -> Array:
  """alpha(level T) low + sigma(level T) eps: level 0 is low itself, bit for bit, and 1 is noise.

  The noise is added at the picture's resolution, before it is enlarged.
  """
  return diffuse(schedule, low, schedule.T * level.astype(low.dtype), keys)[0]


def low_resolution(schedule: Schedule | None = None) -> Condition:
  """The picture of low resolution, "low" [B, h, w, C], and its noise's level, "level" [B] in 0 .. 1.

  It is never dropped. Guidance by another condition, combined with it by `core.condition.together`, has it in both
  predictions. Samples are asked for with a clean picture and the level of the noise that it gets.

  Args:
    schedule: of the noise; None: `continuous_cosine`.
  """
  process = schedule or continuous_cosine()
  if process.steps is not None:
    raise UserError("a level of noise is any number from 0 to 1: give the low-resolution picture a continuous schedule")

  def read(batch: Mapping[str, Array]) -> Told:
    low, level = jnp.asarray(batch[LOW]), jnp.asarray(batch[LEVEL])
    if level.shape != low.shape[:1]:
      raise UserError(f"each of {len(low)} low-resolution pictures has a level of noise, and these are {level.shape}")
    return {LOW: low, LEVEL: level}

  def corrupt(told: Told, keys: Key[Array, " n"]) -> Told:
    return {**told, LOW: augmented(process, told[LOW], told[LEVEL], keys)}

  nothing = {LOW: np.float32(0), LEVEL: np.float32(0)}  # their names, for `together`: neither is dropped
  return Condition((LOW, LEVEL), read, nothing, corrupt=corrupt)
