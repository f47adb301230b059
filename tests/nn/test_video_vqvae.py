"""VideoGPT's encoder and decoder against an independent implementation (tests/fixtures/make_video_vqvae.py)."""

import pathlib

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.video.vqvae import Decoder3d, Encoder3d

FIXTURE = pathlib.Path(__file__).parent.parent / "fixtures" / "video_vqvae.npz"
OPTIONS = dict(features=8, strides=((1, 2, 2), (2, 2, 2)), blocks=1, dtype=jnp.float64, param_dtype=jnp.float64)


def test_encoder_and_decoder_equal_those_written_in_torch(x64):
  arrays = {name: jnp.asarray(x, "float64") for name, x in np.load(FIXTURE).items()}
  networks = {"encoder": (Encoder3d(3, **OPTIONS), "x", "z"), "decoder": (Decoder3d(2, **OPTIONS), "z", "output")}
  for part, (network, given, expected) in networks.items():
    flat = {tuple(name.split("/")[1:]): x for name, x in arrays.items() if name.startswith(f"{part}/")}
    params = flax.traverse_util.unflatten_dict(flat)
    shapes = jax.eval_shape(network.init, jax.random.key(0), arrays[given])["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    output = jax.jit(network.apply)({"params": params}, arrays[given])
    np.testing.assert_allclose(output, arrays[expected], rtol=0, atol=1e-9)


def test_clips_that_leave_a_rest_are_refused():
  encoder = Encoder3d(3, features=8)
  with pytest.raises(UserError, match="clips of 6x8x8 .* are divided by 4x4x4, which leaves a rest"):
    jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, 6, 8, 8, 1)))
