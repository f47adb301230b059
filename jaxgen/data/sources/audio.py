"""The data sets `audio:RATE:DIR`: files of sound, {"wave": int16 [length, channels], "label": int32 []}.

    audio:22050:DIR          22,050 samples a second, and as many channels as the config asks for
    audio:16000,mix:DIR      the mean of a file's channels, where the config asks for one

Files lie as pictures do in `folder:DIR`: DIR/<split>/<class>/*.wav, or without classes. For training they may lie in
DIR itself, if it has no folders for splits. SciPy reads WAV of any width, and the library soundfile .flac, .ogg and
.mp3. A file of another rate is resampled by SciPy's `resample_poly`, a polyphase filter.

How a recording of another length becomes examples is the data set's `fit`: "crop" takes parts of `length` samples, one
after the other, and "pad" takes one part from the beginning and appends silence.
"""

import contextlib
import math
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError
from jaxgen.data.sources.base import Decoded, Example, Request, Texts
from jaxgen.data.sources.folder import files_of

WAV = ".wav"
SUFFIXES = frozenset({WAV, ".flac", ".ogg", ".mp3"})


class Form(NamedTuple):
  """The form to which a data set's recordings are converted.

  Attributes:
    rate: samples a second.
    channels: the number of channels.
    mix: take the mean of a file's channels.
  """

  rate: int
  channels: int
  mix: bool


def parsed(name: str, rest: str) -> tuple[int, bool, Path]:
  """(samples a second, whether channels are mixed, folder) of what follows "audio:" in a data set's name.

  Raises:
    UserError: there is no rate, or another word after it than "mix".
  """
  before, _, folder = rest.partition(":")
  rate, *words = before.split(",")
  if not folder or not rate.isdigit() or int(rate) < 1 or words not in ([], ["mix"]):
    raise UserError(f"{name} is not the name of a data set of sound: write audio:RATE:DIR, or audio:RATE,mix:DIR")
  return int(rate), bool(words), Path(folder).expanduser()


