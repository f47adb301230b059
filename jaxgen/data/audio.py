"""Audio: spoken digits and files of sound (`jaxgen.data.sources` reads them), mu-law, files that play or plot waves."""

import io
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources.audio import parsed
from jaxgen.data.transforms import Transform

RATE = 8_000  # samples a second of the spoken digits
SPEAKERS, DIGITS = 6, 10


def speech(
  file: str | os.PathLike,
  *,
  length: int,
  levels: int | None = 256,
  augment: tuple[Transform, ...] = (),
  last: tuple[Transform, ...] = (),
) -> Dataset:
  """Spoken digits, with "label" and "speaker".

  Args:
    file: the NumPy file with the recordings.
    length: the length of a wave, in samples.
    levels: the number of different tokens, which `mu_law` makes: a method sees "tokens" [length]. None: it sees "wave"
      [length, 1] in [-1, 1].
    augment, last: further transforms, see `Dataset`.
  """
  number = jax.ShapeDtypeStruct((), np.int32)
  features = {"wave": jax.ShapeDtypeStruct((length,), np.int16), "label": number, "speaker": number}
  transform, feature = (waves(), "wave") if levels is None else (quantize(levels), "tokens")
  more = dict(transforms=(transform,), augment=augment, last=last, feature=feature)
  return Dataset(f"speech:{file}", features, levels, classes=DIGITS, **more)


def recordings(
  folder: str | os.PathLike,
  *,
  rate: int,
  length: int,
  channels: int = 1,
  mix: bool = False,
  classes: int | None = None,
  fit: Literal["crop", "pad"] = "crop",
  augment: tuple[Transform, ...] = (),
  last: tuple[Transform, ...] = (),
) -> Dataset:
  """Files of sound, of any rate and width: "wave" [length, channels] in [-1, 1]. See `jaxgen.data.sources.audio`.

  Args:
    folder: where the files lie, in folders for splits and classes.
    rate: samples a second, to which the files are resampled.
    length: the length of a wave, in samples.
    channels: of a file, unless they are mixed.
    mix: take the mean of a file's channels.
    classes: the number of folders within a split, whose names are the classes; None: no labels.
    fit: "crop" cuts recordings into waves and refuses shorter ones; "pad" takes their beginnings and adds silence.
    augment, last: further transforms, see `Dataset`.
  """
  features = {"wave": jax.ShapeDtypeStruct((length, channels), np.int16)}
  if classes is not None:
    features["label"] = jax.ShapeDtypeStruct((), np.int32)
  name = f"audio:{rate}{',mix' if mix else ''}:{folder}"
  more = dict(transforms=(waves(),), augment=augment, last=last, fit=fit, feature="wave")
  return Dataset(name, features, classes=classes, **more)


def rate_of(data: Dataset) -> int:
  """Samples a second of a data set of sound."""
  kind, _, rest = data.name.partition(":")
  return parsed(data.name, rest)[0] if kind == "audio" else RATE


def quantize(levels: int = 256) -> Transform:
  """A transform that turns "wave", 16-bit integers, into "tokens" by `mu_law`."""

  def transform(key: Array, batch: Batch) -> Batch:
    wave = _floats(batch["wave"])
    return {name: x for name, x in batch.items() if name != "wave"} | {"tokens": mu_law(wave, levels)}

  return transform


def waves() -> Transform:
  """A transform of "wave", 16-bit integers [B, L] or [B, L, C], to floats [B, L, C] in [-1, 1): 2^-15 times them."""

  def transform(key: Array, batch: Batch) -> Batch:
    wave = _floats(batch["wave"])
    return batch | {"wave": wave if wave.ndim == 3 else wave[:, :, None]}

  return transform


def _floats(wave: Int[Array, "batch length *channels"]) -> Float[Array, "batch length *channels"]:
  return wave.astype(jnp.result_type(float)) / 2**15


