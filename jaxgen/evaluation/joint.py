"""Evaluators of dual encoders: retrieval in both directions, and zero-shot classification."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxgen.core.errors import UserError
from jaxgen.engine.experiment import AnyRun, Evaluator

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
