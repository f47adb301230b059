"""Pictures with texts: emoji with their names, and your own pairs."""

import os

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import emoji as source
from jaxgen.data.sources.base import Fit
from jaxgen.data.sources.views import View
from jaxgen.data.transforms import Transform, scale

__all__ = ["END", "captions", "class_texts", "emoji"]
END = 2  # the token that ends a text where the tokens are trained


def emoji(
  file: str | os.PathLike,
  *,
  side: int = 32,
  length: int = 24,
  vocabulary: int = 1_000,
  labels: str = "subgroups",
  classes: int = 99,
  augment: tuple[Transform, ...] = (),
) -> Dataset:
  """Emoji of two styles to learn from, and of a third to be tested on: see `sources.emoji`.

  Args:
    file: the .npz.
    side: height and width of its pictures.
    length: tokens of a name, the first and the last included.
    vocabulary: number of tokens.
    labels: what the labels are, "groups", "subgroups" or "names".
    classes: the number of them.
    augment: further transforms in training.
  """
  features = {
    "image": jax.ShapeDtypeStruct((side, side, 3), np.uint8),
    "tokens": jax.ShapeDtypeStruct((length,), np.int32),
    "label": jax.ShapeDtypeStruct((), np.int32),
  }
  name = f"emoji:{labels}:{vocabulary}:{file}"
  return Dataset(name, features, 256, classes, (scale(),), augment, feature="image", vocabulary=vocabulary)


def class_texts(data: Dataset) -> list[tuple[Int[np.ndarray, "n length"], str]]:
  """(tokens of the prompts of a class, its name) for each class of a data set of emoji: the names of its emoji that
  are trained on, which are its prompts.
  """
  labels, _, file = source.parts(data.name)
  found = source.read(file)
  train = found.styles != source.HELD_OUT
  texts = []
  for name in source.classes_of(data.name):
    members = np.unique(found.names[train & (getattr(found, labels) == name)])
    tokens, _ = source.tokens_of(data.name, list(map(str, members)), *data.features["tokens"].shape)
    texts.append((tokens, name))
  return texts


def captions(
  path: str | os.PathLike,
  tokenizer: str,
  *,
  side: int = 224,
  length: int = 77,
  vocabulary: int = 49_408,
  fit: Fit = "crop",
  view: View | None = None,
  augment: tuple[Transform, ...] = (),
  last: tuple[Transform, ...] = (),
) -> Dataset:
  """Your own pictures and captions: see `sources.captions`.

  Args:
    path: a list, a folder of lists, or shards.
    tokenizer: CLIP's merges file, or a number of tokens to be trained, `vocabulary`.
    side: height and width that pictures are brought to.
    length: tokens of a caption, the first and the last included; longer ones lose their end.
    vocabulary: number of tokens.
    fit, view, augment, last: as in `Dataset`.
  """
  features = {
    "image": jax.ShapeDtypeStruct((side, side, 3), np.uint8),
    "tokens": jax.ShapeDtypeStruct((length,), np.int32),
  }
  name = f"captions:{tokenizer}:{path}"
  return Dataset(
    name,
    features,
    256,
    None,
    (scale(),),
    augment,
    fit=fit,
    last=last,
    view=view,
    feature="image",
    vocabulary=vocabulary,
  )
