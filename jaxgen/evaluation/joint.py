"""Evaluators of dual encoders: retrieval in both directions, zero-shot classification; and of text-to-image models."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxgen.core.errors import UserError
from jaxgen.core.pictures import to_uint8
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.engine.run import load
from jaxgen.evaluation.likelihood import mean_and_error
from jaxgen.evaluation.resizing import resize

ROWS = 64  # pictures that are evaluated at once
IMAGE, TEXT = "image_features", "text_features"  # their names in the method's `evaluate`


def ranks(similarity: Float[np.ndarray, "n m"], right: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
  """How many candidates rank before each row's right one; of equal ones, half of those do, rounded up.

  So features that are all alike are at chance, and not at the top. NaN ranks before the right one: all
  candidates stand before it.
  """
  own = similarity[np.arange(len(right)), right][:, None]
  above, equal = (~(similarity <= own)).sum(1), (similarity == own).sum(1) - 1
  return above + (np.maximum(equal, 0) + 1) // 2


def retrieval(at: Sequence[int] = (1, 5, 10), split: str = "test") -> Evaluator:
  """Recall at 1, 5 and 10: how often an example's text ranks among the first of all texts of the split, and vice versa.

  Where texts occur several times, each of the same counts. Numbers: `test_image_to_text_recall_at_K`,
  `test_text_to_image_recall_at_K`, in [0, 1], and `test_examples`.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    tokens = _values(run, split, "tokens")
    found = run.evaluate_split(split)
    _, same = np.unique(tokens, axis=0, return_inverse=True)
    same, numbers = same.reshape(-1), {}
    for name, a, b in (("image_to_text", IMAGE, TEXT), ("text_to_image", TEXT, IMAGE)):
      rank = _first_of_the_same(found[a], found[b], same)
      numbers |= {f"{split}_{name}_recall_at_{k}": float(np.mean(rank < k)) for k in at}
    return numbers | {f"{split}_examples": float(len(same))}

  return evaluate


def _values(run: AnyRun, split: str, name: str) -> np.ndarray:
  """An array over all examples of a split.

  Raises:
    UserError: they have none of this name.
  """
  if name not in run.data.features:
    raise UserError(f"examples of {run.data.name} have no {name!r}, only {', '.join(run.data.features)}")
  source = run.data.source(split)
  return source.arrays[name] if name in source.arrays else source.gather(np.arange(len(source)))[name]


