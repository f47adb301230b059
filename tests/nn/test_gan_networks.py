import pathlib
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.nn.adversarial.diffaugment import color, cutout, diff_augment, translation
from jaxgen.nn.adversarial.gan import (
  DCGANDiscriminator,
  DCGANGenerator,
  MLPDiscriminator,
  MLPGenerator,
  ResNetDiscriminator,
  ResNetGenerator,
)
from jaxgen.nn.blocks.spectral import SpectralConv, SpectralDense
from jaxgen.nn.blocks.transposed import conv_transposed

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def shapes(network, x, label=None):
  return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(x), label)


@pytest.mark.parametrize(
  ("network", "x", "number"),
  [
    # pytorch/examples, dcgan/main.py
    (DCGANGenerator((64, 64, 3)), 100, 3_576_704),
    (DCGANDiscriminator(), (64, 64, 3), 2_765_568),
    # the authors' faces/train_uncond_dcgan.py
    (DCGANGenerator((64, 64, 3), 128, 5, units=True), 100, 18_885_760),
    # by hand from the tables: kernels, biases, gains
    (ResNetGenerator((32, 32, 3), 256), 128, 129 * 4096 + 6 * (2304 * 256 + 256) + 3 * (257 * 256) + 7 * 512 + 6915),
    (ResNetDiscriminator(), (32, 32, 3), 28 * 128 + 7 * (1153 * 128) + 4 * 128 + 129 * 128 + 129),
  ],
  ids=["DCGAN", "DCGAN's discriminator", "DCGAN of the authors", "ResNet", "ResNet's discriminator"],
)
def test_published_sizes(network, x, number):
  found = shapes(network, (1, x) if isinstance(x, int) else (1, *x))["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(found)) == number


def known(name):
  """(variables, x, output, output in training, running statistics after it) of PyTorch's example."""
  arrays = {k.removeprefix(f"{name}/"): v for k, v in np.load(FIXTURES / "dcgan.npz").items() if k.startswith(name)}
  trees = {}
  for kind in ("params", "batch_stats", "after"):
    flat = {tuple(k.split("/")[1:]): jnp.asarray(v) for k, v in arrays.items() if k.startswith(f"{kind}/")}
    trees[kind] = flax.traverse_util.unflatten_dict(flat)
  x = jnp.asarray(arrays["x"], jnp.float32)
  return {k: trees[k] for k in ("params", "batch_stats")}, x, arrays["output"], arrays["trained"], trees["after"]


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_equals_pytorchs_example(name):
  network = {"generator": DCGANGenerator((64, 64, 3), 2), "discriminator": DCGANDiscriminator(2)}[name]
  variables, x, output, trained, after = known(name)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes(network, x.shape))
  close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  close(jax.jit(network.apply)(variables, x)[: len(output)], output)
  found, changed = jax.jit(lambda v, x: network.apply(v, x, index=jnp.arange(3), mutable=["batch_stats"]))(variables, x)
  close(found[: len(trained)], trained)
  jax.tree.map(close, changed["batch_stats"], after)


def test_units_of_the_projection_are_normalised_each(x64):
  # In training every unit of a batch has mean `bias` and variance `scale`^2: of the 4x4 positions, too.
  dtypes = dict(dtype=jnp.float64, param_dtype=jnp.float64)
  z = jax.random.normal(jax.random.key(0), (50, 3))
  for units, size in ((True, 4 * 4 * 2), (False, 2)):
    found = shapes(DCGANGenerator((8, 8, 1), 2, units=units, **dtypes), z.shape)
    assert found["params"]["norm_0"]["scale"].shape == (size,)


@pytest.mark.parametrize(("side", "least", "smallest"), [(8, 4, 4), (8, 2, 2), (12, 4, 6), (28, 4, 7), (64, 4, 4)])
def test_sizes(side, least, smallest):
  generator = DCGANGenerator((side, side, 1), 2, least=least)
  variables = shapes(generator, (1, 5))
  output = jax.eval_shape(generator.apply, variables, jnp.zeros((3, 5)))
  assert output.shape == (3, side, side, 1)
  channels = 2 * side // smallest // 2
  assert variables["params"]["project"]["kernel"].shape == (5, smallest**2 * channels)
  kernels = shapes(DCGANDiscriminator(2, least=least), (1, side, side, 1))["params"]
  assert kernels["out"]["kernel"].shape == (smallest**2 * channels, 1)


def test_images_that_do_not_halve():
  for network, x in ((DCGANGenerator((7, 8, 1)), (1, 5)), (DCGANDiscriminator(), (1, 6, 6, 1))):
    with pytest.raises(UserError, match="do not halve"):
      shapes(network, x)
  with pytest.raises(UserError, match="do not halve twice"):
    shapes(ResNetDiscriminator(), (1, 6, 8, 1))


