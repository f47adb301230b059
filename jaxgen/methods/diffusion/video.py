"""Clips of diffusion models: joint training on images, and clips that are longer than the model's.

Prediction and infilling are edits of `sample`: `start` with `keep` [N, T], True for the frames that are known, by
`Sampler(reconstruction=...)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.core.method import Batch, Method, Metrics, State

Clips = Float[Array, "n time height width channels"]


def joint(method: Method, feature: str = "clip", images: str = "stills") -> Method:
  """The method, whose steps see a batch's images behind its clips: Ho et al. 2022, section 3, joint training.

  Args:
    method: a method of clips, whose network keeps images apart (`nn.video.unet.VideoUNet`, with `frames`).
    feature: the clips' name in a batch.
    images: the images', [B, K, H, W, C], such as `data.clips.stills` makes; a batch without them is not changed.
  """

  def step(state: State, batch: Batch, **options: Any) -> tuple[State, Metrics]:
    batch = dict(batch)
    if images in batch:
      batch[feature] = jnp.concatenate([batch[feature], batch.pop(images)], axis=1)
    return method.step(state, batch, **options)

  return method._replace(step=step)


def extended(
  sample: Callable[..., Clips],
  keys: Key[Array, " n"],
  frames: int,
  overlap: int,
  first: Clips | None = None,
  **given: Any,
) -> Float[Array, "n {frames} height width channels"]:
  """Clips of any length, in consecutive parts: Ho et al. 2022, section 3.1, autoregressive extension.

  A stretch's first `overlap` frames are the last ones of what there is, and the model fills in the rest. All but the
  first stretch are one program.

  Args:
    sample: (keys, **conditions) -> clips [N, T, H, W, C], which also takes "start" and "keep".
    keys: one for each clip; stretch k draws from fold_in(key, k).
    frames: the length that is asked for.
    overlap: the number of frames of the previous part on which a part is conditioned, from 1 to T - 1.
    first: given clips to continue; None: the first stretch is sampled.
    given: conditions, the same for all stretches.

  Raises:
    UserError: an overlap of 0, one that leaves nothing to sample, or one longer than the given clips.
  """
  shape = jax.eval_shape(lambda keys: sample(keys, **given), keys).shape
  if not 1 <= overlap < shape[1] or (first is not None and first.shape[1] < overlap):
    there = "" if first is None else f", and {first.shape[1]} are known"
    raise UserError(
      f"a clip of {shape[1]} frames is extended by an overlap of 1 to {shape[1] - 1} of them{there}: not by {overlap}"
    )
  clip = sample(fold_in(keys, 0), **given) if first is None else first
  keep = jnp.broadcast_to(jnp.arange(shape[1]) < overlap, shape[:2])
  number = 1
  while clip.shape[1] < frames:
    known = clip[:, -overlap:]
    start = jnp.concatenate([known, jnp.zeros((len(clip), shape[1] - overlap, *shape[2:]), clip.dtype)], axis=1)
    clip = jnp.concatenate([clip, sample(fold_in(keys, number), start=start, keep=keep, **given)[:, overlap:]], axis=1)
    number += 1
  return clip[:, :frames]
