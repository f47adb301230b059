"""What networks are told, of any form: a dict of text tokens and a mask, from training to guided samples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.condition import Condition, entries, labels, together
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.spec import Spec
from jaxgen.diffusion import PREDICTIONS, linear
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler

SPEC = Spec((2, 2, 1))
LENGTH, VALUES = 3, np.array([-0.3, 0.1, 0.2, 0.4])  # of four words; an image is as bright as its words together
NOTHING = {"tokens": np.zeros(LENGTH, np.int32), "token_mask": np.zeros(LENGTH, bool)}


class Reader(nn.Module):
  """x_0 is the sum of its text's words, and a number of its own where it is told none."""

  @nn.compact
  def __call__(self, x, t, told, index=None):
    words = self.param("words", nn.initializers.zeros, (len(VALUES),), x.dtype)
    silent = self.param("silent", nn.initializers.zeros, (), x.dtype)
    there = told["token_mask"]
    value = jnp.where(there.any(1), jnp.sum(words[told["tokens"]] * there, axis=1), silent)
    return jnp.broadcast_to(value[:, None, None, None], x.shape)


def texts(count, seed=0):
  """Of 1 to 3 words; what the mask hides are words, too."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, len(VALUES), (count, LENGTH)).astype(np.int32)
  return tokens, np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (count, 1))


def test_a_text_with_a_mask_is_learned_dropped_and_guided():
  tokens, there = texts(512)
  bright = (VALUES[tokens] * there).sum(1)
  image = jnp.asarray(np.broadcast_to(bright[:, None, None, None], (512, *SPEC.shape)), jnp.float32)
  batch = {"image": image, "tokens": jnp.asarray(tokens), "token_mask": jnp.asarray(there), "index": jnp.arange(512)}
  made = gaussian_diffusion(
    Reader(),
    linear(8, 0.02, 0.5),
    SPEC,
    optax.adam(optax.cosine_decay_schedule(3e-2, 300)),
    objective=Objective(PREDICTIONS["x_0"]),
    condition=entries(NOTHING, dropout=0.3),
    sampler=Sampler(steps=2, clip=False),
  )
  state = made.init(jax.random.key(0), batch)
  state, metrics = jax.jit(lambda state: jax.lax.scan(lambda s, _: made.step(s, batch), state, length=300))(state)
  learned = state.params["network"]
  np.testing.assert_allclose(learned["words"], VALUES, atol=2e-3)
  # Told nothing, the best is the mean of the examples that were told nothing; the loss that is left is their variance.
  assert abs(float(learned["silent"]) - bright.mean()) < 5 * bright.std() / (0.3 * 512) ** 0.5
  assert abs(float(metrics["loss"][-50:].mean()) - 0.3 * bright.var()) < 0.15 * bright.var()

  tokens, there = texts(6, seed=1)
  told = {"tokens": jnp.asarray(tokens), "token_mask": jnp.asarray(there)}
  keys, sample = jax.random.split(jax.random.key(1), 6), jax.jit(made.sample)
  expected = (VALUES[tokens] * there).sum(1)
  np.testing.assert_allclose(sample(state, keys, **told)[:, 0, 0, 0], expected, atol=1e-2)
  weight = jnp.linspace(0.0, 2.5, 6)
  silent = float(learned["silent"])
  guided = silent + np.asarray(weight) * (expected - silent)
  np.testing.assert_allclose(sample(state, keys, weight=weight, **told)[:, 0, 0, 0], guided, atol=2e-2)
  for given, sentence in (
    ({}, "give tokens, token_mask"),
    ({"tokens": told["tokens"]}, "give token_mask"),
    (told | {"label": jnp.zeros(6)}, "has no condition label"),
  ):
    with pytest.raises(UserError, match=sentence):
      made.sample(state, keys, **given)
  with pytest.raises(UserError, match="needs 'token_mask', which this data does not have"):
    made.init(jax.random.key(0), {k: v for k, v in batch.items() if k != "token_mask"})


def test_an_example_is_told_nothing_by_its_own_key_and_as_a_whole():
  condition = entries(NOTHING, dropout=0.25)
  tokens, there = (jnp.asarray(a) for a in texts(4000))
  told = {"tokens": tokens + 1, "token_mask": there}
  keys = example_keys(jax.random.key(0), jnp.arange(4000))
  dropped = condition.dropped(told, keys)
  silent = np.asarray(~dropped["token_mask"].any(1))
  assert abs(silent.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
  np.testing.assert_array_equal(np.asarray(dropped["tokens"] == 0).all(1), silent)
  np.testing.assert_array_equal(dropped["tokens"][~silent], told["tokens"][~silent])
  half = condition.dropped(jax.tree.map(lambda a: a[2000:], told), keys[2000:])
  np.testing.assert_array_equal(half["tokens"], dropped["tokens"][2000:])


def test_labels_are_drawn_alike_and_may_be_given():
  condition, keys = labels(Spec((1,), classes=4)), jax.random.split(jax.random.key(0), 4000)
  drawn = np.bincount(condition.asked({}, keys), minlength=4)
  assert abs(drawn - 1000).max() < 4 * (4000 * 0.25 * 0.75) ** 0.5
  np.testing.assert_array_equal(condition.asked({"label": [3, 1]}, keys[:2]), [3, 1])
  assert isinstance(condition, Condition)


PARTS = {"picture": entries({"picture": np.zeros(2)}), "text": entries(NOTHING)}
RATES = {("picture",): 0.05, ("text",): 0.1, ("picture", "text"): 0.2}


def test_several_conditions_are_dropped_alone_or_together():
  """By their own rates, independently; or by rates of groups, as InstructPix2Pix's."""
  n, keys = 4000, example_keys(jax.random.key(0), jnp.arange(4000))
  told = {"picture": jnp.ones((n, 2)), "tokens": jnp.ones((n, LENGTH), jnp.int32), "token_mask": jnp.ones((n, 3), bool)}
  own = together({"picture": entries({"picture": np.zeros(2)}, 0.1), "text": entries(NOTHING, 0.3)})
  for condition, wanted in ((own, (0.07, 0.27, 0.03)), (together(PARTS, RATES), (0.05, 0.1, 0.2))):
    assert condition.names == ("picture", "tokens", "token_mask")
    dropped = condition.dropped(condition.of(told), keys)
    picture, text = (np.asarray(dropped[name] == 0).all(1) for name in ("picture", "tokens"))
    np.testing.assert_array_equal(~dropped["token_mask"].any(1), text)
    for found, rate in zip((picture & ~text, text & ~picture, picture & text), wanted, strict=True):
      assert abs(found.mean() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    half = condition.dropped(jax.tree.map(lambda a: a[2000:], told), keys[2000:])
    np.testing.assert_array_equal(half["picture"], dropped["picture"][2000:])


def test_guidance_knows_which_parts_are_dropped():
  """In the order of the parts; one that is never dropped is always told; negative conditions stand for nothing."""
  label, control = labels(Spec((1,), classes=4), 0.1), entries({"control": np.zeros(1)})
  condition = together({"label": label, "control": control, "picture": entries({"picture": np.zeros(2)}, 0.1)})
  keys = jax.random.split(jax.random.key(0), 3)
  told = condition.asked({"label": [3, 1, 2], "control": np.ones((3, 1)), "picture": np.ones((3, 2))}, keys)
  assert set(told) == {"label", "control", "picture"}
  first, second, third = condition.ways(told, condition.away(told, {}))
  assert third["label"].tolist() == second["label"].tolist() == [3, 1, 2]
  assert first["label"].tolist() == [4, 4, 4]  # the label of none
  assert np.all(first["control"] == 1)
  assert not np.any(first["picture"])
  assert not np.any(second["picture"])
  assert np.all(third["picture"] == 1)
  away = condition.away(told, {"label": [0, 0, 1]})
  assert away["label"].tolist() == [0, 0, 1]
  assert not np.any(away["picture"])
  negative = condition.away(told, {"control": np.full((3, 1), 2.0)})  # of a part that is never dropped
  assert [way["control"][0, 0] for way in condition.ways(told, negative)] == [2, 2, 1, 1]
  drawn = condition.asked({"control": np.ones((3, 1)), "picture": np.ones((3, 2))}, keys)
  assert drawn["label"].shape == (3,)
  with pytest.raises(UserError, match="give picture"):
    condition.asked({"control": np.ones((3, 1))}, keys)


def test_says_which_conditions_do_not_go_together():
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  with refused("two conditions are told tokens: give each entry to one"):
    together({"a": entries({"tokens": np.zeros(2)}), "b": entries({"tokens": np.zeros(2), "x": np.zeros(2)})})
  with refused("rates are of picture, text, not of word"):
    together(PARTS, {("word",): 0.1})
  with refused("probabilities with a sum below 1"):
    together(PARTS, {("text",): 0.6, ("picture",): 0.5})
  with refused("by their own rates or by those of `rates`"):
    together({"text": entries(NOTHING, 0.1)}, {("text",): 0.1})
  condition = together(PARTS, RATES)
  told = {"picture": jnp.ones((2, 2)), "tokens": jnp.ones((2, 3), int), "token_mask": jnp.ones((2, 3), bool)}
  with refused("give negative_token_mask"):
    condition.away(told, {"tokens": jnp.zeros((2, 3), int)})


class Sum(nn.Module):
  """x_0 is the sum of a picture's brightness, and a text's: linear, so that guidance can be told by hand."""

  @nn.compact
  def __call__(self, x, t, told, index=None):
    gain = self.param("gain", nn.initializers.ones, (2,), x.dtype)
    value = gain[0] * told["picture"].mean(1) + gain[1] * told["tokens"].sum(1)
    return jnp.broadcast_to(value[:, None, None, None], x.shape)


def test_samples_have_a_weight_for_each_condition_and_negative_ones():
  method = gaussian_diffusion(
    Sum(), linear(8, 0.02, 0.5), SPEC, optax.sgd(0.1), objective=Objective(PREDICTIONS["x_0"]),
    condition=together(PARTS, RATES), sampler=Sampler(steps=2, clip=False),
  )  # fmt: skip
  told = {"picture": np.full((2, 2), 0.5), "tokens": np.full((2, 3), 1), "token_mask": np.ones((2, 3), bool)}
  batch = told | {"image": np.zeros((2, *SPEC.shape)), "index": np.arange(2)}
  state = method.init(jax.random.key(0), jax.tree.map(jnp.asarray, batch))
  sample = lambda **given: np.asarray(method.sample(state, jax.random.split(jax.random.key(1), 2), **given))[:, 0, 0, 0]
  weights = jnp.asarray([[1.5, 4.0], [1.0, 1.0]])
  np.testing.assert_allclose(sample(weight=weights, **told), [1.5 * 0.5 + 4.0 * 3, 3.5], rtol=1e-5)
  np.testing.assert_allclose(sample(weight=jnp.asarray([2.0, 0.0]), **told), [7.0, 0.0], atol=1e-5)
  negative = {"negative_tokens": np.full((2, 3), 2), "negative_token_mask": np.ones((2, 3), bool)}
  # Two of a weight lead from what is not wanted, 6, to what is, 3.5: the picture is told with one of them alone.
  np.testing.assert_allclose(sample(weight=jnp.full(2, 2.0), **told, **negative), 6 + 2 * (3.5 - 6), rtol=1e-5)
  chained = 6 + 1.5 * 0.5 + 4.0 * (3 - 6)
  np.testing.assert_allclose(sample(weight=weights, **told, **negative)[0], chained, rtol=1e-5)
  with pytest.raises(UserError, match="by a weight: give one, 1 changes nothing"):
    sample(**told, **negative)
  with pytest.raises(UserError, match=r"2 conditions are guided by as many weights of each sample, \[N, 2\]"):
    sample(weight=jnp.ones((2, 3)), **told)