def test_initial_weights_of_dcgan():
  network = DCGANGenerator((16, 16, 3), 32, classes=10)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 90)), jnp.zeros(1, int))["params"]
  kernel, scale = np.asarray(params["project"]["kernel"]), np.asarray(params["norm_0"]["scale"])
  assert stats.kstest(kernel.ravel()[:5000], stats.norm(0, 0.02).cdf).pvalue > 0.01
  assert stats.kstest(scale, stats.norm(1, 0.02).cdf).pvalue > 0.01
  assert kernel.shape[0] == 100


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_a_transposed_convolution_is_the_adjoint_of_one_with_stride_2(size, x64):
  rng = np.random.default_rng(size)
  x, y, w = (jnp.asarray(rng.normal(size=s)) for s in ((2, 3, 5, 4), (2, 6, 10, 3), (size, size, 4, 3)))
  r = (size - 1) // 2
  pads = [(r, size - 2 - r)] * 2
  layout = ("NHWC", "HWIO", "NHWC")
  down = lambda y: lax.conv_general_dilated(y, w.swapaxes(2, 3), (2, 2), pads, dimension_numbers=layout)
  assert down(y).shape == x.shape
  np.testing.assert_allclose(jnp.vdot(down(y), x), jnp.vdot(y, conv_transposed(x, w)), rtol=1e-12)
  np.testing.assert_allclose(jax.linear_transpose(down, y)(x)[0], conv_transposed(x, w), atol=1e-12)


# spectral normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SpectralDense, SpectralConv])
def test_kernels_are_divided_by_the_largest_singular_value(kind, x64):
  dense, layer = kind is SpectralDense, kind(7, param_dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5) if dense else (2, 4, 4, 5)))
  variables = jax.jit(layer.init, static_argnums=2)(jax.random.key(0), x, True)
  rng = np.random.default_rng(1)
  variables["params"] = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), variables["params"])
  plain = nn.Dense(7) if dense else nn.Conv(7, (3, 3))
  kernel = np.asarray(variables["params"]["kernel"])
  sigma = np.linalg.svd(kernel.reshape(-1, 7), compute_uv=False)[0]
  train = jax.jit(lambda v: layer.apply(v, x, True, mutable=["spectral"]))
  u = variables["spectral"]["u"]
  for _ in range(300):
    output, changed = train(variables)
    variables |= changed
  assert np.abs(np.abs(changed["spectral"]["u"]) - np.abs(u)).max() > 0.01
  exact = plain.apply({"params": variables["params"] | {"kernel": kernel / sigma}}, x)
  np.testing.assert_allclose(output, exact, rtol=1e-9, atol=1e-9)
  # Outside training nothing is advanced and the same comes out.
  np.testing.assert_allclose(layer.apply(variables, x, False), exact, rtol=1e-9, atol=1e-9)
  _, kept = layer.apply(variables, x, False, mutable=["spectral"])
  np.testing.assert_array_equal(kept["spectral"]["u"], variables["spectral"]["u"])


def test_the_gradient_goes_through_the_singular_value(x64):
  # At the singular vectors kernel / sigma is the same for a kernel twice as large: no gradient along the kernel.
  layer = SpectralDense(4, use_bias=False, param_dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
  variables = jax.jit(layer.init, static_argnums=2)(jax.random.key(0), x, True)
  loss = lambda p: (layer.apply({"params": p, "spectral": variables["spectral"]}, x, False) ** 3).sum()
  slope = jax.jit(jax.grad(loss))(variables["params"])["kernel"]
  assert np.abs(slope).max() > 1e-3
  np.testing.assert_allclose(jnp.vdot(slope, variables["params"]["kernel"]), 0, atol=1e-12)


@pytest.mark.parametrize(
  "network",
  [MLPDiscriminator((6,), spectral=True, classes=3), DCGANDiscriminator(2, spectral=True, classes=3)]
  + [ResNetDiscriminator(4, spectral=True, classes=3)],
  ids=["MLP", "DCGAN", "ResNet"],
)
def test_every_kernel_of_a_spectral_discriminator_is_normalised(network):
  found = shapes(network, (2, 8, 8, 1), jnp.zeros(2, int))
  paths = {path[:-1] for path in flax.traverse_util.flatten_dict(found["params"]) if path[-1] == "kernel"}
  assert paths == {path[:-1] for path in flax.traverse_util.flatten_dict(found["spectral"])}
  assert ("projection", "V") in paths


# labels ---------------------------------------------------------------------------------------------------------------


def test_projection_is_an_inner_product_with_the_labels_vector(x64):
  network = MLPDiscriminator((), classes=3, param_dtype=jnp.float64, dtype=jnp.float64)
  rng = np.random.default_rng(0)
  x, label = jnp.asarray(rng.normal(size=(4, 5))), jnp.asarray([2, 0, 1, 2])
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes(network, (1, 5), jnp.zeros(1, int)))
  output = network.apply(params, x, label)
  w, b = (np.asarray(params["params"]["out"][name]) for name in ("kernel", "bias"))
  V = np.asarray(params["params"]["projection"]["V"]["kernel"])
  np.testing.assert_allclose(output, x @ w[:, 0] + b + (V[label] * x).sum(1), rtol=1e-12)


