"""MAE against transformers' ViTMAE, with every parameter random; the fixture is of make_selfsupervised.py."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from published import load, projected

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.interop import layout
from jaxgen.interop import mae as mae_layout
from jaxgen.methods.selfsupervised.masked import masked_autoencoder, reconstruction
from jaxgen.nn.selfsupervised.heads import Embedder, Head
from jaxgen.nn.selfsupervised.mae import MAE, SimMIM, patchify, random_masking, unpatchify
from jaxgen.nn.vision.resnet import SIZES as RESNETS
from jaxgen.nn.vision.resnet import ResNet
from jaxgen.nn.vision.vit import SIZES, ViT

DOUBLE = dict(dtype=jnp.float64, param_dtype=jnp.float64)
SPEC = Spec((12, 12, 3), dtype=np.float64)


def tiny(**options):
  return MAE(ViT(4, 12, 2, 3, fixed_positions=True, **DOUBLE), 8, 2, 2, **options)


@pytest.fixture(scope="module")
def known():
  return load("selfsupervised.npz", "MAE")


def read(network, known):
  x, noise = known["argument"]["x"], known["argument"]["noise"]
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, noise)
  return layout.read(mae_layout.transformers(network), known["weight"], shapes)


def test_loss_and_gradients_are_those_of_transformers(known, x64):
  network = tiny()
  variables = read(network, known)
  x, noise = known["argument"]["x"], jnp.asarray(known["argument"]["noise"])

  def loss(params):
    predicted, mask = network.apply({"params": params}, jnp.asarray(x), noise, 0.6)
    return reconstruction(predicted, mask, patchify(jnp.asarray(x), 4)).mean(), (predicted, mask)

  (value, (predicted, mask)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
  np.testing.assert_allclose(value, known["loss"][""], rtol=1e-9)
  np.testing.assert_allclose(predicted, known["logits"][""], rtol=0, atol=1e-9)
  np.testing.assert_array_equal(mask, known["mask"][""])
  theirs = layout.write(mae_layout.transformers(network), {"params": jax.tree.map(np.asarray, gradient)})
  for name, expected in known["gradient"].items():
    np.testing.assert_allclose(projected(name, theirs[name]), expected, rtol=0, atol=1e-9, err_msg=name)
  for table in ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"):  # theirs have no gradient
    np.testing.assert_array_equal(theirs[table], 0)


def test_layout_goes_both_ways(known, x64):
  network = tiny()
  variables = read(network, known)
  written = layout.write(mae_layout.transformers(network), variables)
  assert written.keys() == known["weight"].keys()
  for name, value in written.items():
    np.testing.assert_array_equal(value, known["weight"][name], err_msg=name)


def test_parameters_are_the_papers():
  noise = lambda side, patch: jax.ShapeDtypeStruct((1, (side // patch) ** 2), jnp.float32)
  count = lambda shapes: sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"]))
  picture, key = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32), jax.random.key(0)
  for size, number in (("B/16", 111_907_840), ("L/16", 329_541_888), ("H/14", 657_074_508)):
    network = MAE(ViT(**SIZES[size], fixed_positions=True))
    assert count(jax.eval_shape(network.init, key, picture, noise(224, SIZES[size]["patch"]))) == number
  for head, number in (((2048, 128), 27_966_656), ((128,), 23_770_304)):  # SimCLR and MoCo v2; MoCo v1
    assert count(jax.eval_shape(Embedder(ResNet(**RESNETS[50]), Head(head)).init, key, picture)) == number


def test_without_masking_the_order_is_restored(x64):
  noise = jax.random.uniform(jax.random.key(0), (3, 10))
  masking = random_masking(noise, 0.0)
  restored = jnp.take_along_axis(masking.visible, masking.restore, 1)
  np.testing.assert_array_equal(restored, jnp.tile(jnp.arange(10), (3, 1)))
  assert not masking.mask.any()
  masking = random_masking(noise, 0.75)
  assert masking.visible.shape == (3, 2)  # int(10 (1 - 0.75))
  hidden = np.ones((3, 10))
  hidden[np.arange(3)[:, None], np.asarray(masking.visible)] = 0
  np.testing.assert_array_equal(masking.mask, hidden)
  x = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))
  np.testing.assert_array_equal(unpatchify(patchify(x, 4), (8, 12, 3), 4), x)


def test_predicting_zero_costs_767_of_768(x64):
  """Normalised pixels have a mean square of (n - 1) / n, their variance's denominator being n - 1."""
  target = patchify(10 * jax.random.normal(jax.random.key(0), (2, 32, 32, 3)), 16)
  cost = reconstruction(jnp.zeros_like(target), jnp.ones((2, 4)), target)
  np.testing.assert_allclose(cost, 767 / 768, rtol=1e-6)  # but for eps, 1e-6 beside a variance of 100
  assert reconstruction(jnp.zeros_like(target), jnp.ones((2, 4)), target, False, "absolute") == pytest.approx(
    np.abs(target).mean((1, 2))
  )


def test_a_masked_patch_is_not_seen(x64):
  """Neither network's prediction changes with the pixels of masked patches, and it does with visible ones."""
  x, noise = jax.random.normal(jax.random.key(0), (1, 12, 12, 3)), jax.random.uniform(jax.random.key(1), (1, 9))
  other = jax.random.normal(jax.random.key(2), x.shape)
  for network in (tiny(), SimMIM(ViT(4, 12, 2, 3, **DOUBLE))):
    variables = network.init(jax.random.key(3), x, noise, 0.6)
    predicted, mask = network.apply(variables, x, noise, 0.6)
    where = lambda chosen: unpatchify(jnp.broadcast_to(chosen[..., None], (1, 9, 48)), (12, 12, 3), 4)
    hidden = network.apply(variables, jnp.where(where(mask) > 0, other, x), noise, 0.6)[0]
    np.testing.assert_array_equal(hidden, predicted)
    seen = network.apply(variables, jnp.where(where(mask) > 0, x, other), noise, 0.6)[0]
    assert np.abs(seen - predicted).max() > 1e-3


def method(ratio, patch=4, side=12, channels=3):
  network = MAE(ViT(patch, 12, 1, 3, fixed_positions=True), 8, 1, 2)
  return masked_autoencoder(network, spec=Spec((side, side, channels)), optimizer=optax.sgd(1.0), mask_ratio=ratio)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: method(1.0), "leaves none of 9 patches"),
    (lambda: method(0.95), "leaves none of 9 patches"),
    (lambda: method(-0.1), "leaves none"),
    (lambda: method(0.0), "masks none of 9 patches"),
    (lambda: method(0.5, patch=5), "do not divide into patches of 5"),
    (lambda: method(0.5, patch=1, channels=1), "a patch of one value has no variance"),
  ],
)
def test_bad_masks_are_one_sentence(make, names):
  with pytest.raises(UserError, match=names):
    make()
