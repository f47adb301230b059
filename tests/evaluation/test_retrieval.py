"""Retrieval and classification by texts, counted by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.data.sources import Arrays
from jaxgen.evaluation import joint
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


class OfColour(nn.Module):
  """A picture's feature is its mean colour, a text's the axis of its token; as a method's `evaluate` gives them."""

  def evaluate(self, state, batch, key):
    return {"image_features": batch["image"].mean((1, 2)), "text_features": jnp.eye(3)[batch["tokens"][:, 0]]}


def captioned(image, tokens):
  features = {"image": jax.ShapeDtypeStruct(image.shape[1:], np.uint8), "tokens": jax.ShapeDtypeStruct((1,), np.int32)}
  source = Arrays({"image": image, "tokens": tokens})
  transform = lambda key, batch, train: batch | {"image": batch["image"] / 255}
  return types.SimpleNamespace(name="colours", features=features, source=lambda split: source, transform=transform)


def test_clip_score_of_samples_and_of_the_data(monkeypatch):
  """Two thirds of the pictures have the colour that their text says, the others one at a right angle to it."""
  colours, n = np.eye(3), 90
  token = np.arange(n) % 3
  image = np.broadcast_to(255 * colours[token][:, None, None], (n, 8, 8, 3)).astype(np.uint8)
  data = captioned(image, token[:, None].astype(np.int32))
  judge = types.SimpleNamespace(
    name="judge",
    data=captioned(image[:, :4, :4], data.source("").arrays["tokens"]),
    state=None,
    experiment=types.SimpleNamespace(method=OfColour()),
    config=types.SimpleNamespace(name="colours"),
  )
  monkeypatch.setattr(joint, "load", lambda folder: judge)

  def sample(n, seed, tokens):
    shown = np.where(np.arange(n) % 30 < 10, (tokens[:, 0] + 1) % 3, tokens[:, 0])
    return np.broadcast_to(2 * colours[shown][:, None, None] - 1.0, (n, 2, 2, 3))

  made = types.SimpleNamespace(data=data, sample=sample, config=judge.config)
  found = joint.clip_score("runs/judge", 60)(made)
  np.testing.assert_allclose(found["clip_score_judge_60"], 100 * 2 / 3, rtol=1e-5)
  np.testing.assert_allclose(found["clip_score_judge_60_data"], 100, rtol=1e-5)
  np.testing.assert_allclose(found["clip_score_judge_60_se"], 100 * np.sqrt(2 / 9 / 59), rtol=1e-5)
  made.sample = lambda n, **asked: np.full((n, 2, 2, 3), np.nan)
  assert np.isnan(joint.clip_score("runs/judge", 60)(made)["clip_score_judge_60"])
  judge.data.features["tokens"] = jax.ShapeDtypeStruct((7,), np.int32)
  with pytest.raises(UserError, match="texts of 1 tokens"):
    joint.clip_score("runs/judge")(made)


def test_a_priors_cosine_is_compared_with_the_pictures_of_other_texts():
  axes = np.eye(4)
  one = run(axes, axes, [[1], [1], [2], [3]])
  one.evaluate_split = lambda split: {"embedding": 2 * axes, "text_embedding": axes[[0, 1, 2, 0]]}
  one.sample = lambda n, seed, tokens: 3 * axes[[0, 2, 2, 3]][:n]
  found = joint.prior_cosine()(one)
  assert found["prior_cosine_4"] == 3 / 4
  np.testing.assert_allclose(found["prior_cosine_4_std"], np.sqrt(3) / 4)
  assert found["prior_cosine_4_shuffled"] == 1 / 4  # the second, whose next other text is the third
  assert found["prior_cosine_4_text"] == 3 / 4
  same = run(axes, axes, [[1]] * 4)
  same.evaluate_split, same.sample = one.evaluate_split, one.sample
  with pytest.raises(UserError, match="all texts are the same"):
    joint.prior_cosine()(same)