def _first_of_the_same(
  queries: Float[np.ndarray, "n d"], candidates: Float[np.ndarray, "n d"], same: Int[np.ndarray, "n"], rows: int = 512
) -> Int[np.ndarray, "n"]:
  """The rank of each query's nearest candidate among those with its text, counted over all others."""
  found = []
  for first in range(0, len(queries), rows):
    similarity = queries[first : first + rows] @ candidates.T
    alike = same[first : first + rows, None] == same
    own = np.where(alike, similarity, -np.inf).max(1, keepdims=True)
    above, equal = (~(similarity <= own) & ~alike).sum(1), ((similarity == own) & ~alike).sum(1)
    found.append(np.where(np.isfinite(own[:, 0]), above + (equal + 1) // 2, similarity.shape[1]))
  return np.concatenate(found)


def zero_shot(
  network: Any,
  prompts: Callable[[], Sequence[tuple[Int[np.ndarray, "prompts tokens"], str]]],
  top: Sequence[int] = (1, 5),
  split: str = "test",
) -> Evaluator:
  """Classification by texts: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.

  A class's feature is the mean of its prompts' features, normalised to length 1 (section 3.1.4).

  Numbers: `test_zero_shot_top_K`, in [0, 1], `test_zero_shot_classes`.

  Args:
    network: the `DualEncoder`.
    prompts: () -> (tokens, name) for each class in the order of the labels.
    top: the K.
    split: the split, which has labels.

  The evaluator raises:
    UserError: a class without a prompt, examples without labels, or a label without a class.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    texts = prompts()
    if empty := [name for tokens, name in texts if not len(tokens)]:
      raise UserError(f"the class {empty[0]!r} has no prompt: give it one, or leave its examples out")
    label = _values(run, split, "label")
    if label.max() >= len(texts):
      raise UserError(
        f"the split {split!r} has the label {label.max()}, and there are {len(texts)} classes with prompts"
      )
    params = run.state.averaged()
    of_texts = jax.jit(lambda tokens: network.apply({"params": params}, tokens, method="of_texts"))
    features = np.stack([_mean_of(of_texts, tokens) for tokens, _ in texts])
    rank = ranks(run.evaluate_split(split)[IMAGE] @ features.T, label)
    found = {f"{split}_zero_shot_top_{k}": float(np.mean(rank < k)) for k in top}
    return found | {f"{split}_zero_shot_classes": float(len(texts))}

  return evaluate


def prior_cosine(num: int = 256, *, seed: int = 0, split: str = "test") -> Evaluator:
  """How near the embeddings that a prior makes of a split's texts are to those of the pictures, by their cosine.

  Numbers: `prior_cosine_N`, a mean over N examples, and `_std`, their standard deviation; `prior_cosine_N_shuffled`,
  where each embedding is compared with the picture of another text, the next example that has one; and
  `prior_cosine_N_text`, that of CLIP's embedding of the text itself.

  Args:
    num: N, the first examples of the split; all where it has fewer.
    seed: of the samples.

  The evaluator raises:
    UserError: fewer than two different texts, or a method that gives no "embedding" of examples.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    n = min(num, len(run.data.source(split)))
    tokens, found = _values(run, split, "tokens")[:n], run.evaluate_split(split)
    if missing := [name for name in ("embedding", "text_embedding") if name not in found]:
      raise UserError(f"config {run.config.name} gives no {missing[0]!r} of its examples: it is no prior's")
    other = _next_other(tokens)
    made, picture, text = run.sample(n, seed=seed, tokens=tokens), found["embedding"][:n], found["text_embedding"][:n]
    own, name = cosines(made, picture), f"prior_cosine_{n}"
    numbers = {name: own.mean(), f"{name}_std": own.std(), f"{name}_shuffled": cosines(made, picture[other]).mean()}
    return {key: float(value) for key, value in (numbers | {f"{name}_text": cosines(text, picture).mean()}).items()}

  return evaluate


def clip_scores(
  image: Float[np.ndarray, "n d"], text: Float[np.ndarray, "n d"], weight: float = 100.0
) -> Float[np.ndarray, "n"]:
  """weight max(cos(image, text), 0) of each pair: Hessel et al. 2021, https://arxiv.org/abs/2104.08718, section 3.

  The paper's CLIPScore has weight 2.5. 100 is common for text to image, as in torchmetrics, which takes the mean
  over the pairs before the maximum.
  """
  return weight * np.maximum(cosines(image, text), 0)


def clip_score(
  clip: str | os.PathLike, num: int = 256, *, seed: int = 0, split: str = "test", filter: str = "pil_bicubic"
) -> Evaluator:
  """How well samples fit the texts that they are asked for, by a dual encoder of a run: `clip_scores`.

  Numbers, with NAME the run's name: `clip_score_NAME_N`, a mean over N samples, which are asked for with the first N
  texts of the split, its standard error `_se`, and `clip_score_NAME_N_data`, of the split's own pictures. Pictures are
  rounded to integers, brought to the encoder's size, and transformed as its run's data are.

  Args:
    clip: the folder of a run of a dual encoder, trained or imported. It reads the same tokens as the model that is
      judged.
    num: N, the first examples of the split; all where it has fewer.
    seed: of the samples.
    split: the split, which has "tokens".
    filter: of resizing, see `evaluation.resizing`.

  The evaluator raises:
    UserError: the run is of no dual encoder, or its texts have another length, or its pictures other channels.
  """

  def judge_of(run: AnyRun) -> tuple[AnyRun, str, int]:
    """(the dual encoder's run, which fits this one, the number's name, how many examples)."""
    judge, wanted = load(clip), ("tokens", "image")
    if missing := [name for name in wanted if name not in run.data.features]:
      raise UserError(f"examples of {run.data.name} have no {missing[0]!r}, which a CLIP score needs: use captions")
    (length,), channels = run.data.features["tokens"].shape, run.data.features["image"].shape[-1]
    theirs = [judge.data.features.get(name) for name in wanted]
    if None in theirs or theirs[0].shape != (length,):
      raise UserError(f"{clip} is no dual encoder of texts of {length} tokens: give another run")
    if theirs[1].shape[-1] != channels:
      raise UserError(f"{clip} sees pictures of {theirs[1].shape[-1]} channels, and {run.data.name} has {channels}")
    n = min(num, len(run.data.source(split)))
    return judge, f"clip_score_{judge.name}_{n}", n

  def evaluate(run: AnyRun) -> dict[str, float]:
    judge, name, n = judge_of(run)
    rows, side = run.data.source(split).gather(np.arange(n)), judge.data.features["image"].shape
    tokens, images = rows["tokens"], rows["image"]

    @jax.jit
    def features(state: Any, raw: dict[str, Any]) -> dict[str, Any]:
      key = jax.random.key(0)
      return judge.experiment.method.evaluate(state, judge.data.transform(key, raw, False), key)

    def scores(pictures: np.ndarray) -> np.ndarray:
      found = []
      for first in range(0, n, ROWS):
        rows = np.minimum(np.arange(first, first + ROWS), n - 1)  # one shape, so one compilation
        seen = np.stack([_of_size(pictures[i], side, filter) for i in rows])
        raw = {"image": seen, "tokens": tokens[rows], "index": rows.astype(np.int32)}
        of_rows = features(judge.state, raw)
        if IMAGE not in of_rows:
          raise UserError(f"{clip} is of config {judge.config.name}, which is no dual encoder: give another run")
        found.append(clip_scores(np.asarray(of_rows[IMAGE]), np.asarray(of_rows[TEXT]))[: n - first])
      return np.concatenate(found)

    made = run.sample(n, seed=seed, tokens=tokens)
    whole = np.isfinite(made).all()  # as integers, what is no number would be grey
    mean, error = mean_and_error(scores(to_uint8(made))) if whole else (np.nan, np.nan)
    return {name: mean, f"{name}_se": error, f"{name}_data": mean_and_error(scores(images))[0]}

  def rehearse(run: AnyRun) -> list[str]:
    _, name, _ = judge_of(run)
    return [name, f"{name}_se", f"{name}_data"]

  evaluate.rehearse = rehearse
  return evaluate


def _of_size(picture: UInt8[np.ndarray, "h w c"], shape: tuple[int, ...], filter: str) -> UInt8[np.ndarray, "q p c"]:
  found = picture if picture.shape == shape else resize(picture, shape[:2], filter)
  return np.round(found.clip(0, 255)).astype(np.uint8)


def cosines(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
  """The cosine of each row of a with b's; 0 where one of them is 0."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return np.where(lengths > 0, np.sum(a * b, axis=-1) / np.where(lengths > 0, lengths, 1), 0)


def _next_other(tokens: Int[np.ndarray, "n t"]) -> Int[np.ndarray, "n"]:
  """Of each text the number of the next one that is not the same, around the end.

  Raises:
    UserError: all are the same.
  """
  n, place = len(tokens), np.arange(len(tokens))
  for step in range(1, n + 1):
    same = (tokens[place] == tokens).all(1)
    if not same.any():
      return place
    place = np.where(same, (np.arange(n) + step) % n, place)
  raise UserError("all texts are the same, so that none can be compared with another's picture: take more examples")


def templates(
  classes: Sequence[str], forms: Sequence[str], encode: Callable[[Sequence[str]], Int[np.ndarray, "n tokens"]]
) -> list[tuple[Int[np.ndarray, "forms tokens"], str]]:
  """Prompts for `zero_shot`: each class's name put into forms like "a photo of a {}.".

  Args:
    classes: the classes' names.
    forms: texts with {} for the name.
    encode: texts -> tokens.

  Raises:
    UserError: a form without {}.
  """
  if wrong := [form for form in forms if "{}" not in form]:
    raise UserError(f"the template {wrong[0]!r} has no {{}} for the class's name")
  return [(encode([form.replace("{}", name) for form in forms]), name) for name in classes]


def _mean_of(of_texts: Callable, tokens: Int[np.ndarray, "prompts tokens"], rows: int = 64) -> Float[np.ndarray, "d"]:
  """Prompts' mean feature, of length 1; in chunks of one size, so that one program serves all."""
  total = 0.0
  for first in range(0, len(tokens), rows):
    part = tokens[first : first + rows]
    padded = np.concatenate([part, np.repeat(part[:1], rows - len(part), axis=0)])
    total = total + np.asarray(of_texts(padded))[: len(part)].sum(0)
  return total / np.linalg.norm(total)
