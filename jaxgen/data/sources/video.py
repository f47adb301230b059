"""The data sets `video:STRIDE:DIR`: videos in files and in folders of frames.

    DIR/<split>/<class>/a.mp4        or .gif, .webp, .mkv, .webm, .avi, .mov, .m4v; MP4 and its like by PyAV
    DIR/<split>/<class>/b/0001.png   a folder that has pictures (neither gif nor webp) is one video, its frames by name

Without folders for splits all is the training split; without "label" in the features, folders mean nothing.

    {"clip": uint8 [T, H, W, C], "label": int32 [], "rate": float32 []}

A clip is T frames, each STRIDE of the video's after the one before, out of its middle; `views.RandomClip` draws first
frame and stride for training. STRIDE@FPS asks for videos of FPS frames a second, and refuses others. "rate" is the
clip's own, FPS of the file over the stride; folders of frames have the FPS that is asked for, or else 1. Each frame is
cut and resized as images of a folder are. Files of video formats are decoded from the beginning to the last frame used.
"""

import contextlib
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request, Texts
from jaxgen.data.sources.folder import has_splits, hidden_part, listed
from jaxgen.data.sources.images import MODES, SUFFIXES, decode, fitted, in_mode
from jaxgen.data.sources.views import RandomClip, View

ANIMATED = frozenset({".gif", ".webp"})
# Suffix -> the only format of FFmpeg in which such a file is read; other contents are refused.
VIDEOS = dict.fromkeys((".mp4", ".m4v", ".mov"), "mov") | dict.fromkeys((".mkv", ".webm"), "matroska") | {".avi": "avi"}
STILLS = SUFFIXES - ANIMATED
SAME = 0.01  # frame rates that differ by less than this share are the same


class Form(NamedTuple):
  """A data set's name, `video:STRIDE:DIR` or `video:STRIDE@FPS:DIR`."""

  stride: int
  rate: float | None
  folder: str


def form(name: str) -> Form:
  """Raises a UserError where a name has another form."""
  match = re.fullmatch(r"video:(\d+)(?:@(\d+(?:\.\d+)?))?:(.+)", name)
  if not match or int(match[1]) < 1 or (match[2] and not float(match[2])):
    raise UserError(
      f"{name!r} is not video:STRIDE:DIR or video:STRIDE@FPS:DIR, such as video:1:clips or video:2@25:clips"
    )
  return Form(int(match[1]), float(match[2]) if match[2] else None, match[3])


def open_video(request: Request) -> Decoded:
  """Raises a UserError if there is no such folder, split, feature or video. Reading a clip raises it where the video
  is too short, damaged, or of another frame rate."""
  asked = form(request.name)
  root = Path(asked.folder).expanduser()
  if unknown := set(request.features) - {"clip", "label", "rate"}:
    raise UserError(f"{request.name} has clip, label and rate, no {min(unknown)!r}")
  if not root.is_dir():
    raise UserError(f"there is no folder {root.absolute()}, which the data set {request.name} names")
  flat = request.split == "train" and not has_splits(root)
  folder = root if flat else root / request.split
  if not folder.is_dir():
    raise NoSplit(f"{root} has no split {request.split!r}: expected the folder {folder}")
  labelled = "label" in request.features
  classes = sorted({p.name for p in root.glob("*" if flat else "*/*") if p.is_dir() and not hidden_part(p, root)})
  groups = [(folder / name, label) for label, name in enumerate(classes)] if labelled else [(folder, -1)]
  videos, labels, left_out = [], [], defaultdict(list)
  for group, label in groups:
    found = list(_videos(group, left_out)) if group.is_dir() else []
    videos += found
    labels += [label] * len(found)
  if not videos:
    raise UserError(f"there are no videos (gif, webp, mp4, ... or folders of frames) in {folder}")
  shape = request.features["clip"].shape
  if len(shape) != 4 or shape[-1] not in MODES:
    raise UserError(f"clips are [frames, height, width, channels] with 1, 3 or 4 channels, not {list(shape)}")
  numbers = {"label": np.array(labels, np.int32)} if labelled else {}
  about = About(tuple(classes) if labelled else (), tuple(f"{listed(n)} ({why})" for why, n in left_out.items()))
  names = tuple(request.features)
  look = partial(_read, Texts(map(str, videos)), numbers.get("label"), shape, asked, names)
  return Decoded(len(videos), partial(look, request.fit), numbers, about, look)


def _videos(folder: Path, left_out: dict[str, list[str]]):
  """The videos below a folder, by name; those of `left_out` are noted by the reason."""
  for path in sorted(folder.iterdir()):
    if hidden_part(path, folder):
      left_out["hidden"].append(path.name)
    elif path.is_dir() and not path.is_symlink():
      if any(p.suffix.lower() in STILLS for p in path.iterdir()):
        yield path
      else:
        yield from _videos(path, left_out)
    elif path.suffix.lower() in ANIMATED or path.suffix.lower() in VIDEOS:
      yield path
    elif path.is_file():
      left_out["no video"].append(path.name)


