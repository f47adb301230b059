"""Judges of clips: the dynamics of Moving MNIST, which are exact, and Fréchet distances of clips and of their frames.

The features of clips are those of a small classifier, trained here on the data set and kept as `evaluation.judge` keeps
it: a convolutional network that gets a clip's frames as channels, and predicts the clip's class, if there are classes,
and a change of its time: nothing, played at double speed, shuffled, or stopped. They are no features of I3D, and
distances in them compare with no published Fréchet video distance.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.core.pictures import quantize
from jaxgen.data import real
from jaxgen.data.dataset import Dataset
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.frechet import frechet_distance

ORDERS = 4  # in order, at double speed, shuffled, stopped
Clips = Float[np.ndarray, "n time h w c"]


# Fréchet distances ----------------------------------------------------------------------------------------------------


def as_channels(clips: Array) -> Float[Array, "n h w channels"]:
  """[N, T, H, W, C] -> [N, H, W, T C]."""
  n, time, h, w, c = clips.shape
  return jnp.moveaxis(clips, 1, 3).reshape(n, h, w, time * c)


def for_clips(data: Dataset) -> Dataset:
  """The data set on which the judge of clips is trained: "image" [H, W, T C], and labels for the order of time."""

  def see(key: Array, batch: Batch) -> Batch:
    label = batch.get("label", jnp.zeros_like(batch["index"]))
    return {
      "clip": batch["clip"],
      "image": as_channels(batch["clip"]),
      "label": label * ORDERS,
      "index": batch["index"],
    }

  def disturb(key: Array, batch: Batch) -> Batch:
    clip, time = batch["clip"], batch["clip"].shape[1]

    def places(key: Array) -> tuple[Array, Array]:
      order_key, shuffle_key, stop_key = jax.random.split(key, 3)
      at = jnp.arange(time)
      stop = jnp.broadcast_to(jax.random.randint(stop_key, (), 0, time), (time,))
      ways = jnp.stack([at, 2 * at % time, jax.random.permutation(shuffle_key, time), stop])
      order = jax.random.randint(order_key, (), 0, ORDERS)
      return order, ways[order]

    order, at = jax.vmap(places)(example_keys(key, batch["index"]))
    clip = jnp.take_along_axis(clip, at[:, :, None, None, None], 1)
    return batch | {"image": as_channels(clip), "label": batch["label"] + order}

  classes = ORDERS * (data.classes or 1)
  return dataclasses.replace(
    data, transforms=(*data.transforms, see), augment=(disturb,), classes=classes, feature="image", view=None
  )


def for_frames(data: Dataset) -> Dataset:
  """The data set on which the judge of frames is trained: a random frame of each clip, "image", with its label."""

  def see(key: Array, batch: Batch) -> Batch:
    clip = batch["clip"]
    draw = lambda key: jax.random.randint(key, (1, 1, 1, 1), 0, clip.shape[1])
    at = jax.vmap(draw)(example_keys(key, batch["index"]))
    image = jnp.take_along_axis(clip, at, 1)[:, 0]
    return {"clip": clip, "image": image, "label": batch["label"], "index": batch["index"]}

  return dataclasses.replace(data, transforms=(*data.transforms, see), augment=(), feature="image", view=None)


def frechet(num: int = 256, *, seed: int = 0) -> Evaluator:
  """Fréchet distances of `num` samples to as many clips of the test split, and their floors.

  Numbers: `frechet_clips_small_TxHxW_N` in the features of the small classifier of clips, and, where the data has
  classes, `frechet_frames_small_HxW_N` in those of a classifier of frames, of all frames of N clips; each with
  `_floor`, the distance of N training clips. Samples are rounded to the data's levels, and nothing is resized or
  compressed.

  Args:
    num: the number of samples, at most that of the test split. Only equal numbers compare.
    seed: of the samples.
  """
  known: dict[str, Any] = {}

  def judges(data: Dataset) -> dict[str, Any]:
    from jaxgen.evaluation import judge

    if known.get("data") is not data:
      sizes = {split: len(data.source(split)) for split in ("train", "test")}
      if num < 2 or num > min(sizes.values()):
        raise UserError(f"a distance of {num} clips takes 2 or more, and at most {min(sizes.values())} of {data.name}")
      real_clips = {split: clips_of(data, split, num) for split in sizes}
      time, h, w = real_clips["test"].shape[1:4]
      found = {f"frechet_clips_small_{time}x{h}x{w}_{num}": _features(judge.trained_on(for_clips(data)), False)}
      if data.classes is not None:
        found[f"frechet_frames_small_{h}x{w}_{num}"] = _features(judge.trained_on(for_frames(data)), True)
      known.update(data=data, judges={})
      for name, features in found.items():
        test = features(real_clips["test"])
        known["judges"][name] = features, test, frechet_distance(features(real_clips["train"]), test)
    return known["judges"]

  def evaluate(run: AnyRun) -> dict[str, float]:
    found, levels = judges(run.data), run.data.levels
    samples = run.sample(num, seed=seed)
    whole = np.isfinite(samples).all()
    samples = samples if levels is None else quantize(samples, levels)
    numbers = {}
    for name, (features, test, floor) in found.items():
      numbers |= {name: frechet_distance(features(samples), test) if whole else math.nan, f"{name}_floor": floor}
    return numbers

  evaluate.rehearse = lambda run: [name for one in judges(run.data) for name in (one, f"{one}_floor")]
  return evaluate


def _features(judge: Any, of_frames: bool) -> Any:
  seen = lambda clips: clips.reshape(-1, *clips.shape[2:]) if of_frames else np.asarray(as_channels(jnp.asarray(clips)))
  return lambda clips: judge.features(seen(clips))


def clips_of(data: Dataset, split: str, num: int) -> Clips:
  """The first clips of a split, as a method sees them."""
  return np.concatenate([batch["clip"] for batch in real.batches(data, split, np.arange(num))])


# Moving MNIST ---------------------------------------------------------------------------------------------------------


def located(frames: Float[np.ndarray, "n h w"], glyphs: Float[np.ndarray, "n gh gw"]) -> Int[np.ndarray, "n 2"]:
  """(row, column) of each frame's glyph: where the squared error of its window to it is least.

  A place is the upper left corner, as in `data.sources.moving`; the first of equal ones counts.
  """
  h, w = glyphs.shape[1:]
  windows = np.lib.stride_tricks.sliding_window_view(frames, (h, w), axis=(1, 2))  # [n, rows, columns, h, w]
  product = np.einsum("nrchw,nhw->nrc", windows, glyphs)
  error = np.einsum("nrchw,nrchw->nrc", windows, windows) - 2 * product
  return np.stack(np.unravel_index(error.reshape(len(frames), -1).argmin(1), error.shape[1:]), axis=-1)


def windows_at(
  frames: Float[np.ndarray, "n h w"], places: Int[np.ndarray, "n 2"], size: tuple[int, int]
) -> Float[np.ndarray, "n gh gw"]:
  """The part of each frame at its place."""
  (h, w), rows, columns = size, places[:, 0], places[:, 1]
  at = np.arange(len(frames))[:, None, None]
  return frames[at, (rows[:, None] + np.arange(h))[:, :, None], (columns[:, None] + np.arange(w))[:, None, :]]


def dynamics(known: int = 4, num: int = 64, *, seed: int = 0) -> Evaluator:
  """Predictions of test clips of Moving MNIST from their first frames, against the exact positions.

  The model is conditioned on the first `known` frames, by the arguments "start" and "keep" of `sample`. In each frame
  that it predicts, each digit's picture is looked for where it fits best (`located`), and its distance in pixels to the
  exact position counts; a digit is kept if the window there is, by pixels, nearest to a training digit of its class.
  Where digits overlap, both suffer, in the true frames too. Samples that are not finite make numbers NaN.

  Numbers: means over clips, digits and predicted frames, `position_error_px` and `digit_kept`; `position_error_px_last`
  of the last frame; the same of the true frames, `.._true`, which rounding to pixels and the judge leave, and of the
  last known frame copied, `.._copy`.

  Args:
    known: number of frames that are given.
    num: test clips.
    seed: of the samples.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    batch, some = predicted(run, known, num, seed)
    digits, found = _training_digits(run.data), {}
    for name, clips in some.items():
      error, kept = judged(clips, batch, digits)
      found[f"position_error_px{name}"] = float(error[:, known:].mean())
      found[f"position_error_px_last{name}"] = float(error[:, -1].mean())
      found[f"digit_kept{name}"] = float(kept[:, known:].mean())
    return found

  return evaluate