def cut(length: int, random: bool = False) -> Transform:
  """A transform that cuts `length` samples out of "wave": the first ones, or from a place that is drawn anew each time.

  Raises:
    UserError: the waves are shorter.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    wave = batch["wave"]
    if wave.shape[1] < length:
      raise UserError(f"waves of {wave.shape[1]:,} samples have no clips of {length:,}: ask for shorter ones")
    if not random:
      return batch | {"wave": wave[:, :length]}
    start = lambda key: jax.random.randint(key, (), 0, wave.shape[1] - length + 1)
    starts = jax.vmap(start)(example_keys(key, batch["index"]))
    return batch | {"wave": jax.vmap(lambda x, i: jax.lax.dynamic_slice_in_dim(x, i, length))(wave, starts)}

  return transform


# mu-law ---------------------------------------------------------------------------------------------------------------


def mu_law(x: Float[Array, "*shape"], levels: int = 256) -> Int[Array, "*shape"]:
  """Waves in [-1, 1] -> tokens 0 .. levels - 1, with finer steps near silence.

  ITU-T G.711 as in van den Oord et al. 2016, https://arxiv.org/abs/1609.03499, section 2.2: with mu = levels - 1,
  f(x) = sign(x) log(1 + mu |x|) / log(1 + mu), rounded to the nearest of `levels` equally spaced values on [-1, 1].
  """
  mu = levels - 1
  f = jnp.sign(x) * jnp.log1p(mu * jnp.abs(x)) / np.log1p(mu)
  return jnp.clip(jnp.floor((f + 1) / 2 * mu + 0.5), 0, mu).astype(jnp.int32)


def mu_law_inverse(tokens: Int[Array, "*shape"], levels: int = 256) -> Float[Array, "*shape"]:
  """Tokens -> waves in [-1, 1], the inverse of `mu_law`: sign(f) ((1 + mu)^|f| - 1) / mu."""
  mu = levels - 1
  f = tokens.astype(jnp.result_type(float)) * (2 / mu) - 1
  return jnp.sign(f) * jnp.expm1(jnp.abs(f) * np.log1p(mu)) / mu


# Files that play or plot waves ----------------------------------------------------------------------------------------


def wav(waves: Float[np.ndarray, "n length *channels"], rate: int = RATE) -> bytes:
  """A 16-bit WAV file of waves in [-1, 1], one after another with a tenth of a second of silence between them."""
  from scipy.io import wavfile

  apart = np.pad(np.nan_to_num(waves), ((0, 0), (0, rate // 10), *[(0, 0)] * (waves.ndim - 2)))
  buffer = io.BytesIO()
  joined = apart.reshape(-1, *waves.shape[2:])
  wavfile.write(buffer, rate, np.round(np.clip(joined, -1, 1) * (2**15 - 1)).astype(np.int16))
  return buffer.getvalue()


def spectrograms(waves: Float[np.ndarray, "n length"], titles: list[str], rate: int = RATE) -> bytes:
  """A PNG of waves and their spectrograms; its grey scale spans 80 dB from white to black."""
  from matplotlib.figure import Figure
  from scipy.signal import spectrogram

  columns = min(len(waves), 5)
  rows = -(-len(waves) // columns)
  figure = Figure((3 * columns, 2.6 * rows), layout="constrained")
  axes = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [1, 2] * rows})
  for ax in axes.flat:
    ax.set_axis_off()
  for i, wave in enumerate(np.nan_to_num(waves)):
    above, below = axes[2 * (i // columns), i % columns], axes[2 * (i // columns) + 1, i % columns]
    n = max(8, round(0.016 * rate))
    frequency, time, power = spectrogram(wave, rate, "hann", nperseg=n, noverlap=3 * n // 4, scaling="spectrum")
    loudness = 10 * np.log10(power + 1e-12)
    above.plot(np.arange(len(wave)) / rate, wave, linewidth=0.4)
    above.set(xlim=(0, len(wave) / rate), ylim=(-1, 1), title=titles[i])
    below.imshow(
      loudness,
      origin="lower",
      aspect="auto",
      cmap="gray_r",
      vmin=-90,
      vmax=-10,
      extent=(0, len(wave) / rate, 0, frequency[-1]),
    )
    below.set_axis_on()
    below.set(xlabel="s" if i + columns >= len(waves) else None, ylabel="Hz" if i % columns == 0 else None)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=80)
  return buffer.getvalue()


PICTURES = 20  # the most spectrograms in one PNG


def render(
  waves: Float[np.ndarray, "n length *channels"], conditions: Mapping[str, Any], rate: int = RATE
) -> dict[str, bytes]:
  """Files that show samples of sound: {".wav": all of them, ".png": the first 20 spectrograms}.

  Args:
    waves: in [-1, 1].
    conditions: what each was asked for; numbers stand in the spectrograms' titles.
    rate: samples a second.
  """
  shown = waves[:PICTURES].reshape(*waves[:PICTURES].shape[:2], -1).mean(axis=2)  # of all channels
  said = sorted(name for name, value in conditions.items() if np.ndim(value) == 1)
  titles = [", ".join(f"{name} {conditions[name][i]:g}" for name in said) for i in range(len(shown))]
  return {".wav": wav(waves, rate), ".png": spectrograms(shown, titles, rate)}
