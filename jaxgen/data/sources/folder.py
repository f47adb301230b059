"""The data sets `folder:DIR`: image files, {"image": uint8 [H, W, C], "label": int32 []}."""

from collections import defaultdict
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request, Texts
from jaxgen.data.sources.images import SUFFIXES, decode

SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})
LITTER = frozenset({"__MACOSX", "@eaDir", "__pycache__"})  # made by programs, beside all that begins with a dot


def has_splits(root: Path) -> bool:
  """Whether a folder has sub-folders for splits, instead of the images or classes of a single split."""
  return any(path.is_dir() and path.name.lower() in SPLITS for path in root.iterdir())


def open_folder(request: Request) -> Decoded:
  """Image files below DIR/<split>, as `files_of` finds them."""
  if unknown := set(request.features) - {"image", "label"}:
    raise UserError(f"{request.name} has an image and a label, no {min(unknown)!r}")
  root = Path(request.rest).expanduser()
  found = files_of(request, root, SUFFIXES, "image", "png, jpg, webp, ...")
  numbers = {"label": np.array(found.labels, np.int32)} if "label" in request.features else {}
  look = partial(_read, Texts(map(str, found.files)), numbers.get("label"), request.features["image"].shape)
  return Decoded(len(found.files), partial(look, request.fit), numbers, found.about, look)


class Found(NamedTuple):
  """The files of a split, the number of each one's class (-1 without labels), and what is said of them."""

  files: list[Path]
  labels: list[int]
  about: About


def files_of(request: Request, root: Path, suffixes: Collection[str], kind: str, examples: str) -> Found:
  """Files below `root`/<split>; for training below `root` itself where no folder in it is called as a split.

  With "label" in the features the sub-folders are classes, numbered in the order of the sorted names of the classes of
  all splits, so that a class that one split lacks shifts no label.

  Left out are hidden folders and files (`.ipynb_checkpoints`, `._photo.jpg`), files of other suffixes, and within a
  class links to folders, which Python does not follow.

  Args:
    request: what is asked for.
    root: the data set's folder.
    suffixes: of the files that are taken, in lower case.
    kind: what such a file is, in a word, and `examples` of suffixes, for errors.

  Raises:
    UserError: there is no such folder or split, or no file in it.
  """
  if not root.is_dir():
    raise UserError(f"there is no folder {root.absolute()}, which the data set {request.name} names")
  folder, is_flat = root / request.split, request.split == "train" and not has_splits(root)
  if is_flat:
    folder = root
  elif not folder.is_dir():
    there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir() and not hidden_part(p, root))) or "none"
    raise NoSplit(f"{root} has no split {request.split!r}: expected the folder {folder}, found {there}")

  left_out: dict[str, list[str]] = defaultdict(list)  # reason -> names
  with_labels = "label" in request.features
  if with_labels:
    classes = sorted({p.name for p in root.glob("*" if is_flat else "*/*") if p.is_dir() and not hidden_part(p, root)})
    groups = [(folder / name, label) for label, name in enumerate(classes) if (folder / name).is_dir()]
    for path in sorted(folder.iterdir()):
      if hidden_part(path, folder):
        left_out["hidden"].append(path.name)
      elif not path.is_dir():
        left_out["in no class's folder"].append(path.name)
  else:
    classes, groups = [], [(folder, -1)]
  files, labels = [], []
  for group, label in groups:
    for path in sorted(group.rglob("*")):
      if hidden := hidden_part(path, group):
        left_out["hidden"].append(str(hidden.relative_to(folder)))
      elif path.is_symlink() and (path.is_dir() or not path.exists()):
        left_out["a link to a folder" if path.is_dir() else "a link to nothing"].append(str(path.relative_to(folder)))
      elif path.is_file():
        if path.suffix.lower() in suffixes:
          files.append(path)
          labels.append(label)
        else:
          left_out[f"no {kind}"].append(str(path.relative_to(folder)))
  if not files:
    inside = f"{folder}/<class>" if with_labels else folder
    raise UserError(f"there are no {kind} files ({examples}) in {inside}")
  about = About(tuple(classes), tuple(f"{listed(names)} ({reason})" for reason, names in left_out.items()))
  return Found(files, labels, about)


def hidden_part(path: Path, root: Path) -> Path | None:
  """The first of the folders below `root` on the way to `path`, or `path` itself, that is hidden."""
  parts = path.relative_to(root).parts
  for i, part in enumerate(parts):
    if part.startswith(".") or part in LITTER:
      return root.joinpath(*parts[: i + 1])
  return None


def listed(names: list[str], most: int = 5) -> str:
  """The first few names, and how many more there are."""
  names = list(dict.fromkeys(names))
  more = f" and {len(names) - most:,} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more


def _read(
  files: Texts,
  labels: np.ndarray | None,
  shape: tuple[int, ...],
  fit: Fit,
  indices: list[int],
  uniform: np.ndarray | None = None,
) -> list[Example]:
  examples = []
  for n, i in enumerate(indices):
    example = {"image": decode(files[i], files[i], shape, fit, None if uniform is None else uniform[n])}
    examples.append(example if labels is None else example | {"label": labels[i]})
  return examples