def judged(
  clips: Clips, batch: dict[str, np.ndarray], digits: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "n time digits"], Float[np.ndarray, "n time digits"]]:
  """(distance in pixels of each digit to its exact position, whether it is nearest to training digits of its class)."""
  n, time, h, w, _ = clips.shape
  places, (examples, labels) = places_of(clips, batch), digits
  frames, kept = clips[..., 0].reshape(n * time, h, w).astype(np.float32), np.zeros(places.shape[:3])
  for d in range(places.shape[2]):
    parts = windows_at(frames, places[:, :, d].reshape(-1, 2), batch["glyph"].shape[2:4]).reshape(n * time, -1)
    distance = np.sum(examples**2, 1) - 2 * parts @ examples.T
    kept[:, :, d] = (labels[distance.argmin(1)] == np.repeat(batch["digit"][:, d], time)).reshape(n, time)
  return _of_finite(clips, np.linalg.norm(places - batch["position"], axis=-1)), _of_finite(clips, kept)


def position_errors(clips: Clips, batch: dict[str, np.ndarray]) -> Float[np.ndarray, "n time digits"]:
  """The distance in pixels of each digit to its exact position."""
  return _of_finite(clips, np.linalg.norm(places_of(clips, batch) - batch["position"], axis=-1))


def _of_finite(clips: Clips, values: Float[np.ndarray, "n time digits"]) -> Float[np.ndarray, "n time digits"]:
  """Values of frames, NaN where a frame is not finite, in which every place would be found."""
  return np.where(np.isfinite(clips).all((2, 3, 4))[..., None], values, np.nan)


