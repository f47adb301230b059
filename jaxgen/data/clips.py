"""Clips, "clip" [T, H, W, C] in [-1, 1]: Moving MNIST, animated emoji, and your own videos."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.data.dataset import Dataset, images
from jaxgen.data.sources import moving as source
from jaxgen.data.sources.views import RandomClip
from jaxgen.data.transforms import Transform, scale

__all__ = ["emoji_clips", "emoji_frames", "given_of", "hinted", "moving", "stills", "strided", "video"]


def moving(
  pictures: str = "digits",
  *,
  digits: int = 1,
  frames: int = 16,
  side: int = 16,
  augment: tuple[Transform, ...] = (),
  data_dir: str | Path | None = None,
) -> Dataset:
  """Moving MNIST with its positions: see `sources.moving`.

  Args:
    pictures: "digits", "mnist", "fashion_mnist", or the name of a data set of 28x28 pictures.
    digits: the number of digits in a clip; with one, its class is the clip's label.
    frames, side: the clip's length, and its height and width; the paper's are 20, 64 and two digits.
    augment: further transforms in training.
    data_dir: the folder where tensorflow-datasets prepared MNIST.
  """
  name = f"moving:{digits}:{pictures}"
  _, _, glyph, _ = source.parts(name)
  shape = lambda *sizes, dtype=np.uint8: jax.ShapeDtypeStruct(sizes, dtype)
  features = {
    "clip": shape(frames, side, side, 1),
    "position": shape(frames, digits, 2, dtype=np.float32),
    "glyph": shape(digits, glyph, glyph, 1),
    "digit": shape(digits, dtype=np.int32),
  }
  if digits == 1:
    features["label"] = shape(dtype=np.int32)
  classes, transforms = 10 if digits == 1 else None, (scale(feature="clip"),)
  return Dataset(name, features, 256, classes, transforms, augment, data_dir, feature="clip")


def emoji_clips(
  folder: str | os.PathLike,
  *,
  frames: int = 16,
  transforms: tuple[Transform, ...] = (),
  augment: tuple[Transform, ...] = (),
) -> Dataset:
  """Animated emoji, 32x32 in colours on white: see `sources.emoji_clips`.

  Args:
    folder: where the sheets are.
    frames: the clip's length, 1, 2, 4, 8 or 16.
    transforms: further transforms in training and evaluation, such as `strided`.
    augment: further transforms in training.
  """
  features = {"clip": jax.ShapeDtypeStruct((frames, 32, 32, 3), np.uint8)}
  every = (scale(feature="clip"), *transforms)
  return Dataset(f"emoji_clips:{folder}", features, 256, None, every, augment, feature="clip")


def video(
  folder: str | os.PathLike,
  shape: tuple[int, int, int, int],
  *,
  stride: int = 1,
  fps: int | float | None = None,
  strides: tuple[int, int] | None = None,
  classes: int | None = None,
  rate: bool = False,
  augment: tuple[Transform, ...] = (),
) -> Dataset:
  """Your own videos: see `sources.video`.

  Args:
    folder: the folder of videos.
    shape: of a clip, (frames, height, width, channels).
    stride: of evaluations, which see the middle of a video: its frames from one of the clip's to the next.
    fps: the frame rate that the files must have; None: any.
    strides: the least and the largest stride of training, which sees a random stretch; None: `stride`.
    classes: the number of classes, which folders are; None: no labels.
    rate: whether a clip's frames a second are read, "rate".
    augment: further transforms in training.
  """
  features = {"clip": jax.ShapeDtypeStruct(tuple(shape), np.uint8)}
  if classes is not None:
    features["label"] = jax.ShapeDtypeStruct((), np.int32)
  if rate:
    features["rate"] = jax.ShapeDtypeStruct((), np.float32)
  asked = f"{stride}@{fps:g}" if fps else f"{stride}"
  view, transforms = RandomClip(strides or (stride, stride)), (scale(feature="clip"),)
  return Dataset(f"video:{asked}:{folder}", features, 256, classes, transforms, augment, feature="clip", view=view)


def stills(count: int) -> Transform:
  """Joint training on images: each clip [T, ..] is followed by `count` frames of other clips of the batch.

  Ho et al. 2022, https://arxiv.org/abs/2204.03458, section 3: the frames are random and independent, and the network's
  attention over time keeps them apart. Frame k of a clip is of the k-th one after it in the batch, at a random time.

  Raises:
    UserError: fewer than 1 image, or as many as clips in a batch.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    clip = batch["clip"]
    if not 1 <= count < len(clip):
      raise UserError(
        f"clips are trained with 1 image or more of other clips, fewer than the batch's {len(clip)}, not {count}"
      )
    draw = lambda key: jax.random.randint(key, (count,), 0, clip.shape[1])
    at = jax.vmap(draw)(example_keys(key, batch["index"]))
    rows = [jnp.take_along_axis(jnp.roll(clip, -1 - k, 0), at[:, k, None, None, None, None], 1) for k in range(count)]
    return batch | {"stills": jnp.concatenate(rows, axis=1)}

  return transform


