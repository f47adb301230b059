"""Tuning of a diffusion model that reads texts: what is trained, what stays bit for bit, and what a start changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import diffusion
from jaxgen.core.condition import entries
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, State
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.engine import frozen
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import preserving
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.tuning import Control, Part, Token
from jaxgen.nn.joint.text import TextTower, clip
from jaxgen.nn.unets.controlnet import ControlNet
from jaxgen.nn.unets.cross import CrossUNet
from jaxgen.nn.unets.text_unet import TextUNet

SPEC = Spec((4, 4, 1))
SIZE = dict(channels=8, multipliers=(1,), blocks=1, depths=(0,), heads=2, groups=4)  # attention in the middle
TEXT, UNET = TextTower(9, clip(8, 2, 1, context=4), end=2), CrossUNet(**SIZE, out_channels=1)
WITHOUT, WITH = TextUNet(TEXT, UNET), TextUNet(TEXT, UNET, ControlNet(**SIZE, hint=(4,)))
NEW, LIKE, B = 8, 5, 4
rng = np.random.default_rng(0)
BATCH = {
  "image": rng.uniform(-1, 1, (B, *SPEC.shape)).astype(np.float32),
  "tokens": np.array([[1, NEW, i, 2] for i in (3, 4, 5, 6)], np.int32),
  "control": rng.uniform(0, 1, (B, 4, 4, 1)).astype(np.float32),
  "scale": np.ones(B, np.float32),
  "prior_image": rng.uniform(-1, 1, (B, *SPEC.shape)).astype(np.float32),
  "prior_tokens": np.array([[1, i, 2, 0] for i in (3, 4, 5, 6)], np.int32),
  "index": np.arange(B, dtype=np.int32),
}
NOTHING = {"tokens": np.array([1, 2, 0, 0], np.int32)}
DRAW = np.random.default_rng(1)
KEYS = jax.random.split(jax.random.key(3), B)


def made(network, adapter, **options):
  more = {"control": np.zeros((4, 4, 1), np.float32), "scale": np.float32(1)}
  told = entries(NOTHING if network.control is None else NOTHING | more)
  return gaussian_diffusion(
    network, diffusion.linear(8, 0.02, 0.5), SPEC, optax.adam(1e-2), condition=told, adapter=adapter,
    sampler=Sampler(steps=2, clip=False), **options,
  )  # fmt: skip


def random(p):
  return (0.3 * DRAW.standard_normal(p.shape)).astype(np.float32)


def random_base():
  """Every parameter of a base random: at their usual start the last layers hide what is before them."""
  told = {"tokens": BATCH["tokens"]}
  shapes = jax.eval_shape(WITHOUT.init, jax.random.key(0), BATCH["image"], jnp.zeros(B), told)["params"]
  return jax.tree.map(random, shapes)


BASE = random_base()
LOADED = Frozen("a run", lambda: BASE)


def begun(method):
  """A run's first state, in which the base is; what is trained is zeros where it does not start from the base."""
  shapes = jax.eval_shape(method.init, jax.random.key(0), BATCH).replace(key=None)
  initial = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes).replace(key=jax.random.key(1))
  return frozen.start(method.frozen, initial)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@jax.jit
def alone(params, tokens):
  """The base's output."""
  return WITHOUT.apply({"params": params}, jnp.asarray(BATCH["image"]), jnp.ones(B), {"tokens": tokens})


def test_a_controlnet_starts_as_a_copy_that_changes_nothing_and_learns_alone():
  method = made(WITH, Control(), base=LOADED)
  state = begun(method)
  control = state.params["control"]
  hint = jax.tree.map(random, control["hint_in"])  # what is not copied and does not start at zero
  state = state.replace(params={**state.params, "control": {**control, "hint_in": hint}})
  assert set(state.params) == {"network", "control"}
  assert set(state.opt) == {"control"}
  same(state.params["network"], BASE)
  control, unet = state.params["control"], BASE["unet"]
  same(control["middle_0_attention"], unet["middle_0_attention"])
  same(control["middle_1"], unet["middle_1"])

  told = {name: BATCH[name] for name in ("tokens", "control")}
  scaled = lambda *factors: told | {"scale": np.array(factors, np.float32)}
  whole = lambda params: {"params": Control().merged(params["network"], params["control"])}
  x = jnp.asarray(BATCH["image"])
  output = jax.jit(lambda state, told: WITH.apply(whole(state.params), x, jnp.ones(B), told))
  of_base = alone(BASE, BATCH["tokens"])
  np.testing.assert_allclose(output(state, scaled(1, 1, 1, 1)), of_base, atol=1e-6)
  step, after = jax.jit(method.step), state
  for _ in range(3):  # the convolutions that start at zero learn first, then what is before them
    after, _ = step(after, BATCH)
  assert int(after.skipped) == 0
  same(after.params["network"], BASE)
  for name in ("zero_0", "zero_middle", "hint_out", "hint_in", "in"):
    assert np.any(after.params["control"][name]["kernel"] != control[name]["kernel"]), name
  learned, half = output(after, scaled(0, 1, 1, 1)), output(after, scaled(1, 0.5, 0, 1))
  np.testing.assert_allclose(learned[0], of_base[0], atol=1e-6)  # each example's own scale
  np.testing.assert_allclose(half[2], of_base[2], atol=1e-6)
  assert np.abs(learned - of_base)[1:].max() > 1e-4
  assert np.abs(half[1] - learned[1]).max() > 1e-5

  drawn = jax.eval_shape(method.sample, state, KEYS, **scaled(1, 1, 1, 1))  # told a picture and a scale
  assert drawn.shape == (B, *SPEC.shape)