@pytest.mark.parametrize(
  "network", [MLPGenerator((8, 8, 1), (6,), classes=3), DCGANGenerator((8, 8, 1), 2, classes=3)], ids=["MLP", "DCGAN"]
)
def test_generators_know_their_label(network):
  z, label = jax.random.normal(jax.random.key(0), (1, 4)), jnp.arange(3)
  variables = jax.jit(network.init)(jax.random.key(1), z, label[:1])
  x = jax.jit(network.apply)(variables, jnp.repeat(z, 3, axis=0), label)
  assert jnp.abs(x[0] - x[1]).max() > 1e-6
  assert jnp.abs(x[1] - x[2]).max() > 1e-6


def test_maxout_and_dropout():
  x = jax.random.normal(jax.random.key(0), (4, 5))
  network = MLPDiscriminator((3,), pieces=2, dropout=(0.2, 0.5))
  variables = network.init(jax.random.key(1), x)
  p = variables["params"]
  h = (x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"]).reshape(4, 3, 2).max(-1)
  np.testing.assert_allclose(network.apply(variables, x), (h @ p["out"]["kernel"])[:, 0], rtol=1e-5, atol=1e-6)
  dropped = network.apply(variables, x, index=jnp.arange(4), rngs={"dropout": jax.random.key(2)})
  assert jnp.abs(dropped - network.apply(variables, x)).max() > 1e-3


# differentiable augmentation ------------------------------------------------------------------------------------------


def test_color():
  x = jax.random.uniform(jax.random.key(0), (6, 6, 3), minval=-1)
  y = np.asarray(jax.jit(jax.vmap(color, (0, None)))(jax.random.split(jax.random.key(1), 2_000), x))
  x = np.asarray(x)
  split = lambda v: (v.mean((-3, -2, -1)), v.mean(-1, keepdims=True), v - v.mean(-1, keepdims=True))
  (mean, grey, hue), (mean_y, grey_y, hue_y) = split(x), split(y)
  slope = lambda a, b: (a * b).sum((-3, -2, -1)) / (b * b).sum()
  contrast = slope(grey_y - mean_y[:, None, None, None], grey - mean)
  saturation = slope(hue_y, hue) / contrast
  for found, expected in ((mean_y - mean, stats.uniform(-0.5, 1)), (contrast, stats.uniform(0.5, 1))):
    assert stats.kstest(found, expected.cdf).pvalue > 0.01
  assert stats.kstest(saturation, stats.uniform(0, 2).cdf).pvalue > 0.01
  expected = mean_y[0] + contrast[0] * (grey - mean) + contrast[0] * saturation[0] * hue
  np.testing.assert_allclose(y[0], expected, atol=1e-5)


def test_translation_moves_by_whole_pixels_in_all_ways():
  x = 1 + np.arange(8 * 16 * 2, dtype=np.float32).reshape(8, 16, 2)
  y = np.asarray(jax.jit(jax.vmap(translation, (0, None)))(jax.random.split(jax.random.key(1), 400), jnp.asarray(x)))
  seen, padded = set(), np.pad(x, ((1, 1), (2, 2), (0, 0)))
  for image in y:
    at = [(i, j) for i in range(3) for j in range(5) if (padded[i : i + 8, j : j + 16] == image).all()]
    assert len(at) == 1
    seen |= set(at)
  assert len(seen) == 15


def test_cutout_takes_a_square_out():
  y = np.asarray(jax.jit(jax.vmap(cutout, (0, None)))(jax.random.split(jax.random.key(1), 600), jnp.ones((8, 8, 1))))[
    ..., 0
  ]
  corners = set()
  for image in y:
    rows, columns = np.flatnonzero((image == 0).any(1)), np.flatnonzero((image == 0).any(0))
    assert (image == 0).sum() == len(rows) * len(columns)  # a rectangle
    assert len(rows) == rows[-1] - rows[0] + 1
    assert 2 <= len(rows) <= 4
    corners.add((rows[0], rows[-1], columns[0], columns[-1]))
  # Centres are 0 to 8 in both directions, and every one of them cuts something else out.
  assert len(corners) == 81


def test_augmentations_are_drawn_for_each_image_and_differentiable():
  keys = jax.random.split(jax.random.key(0), 3)
  augment = jax.jit(diff_augment(color, translation, cutout))
  x = jnp.broadcast_to(jax.random.uniform(jax.random.key(1), (8, 8, 3)), (3, 8, 8, 3))
  y = augment(keys, x)
  assert jnp.abs(y[0] - y[1]).max() > 0.01
  np.testing.assert_allclose(augment(keys[1:], x[1:]), y[1:], rtol=1e-6)
  slope = jax.jit(jax.grad(lambda x: augment(keys, x).sum()))(x)
  assert (jnp.abs(slope).max((1, 2, 3)) > 0).all()
