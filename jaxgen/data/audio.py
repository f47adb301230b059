"""Audio: spoken digits (read by `jaxgen.data.sources.speech`), mu-law, and files that play or plot waves."""

import io
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.method import Batch
from jaxgen.data.dataset import Dataset
from jaxgen.data.transforms import Transform

RATE = 8_000  # samples a second
SPEAKERS, DIGITS = 6, 10


def speech(file: str | os.PathLike, *, length: int, levels: int = 256) -> Dataset:
  """Spoken digits. A method sees them as "tokens" [length], made by `mu_law`.

  Args:
    file: the NumPy file with the recordings.
    length: the length of a wave, in samples.
    levels: the number of different tokens.
  """
  number = jax.ShapeDtypeStruct((), np.int32)
  features = {"wave": jax.ShapeDtypeStruct((length,), np.int16), "label": number, "speaker": number}
  return Dataset(f"speech:{file}", features, levels, classes=DIGITS, transforms=(quantize(levels),))


def quantize(levels: int = 256) -> Transform:
  """A transform that turns "wave", 16-bit integers, into "tokens" by `mu_law`."""

  def transform(key: Array, batch: Batch) -> Batch:
    wave = batch["wave"].astype(jnp.result_type(float)) / 2**15
    return {name: x for name, x in batch.items() if name != "wave"} | {"tokens": mu_law(wave, levels)}

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


def wav(waves: Float[np.ndarray, "n length"], rate: int = RATE) -> bytes:
  """A 16-bit WAV file of waves in [-1, 1], one after another with a tenth of a second of silence between them."""
  from scipy.io import wavfile

  apart = np.pad(np.nan_to_num(waves), ((0, 0), (0, rate // 10)))
  buffer = io.BytesIO()
  wavfile.write(buffer, rate, np.round(np.clip(apart, -1, 1) * (2**15 - 1)).astype(np.int16).reshape(-1))
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
    frequency, time, power = spectrogram(wave, rate, window="hann", nperseg=128, noverlap=96, scaling="spectrum")
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


def render(waves: Float[np.ndarray, "n length"], conditions: Mapping[str, Any]) -> dict[str, bytes]:
  """Files that show samples of speech: {".wav": all of them, ".png": the spectrograms of the first 20}."""
  shown = waves[:PICTURES]
  titles = [", ".join(f"{name} {int(conditions[name][i])}" for name in sorted(conditions)) for i in range(len(shown))]
  return {".wav": wav(waves), ".png": spectrograms(shown, titles)}
