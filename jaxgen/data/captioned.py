"""Pictures with texts: emoji with their names, and your own pairs."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxgen.core.method import Batch
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import emoji as source
from jaxgen.data.sources.base import Fit
from jaxgen.data.sources.views import View
from jaxgen.data.transforms import Transform, scale

__all__ = ["END", "captions", "class_texts", "emoji", "empty", "marked", "prompts", "with_prior"]
PAD, START, END = 0, 1, 2  # tokens that frame a text where the tokens are trained


def empty(length: int) -> Int[np.ndarray, " length"]:
  """The tokens of the empty text."""
  return np.array([START, END] + [PAD] * (length - 2), np.int32)


def emoji(
  file: str | os.PathLike,
  *,
  side: int = 32,
  length: int = 24,
  vocabulary: int = 1_000,
  labels: str = "subgroups",
  classes: int = 99,
  augment: tuple[Transform, ...] = (),
  last: tuple[Transform, ...] = (),
  style: str | None = None,
  count: int | None = None,
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
    last: further transforms, the last ones.
    style: one style alone, "noto", "blob" or "emojitwo".
    count: the number of its pictures that are trained on; None: all.
  """
  only = "" if style is None else f"@{style}" + ("" if count is None else f",{count}")
  features = {
    "image": jax.ShapeDtypeStruct((side, side, 3), np.uint8),
    "tokens": jax.ShapeDtypeStruct((length,), np.int32),
    "label": jax.ShapeDtypeStruct((), np.int32),
  }
  name = f"emoji:{labels}{only}:{vocabulary}:{file}"
  return Dataset(name, features, 256, classes, (scale(),), augment, last=last, feature="image", vocabulary=vocabulary)


def with_prior(file: str | os.PathLike, *, side: int = 32, length: int = 24, vocabulary: int = 1_000) -> Dataset:
  """A subject's pictures and texts, and beside each a sample of the model that it is taught to, with its text.

  DreamBooth's data, for `prior` of `gaussian_diffusion`: an .npz of "image" and "prior_image" uint8 [N, S, S, 3],
  "tokens" and "prior_tokens" int32 [N, T], a row each.

  Args:
    file: the .npz.
    side: height and width of its pictures.
    length: tokens of a text.
    vocabulary: number of tokens.
  """
  image, tokens = jax.ShapeDtypeStruct((side, side, 3), np.uint8), jax.ShapeDtypeStruct((length,), np.int32)
  features = {"image": image, "tokens": tokens, "prior_image": image, "prior_tokens": tokens}
  transforms = scale(), scale(feature="prior_image")
  return Dataset(f"npz:{file}", features, 256, None, transforms, feature="image", vocabulary=vocabulary)


def marked(token: int) -> Transform:
  """A word before each text: textual inversion's new word, or DreamBooth's rare one. Texts that are full lose one."""

  def transform(key: Array, batch: Batch) -> Batch:
    tokens = batch["tokens"]
    new = jnp.concatenate([tokens[:, :1], jnp.full_like(tokens[:, :1], token), tokens[:, 1:-1]], axis=1)
    return batch | {"tokens": new.at[:, -1].set(jnp.where(tokens[:, -1] != PAD, END, new[:, -1]))}

  return transform


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


def prompts(run: Any, texts: Sequence[str]) -> Int[np.ndarray, "n length"]:
  """Texts as the tokens of a run whose data are emoji, for `Experiment.prompts`."""
  return source.tokens_of(run.data.name, list(texts), *run.data.features["tokens"].shape)[0]


def captions(
  path: str | os.PathLike,
  tokenizer: str,
  *,
  side: int | tuple[int, int] = 224,
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
    side: height and width that pictures are brought to, one number where they are the same.
    length: tokens of a caption, the first and the last included; longer ones lose their end.
    vocabulary: number of tokens.
    fit, view, augment, last: as in `Dataset`.
  """
  features = {
    "image": jax.ShapeDtypeStruct((*((side, side) if isinstance(side, int) else side), 3), np.uint8),
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