def _read(
  videos: Texts,
  labels: np.ndarray | None,
  shape: tuple[int, ...],
  asked: Form,
  names: tuple[str, ...],
  fit: Fit,
  indices: list[int],
  uniform: np.ndarray | None = None,
) -> list[Example]:
  examples = []
  for n, i in enumerate(indices):
    clip, rate = clip_of(Path(videos[i]), shape, asked, fit, None if uniform is None else uniform[n])
    example = {"clip": clip, "rate": np.float32(rate)} | ({} if labels is None else {"label": labels[i]})
    examples.append({name: example[name] for name in names})
  return examples


def clip_of(
  path: Path, shape: tuple[int, ...], asked: Form, fit: Fit = "crop", uniform: np.ndarray | None = None
) -> tuple[UInt8[np.ndarray, "frames height width channels"], float]:
  """(a video's clip, its frames a second).

  Args:
    path: a file, or a folder of frames.
    shape: [T, H, W, C].
    asked: stride and frame rate.
    fit: how frames are resized, or the view that draws the stride and the first frame; frames are then cut to fit.
    uniform: in [0, 1), what the view takes.

  Raises:
    UserError: the video is too short, of another frame rate, or cannot be read.
  """
  if isinstance(fit, View) and not isinstance(fit, RandomClip):
    raise UserError(f"{type(fit).__name__} is a view of pictures, and these are videos: use RandomClip, or none")
  draws, fit = (fit, "crop") if isinstance(fit, RandomClip) else (None, fit)
  suffix = "" if path.is_dir() else path.suffix.lower()
  opened = _stills if path.is_dir() else _pillow if suffix in ANIMATED else _pyav
  with opened(path, shape[1:], fit) as (total, rate, frames):
    count, least = shape[0], draws.strides[0] if draws else asked.stride
    span = least * (count - 1) + 1
    if total < span:
      raise UserError(
        f"{path} has {total:,} frames, and a clip of {count} frames with stride {least} spans {span}: ask for fewer "
        "frames or a smaller stride, or remove it"
      )
    if rate is None:
      rate = asked.rate or 1.0
    elif asked.rate and abs(rate / asked.rate - 1) > SAME:
      raise UserError(
        f"{path} has {rate:g} frames a second, and {asked.rate:g} are asked for: convert it, or ask for {rate:g}"
      )
    first, stride = draws.stretch(total, count, uniform) if draws else ((total - span) // 2, asked.stride)
    return frames(first + stride * np.arange(count)), rate / stride


@contextlib.contextmanager
def _stills(path: Path, shape: tuple[int, ...], fit: Fit):
  """(number of frames, None, numbers -> frames) of a folder."""
  files = [p for p in sorted(path.iterdir()) if p.suffix.lower() in STILLS and not hidden_part(p, path)]
  yield len(files), None, lambda at: np.stack([decode(files[i], str(files[i]), shape, fit) for i in at])


@contextlib.contextmanager
def _pillow(path: Path, shape: tuple[int, ...], fit: Fit):
  """(number of frames, frames a second by the first one's duration, numbers -> frames) of a GIF or a WebP."""
  from PIL import Image

  try:
    with Image.open(path, formats=("GIF", "WEBP")) as image:
      total = getattr(image, "n_frames", 1)
      image.load()
      duration = image.info.get("duration", 0)

      def frame(i: int) -> np.ndarray:
        image.seek(i)
        return _array(image, shape, fit, path)

      yield total, 1000 / duration if duration else None, lambda at: np.stack([frame(int(i)) for i in at])
  except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
    raise UserError(f"{path} cannot be read as a video ({error}): repair or remove it") from error


@contextlib.contextmanager
def _pyav(path: Path, shape: tuple[int, ...], fit: Fit):
  """(number of frames, frames a second, numbers -> frames) of a file that PyAV decodes."""
  try:
    import av
  except ImportError:
    raise UserError(f"{path}: to read {path.suffix} files, pip install 'jaxgen[video]'") from None

  try:
    with av.open(str(path), format=VIDEOS[path.suffix.lower()]) as file:
      if not file.streams.video:
        raise UserError(f"{path} has no video in it: remove it")
      stream = file.streams.video[0]
      total = stream.frames or sum(1 for _ in file.decode(stream))
      file.seek(0)

      def frames(at: np.ndarray) -> np.ndarray:
        wanted, found, read = set(at.tolist()), {}, 0
        for i, frame in enumerate(file.decode(stream)):
          read = i + 1
          if i in wanted:
            found[i] = _array(frame.to_image(), shape, fit, path)
          if i == at[-1]:
            break
        if len(found) < len(wanted):
          raise UserError(
            f"{path} ends after {read:,} of the {total:,} frames that it says to have: repair or remove it"
          )
        return np.stack([found[i] for i in at.tolist()])

      yield total, float(stream.average_rate) if stream.average_rate else None, frames
  except av.FFmpegError as error:
    raise UserError(f"{path} cannot be read as a video ({error}): repair or remove it") from error


def _array(image, shape: tuple[int, ...], fit: Fit, path: Path) -> np.ndarray:
  array = np.array(fitted(in_mode(image, shape[-1]), shape, fit, str(path)))
  return array if shape[-1] > 1 else array[..., None]
