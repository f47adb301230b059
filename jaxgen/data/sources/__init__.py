"""Sources: random access to the examples of one split of a data set, by the data set's name.

  digits                        scikit-learn's 1,797 handwritten digits, 8x8, 17 levels; needs no network
  npz:FILE                      arrays <split>_image and <split>_label of a NumPy file; image and label alone are train
  folder:DIR                    image files DIR/<split>/<class>/*.png (jpg, webp, ...), labels by sorted folder name
  hf:DIR                        what Hugging Face's Dataset.save_to_disk wrote; needs the library datasets
  tar:DIR                       shards of webdataset, DIR/<split>*.tar; an image and a .cls with its label
  text:chars:FILE               windows of a text, in characters; text:SIZE:FILE in tokens
  documents:TOKENIZER:FILES     own documents, packed into rows; segments:TOKENIZER:FILES BERT's pairs of segments
  pairs:LANGUAGES:SIZE:DIR      sentences and their translations, in tokens
  captions:TOKENIZER:PATH       pictures and their captions, in tokens: lists .jsonl or .tsv, or shards of webdataset
  emoji:LABELS:SIZE:FILE        pictures of emoji, their names in tokens, and labels
  feedback:TOKENIZER:FILE       prompts with answers, or with ranked ones; rated:TOKENIZER:SOURCE:FILE rated texts
  speech:FILE                   spoken digits
  audio:RATE:DIR                files of sound, at RATE samples a second
  moving:DIGITS:IMAGES          Moving MNIST: clips of digits that move and bounce, with their positions
  video:STRIDE:DIR              clips of videos: GIF, WebP, MP4 and its like, folders of frames
  emoji_clips:DIR               animated emoji
  points:MODES:STD              normal clouds in the plane, ring8 or grid25, of this standard deviation
  molecules:FILE                molecules in space: positions and atomic numbers
  graphs:KIND                   planar, sbm, community_small or grid graphs, or graphs out of files, as matrices
  chain:VOCABULARY              sequences of a Markov chain of the second order, whose law is known
  reversed:LETTERS              random strings, and the same from their end, as tokens
  tfds:NAME[/CONFIG][:VERSION]  what tensorflow-datasets prepared in ArrayRecord format; read without TensorFlow

Each has its file here, named as its kind (`segments` in that of `documents`, `rated` in that of `feedback`), which says
what its examples are.

A source has `len(s)`, `s[i] -> {"image": uint8 [H, W, C], "label": int32 ()}`,
`s.gather(indices) -> {name: [n, ...]}` and `s.in_memory`. It reads what `features` names, and nothing else of the data
set. A split whose decoded bytes are at most IN_MEMORY_BYTES is read once and kept in memory; a larger one is decoded
when its examples are asked for.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.sources.audio import open_audio
from jaxgen.data.sources.base import (
  IN_MEMORY_BYTES,
  Arrays,
  Decoded,
  Example,
  Examples,
  Features,
  Fit,
  Request,
  Source,
  check_example,
  into_memory,
)
from jaxgen.data.sources.captions import open_captions
from jaxgen.data.sources.chain import open_chain
from jaxgen.data.sources.digits import open_digits
from jaxgen.data.sources.documents import open_documents, open_segments
from jaxgen.data.sources.emoji import open_emoji
from jaxgen.data.sources.emoji_clips import open_emoji_clips
from jaxgen.data.sources.feedback import open_feedback, open_rated
from jaxgen.data.sources.folder import open_folder
from jaxgen.data.sources.graphs import open_graphs
from jaxgen.data.sources.hf import open_hf
from jaxgen.data.sources.molecules import open_molecules
from jaxgen.data.sources.moving import open_moving
from jaxgen.data.sources.npz import open_npz
from jaxgen.data.sources.pairs import open_pairs
from jaxgen.data.sources.points import modes, open_points
from jaxgen.data.sources.reversed import open_reversed
from jaxgen.data.sources.speech import open_speech
from jaxgen.data.sources.tar import open_tar
from jaxgen.data.sources.text import open_text
from jaxgen.data.sources.tfds import open_tfds
from jaxgen.data.sources.video import open_video

__all__ = ["Arrays", "Decoded", "Example", "Examples", "Features", "Fit", "Source", "modes", "open_source"]

# Kind -> how its names are written, and what opens it.
SOURCES: dict[str, tuple[str, Callable[[Request], Source]]] = {
  "digits": ("digits", open_digits),
  "npz": ("npz:FILE", open_npz),
  "folder": ("folder:DIR", open_folder),
  "text": ("text:chars:FILE", open_text),
  "documents": ("documents:TOKENIZER:FILES", open_documents),
  "segments": ("segments:TOKENIZER:FILES", open_segments),
  "pairs": ("pairs:LANGUAGES:SIZE:DIR", open_pairs),
  "captions": ("captions:TOKENIZER:PATH", open_captions),
  "emoji": ("emoji:LABELS:SIZE:FILE", open_emoji),
  "feedback": ("feedback:TOKENIZER:FILE", open_feedback),
  "rated": ("rated:TOKENIZER:SOURCE:FILE", open_rated),
  "speech": ("speech:FILE", open_speech),
  "audio": ("audio:RATE:DIR", open_audio),
  "moving": ("moving:DIGITS:IMAGES", open_moving),
  "video": ("video:STRIDE:DIR", open_video),
  "emoji_clips": ("emoji_clips:DIR", open_emoji_clips),
  "points": ("points:MODES:STD", open_points),
  "molecules": ("molecules:FILE", open_molecules),
  "graphs": ("graphs:KIND", open_graphs),
  "chain": ("chain:VOCABULARY", open_chain),
  "reversed": ("reversed:LETTERS", open_reversed),
  "hf": ("hf:DIR", open_hf),
  "tar": ("tar:DIR", open_tar),
  "tfds": ("tfds:NAME", open_tfds),
}


def open_source(
  name: str,
  split: str,
  features: Features,
  data_dir: str | Path | None = None,
  fit: Fit = "crop",
  memory_bytes: int = IN_MEMORY_BYTES,
) -> Source:
  """Opens a split of a data set.

  Args:
    name: as listed above.
    split: the split's name in the data set; for tfds also its slices, such as "train[:90%]".
    features: name -> shape and dtype of one example. What else the data set has is not read; labels become int32.
    data_dir: where tensorflow-datasets prepared its data sets; None: its own default, $TFDS_DATA_DIR or
      ~/tensorflow_datasets. Relative paths of npz and folder are looked up as they stand.
    fit: how images of other sizes (folders, and tfds data sets without one size) are brought to the size in
      `features`: "crop" scales the shorter side to fit and cuts the middle out, "pad" puts them in the middle of black.
    memory_bytes: a split of at most so many decoded bytes is kept in memory.

  Raises:
    UserError: there is no such data set, split or feature, it is empty, damaged, or of another shape or dtype.
  """
  kind, _, rest = name.partition(":")
  form, opener = SOURCES.get(kind, (None, None))
  if opener is None or (":" in form) != bool(rest):
    *forms, last = (form for form, _ in SOURCES.values())
    raise UserError(f"unknown data set {name!r}: use {', '.join(forms)} or {last}")
  source = opener(Request(name, rest, split, features, data_dir, fit, memory_bytes))
  if len(source) == 0:
    raise UserError(f"{name} has no examples in its split {split!r}")
  check_example(f"{name}, split {split!r}", source[0], features)
  size = len(source) * sum(np.dtype(s.dtype).itemsize * int(np.prod(s.shape)) for s in features.values())
  return into_memory(source, features) if not source.in_memory and size <= memory_bytes else source
