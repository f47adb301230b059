"""Numbers of super-resolution, of samples whose errors are known."""

import dataclasses
import types

import numpy as np
import pytest

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.data import real, transforms
from jaxgen.evaluation.restoration import psnr, restoration

DIGITS = data.digits()
SMALL = dataclasses.replace(
  DIGITS, levels=None, source_levels=17, transforms=(*DIGITS.transforms, transforms.low_resolution(2)), feature="image"
)


def test_numbers_are_those_of_known_errors():
  """PSNR is 10 log10(peak^2 / error) with a peak of 2; a shift of 0.1 is 0.01 in small and in large."""
  image = next(iter(real.images(DIGITS, "test", np.arange(5))))
  asked = {}

  def sample(n, seed, **given):
    asked.update(given)
    return image + np.float32(0.1)

  found = restoration(5, level=0.3)(types.SimpleNamespace(data=SMALL, sample=sample))
  np.testing.assert_allclose(found["psnr_5"], 10 * np.log10(4 / 0.01), rtol=1e-5)
  np.testing.assert_allclose(found["consistency_5"], 0.01, rtol=1e-4)
  np.testing.assert_allclose(asked["low"], image.reshape(5, 2, 4, 2, 4, 1).mean((2, 4)), rtol=1e-6, atol=1e-6)
  np.testing.assert_array_equal(asked["level"], np.float32(0.3))
  assert 5 < found["psnr_5_bicubic"] < 20  # of a digit in four pixels
  np.testing.assert_allclose(psnr(image, image - 2), 0, atol=1e-6)
  with pytest.raises(UserError, match="low_resolution"):
    restoration(5)(types.SimpleNamespace(data=DIGITS, sample=sample))
