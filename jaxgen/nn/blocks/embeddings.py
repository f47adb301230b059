"""Inputs for time and class: sinusoids of a time, and a check of labels."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError


def timestep_embedding(t: Float[Array, "batch"], dim: int, period: float = 10_000.0) -> Float[Array, "batch {dim}"]:
  """Sinusoidal embedding of Ho et al. 2020 (their code's `get_timestep_embedding`): all sines, then all cosines.

  Frequencies fall geometrically from 1 to 1 / period. An odd `dim` ends with a zero.
  """
  half = dim // 2
  frequencies = np.exp(-np.log(period) * np.arange(half) / max(half - 1, 1))
  angle = t[:, None] * jnp.asarray(frequencies, t.dtype)
  return jnp.pad(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1), ((0, 0), (0, dim % 2)))


def of_times(t: Float[Array, "batch *times"], dim: int) -> Float[Array, "batch {dim}"]:
  """`timestep_embedding` of one time [B]; of several times [B, K], those of dim / K entries each, side by side.

  Raises:
    UserError: dim does not divide by the number of times.
  """
  if t.ndim == 1:
    return timestep_embedding(t, dim)
  if dim % t.shape[1]:
    raise UserError(f"{t.shape[1]} times share an embedding of {dim} entries: make it a multiple")
  return jnp.concatenate([timestep_embedding(one, dim // t.shape[1]) for one in t.T], axis=-1)


def cosines_first(t: Float[Array, "batch"], dim: int) -> Float[Array, "batch {dim}"]:
  """That of improved DDPM: cosines before sines, frequencies 10,000^(-i / half), i < half, all above 1 / 10,000."""
  half = dim // 2
  return jnp.roll(timestep_embedding(t, dim, 10_000.0 ** (1 - 1 / half)), half, axis=-1)


def check_label(label: Int[Array, "batch"] | None, classes: int | None) -> None:
  """Raises a UserError where a label is given to a network without classes, or none to one that has them."""
  if (label is None) != (classes is None):
    raise UserError(
      f"a label is given where, and only where, the network has classes, and this one has {classes or 'none'}: set its "
      "classes, or the method's condition"
    )
