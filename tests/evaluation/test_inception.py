"""Inception-v3 and resizing against torch-fidelity, pytorch-fid, clean-fid, PyTorch and Pillow (make_inception.py)."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.evaluation import resizing
from jaxgen.interop import inception as inception_layout
from jaxgen.interop import layout
from jaxgen.nn.vision.inception import Inception

KNOWN = dict(np.load(pathlib.Path(__file__).parent.parent / "fixtures" / "inception.npz"))


def tensor(name, shape):
  """As in the script that made the fixture."""
  random = np.random.default_rng(list(name.encode()))
  if name.endswith("running_var"):
    return random.uniform(0.5, 2, shape).astype(np.float32)
  value = random.standard_normal(shape, np.float32)
  if len(shape) > 1:
    return value * np.float32((2 / np.prod(shape[1:])) ** 0.5)
  return np.float32(0.3) * value + name.endswith("weight")


def odd():
  """As in the script that made the fixture."""
  random = np.random.default_rng(1)
  smooth = lambda h, w, c: np.clip(
    128 + 90 * np.sin(np.arange(h)[:, None, None] / 5 + np.arange(w)[:, None] / 7 + np.arange(c))
    + 20 * random.standard_normal((h, w, c)), 0, 255
  ).astype(np.uint8)  # fmt: skip
  jpeg = io.BytesIO()
  Image.fromarray(smooth(64, 48, 3)).save(jpeg, "JPEG", quality=80)
  found = {
    "grey": Image.fromarray(smooth(28, 28, 1)[..., 0]),
    "alpha": Image.fromarray(smooth(40, 33, 4)),
    "long": Image.fromarray(smooth(17, 301, 3)),
    "jpeg": Image.open(io.BytesIO(jpeg.getvalue())),
    "large": Image.fromarray(smooth(500, 310, 3)),
  }
  return {name: np.asarray(image.convert("RGB")) for name, image in found.items()}


ODD = odd()
FILTERS = sorted({name.split("/")[1] for name in KNOWN if name.startswith("resized/")})


@pytest.mark.parametrize("way", FILTERS)
def test_every_filter_equals_the_programs_it_is_named_for(way):
  for name, image in ODD.items():
    if way.startswith("pil_") and name == "large":
      continue  # which way Pillow goes first where a picture shrinks depends on its version
    size = 224 if way == "antialias_bicubic" else 299
    found = resizing.resize(image, (size, size), {"pytorch": "bilinear"}.get(way, way))
    found, expected = found[[0, 3, 150, size - 1]][:, ::15], KNOWN[f"resized/{way}/{name}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01, err_msg=name)  # of 255; theirs are in float32


def network(dtype):
  """(the network, our variables)"""
  net = Inception(dtype=dtype, param_dtype=dtype)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 75, 75, 3), dtype))
  entries = inception_layout.torch_fidelity(net)
  zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), np.int8), s.shape), shapes)
  tensors = {name: tensor(name, x.shape) for name, x in layout.write(entries, zeros).items()}
  assert sorted(tensors) == KNOWN["names"].tolist()
  return net, layout.read(entries, tensors, shapes)


def test_features_equal_torch_fidelitys(x64):
  """Each layer that it names, and sFID's; a mean that counts the border's padding is told."""
  net, variables = network("float64")
  # torchvision's inception_v3 without its auxiliary head, and eight outputs more.
  assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 23_834_568 + 8 * 2_049 == 23_850_960
  x = (np.random.default_rng(0).integers(0, 256, (2, 107, 91, 3), np.uint8) - 128.0) / 128
  found = jax.jit(net.apply)(variables, x)
  assert sorted(f"features/{name}" for name in found) == sorted(k for k in KNOWN if k.startswith("features/"))
  for name, y in found.items():
    expected = KNOWN[f"features/{name}"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=name)


def test_whole_pipelines_equal_torch_fidelity_and_pytorch_fid_on_odd_pictures():
  net, variables = network("float32")
  apply = jax.jit(lambda variables, x: net.apply(variables, x)["2048"])
  chosen = [ODD[name] for name in ("grey", "alpha", "long", "jpeg")]
  for way, filter, centre in (("tf1", "tf1", 128), ("pytorch", "bilinear", 127.5)):
    x = np.stack([resizing.resize(image, (299, 299), filter) for image in chosen])
    found, expected = apply(variables, (x - np.float32(centre)) / np.float32(centre)), KNOWN[f"whole/{way}"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max(), way


def test_small_pictures_are_refused():
  with pytest.raises(UserError, match="75 x 75 or more, not 32 x 299"):
    jax.eval_shape(Inception().init, jax.random.key(0), np.zeros((1, 32, 299, 3), np.float32))
  with pytest.raises(UserError, match="no filter 'cubic'"):
    resizing.resize(ODD["grey"], (9, 9), "cubic")
