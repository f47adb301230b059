"""The U-Net against an independent implementation (tests/fixtures/make_unet.py) and against its own promises."""

import pathlib
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import assert_close, conditioning, tolerance

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks import embeddings, layers
from jaxgen.nn.unets import unet
from jaxgen.nn.unets.unet import UNet

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "unet.npz"
SHAPE = dict(channels=8, multipliers=(1, 2, 2, 2), attention=(8,), classes=3)


def load(dtype):
  arrays = dict(np.load(FIXTURE, allow_pickle=False))
  flat = {tuple(k.split("/")[1:]): jnp.asarray(v, dtype) for k, v in arrays.items() if k.startswith("params/")}
  inputs = jnp.asarray(arrays["x"], dtype), jnp.asarray(arrays["t"], dtype), jnp.asarray(arrays["label"])
  return {"params": flax.traverse_util.unflatten_dict(flat)}, inputs, arrays["output"]


def compiled(dtype, **changes):
  """(function of the parameters and (x, t, label), parameters, (x, t, label), diffusers' output)"""
  params, inputs, expected = load(dtype)
  network = UNet(**{**SHAPE, "dtype": dtype, "param_dtype": dtype, **changes})
  shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  apply = jax.jit(network.apply)
  return lambda params, inputs: np.asarray(apply(params, *inputs)), params, inputs, expected


def test_equals_diffusers(x64):
  """In float64, and in float32 as far as the network lets errors of rounding grow."""
  in_double, *arguments, expected = compiled("float64")
  scale = conditioning(in_double, *arguments)
  in_single, *single, _ = compiled("float32")
  for dtype, output in (("float64", in_double(*arguments)), ("float32", in_single(*single))):
    assert output.dtype == dtype
    assert_close(output, expected, scale=scale)


SINES_FIRST = embeddings.timestep_embedding


