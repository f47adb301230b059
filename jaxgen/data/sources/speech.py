"""The data set `speech:FILE`: the Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset.

It is one NumPy file: `wave` int16, all recordings in a row, 8,000 samples a second; `offsets` [N + 1], where each
begins and ends; `label`, digits; `speaker`, names; `index`, the number of the recording of a digit by a speaker. Those
of index 0 to 4 are the split "test", the others "train". An example is

    {"wave": int16 [length], "label": int32 [], "speaker": int32 []}

a recording's beginning, silence behind its end. Speakers are numbered in the order of their names.
"""

from pathlib import Path

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.sources.base import About, Arrays, Request, select

TESTS = 5  # recordings of each digit by each speaker
ARRAYS = ("wave", "offsets", "label", "speaker", "index")


def open_speech(request: Request) -> Arrays:
  """Raises a UserError where there is no such file, split or feature, or the file is damaged."""
  name, split, features = request.name, request.split, request.features
  path = Path(request.rest).expanduser()
  if split not in ("train", "test"):
    raise NoSplit(f"{name} has no split {split!r}: it has train and test")
  if unknown := set(features) - {"wave", "label", "speaker"}:
    raise UserError(f"{name} has wave, label and speaker, no {min(unknown)!r}")
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set {name} names")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      wave, offsets, label, speaker, index = (arrays[key] for key in ARRAYS)
  except KeyError as error:
    raise UserError(f"{path} lacks one of the arrays {', '.join(ARRAYS)}: {error.args[0]}") from error
  except NPZ_ERRORS as error:
    raise UserError(f"{path} cannot be read as a NumPy file of recordings ({error}): get it anew") from error
  count = len(offsets) - 1
  whole = wave.dtype == np.int16 and offsets[0] == 0 and offsets[-1] == len(wave) and (np.diff(offsets) > 0).all()
  if not whole or any(len(array) != count for array in (label, speaker, index)):
    raise UserError(
      f"{path} is damaged: its arrays do not say where each of {count} recordings of 16 bits begins and ends"
    )

  chosen = np.flatnonzero(index < TESTS if split == "test" else index >= TESTS)
  (length,) = features["wave"].shape
  waves = np.zeros((len(chosen), length), np.int16)
  for row, i in zip(waves, chosen, strict=True):
    beginning = wave[offsets[i] : offsets[i + 1]][:length]
    row[: len(beginning)] = beginning
  _, speakers = np.unique(speaker, return_inverse=True)
  arrays = {"wave": waves, "label": label[chosen].astype(np.int32), "speaker": speakers[chosen].astype(np.int32)}
  cut = int((np.diff(offsets)[chosen] > length).sum())
  left_out = (f"the ends of {cut:,} recordings, which are longer than {length:,} samples",) if cut else ()
  return Arrays(select(arrays, features, name), About(left_out=left_out))
