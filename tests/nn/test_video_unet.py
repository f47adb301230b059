"""Space-time factorised U-Nets against an independent implementation (tests/fixtures/make_video_unet.py) and against
their own promises: images beside a clip, a clip of one frame, inflation, frames that move in time."""

import pathlib
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.interop.transfer import moved
from jaxgen.nn import UNet
from jaxgen.nn.video.time import seen
from jaxgen.nn.video.unet import VideoUNet

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "video_unet.npz"
IMAGE = partial(UNet, channels=8, multipliers=(1, 1), blocks=1, attention=(2,), heads=2)
DOUBLE = dict(dtype=jnp.float64, param_dtype=jnp.float64)
SMALL = partial(UNet, channels=4, multipliers=(1,), blocks=1, attention=(), **DOUBLE)


def load(name):
  arrays = {k.removeprefix(f"{name}/"): v for k, v in np.load(FIXTURE).items() if k.startswith(f"{name}/")}
  flat = {tuple(k.split("/")[1:]): jnp.asarray(v, "float64") for k, v in arrays.items() if k.startswith("params/")}
  given = {k: jnp.asarray(v) for k, v in arrays.items() if not k.startswith("params/")}
  return {"params": flax.traverse_util.unflatten_dict(flat)}, given


@pytest.fixture(scope="module")
def attention():
  """(apply, variables, inputs) of Video Diffusion Models' network; the last of four frames is an image."""
  with jax.enable_x64(True):
    params, given = load("attention")
    network = VideoUNet(partial(IMAGE, **DOUBLE), frames=3)
    return jax.jit(network.apply), params, given


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_equals_the_network_written_in_torch(attention, x64):
  apply, params, given = attention
  close(apply(params, given["x"], given["t"]), given["output"])


def test_pseudo_3d_layers_and_the_frame_rate_equal_those_written_in_torch(x64):
  params, given = load("pseudo")
  mask = jnp.asarray([[True] * 4, [True] * 3 + [False]])
  network = VideoUNet(partial(IMAGE, **DOUBLE), convs=True, rates=True)
  shapes = jax.eval_shape(network.init, jax.random.key(0), given["x"], given["t"], {"rate": given["rate"]})
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  apply = jax.jit(lambda x, told, mask: network.apply(params, x, given["t"], told, mask=mask))
  told = {"rate": given["rate"]}
  output = apply(given["x"], told, mask)
  close(output[mask], given["output"][mask])
  # The same frames, later in time and with padding before them: the network promises that it does not know the time.
  later = jnp.roll(given["x"], 1, axis=1)
  shifted = apply(later, told, jnp.roll(mask, 1, axis=1))
  close(shifted[1, 1:], output[1, :3])
  assert np.abs(apply(later, told, mask)[1, 1:3] - output[1, :2]).max() > 1e-3
  # It sees the order of frames, and how far they are apart.
  back = apply(given["x"][:, ::-1], told, jnp.ones((2, 4), bool))[:, ::-1]
  assert np.abs(back[0] - output[0]).max() > 1e-3
  assert np.abs(apply(given["x"], {"rate": 2 * given["rate"]}, mask) - output).max() > 1e-3


def test_an_image_beside_a_clip_and_the_clip_do_not_see_each_other(attention, x64):
  """That such an image is a clip of one frame, the fixture says, whose images were computed alone."""
  apply, params, given = attention
  x, t = given["x"], given["t"]
  output, other_image, other_frame = (apply(params, x, t) for x in (x, x.at[:, 3].set(7.0), x.at[:, 0].add(1.0)))
  close(other_image[:, :3], output[:, :3])
  close(other_frame[:, 3], output[:, 3])
  assert np.abs(other_frame[:, 1:3] - output[:, 1:3]).max() > 1e-3


def test_a_new_network_is_its_image_model(x64):
  """For a clip of any length, with random weights of the image model: what starts from a trained one begins as it."""
  x, t = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 3)), jnp.asarray([3.0, 700.0])
  network, told = VideoUNet(SMALL, convs=True, rates=True, given=True), {"rate": jnp.asarray([8.0, 24.0])}
  told["given"] = jax.random.normal(jax.random.key(2), (2, 3, 4, 4, 4))
  fresh = flax.traverse_util.flatten_dict(jax.jit(network.init)(jax.random.key(1), x, t, told))
  over_time = {path for path in fresh if any(part.endswith("_time") or part == "given" for part in path)}
  of_images = {path[2:]: v for path, v in fresh.items() if path[1] == "backbone" and path not in over_time}
  random = np.random.default_rng(0)
  of_images = {path: v + random.normal(size=v.shape) / 3 for path, v in of_images.items()}
  inflated = fresh | {("params", "backbone", *path): v for path, v in of_images.items()}
  output = jax.jit(network.apply)(flax.traverse_util.unflatten_dict(inflated), x, t, told)
  frames, times = x.reshape(6, 4, 4, 3), jnp.repeat(t, 3)
  alone = jax.jit(SMALL().apply)({"params": flax.traverse_util.unflatten_dict(of_images)}, frames, times)
  np.testing.assert_allclose(output.reshape(alone.shape), alone, rtol=0, atol=1e-13)
  assert len(over_time) == 2 * 12 + 11 + 1  # twelve 3x3 convolutions, an attention in the middle, what is given


def test_a_run_starts_from_an_image_model(x64):
  """All that the image model has is taken, and the layers over time and the embedding of the rate are fresh."""
  x, t = jax.ShapeDtypeStruct((1, 2, 4, 4, 3), jnp.float64), jax.ShapeDtypeStruct((1,), jnp.float64)
  network = VideoUNet(SMALL, convs=True, rates=True)
  flat = lambda tree: flax.traverse_util.flatten_dict(jax.tree.map(lambda x: np.ones(x.shape), tree), sep="/")
  ours = flat(jax.eval_shape(network.init, jax.random.key(0), x, t, {"rate": t}))
  frame = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float64)
  theirs = flat(jax.eval_shape(SMALL().init, jax.random.key(0), frame, t))
  _, transfer = moved(ours, theirs)
  assert sorted(transfer.taken) == sorted(f"params/backbone/{name.removeprefix('params/')}" for name in theirs)
  assert all("_time/" in name or "/rate_" in name for name in transfer.fresh)
  assert transfer.values == sum(value.size for value in theirs.values())


def test_which_frames_see_which():
  pairs = seen(4, 3, jnp.asarray([[True, True, False, True]]))
  expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
  np.testing.assert_array_equal(pairs[0], np.asarray(expected, bool))


def test_the_program_does_not_grow_with_the_clip(x64):
  """Nor does the time to compile it."""
  network = VideoUNet(SMALL, convs=True)
  lines = []
  for time in (4, 64):
    x, t = jax.ShapeDtypeStruct((1, time, 4, 4, 3), jnp.float64), jax.ShapeDtypeStruct((1,), jnp.float64)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, t)
    lines.append(jax.jit(network.apply).lower(variables, x, t).as_text().count("\n"))
  assert lines[0] == lines[1]


def test_what_the_network_does_not_know_is_one_sentence(x64):
  x, t = jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros(1)
  init = lambda told, **options: jax.eval_shape(VideoUNet(SMALL, **options).init, jax.random.key(0), x, t, told)
  with pytest.raises(UserError, match="is conditioned on nothing beside a label, and the method's condition has rate"):
    init({"rate": jnp.ones(1)})
  with pytest.raises(UserError, match="is conditioned on rate beside a label, and the method's condition has nothing"):
    init(None, rates=True)
  with pytest.raises(UserError, match="the method's condition has text"):
    init({"text": jnp.ones(1)})
