"""Judges of sound: a classifier of mel spectrograms, and the distance of spectra.

The classifier is the small network of `jaxgen.evaluation.judge`, trained once on the training recordings and kept in
its cache; it sees mel spectrograms as pictures of one channel. No paper has it: its numbers compare runs on the same
data, and nothing else.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch
from jaxgen.data import real
from jaxgen.data.audio import rate_of, waves
from jaxgen.data.dataset import Dataset
from jaxgen.data.mel import Mel, as_picture, magnitudes
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.judge import Judge, trained_on
from jaxgen.evaluation.likelihood import mean_and_error

Waves = Float[np.ndarray, "n length *channels"]


def mel_of(data: Dataset) -> Mel:
  """The mel spectrogram that the classifier sees: 32 bands, of spectra of 64 ms every 16 ms."""
  rate = rate_of(data)
  return Mel(rate, hop=round(0.016 * rate), bands=32)


def pictures(data: Dataset, of: str = "label", classes: int | None = None) -> Dataset:
  """A data set of sound as the classifier sees it: "image" [frames, bands, 1] in [-1, 1], and "label".

  Args:
    data: recordings.
    of: the label of a recording that the classifier learns, such as "speaker".
    classes: the number of its classes; None: the data's.

  Raises:
    UserError: the data has no waves, or not this label.
  """
  missing = [name for name in ("wave", of) if name not in data.features]
  if missing:
    raise UserError(
      f"{data.name} has no {missing[0]!r}, by which sound is judged: use other data, or no such evaluator"
    )
  mel, features = mel_of(data), {name: data.features[name] for name in ("wave", of)}

  def picture(key: Array, batch: Batch) -> Batch:
    return {"index": batch["index"], "label": batch[of], "image": seen(mel, batch["wave"])}

  shown = dict(features=features, transforms=(waves(), picture), augment=(), last=(), feature="image", levels=None)
  return dataclasses.replace(data, classes=classes or data.classes, **shown)


def seen(mel: Mel, x: Float[Array, "n length channels"]) -> Float[Array, "n frames bands 1"]:
  """The mean of a wave's channels as the classifier sees it; samples behind the last whole frame are left out."""
  mono = x.mean(axis=2)[:, : x.shape[1] // mel.hop * mel.hop]
  return as_picture(mel.of(mono))


def _channels(x: Waves) -> Float[np.ndarray, "n length channels"]:
  return x if x.ndim == 3 else x[:, :, None]


def spoken(
  num: int = 300, *, of: str = "label", classes: int | None = None, seed: int = 0, split: str = "test"
) -> Evaluator:
  """Whether samples have the requested label, and how far they are from recordings.

  Numbers: `spoken_accuracy_N`, the share of N samples whose label the classifier hears, with its standard error, and
  `spoken_accuracy_real` of the split's recordings; `spoken_frechet_N`, the Fréchet distance of the samples to the split
  in the classifier's features, and `spoken_frechet_N_floor` of N training recordings. The samples' numbers are NaN if
  one of them is not finite.

  Args:
    num: the number of samples N.
    of: the label of samples and recordings that is heard. With "speaker" the numbers are `speaker_accuracy_N`, ...
    classes: the number of its classes; None: the data's.
    seed: of the samples.

  The evaluator raises:
    UserError: the data has no sound or labels or fewer training recordings than N, or samples are asked for without
      labels.
  """

  name = "spoken" if of == "label" else of
  known: dict[str, Any] = {}  # the classifier, the numbers and features of recordings, made once for a data set

  def reference(data: Dataset) -> tuple[Judge, dict[str, float], Float[np.ndarray, "n features"]]:
    from jaxgen.evaluation.frechet import frechet_distance

    if known.get("data") is not data:
      shown, total = pictures(data, of, classes), len(data.source("train"))
      if num > total:
        raise UserError(f"spoken({num}): {data.name} has {total:,} training recordings: ask for at most that many")
      judge = trained_on(shown)
      batches = list(real.batches(shown, split))
      features = judge.features(np.concatenate([batch["image"] for batch in batches]))
      label = np.concatenate([batch["label"] for batch in batches])
      chosen = np.sort(np.random.default_rng(0).permutation(total)[:num])
      of_train = judge.features(np.concatenate(list(real.images(shown, "train", chosen))))
      numbers = {
        f"{name}_accuracy_real": float((judge.logits(features).argmax(1) == label).mean()),
        f"{name}_frechet_{num}_floor": frechet_distance(of_train, features),
      }
      known.update(data=data, found=(judge, numbers, features))
    return known["found"]

  def labels(run: AnyRun, count: int) -> np.ndarray:
    asked = run.conditions(np.arange(count))
    if of not in asked:
      raise UserError(f"samples are judged by the {of!r} that they are asked for, and this config asks for none")
    return np.asarray(asked[of])

  def evaluate(run: AnyRun) -> dict[str, float]:
    from jaxgen.evaluation.frechet import frechet_distance

    asked = labels(run, num)
    judge, numbers, features = reference(run.data)
    samples = _channels(run.sample(num, seed=seed))
    names = f"{name}_accuracy_{num}", f"{name}_accuracy_{num}_se", f"{name}_frechet_{num}"
    if not np.isfinite(samples).all():
      return numbers | dict.fromkeys(names, math.nan)
    heard = judge.features(np.asarray(seen(mel_of(run.data), jnp.asarray(samples))))
    right = judge.logits(heard).argmax(1) == asked
    found = (*mean_and_error(right.astype(np.float64)), frechet_distance(heard, features))
    return numbers | dict(zip(names, found, strict=True))

  def rehearse(run: AnyRun) -> None:
    """Looks for the samples' labels, and opens or trains the classifier."""
    labels(run, 1)
    reference(run.data)

  evaluate.rehearse = rehearse
  return evaluate


def log_spectral_distance(
  a: Waves, b: Waves, fft: int = 256, hop: int = 64, floor: float = 1e-4
) -> Float[np.ndarray, " n"]:
  """Each pair's distance of log spectra in dB, 0 for equal waves: Gray and Markel 1976, IEEE Trans. ASSP 24(5).

  It is the mean over frames of sqrt(mean over frequencies of (20 log10 |A| / |B|)^2). It does not see phases.

  Args:
    a, b: waves in [-1, 1].
    fft: samples of a spectrum, under a Hann window.
    hop: samples from frame to frame.
    floor: amplitudes below it, of a sine of full scale, count as it, so that silence is no infinite distance: -80 dB.
  """
  spectrum = lambda x: magnitudes(jnp.moveaxis(jnp.asarray(_channels(x)), 2, 1).reshape(-1, x.shape[1]), fft, hop, fft)
  least = floor * fft / 4  # the largest magnitude of a sine of amplitude 1 is the half of the window's sum
  decibels = [20 * np.log10(np.maximum(np.asarray(spectrum(x), np.float64), least)) for x in (a, b)]
  each = np.sqrt(((decibels[0] - decibels[1]) ** 2).mean(axis=2)).mean(axis=1)
  return each.reshape(len(a), -1).mean(axis=1)


def vocoding(num: int = 32, *, seed: int = 0, split: str = "test") -> Evaluator:
  """How close a vocoder's waves are to the recordings of their mel spectrograms.

  Numbers: `vocoded_lsd_N` in dB, the mean `log_spectral_distance` of N waves, with its standard error; and
  `vocoded_lsd_N_noise`, that of white noise as loud as the recording, which is what a vocoder starts from.

  Args:
    num: N, the first recordings of the split; all where it has fewer.
    seed: of the samples.

  The evaluator raises:
    UserError: the data has no "mel".
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    data, n = run.data, min(num, len(run.data.source(split)))
    if "mel" not in data.batch_spec(1, train=False):
      raise UserError(f"{data.name} has no mel spectrograms: give it the transform data.mel.with_mel")
    batches = list(real.batches(data, split, np.arange(n)))
    wave, mel = (np.concatenate([batch[name] for batch in batches]) for name in ("wave", "mel"))
    samples = run.sample(n, seed=seed, mel=mel)
    finite = np.isfinite(samples).all()
    found = mean_and_error(log_spectral_distance(samples, wave)) if finite else (math.nan, math.nan)
    noise = np.random.default_rng(seed).standard_normal(wave.shape) * wave.std(axis=1, keepdims=True)
    name = f"vocoded_lsd_{n}"
    return {
      name: found[0],
      f"{name}_se": found[1],
      f"{name}_noise": float(log_spectral_distance(noise.astype(wave.dtype), wave).mean()),
    }

  return evaluate
