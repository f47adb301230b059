"""ControlNet against diffusers (tests/fixtures/make_controlnet.py), and what it is at its start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import assert_gradients, load
from test_cross_unet import SMALL, X
from test_cross_unet import read as read_unet

from jaxgen.core.errors import UserError
from jaxgen.interop import cross_unet as weights
from jaxgen.interop import layout
from jaxgen.nn.unets.controlnet import Controlled, ControlNet, started
from jaxgen.nn.unets.cross import SIZES


def test_output_and_gradients_equal_diffusers_and_weights_go_back(x64):
  """Of the U-Net with 0.7 of what the ControlNet adds, at 5 x 6."""
  unet, _, variables, _, _ = read_unet("SD 1")
  common = {name: getattr(unet, name) for name in ("channels", "multipliers", "blocks", "depths", "heads", "groups")}
  control = ControlNet(**common, hint=(3, 5), dtype="float64", param_dtype="float64")
  arrays = load("controlnet.npz", "SD 1")
  told = {key: jnp.asarray(value) for key, value in arrays["argument"].items()}
  x, t, picture = told.pop("x"), told.pop("t"), told["control"]
  shapes = jax.eval_shape(control.init, jax.random.key(0), x, t, {"text": told["text"]}, picture)
  entries = weights.control(control)
  of_control = layout.read(entries, arrays["weight"], shapes)
  network = Controlled(unet, control, scale=0.7)
  cotangent, expected, wanted = arrays["cotangent"][""], arrays["output"][""], arrays["gradient"]

  def loss(of_control, unet):
    both = {"network": unet["params"], "control": of_control["params"]}
    output = network.apply({"params": both}, x, t, told)
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(of_control, variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(entries, gradients)
  assert found.keys() == wanted.keys() == arrays["weight"].keys()
  assert_gradients(found, wanted)
  for tensor, value in layout.write(entries, of_control).items():
    np.testing.assert_array_equal(value, arrays["weight"][tensor], err_msg=tensor)


SMALL_CONTROL = ControlNet(8, (1, 2), 1, (1, 1), heads=2, groups=4, hint=(4, 8))


def test_it_changes_nothing_at_its_start():
  draw = lambda *shape: jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
  x, t, text, picture = draw(*X), jnp.asarray([3.0, 500.0]), draw(2, 3, 5), draw(2, 12, 10, 3)
  network = Controlled(SMALL, SMALL_CONTROL)
  told = {"text": text, "control": picture}
  params = jax.eval_shape(network.init, jax.random.key(0), x, t, told)["params"]
  # All weights are random but those that start at zero, for the U-Net's last layers start at almost nothing.
  rng = np.random.default_rng(1)
  random = lambda tree: jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape) * 0.2, p.dtype), tree)
  unet, control = random(params["network"]), random(params["control"])
  at_start = jax.eval_shape(SMALL_CONTROL.init, jax.random.key(0), x, t, {"text": text}, picture)["params"]
  init = jax.jit(
    lambda key: {n: v for n, v in network.init(key, x, t, told)["params"]["control"].items() if n in zeros}
  )
  zeros = [name for name in at_start if name.startswith("zero_")]
  zero = init(jax.random.key(0))  # as the network makes them
  assert len(zero) == SMALL_CONTROL.maps + 1
  params = {"network": unet, "control": started({**control, **zero}, unet)}
  np.testing.assert_array_equal(params["control"]["down_1_0"]["conv_1"]["kernel"], unet["down_1_0"]["conv_1"]["kernel"])
  alone = jax.jit(SMALL.apply)({"params": unet}, x, t, {"text": text})

  def squares(control):
    output = network.apply({"params": {"network": unet, "control": control}}, x, t, told)
    return jnp.sum(output**2), output

  gradient, output = jax.jit(jax.grad(squares, has_aux=True))(params["control"])
  np.testing.assert_allclose(output, alone, atol=1e-6)
  assert all(np.any(gradient[name]["kernel"]) for name in gradient if name.startswith("zero_"))  # and it learns
  with pytest.raises(UserError, match="needs 'control', a picture"):
    network.apply({"params": params}, x, t, {"text": text})
  with pytest.raises(UserError, match="2 times as large as what the network sees, 12 x 10, not 6 x 5: resize it"):
    network.apply({"params": params}, x, t, {"text": text, "control": picture[:, :6, :5]})


def test_parameters_at_the_published_size():
  """What diffusers' ControlNetModel of Stable Diffusion 1's size has."""
  struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  arguments = struct(1, 64, 64, 4), struct(1), {"text": struct(1, 77, 768)}, struct(1, 512, 512, 3)
  shapes = jax.eval_shape(ControlNet(**SIZES["SD 1"]).init, jax.random.key(0), *arguments)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == 361_279_120