def test_textual_inversion_changes_one_row_and_the_prior_has_its_share():
  """Gal et al. 2022; with a second row of examples, whose weight is 0.5."""
  adapter = Token(NEW, like=LIKE)
  method = made(WITHOUT, adapter, base=LOADED, prior=0.5)
  state = begun(method)
  assert set(state.params) == {"network", "token"}
  table = BASE["text"]["embedding"]["table"]
  first = adapter.merged(state.params["network"], state.params["token"])
  np.testing.assert_array_equal(first["text"]["embedding"]["table"][NEW], table[LIKE])
  after, metrics = jax.jit(method.step)(state, BATCH)
  same(after.params["network"], BASE)
  changed = adapter.merged(after.params["network"], after.params["token"])
  rows = np.asarray(changed["text"]["embedding"]["table"] != table).any(1)
  np.testing.assert_array_equal(np.flatnonzero(rows), [NEW])
  # Adam's first step is the rate, in the direction of the gradient's signs.
  np.testing.assert_allclose(np.abs(changed["text"]["embedding"]["table"][NEW] - table[LIKE]), 1e-2, rtol=1e-2)
  same(changed["unet"], BASE["unet"])
  total = metrics["instance_loss"] + 0.5 * metrics["prior_loss"]
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)
  assert abs(float(metrics["instance_loss"] - metrics["prior_loss"])) > 1e-3
  # Texts without the new word are told as before.
  np.testing.assert_array_equal(*(alone(p, BATCH["prior_tokens"]) for p in (BASE, changed)))


def test_prior_preservation_is_the_papers_loss():
  """Ruiz et al. 2022, eq. 2: with one number g for all, told a of one row and b of the other, the least is where
  g = (a + lambda b) / (1 + lambda); each row is compared with its own values, at keys of their own."""
  a, b, weight = 0.3, -0.5, 0.7
  keys = []

  def loss(params, state, batch, key):
    keys.append(key)
    assert set(batch) >= {"image", "tokens"}
    value = jnp.mean((params - batch["image"]) ** 2) + 0.0 * jnp.sum(batch["tokens"])
    return value, ({"seen": value}, state.buffers)

  batch = {"image": jnp.full(4, a), "tokens": jnp.ones(4), "prior_image": jnp.full(4, b), "prior_tokens": jnp.zeros(4)}
  state = State(None, None, None, {}, {}, {}, {})
  both = preserving(loss, weight, ("image", "tokens"))
  best = (a + weight * b) / (1 + weight)
  gradient, (metrics, _) = jax.grad(both, has_aux=True)(best, state, batch, jax.random.key(0))
  assert abs(float(gradient)) < 1e-6
  np.testing.assert_allclose(metrics["instance_loss"], (best - a) ** 2, rtol=1e-5)
  np.testing.assert_allclose(metrics["prior_loss"], (best - b) ** 2, rtol=1e-5)
  assert not np.array_equal(*map(jax.random.key_data, keys))


def test_a_part_starts_from_the_base_and_the_rest_stays():
  part = Part("unet")
  method = made(WITHOUT, part, base=LOADED)
  state = begun(method)
  same(state.params, {"network": {"text": BASE["text"]}, "unet": BASE["unet"]})
  same(part.merged(*state.params.values()), BASE)
  assert set(state.opt) == {"unet"}


def test_says_what_does_not_fit():
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  init = lambda *given, **options: jax.eval_shape(made(*given, **options).init, jax.random.key(0), BATCH)
  with refused("parts are text, unet, and 'control' is to be trained"):
    init(WITHOUT, Control())
  with refused("a part that is trained cannot be"):
    init(WITHOUT, Part("network"))
  with refused("no table of embeddings 'words/table'"):
    init(WITHOUT, Token(NEW, table="words/table"))
  with refused("tokens 0 to 8, not 9: raise its vocabulary"):
    init(WITHOUT, Token(9))
  with refused("learns from prior_image, prior_tokens beside the examples"):
    jax.eval_shape(
      made(WITHOUT, None, prior=1.0).init,
      jax.random.key(0),
      {name: value for name, value in BATCH.items() if not name.startswith("prior")},
    )


def test_an_average_of_the_frozen_part_does_not_hide_the_change():
  method = averaged(made(WITHOUT, Part("unet"), base=LOADED), {"network": 0.9, "unet": 0.9})
  state = begun(method)
  state = state.replace(ema={**state.ema, "network": state.params["network"], "unet": state.params["unet"]})
  plain = state.replace(ema={})
  draw = jax.jit(lambda state: method.sample(state, KEYS, tokens=BATCH["tokens"]))
  same(draw(state), draw(plain))
