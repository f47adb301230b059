"""Every bijection, and the models made of them, against the determinant of its Jacobian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from rounding import conditioning, tolerance

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.layers import Conv
from jaxgen.nn.flows.bijections import (
  ActNorm,
  BatchNorm,
  Chain,
  CheckerboardCoupling,
  Coupling,
  Flattened,
  InvertibleConv,
  InvertibleConvLU,
  Logit,
  Permutation,
  Repeat,
  Rescale,
  Scaling,
  Split,
  Squeezed,
  backwards,
  evens_first,
  squeeze,
  unsqueeze,
)
from jaxgen.nn.flows.glow import Network, Prior, glow
from jaxgen.nn.flows.nice import Shift, nice
from jaxgen.nn.flows.realnvp import ResNet, realnvp, realnvp_vectors

F64 = jnp.float64
f64 = dict(dtype=F64, param_dtype=F64)


class Simple(nn.Module):
  """A conditioner of images whose output at a pixel sees its neighbours."""

  @nn.compact
  def __call__(self, a, features, train=False):
    h = jnp.tanh(Conv(2 * features, **f64)(a))
    return jnp.split(h, 2, axis=-1)


# name: (bijection, shape of an example); images are not square
BIJECTIONS = {
  "rescale": (Rescale(-1.7, 0.3), (4, 6, 3)),
  "scaling": (Scaling(F64), (4, 6, 3)),
  "permutation, evens first": (Permutation(evens_first), (2, 3, 5)),
  "permutation, backwards": (Permutation(backwards), (2, 3, 5)),
  "logit": (Logit(0.05), (4, 6, 3)),
  "actnorm": (ActNorm(param_dtype=F64), (4, 6, 3)),
  "batch norm": (BatchNorm(param_dtype=F64), (4, 6, 3)),
  "1x1 convolution": (InvertibleConv(F64), (4, 6, 3)),
  "1x1 convolution, LU": (InvertibleConvLU(F64), (4, 6, 3)),
  "additive coupling": (Coupling(Network(5, additive=True, **f64)), (4, 6, 3)),
  "affine coupling": (Coupling(Network(5, **f64)), (4, 6, 3)),
  "affine coupling, swapped": (Coupling(Simple(), swap=True), (4, 6, 3)),
  "checkerboard coupling": (CheckerboardCoupling(Simple()), (4, 6, 3)),
  "checkerboard coupling, odd": (CheckerboardCoupling(ResNet(4, 1, 0.7, **f64), odd=True), (3, 5, 2)),
  "split": (Split(Scaling(F64)), (4, 6, 4)),
  "split with a prior": (Split(ActNorm(param_dtype=F64), Prior(**f64)), (4, 6, 4)),
  "flattened": (Flattened(Chain((Permutation(evens_first), Coupling(Shift((7,), **f64))))), (3, 5, 1)),
  "squeezed": (Squeezed(Coupling(Simple())), (4, 6, 1)),
  "squeezed, diagonal first": (Squeezed(Coupling(Simple(), swap=True), diagonal=True), (4, 6, 2)),
  "repeat": (Repeat(Chain((ActNorm(param_dtype=F64), InvertibleConvLU(F64), Coupling(Simple()))), 3), (2, 3, 4)),
  "NICE": (nice((9, 9), **f64), (4, 6, 3)),
  "RealNVP": (realnvp(2, 4, 1, **f64), (4, 6, 3)),
  "RealNVP of vectors": (realnvp_vectors(4, (8,), param_dtype=F64), (5,)),
  "Glow": (glow(2, 2, 6, **f64), (4, 8, 3)),
  "Glow, plain and additive": (glow(1, 2, 6, lu=False, additive=True, **f64), (4, 6, 3)),
}
every_bijection = pytest.mark.parametrize("name", list(BIJECTIONS))


def examples(shape, n=12):
  return jnp.asarray(np.random.default_rng(0).uniform(-0.95, 0.95, (n, *shape)))


def randomised(bijection, x):
  """Variables away from where they start, running statistics too; what is fixed stays."""
  rng = np.random.default_rng(1)

  def away(path, v):
    if path[0].key == "fixed":
      return v
    if path[0].key == "batch_stats":
      return jnp.asarray(rng.uniform(0.5, 2.0, v.shape))
    return v + jnp.asarray((0.05 + 0.3 * np.std(v)) * rng.normal(size=v.shape))

  init = jax.jit(lambda key, x: bijection.init(key, x, train=True))
  return jax.tree_util.tree_map_with_path(away, init(jax.random.key(0), x))


@every_bijection
def test_log_det_is_that_of_the_jacobian_and_the_inverse_undoes(name, x64):
  bijection, shape = BIJECTIONS[name]
  x = examples(shape)
  variables = randomised(bijection, x)

  @jax.jit
  def both(variables, x, wobble):
    y, log_det = bijection.apply(variables, x)
    back, minus = bijection.apply(variables, y * (1 + wobble), inverse=True)
    one = lambda x: bijection.apply(variables, x[None])[0].ravel()
    return y, log_det, back, minus, jax.jacrev(one)(x[0]).reshape(x[0].size, -1)

  y, log_det, back, minus, jacobian = both(variables, x, 0 * x)
  assert y.shape == x.shape
  assert log_det.shape == (len(x),)
  # y is rounded, and the inverse is as sensitive to that as it is: Glow's here gains seven digits. The deepest of these
  # has some ten roundings for each of its numbers.
  scales = conditioning(lambda wobbled: both(variables, x, wobbled - 1)[2:4], 1 + 0 * x)
  largest = max(np.linalg.cond(jacobian), np.abs(log_det[0]))
  allowed = [tolerance(F64, 10 * x[0].size, scale) for scale in (largest, *scales)]
  assert max(allowed) < 1e-4
  np.testing.assert_allclose(log_det[0], np.linalg.slogdet(jacobian)[1], rtol=0, atol=allowed[0])
  np.testing.assert_allclose(back, x, rtol=0, atol=allowed[1])
  np.testing.assert_allclose(minus, -log_det, rtol=0, atol=allowed[2])
  # It is not the identity, and it is not the same log-determinant by accident of symmetry.
  assert np.abs(np.asarray(y) - np.asarray(x)).max() > 0.1


def test_every_actnorm_starts_with_mean_0_and_variance_1(x64):
  flow = glow(2, 3, 6, **f64)
  x = jnp.asarray(np.random.default_rng(2).gamma(2.0, 0.2, (16, 4, 8, 3)) - 1)

  @jax.jit
  def outputs_of_actnorms(x):
    variables = flow.init(jax.random.key(0), x, train=True)
    _, seen = flow.apply(variables, x, capture_intermediates=lambda m, _: isinstance(m, ActNorm))
    return [captured[0][0] for captured in jax.tree.leaves(seen, is_leaf=lambda v: isinstance(v, tuple))]

  outputs = [np.asarray(y) for y in outputs_of_actnorms(x)]
  assert sum(len(y) if y.ndim == 5 else 1 for y in outputs) == 2 * 3 * 3 + 1  # of each step one and two inside
  for y in outputs:
    axes = tuple(range(y.ndim - 4, y.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-9)
    np.testing.assert_allclose(y.var(axes), 1, atol=1e-9)


def test_batch_norm_in_training(x64):
  x = np.random.default_rng(3).normal(2.0, 3.0, (7, 4, 5, 2))
  norm = BatchNorm(momentum=0.9, eps=1e-3, param_dtype=F64)
  start = norm.init(jax.random.key(0), jnp.asarray(x), train=True)
  step = jax.jit(partial(norm.apply, train=True, mutable=["batch_stats"]))
  (y, log_det), after = step(start, jnp.asarray(x))
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3), rtol=0, atol=1e-12)
  np.testing.assert_allclose(log_det, np.full(7, -0.5 * 20 * np.log(var + 1e-3).sum()), rtol=1e-12)
  np.testing.assert_allclose(after["batch_stats"]["mean"], 0.1 * mean, rtol=1e-12)
  np.testing.assert_allclose(after["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-12)
  # An initialisation moves nothing: it is no step.
  np.testing.assert_array_equal(start["batch_stats"]["mean"], 0)


def test_coupling_changes_one_half_by_the_other(x64):
  x = examples((4, 6, 4))
  apply = lambda f: np.asarray(jax.jit(f.apply)(randomised(f, x), x)[0])
  for swap in (False, True):
    coupling = Coupling(Simple(), swap)
    y = apply(coupling)
    kept, changed = (slice(2, 4), slice(0, 2)) if swap else (slice(0, 2), slice(2, 4))
    np.testing.assert_array_equal(y[..., kept], x[..., kept])
    assert (y[..., changed] != np.asarray(x)[..., changed]).all()
  colour = np.add.outer(np.arange(4), np.arange(6)) % 2
  for odd in (False, True):
    coupling = CheckerboardCoupling(Simple(), odd)
    y = apply(coupling)
    np.testing.assert_array_equal((y == np.asarray(x)).all((0, 3)), colour == odd)


def test_squeezed_pixels():
  rows, columns = np.meshgrid(np.arange(4), np.arange(6), indexing="ij")
  x = jnp.asarray(100 * np.arange(3) + (10 * rows + columns)[..., None])[None].astype(
    jnp.float32
  )  # channel, row, column
  np.testing.assert_array_equal(squeeze(x)[0, 1, 2], [24, 25, 34, 35, 124, 125, 134, 135, 224, 225, 234, 235])
  diagonal = np.asarray(squeeze(x, diagonal=True))[0]
  np.testing.assert_array_equal(diagonal[1, 2], [24, 124, 224, 35, 135, 235, 25, 125, 225, 34, 134, 234])
  even = (diagonal % 100 // 10 + diagonal % 10) % 2 == 0
  assert even[..., :6].all()
  assert not even[..., 6:].any()
  for d in (False, True):
    np.testing.assert_array_equal(unsqueeze(squeeze(x, d), d), x)


def test_lu_starts_as_a_rotation(x64):
  x = examples((2, 3, 5), 50)
  conv = InvertibleConvLU(F64)
  y, log_det = jax.jit(conv.init_with_output)(jax.random.key(0), x)[0]
  np.testing.assert_allclose(jnp.sum(y**2, -1), jnp.sum(x**2, -1), rtol=1e-12)
  np.testing.assert_allclose(log_det, 0, atol=1e-12)
  assert np.abs(y - x).max() > 0.1


def test_repeated_bijections_have_parameters_of_their_own(x64):
  x = examples((2, 3, 4))
  step = lambda: Chain((ActNorm(param_dtype=F64), InvertibleConv(F64)))
  many, one = Repeat(step(), 3), step()
  variables = jax.jit(many.init)(jax.random.key(0), x)
  apply_one, apply_many = jax.jit(one.apply), jax.jit(many.apply)
  y, total = x, 0
  for i in range(3):
    y, log_det = apply_one(jax.tree.map(lambda v, i=i: v[i], {"params": variables["params"]["bijection"]}), y)
    total += log_det
  np.testing.assert_allclose(apply_many(variables, x)[0], y, atol=1e-12)
  np.testing.assert_allclose(apply_many(variables, x)[1], total, atol=1e-12)
  w = variables["params"]["bijection"]["bijections_1"]["W"]
  assert np.abs(w[0] - w[1]).max() > 0.1


def test_published_sizes():
  sizes = {}
  for name, flow, shape in (
    ("nice", nice((1000,) * 5), (28, 28, 1)),
    ("realnvp", realnvp(2, 64, 8), (32, 32, 3)),
    ("glow", glow(3, 32, 512), (32, 32, 3)),
  ):
    init = partial(flow.init, train=True)
    made = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    sizes[name] = sum(p.size for p in jax.tree.leaves(made["params"]))
  # 4 perceptrons of 392-1000-1000-1000-1000-1000-392, and the scaling
  assert sizes["nice"] == 4 * (392 * 1000 + 1000 + 4 * (1000 * 1000 + 1000) + 1000 * 392 + 392) + 784
  # Per step: actnorm, L, U and s, two convolutions with actnorm, the last with bias and gain; at a split its prior.
  expected = 2 * 48
  for c in (12, 24, 48):
    h, w = c // 2, 512
    step = 2 * c + 2 * c**2 + c + 9 * (h + 1) * w + 2 * w + w**2 + 2 * w + 9 * (w + 1) * c + 2 * c
    expected += 32 * step + (c < 48) * (9 * (h + 1) * c + 2 * c)
  assert sizes["glow"] == expected

  def resnet(a, d, out):  # norms with scale and bias; convolutions with bias, some with gain
    block = 2 * d + 9 * d**2 + d + 2 * d + 9 * d**2 + 2 * d + d**2 + 2 * d
    return 2 * a + 18 * a * d + d + d**2 + 2 * d + 8 * block + 2 * d + 2 * out * d + 4 * out + 1

  assert sizes["realnvp"] == 3 * resnet(4, 64, 3) + 3 * resnet(6, 128, 6) + 4 * resnet(7, 128, 6)


def test_bad_input():
  image = jnp.zeros((1, 7, 8, 1))
  with pytest.raises(UserError, match="images are 7x8 .* only even sides squeeze"):
    squeeze(image)
  with pytest.raises(UserError, match="images are 7x7 .* use fewer levels"):
    jax.eval_shape(glow(3, 2, 8).init, jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
  with pytest.raises(UserError, match="last axis into two"):
    Coupling(Simple()).init(jax.random.key(0), image)
