"""Mel spectrograms: short-time spectra on a scale of pitch, the inputs of vocoders and classifiers.

    mel = Mel(rate=22_050, hop=256, bands=80)
    mel.of(waves)                                    [B, L] in [-1, 1] -> [B, L // hop, bands] in [0, 1]
    Dataset(..., last=(with_mel(mel),))              adds "mel" to a batch's "wave"

Frame f is the spectrum around sample f hop, of `window` samples under a Hann window in the middle of `fft` samples. The
wave is mirrored at its ends. Triangles on the mel scale sum the spectrum's magnitudes to M, and a network gets

    (M1)  clip((20 log10(max(M / |w|, 1e-5)) + 80) / 100, 0, 1),   |w|^2 the sum of the window's squares

so that 0 is silence and 0.01 is a decibel. The defaults are those of https://github.com/lmnt-com/diffwave: 4 hop
samples in a window, 20 Hz as the lowest frequency, HTK's scale, and triangles of height 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch
from jaxgen.data.transforms import Transform

FLOOR = 1e-5


def to_mel(hertz: Float[np.ndarray, "*n"], htk: bool = True) -> Float[np.ndarray, "*n"]:
  """Hertz -> mel, by one of two scales.

  HTK's is 2595 log10(1 + f / 700), O'Shaughnessy 1987. That of Slaney's Auditory Toolbox, 1998, is linear to 1 kHz,
  which is 15 mel, and logarithmic above, 27 mel for a factor of 6.4.
  """
  if htk:
    return 2595 * np.log10(1 + hertz / 700)
  return np.where(hertz < 1000, 3 * hertz / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def from_mel(mel: Float[np.ndarray, "*n"], htk: bool = True) -> Float[np.ndarray, "*n"]:
  """Mel -> hertz, the inverse of `to_mel`."""
  if htk:
    return 700 * (10 ** (mel / 2595) - 1)
  return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


def filters(
  rate: int, fft: int, bands: int, low: float, high: float, htk: bool = True, area: bool = False
) -> Float[np.ndarray, "bins bands"]:
  """Triangles over the frequencies of a spectrum, whose corners are evenly spaced in mel.

  Args:
    rate: samples a second.
    fft: samples of a spectrum; it has fft // 2 + 1 bins.
    bands: the number of triangles.
    low, high: the lowest and the highest corner, in Hz.
    htk: the scale, see `to_mel`.
    area: give all triangles the area of 1 Hz instead of the height 1.
  """
  corners = from_mel(np.linspace(*to_mel(np.array([low, high]), htk), bands + 2), htk)
  bins = np.linspace(0, rate / 2, fft // 2 + 1)[:, None]
  widths = np.diff(corners)
  rising, falling = (bins - corners[:-2]) / widths[:-1], (corners[2:] - bins) / widths[1:]
  triangles = np.maximum(np.minimum(rising, falling), 0)
  return triangles * 2 / (corners[2:] - corners[:-2]) if area else triangles


def hann(window: int, fft: int) -> Float[np.ndarray, " fft"]:
  """A periodic Hann window of `window` samples in the middle of `fft`, zeros beside it."""
  w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  before = (fft - window) // 2
  return np.pad(w, (before, fft - window - before))


def magnitudes(
  waves: Float[Array, "batch length"], fft: int, hop: int, window: int
) -> Float[Array, "batch frames bins"]:
  """|STFT| of waves [B, L], [B, 1 + L // hop, fft // 2 + 1]; the ends are mirrored.

  Raises:
    UserError: a wave is not longer than half a spectrum, so that its ends cannot be mirrored, or the window is longer
      than the spectrum.
  """
  length = waves.shape[1]
  if window > fft or length <= fft // 2:
    raise UserError(
      f"a spectrum of {fft} samples takes a window of at most {fft} and a wave of more than {fft // 2}, and these have "
      f"{window} and {length}: ask for longer clips, or another fft"
    )
  padded = jnp.pad(waves, ((0, 0), (fft // 2, fft // 2)), mode="reflect")
  places = hop * np.arange(1 + length // hop)[:, None] + np.arange(fft)
  return jnp.abs(jnp.fft.rfft(padded[:, places] * jnp.asarray(hann(window, fft), waves.dtype)))


class Mel(NamedTuple):
  """A mel spectrogram's definition.

  Attributes:
    rate: samples a second.
    hop: samples from frame to frame.
    bands: the number of triangles.
    window: samples under the Hann window; None: 4 hop.
    fft: samples of a spectrum; None: the power of two that is not below the window.
    low, high: the frequencies at the ends, in Hz; None: half the rate.
    htk, area: of `filters`.
  """

  rate: int
  hop: int
  bands: int = 80
  window: int | None = None
  fft: int | None = None
  low: float = 20.0
  high: float | None = None
  htk: bool = True
  area: bool = False

  def sizes(self) -> tuple[int, int]:
    """(samples of the window, samples of a spectrum)."""
    window = self.window or 4 * self.hop
    return window, self.fft or 1 << (window - 1).bit_length()

  def frames(self, length: int) -> int:
    """The number of frames of a wave.

    Raises:
      UserError: it is not made of whole frames.
    """
    if length % self.hop:
      raise UserError(
        f"a wave of {length:,} samples is not made of whole frames of {self.hop}: make its length a multiple of that"
      )
    return length // self.hop

  def energies(self, waves: Float[Array, "batch length"]) -> Float[Array, "batch frames {self.bands}"]:
    """M / |w|, which the triangles sum: a frame for each `hop` samples."""
    frames, (window, fft) = self.frames(waves.shape[1]), self.sizes()
    spectra = magnitudes(waves, fft, self.hop, window)[:, :frames]
    triangles = filters(self.rate, fft, self.bands, self.low, self.high or self.rate / 2, self.htk, self.area)
    norm = np.sqrt((hann(window, fft) ** 2).sum())
    return spectra @ jnp.asarray(triangles / norm, waves.dtype)

  def of(self, waves: Float[Array, "batch length"]) -> Float[Array, "batch frames {self.bands}"]:
    """(M1), in [0, 1].

    Raises:
      UserError: the waves are not made of whole frames, or too short for a spectrum.
    """
    decibels = 20 * jnp.log10(jnp.maximum(self.energies(waves), FLOOR))
    return jnp.clip((decibels + 80) / 100, 0, 1)


def with_mel(mel: Mel) -> Transform:
  """A transform that adds "mel" [B, frames, bands] of "wave" [B, L, 1]; put it last."""

  def transform(key: Array, batch: Batch) -> Batch:
    wave = batch["wave"]
    if wave.ndim != 3 or wave.shape[2] != 1:
      raise UserError(f"a mel spectrogram needs one channel, and the wave is {list(wave.shape[1:])}: mix its channels")
    return batch | {"mel": mel.of(wave[:, :, 0])}

  return transform


def as_picture(mel: Float[Array, "batch frames bands"]) -> Float[Array, "batch frames bands 1"]:
  """A mel spectrogram in [0, 1] as a picture in [-1, 1]: frames from top to bottom, bands from left to right."""
  return 2 * mel[..., None] - 1


def of_picture(picture: Float[Array, "batch frames bands 1"]) -> Float[Array, "batch frames bands"]:
  """The inverse of `as_picture`; values beyond [-1, 1] are clipped."""
  return jnp.clip((picture[..., 0] + 1) / 2, 0, 1)


def with_picture(mel: Mel) -> Transform:
  """`with_mel`, and the spectrogram as "image" [B, frames, bands, 1] in [-1, 1]."""

  def transform(key: Array, batch: Batch) -> Batch:
    batch = with_mel(mel)(key, batch)
    return batch | {"image": as_picture(batch["mel"])}

  return transform