def places_of(clips: Clips, batch: dict[str, np.ndarray]) -> Int[np.ndarray, "n time digits 2"]:
  """Where each digit's picture fits best in each frame."""
  n, time, h, w, _ = clips.shape
  glyph = batch["glyph"][..., 0].astype(np.float32) / 127.5 - 1
  frames = clips[..., 0].reshape(n * time, h, w).astype(np.float32)
  each = [located(frames, np.repeat(glyph[:, d], time, axis=0)) for d in range(glyph.shape[1])]
  return np.stack(each, axis=1).reshape(n, time, -1, 2)


def predicted(run: AnyRun, known: int, num: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(the first test clips with all that is known of them; clips by name: "" predicted, "_true", "_copy" the last known
  frame).

  Raises:
    UserError: the data is no Moving MNIST, or there is nothing to predict.
  """
  batch, told = _told(run.data, known, num)
  true = batch["clip"]
  copied = np.where(told["keep"][..., None, None, None], true, true[:, known - 1 : known])
  return batch, {"": run.sample(num, seed=seed, **told), "_true": true, "_copy": copied}


def _told(data: Dataset, known: int, num: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(the first clips of the test split with all that is known of them, "start" and "keep" of their first frames)."""
  if not data.name.startswith("moving:"):
    raise UserError(f"exact positions are those of moving:..., and this data is {data.name}: leave the dynamics out")
  time = data.features["clip"].shape[0]
  if not 1 <= known < time:
    raise UserError(f"a clip of {time} frames is predicted from its first 1 to {time - 1}, not {known}")
  parts = list(real.batches(data, "test", np.arange(num)))
  batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  keep = np.broadcast_to(np.arange(time) < known, (num, time))
  start = np.where(keep[..., None, None, None], batch["clip"], 0).astype(np.float32)
  return batch, {"start": start, "keep": keep}


def _training_digits(data: Dataset, most: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
  """(pictures of training digits in [-1, 1], flat, [N, h w], their classes)."""
  source = data.source("train")
  some = source.gather(np.arange(min(most, len(source))))
  pictures, first = np.unique(some["glyph"][:, 0], axis=0, return_index=True)
  flat = pictures.reshape(len(pictures), -1).astype(np.float32) / 127.5 - 1
  return flat, some["digit"][first, 0]
