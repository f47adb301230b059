"""Retrieval and classification by texts, counted by hand."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.data.sources import Arrays
from jaxgen.evaluation.joint import ranks, retrieval, templates, zero_shot


def run(image, text, tokens, label=None):
  source = Arrays({"tokens": np.asarray(tokens)} | ({} if label is None else {"label": np.asarray(label)}))
  features = {"image_features": np.asarray(image, float), "text_features": np.asarray(text, float)}
  return types.SimpleNamespace(
    evaluate_split=lambda split: features,
    data=types.SimpleNamespace(name="pairs", features=source.arrays, source=lambda split: source),
    state=types.SimpleNamespace(averaged=dict),
  )


def test_recall_both_ways():
  """Pictures along the axes; the texts of the first two are exchanged, and the last is nearly right."""
  image, text = np.eye(4), np.eye(4)[[1, 0, 2, 3]] + np.eye(4)[[3, 3, 3, 2]] * [[0.1], [0.1], [0.1], [2.0]]
  found = retrieval((1, 2, 4))(run(image, text, np.arange(4)[:, None]))
  # The third picture is nearest to the last text, and then to its own; the last picture to its own.
  assert found["test_image_to_text_recall_at_1"] == 1 / 4
  assert found["test_image_to_text_recall_at_2"] == 2 / 4
  assert found["test_image_to_text_recall_at_4"] == 1
  # The last text is nearest to the third picture.
  assert found["test_text_to_image_recall_at_1"] == 1 / 4
  assert found["test_text_to_image_recall_at_2"] == 2 / 4
  assert found["test_examples"] == 4


def test_texts_that_are_the_same_count_each_and_equal_features_are_chance():
  image = text = np.eye(4)
  exchanged = retrieval((1,))(run(image, text[[1, 0, 2, 3]], [[7], [7], [1], [2]]))
  assert exchanged["test_image_to_text_recall_at_1"] == 1
  alike = retrieval((1, 50, 51))(run(np.ones((100, 2)), np.ones((100, 2)), np.arange(100)[:, None]))
  assert [alike[f"test_image_to_text_recall_at_{k}"] for k in (1, 50, 51)] == [0, 0, 1]
  np.testing.assert_array_equal(ranks(np.array([[1.0, 3, 2], [1, 3, 2]]), np.array([1, 0])), [0, 2])


def test_features_that_are_no_numbers_are_never_first():
  nothing = retrieval((1, 2))(run(np.full((3, 2), np.nan), np.ones((3, 2)), np.arange(3)[:, None]))
  assert [nothing[name] for name in nothing if "recall" in name] == [0, 0, 0, 0]
  repeated = retrieval((1, 2))(run(np.full((3, 2), np.nan), np.ones((3, 2)), np.zeros((3, 1), int)))
  assert repeated["test_image_to_text_recall_at_1"] == 0
  np.testing.assert_array_equal(ranks(np.full((2, 3), np.nan), np.array([0, 2])), [3, 3])
  np.testing.assert_array_equal(ranks(np.array([[1.0, np.nan, 2]]), np.array([2])), [1])


class Axes(nn.Module):
  """A text's feature is the sum of its tokens' axes."""

  def of_texts(self, tokens):
    x = jnp.eye(3)[tokens].sum(1)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_classification_by_texts_takes_the_mean_of_prompts():
  prompts = [(np.array([[0, 0], [0, 1]]), "a"), (np.array([[1, 1]]), "b"), (np.array([[2, 2]]), "c")]
  first = np.array([1 + 0.5**0.5, 0.5**0.5, 0])
  image = [first / np.linalg.norm(first), [0.1, 0.9, 0.2], [0.8, 0.0, 0.6], [1, 0, 0]]
  given = run(image, np.zeros((4, 3)), np.zeros((4, 1), int), [0, 1, 2, 1])
  found = zero_shot(Axes(), lambda: prompts, (1, 2))(given)
  assert found == {"test_zero_shot_top_1": 2 / 4, "test_zero_shot_top_2": 3 / 4, "test_zero_shot_classes": 3}
  with pytest.raises(UserError, match="the class 'b' has no prompt"):
    zero_shot(Axes(), lambda: [prompts[0], (np.zeros((0, 2), int), "b")])(given)
  with pytest.raises(UserError, match="has the label 2, and there are 2 classes"):
    zero_shot(Axes(), lambda: prompts[:2])(given)
  with pytest.raises(UserError, match="examples of pairs have no 'label', only tokens"):
    zero_shot(Axes(), lambda: prompts)(run(image, np.zeros((4, 3)), np.zeros((4, 1), int)))


def test_templates_make_a_prompt_of_each_form():
  encode = lambda texts: np.array([[len(text)] for text in texts])
  found = templates(["cat", "horse"], ["{}", "a photo of a {}."], encode)
  assert [(tokens.tolist(), name) for tokens, name in found] == [([[3], [17]], "cat"), ([[5], [19]], "horse")]
  with pytest.raises(UserError, match="the template 'a photo' has no {}"):
    templates(["cat"], ["a photo"], encode)