def cosine_first(t, dim):
  return jnp.roll(SINES_FIRST(t, dim), dim // 2, axis=-1)


def other_offset(t, dim):
  angle = t[:, None] * 10_000.0 ** (-jnp.arange(dim // 2) / (dim // 2))
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


MISTAKES = {
  "epsilon": ("GroupNorm", lambda groups, eps=None, **options: layers.GroupNorm(groups, 1e-5, **options)),
  "cosines before sines": ("timestep_embedding", cosine_first),
  "frequency offset": ("timestep_embedding", other_offset),
  "heads": dict(heads=2),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_fixture_tells_mistakes(name, x64, monkeypatch):
  """The comparison above would see what parameter counts and shapes do not tell apart."""
  mistake, changes = MISTAKES[name], {}
  if isinstance(mistake, dict):
    changes = mistake
  else:
    monkeypatch.setattr(embeddings if mistake[0] == "timestep_embedding" else unet, *mistake)
  apply, params, inputs, expected = compiled("float64", **changes)
  output = apply(params, inputs)
  assert np.abs(output - expected).max() > 1e-7 * np.abs(expected).max()


def test_parameters_at_the_papers_size():
  x, t = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
  shapes = jax.eval_shape(UNet().init, jax.random.key(0), x, t)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == 35_746_307  # Ho et al. 2020, Appendix B: 35.7 million


def test_starts_at_zero():
  """The last convolution starts (almost) at zero, and so does every residual branch."""
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  output, _ = jax.jit(UNet(8, (1, 2), 1, (4,), out_channels=1).init_with_output)(jax.random.key(1), x, jnp.ones(2))
  assert 0 < jnp.abs(output).max() < 1e-3


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(x64):
  params, inputs, expected = load("float32")
  network = UNet(**SHAPE, dtype=jnp.bfloat16)
  output = jax.jit(network.apply)(params, *inputs)
  assert output.dtype == jnp.float32
  error = np.abs(output - expected).max() / np.abs(expected).max()
  assert 1e-4 < error < tolerance(jnp.bfloat16, 4)  # each layer rounds anew, and sums in float32
  created = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  assert {s.dtype for s in jax.tree.leaves(created)} == {jnp.dtype("float32")}


def test_dropout_is_a_function_of_the_index():
  network = UNet(8, (1,), 1, (), 0.5, out_channels=1)
  x, t = jax.random.normal(jax.random.key(0), (4, 4, 4, 1)), jnp.arange(4.0)
  params = jax.jit(network.init)(jax.random.key(1), x, t)
  params = jax.tree.map(lambda p: p + 0.1, params)  # the last layers start at zero
  apply = jax.jit(lambda x, t, index: network.apply(params, x, t, index=index, rngs={"dropout": jax.random.key(2)}))
  whole, half = apply(x, t, jnp.arange(4)), apply(x[2:], t[2:], jnp.arange(2, 4))
  assert_close(half, whole[2:])
  assert not np.allclose(whole[2:], apply(x[2:], t[2:], jnp.arange(2)), atol=1e-2)
  assert not np.allclose(whole, jax.jit(network.apply)(params, x, t), atol=1e-2)


def test_forward_mode_within_reverse_mode(x64):
  """The gradient of a function of a tangent, against differences; on eight devices the same, nothing being gathered."""
  network = UNet(4, (1, 1), 1, (), dtype=float, param_dtype=float, out_channels=1)
  x, dx = jax.random.normal(jax.random.key(0), (2, 8, 4, 4, 1))
  t = jnp.arange(8.0)
  params = jax.jit(network.init)(jax.random.key(1), x, t)
  params, way = (
    jax.tree.map(lambda p, s=s: p + 0.1 * np.sin(s + np.arange(p.size)).reshape(p.shape), params) for s in (0, 1)
  )
  way = jax.tree.map(jnp.subtract, way, params)

  def loss(params, x, dx, t):
    _, tangent = jax.jvp(lambda x: network.apply(params, x, t), (x,), (dx,))
    return jnp.sum(jnp.sin(tangent)), tangent

  compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, tangent), gradient = compiled(params, x, dx, t)
  apply, h = jax.jit(network.apply), 1e-5
  # Differences are wrong by h^2 of a third derivative, and by eps / h = 2e-11: of 1e-6 both leave much.
  moved = (apply(params, x + h * dx, t) - apply(params, x - h * dx, t)) / (2 * h)
  np.testing.assert_allclose(tangent, moved, rtol=0, atol=1e-6 * np.abs(moved).max())
  there, back = (compiled(jax.tree.map(lambda p, d, s=s: p + s * d, params, way), x, dx, t)[0][0] for s in (h, -h))
  slope = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
  np.testing.assert_allclose(slope, (there - back) / (2 * h), rtol=1e-6)

  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  place = lambda spec: lambda v: jax.device_put(v, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
  spread = [jax.tree.map(place(()), params), *map(place(("data",)), (x, dx, t))]
  program = compiled.lower(*spread).compile()
  assert "all-gather" not in program.as_text()
  scale = max(jnp.abs(g).max() for g in jax.tree.leaves(gradient))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(float, 10_000, scale))
  jax.tree.map(close, program(*spread)[1], gradient)


def test_says_what_does_not_fit():
  init = lambda network, shape, **kw: jax.eval_shape(
    partial(network.init, **kw), jax.random.key(0), jnp.zeros(shape), jnp.zeros(1)
  )
  with pytest.raises(UserError, match="divide by 4"):
    init(UNet(8, (1, 1, 1)), (1, 8, 10, 1))
  with pytest.raises(UserError, match="has none"):
    init(UNet(8, (1,)), (1, 8, 8, 1), label=jnp.zeros(1, jnp.int32))
  with pytest.raises(UserError, match="has 3"):
    init(UNet(8, (1,), classes=3), (1, 8, 8, 1))
  with pytest.raises(UserError, match=r"height 5, and this network's are of height 8, 4"):
    init(UNet(8, (1, 1), attention=(5,)), (1, 8, 8, 1))
  with pytest.raises(UserError, match="8 features do not divide into 3 heads"):
    init(UNet(8, (1,), attention=(), heads=3), (1, 8, 8, 1))
  with pytest.raises(UserError, match="attention has 1 head or more, not 0"):
    init(UNet(8, (1,), attention=(), heads=0), (1, 8, 8, 1))


def test_attention_in_bfloat16_rounds_no_logits(x64):
  """Logits near 100 are 0.5 apart in bfloat16: rounded, the softmax of two that differ by 0.1 is wrong by 0.02."""
  q = jnp.full((1, 1, 1, 16), 5.0, jnp.bfloat16)
  k = jnp.stack([jnp.full((16,), 5.0), jnp.full((16,), 5.0).at[0].set(5.09375)])[None, :, None].astype(jnp.bfloat16)
  v = jnp.stack([jnp.zeros(16), jnp.ones(16)])[None, :, None].astype(jnp.bfloat16)
  exact = 1 / (1 + np.exp(-(np.asarray(q, float) * np.asarray(k[0, 1] - k[0, 0], float)).sum() / 4))
  got = unet.attend(q, k, v)
  assert got.dtype == jnp.bfloat16
  assert abs(float(got[0, 0, 0, 0]) - exact) < 2**-9  # the output's own rounding