def open_audio(request: Request) -> Decoded:
  """Raises a UserError for a folder, split or file that is not there, or recordings that do not fit the request."""
  name, features = request.name, request.features
  rate, mix, root = parsed(name, request.rest)
  if unknown := set(features) - {"wave", "label"}:
    raise UserError(f"{name} has a wave and a label, no {min(unknown)!r}")
  length, *channels = features["wave"].shape
  if channels == [] or request.fit not in ("crop", "pad"):
    raise UserError(f"{name}: a wave is [length, channels], and its fit is crop or pad: change the config's")
  form = Form(rate, channels[0], mix)
  found = files_of(request, root, SUFFIXES, "sound", "wav, flac, ogg, mp3")

  parts, rates, cut, short = [], Counter(), 0, []  # parts: a file's number, and the first sample
  for i, path in enumerate(found.files):
    of_file, frames, file_channels = _header(path)
    _check_channels(path, file_channels, form)
    rates[of_file] += 1
    frames = -(-frames * rate // of_file)  # after resampling
    count = max(frames // length, 1) if request.fit == "crop" else 1
    if frames < length and request.fit == "crop":
      short.append((path, frames))
    cut += frames > count * length
    parts += [(i, part * length) for part in range(count)]
  if short:
    path, frames = short[0]
    others = f", and {len(short) - 1:,} more files are too short" if len(short) > 1 else ""
    raise UserError(
      f"{path} has {frames:,} samples at {rate:,} a second, and the config asks for clips of {length:,}{others}: ask "
      "for shorter clips, or fill them with silence by the data set's fit='pad'"
    )
  left_out = [*found.about.left_out]
  if cut:
    left_out.append(f"the ends of {cut:,} recordings, which are not whole clips of {length:,} samples")
  for of_file, count in sorted(rates.items()):
    if of_file != rate:
      heard = f"{min(of_file, rate) / 2:,g} Hz"
      left_out.append(f"what is above {heard} in {count:,} recordings, which were resampled from {of_file:,} a second")
  indices, starts = np.array(parts).T
  numbers = {"label": np.array(found.labels, np.int32)[indices]} if "label" in features else {}
  read = partial(_read, Texts(map(str, found.files)), indices, starts, numbers.get("label"), length, form)
  return Decoded(len(parts), read, numbers, found.about._replace(left_out=tuple(left_out)))


def _read(
  files: Texts,
  indices: np.ndarray,
  starts: np.ndarray,
  labels: np.ndarray | None,
  length: int,
  form: Form,
  rows: list[int],
) -> list[Example]:
  examples = []
  for row in rows:
    path = files[int(indices[row])]
    wave = decoded(path, form, Path(path).stat().st_mtime_ns)[starts[row] : starts[row] + length]
    example = {"wave": np.pad(wave, ((0, length - len(wave)), (0, 0)))}
    examples.append(example if labels is None else example | {"label": labels[row]})
  return examples


@lru_cache(maxsize=4)  # the parts of one recording follow each other
def decoded(path: str, form: Form, changed: int) -> np.ndarray:
  """A whole recording as int16 [length, channels], at the rate that is asked for.

  Args:
    path: the file.
    form: what it is brought to.
    changed: when the file was written; a file that was written anew is read anew.

  Raises:
    UserError: the file cannot be read, or has another number of channels, numbers that are not finite, or only silence.
  """
  from scipy.signal import resample_poly

  rate, wave = samples(Path(path))
  _check_channels(Path(path), wave.shape[1], form)
  if not np.isfinite(wave).all():
    raise UserError(f"{path} has samples that are not finite: repair the file or leave it out")
  if not wave.any():
    raise UserError(f"{path} is silent, all its {len(wave):,} samples are 0: leave the file out")
  wave = wave.mean(axis=1, keepdims=True) if form.mix else wave
  if rate != form.rate:
    common = math.gcd(rate, form.rate)
    wave = resample_poly(wave, form.rate // common, rate // common, axis=0)
  return np.clip(np.round(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def samples(path: Path) -> tuple[int, Float[np.ndarray, "length channels"]]:
  """(samples a second, the wave in [-1, 1]) of a file of sound.

  Raises:
    UserError: it cannot be read.
  """
  if path.suffix.lower() != WAV:
    library = _soundfile(path)
    with _unreadable(path, library.LibsndfileError):
      wave, rate = library.read(path, always_2d=True)
    return rate, wave
  rate, wave = _wav(path)
  if wave.dtype == np.uint8:
    wave = (wave.astype(np.float64) - 128) / 128
  elif np.issubdtype(wave.dtype, np.integer):  # 24 bits are the upper ones of 32
    wave = wave / -float(np.iinfo(wave.dtype).min)
  return rate, np.asarray(wave, np.float64).reshape(len(wave), -1)


def _header(path: Path) -> tuple[int, int, int]:
  """(samples a second, samples, channels) of a file."""
  if path.suffix.lower() != WAV:
    library = _soundfile(path)
    with _unreadable(path, library.LibsndfileError):
      about = library.info(path)
    return about.samplerate, about.frames, about.channels
  try:
    rate, wave = _wav(path, mapped=True)
  except UserError:  # 24 bits cannot be mapped
    rate, wave = _wav(path)
  return rate, len(wave), wave.shape[1] if wave.ndim > 1 else 1


def _wav(path: Path, mapped: bool = False) -> tuple[int, np.ndarray]:
  from scipy.io import wavfile

  with _unreadable(path, ValueError, struct.error, EOFError), warnings.catch_warnings():
    warnings.simplefilter("ignore", wavfile.WavFileWarning)  # parts beside the wave, such as a title
    warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
    return wavfile.read(path, mmap=mapped)


@contextlib.contextmanager
def _unreadable(path: Path, *errors: type[Exception]) -> Iterator[None]:
  try:
    yield
  except (OSError, Warning, *errors) as error:
    raise UserError(f"{path} cannot be read as sound ({error}): repair the file or leave it out") from error


def _soundfile(path: Path):
  try:
    import soundfile
  except ImportError as error:
    raise UserError(
      f"{path} needs the library soundfile, which is not installed: pip install 'jaxgen[audio]', or write WAV files"
    ) from error
  return soundfile


def _check_channels(path: Path, channels: int, form: Form) -> None:
  if form.mix and form.channels != 1:
    raise UserError(f"a mix of channels has one, and the config asks for {form.channels}: leave mix out of the name")
  if not form.mix and channels != form.channels:
    many = lambda n: f"{n} channel" + "s" * (n != 1)
    mixed = ", or mix them: audio:RATE,mix:DIR" if form.channels == 1 else ""
    raise UserError(
      f"{path} has {many(channels)}, and the config asks for {many(form.channels)}: ask for {many(channels)}{mixed}"
    )
