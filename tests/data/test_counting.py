"""What examples are counted in."""

import jax
import numpy as np
import pytest

from jaxgen.data import audio, digits
from jaxgen.data.dataset import Dataset
from jaxgen.data.units import unit


def test_units_of_images_tokens_and_waves():
  assert unit(digits()) == ("images", 1)
  assert unit(audio.speech("nowhere", length=12_000)) == ("seconds of audio", 1.5)
  tokens = lambda length: jax.ShapeDtypeStruct((length,), np.int32)
  assert unit(Dataset("text", {"tokens": tokens(64)}, 65)) == ("tokens", 64)
  assert unit(Dataset("pairs", {"source": tokens(20), "target": tokens(24)}, 100)) == ("tokens", 24)
  points = {"points": jax.ShapeDtypeStruct((7, 3), np.float32)}
  assert unit(Dataset("clouds", points)) == ("examples", pytest.approx(1))