def strided(frames: int, strides: tuple[int, ...], fps: float) -> Transform:
  """Clips of `frames` frames out of longer ones, at a random frame rate: "rate" [B], Make-A-Video's condition.

  Singer et al. 2022, https://arxiv.org/abs/2209.14792, section 3. Each clip draws its stride among `strides`, and its
  first frame among those that are left.

  Args:
    frames: the clips' length.
    strides: the numbers of frames from one to the next.
    fps: frames a second of the longer clips; a clip's rate is this over its stride.

  Raises:
    UserError: a stride that does not fit into the longer clips.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    clip = batch["clip"]
    if min(strides) < 1 or max(strides) * (frames - 1) >= clip.shape[1]:
      raise UserError(
        f"clips of {clip.shape[1]} frames have none of {frames} with strides {', '.join(map(str, strides))}: make the "
        "strides or the clips shorter"
      )

    def places(key: Array) -> tuple[Array, Array]:
      stride_key, first_key = jax.random.split(key)
      stride = jnp.asarray(strides)[jax.random.randint(stride_key, (), 0, len(strides))]
      first = jax.random.randint(first_key, (), 0, clip.shape[1] - stride * (frames - 1))
      return first + stride * jnp.arange(frames), fps / stride.astype(clip.dtype)

    at, rate = jax.vmap(places)(example_keys(key, batch["index"]))
    return batch | {"clip": jnp.take_along_axis(clip, at[:, :, None, None, None], 1), "rate": rate}

  return transform


def hinted(keeps: tuple[int, ...], feature: str = "clip") -> Transform:
  """Adds "given" [B, T, H, W, C + 1]: every k-th frame of a clip, for the interpolation of those in between.

  Singer et al. 2022, https://arxiv.org/abs/2209.14792, section 3: the frames that are known, zeros for the others, and
  a channel that is 1 where they are known.

  Args:
    keeps: each clip draws its k among these; frames 0, k, 2 k, .. are known.
    feature: the clips' name in a batch.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    clip = batch[feature]
    draw = lambda key: jnp.asarray(keeps)[jax.random.randint(key, (), 0, len(keeps))]
    every = jax.vmap(draw)(example_keys(key, batch["index"]))
    return batch | {"given": given_of(clip, jnp.arange(clip.shape[1]) % every[:, None] == 0)}

  return transform


def given_of(clip: Float[Array, "n time h w c"], keep: Bool[Array, "n time"]) -> Float[Array, "n time h w more"]:
  """What a network is told of clips of which the frames `keep` are known: see `hinted`."""
  known = keep[..., None, None, None]
  shown = jnp.broadcast_to(known, (*clip.shape[:-1], 1)).astype(clip.dtype)
  return jnp.concatenate([jnp.where(known, clip, 0), shown], axis=-1)


def emoji_frames(folder: str | os.PathLike, *, augment: tuple[Transform, ...] = ()) -> Dataset:
  """The frames of animated emoji, each for itself, as images 32x32 in colours: see `sources.emoji_clips`.

  Args:
    folder: where the sheets are.
    augment: further transforms in training.
  """
  return images(f"emoji_clips:{folder}", (32, 32, 3), augment=augment)
