"""Clips, "clip" [T, H, W, C] in [-1, 1]: Moving MNIST, animated emoji, and a user's own videos."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import moving as source
from jaxgen.data.sources.views import RandomClip
from jaxgen.data.transforms import Transform, scale

__all__ = ["emoji_clips", "moving", "stills", "video"]


def moving(
  images: str = "digits",
  *,
  digits: int = 1,
  frames: int = 16,
  side: int = 16,
  augment: tuple[Transform, ...] = (),
  data_dir: str | Path | None = None,
) -> Dataset:
  """Moving MNIST with its positions: see `sources.moving`.

  Args:
    images: "digits", "mnist", "fashion_mnist", or the name of a data set of 28x28 pictures.
    digits: the number of digits in a clip; with one, its class is the clip's label.
    frames, side: the clip's length, and its height and width; the paper's are 20, 64 and two digits.
    augment: further transforms in training.
    data_dir: the folder where tensorflow-datasets prepared MNIST.
  """
  name = f"moving:{digits}:{images}"
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


def emoji_clips(folder: str | os.PathLike, *, frames: int = 16, augment: tuple[Transform, ...] = ()) -> Dataset:
  """Animated emoji, 32x32 in colours on white: see `sources.emoji_clips`.

  Args:
    folder: where the sheets are.
    frames: the clip's length, 1, 2, 4, 8 or 16.
    augment: further transforms in training.
  """
  features = {"clip": jax.ShapeDtypeStruct((frames, 32, 32, 3), np.uint8)}
  return Dataset(f"emoji_clips:{folder}", features, 256, None, (scale(feature="clip"),), augment, feature="clip")


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
  """A user's own videos: see `sources.video`.

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
    images = [jnp.take_along_axis(jnp.roll(clip, -1 - k, 0), at[:, k, None, None, None, None], 1) for k in range(count)]
    return batch | {"stills": jnp.concatenate(images, axis=1)}

  return transform
