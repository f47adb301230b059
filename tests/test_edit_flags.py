"""The flags of `jaxgen sample` that change a picture, in this process."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jaxgen.cli import edits
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec

NONE = dict(n=3, image=None, strength=None, mask=None)
RUN = SimpleNamespace(data=SimpleNamespace(spec=Spec((4, 6, 3))))


@pytest.fixture
def files(tmp_path):
  values = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  Image.fromarray(values).save(tmp_path / "image.png")
  white = np.zeros((4, 6), np.uint8)
  white[:, 4:] = 255
  Image.fromarray(white).save(tmp_path / "mask.png")
  Image.fromarray(white.T).save(tmp_path / "turned.png")
  (tmp_path / "text.png").write_text("no picture")
  return tmp_path, values


def test_pictures_become_what_samples_are_given(files):
  folder, values = files
  assert edits.given(RUN, NONE) == {}
  image = NONE | {"image": folder / "image.png"}
  changed = edits.given(RUN, image | {"strength": 0.6})
  assert changed.keys() == {"start", "strength"}
  np.testing.assert_array_equal(np.round((changed["start"] + 1) * 127.5), np.broadcast_to(values, (3, 4, 6, 3)))
  np.testing.assert_array_equal(changed["strength"], np.full(3, 0.6, np.float32))
  filled = edits.given(RUN, image | {"mask": folder / "mask.png"})
  assert filled.keys() == {"start", "keep"}
  np.testing.assert_array_equal(filled["keep"], np.broadcast_to(np.arange(6) < 4, (3, 4, 6)))


def test_says_what_does_not_fit(files):
  folder, _ = files
  image, mask = {"image": folder / "image.png"}, {"mask": folder / "mask.png"}
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  for given in (image, mask, {"strength": 0.5}, mask | {"strength": 0.5}, image | mask | {"strength": 0.5}):
    with refused("--image with --strength to change a picture"):
      edits.given(RUN, NONE | given)
  for strength in (0.0, 1.5):
    with refused("strength is the share of the way"):
      edits.given(RUN, NONE | image | {"strength": strength})
  with refused(r"--mask .*turned.png is 6 x 4 \(height x width\), and the model's pictures are 4 x 6: resize it"):
    edits.given(RUN, NONE | image | {"mask": folder / "turned.png"})
  with refused("--image .*text.png cannot be read as an image"):
    edits.given(RUN, NONE | mask | {"image": folder / "text.png"})
  with refused("--image .*none.png: there is no such file"):
    edits.given(RUN, NONE | {"image": folder / "none.png", "strength": 0.5})
  waves = SimpleNamespace(data=SimpleNamespace(spec=Spec((64, 1))))
  with refused(r"--image needs a model of pictures, but this run's examples have the shape \[64, 1\]"):
    edits.given(waves, NONE | image | {"strength": 0.5})
