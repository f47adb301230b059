import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from jaxgen.nn.autoencoders.vqvae import Decoder, Encoder


def size(network, x):
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_papers_sizes():
  x, z = jnp.zeros((1, 28, 28, 1)), jnp.zeros((1, 20))
  assert size(MLPEncoder(20), x) == 784 * 500 + 500 + 2 * (500 * 20 + 20)
  assert size(MLPDecoder((28, 28, 1)), z) == 20 * 500 + 500 + 500 * 784 + 784
  # Burda et al. 2016, section 5.1: two layers of 200, 50 latent dimensions
  assert size(MLPEncoder(50, (200, 200)), x) == 784 * 200 + 200 + 200 * 200 + 200 + 2 * (200 * 50 + 50)


PAIRS = {
  "perceptron": lambda **options: (MLPEncoder(3, (8,)), MLPDecoder((4, 8, 2), (8,), **options)),
  "convolutions": lambda **options: (
    ConvEncoder(3, (4, 6, 6), 16),
    ConvDecoder((4, 8, 2), (6, 6, 4), 16, **options),
  ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_everything_reaches_z_and_z_reaches_everything(name):
  encoder, decoder = PAIRS[name](outputs=2)
  rng = np.random.default_rng(0)
  x, z = jnp.asarray(rng.normal(size=(1, 4, 8, 2)), jnp.float32), jnp.asarray(rng.normal(size=(1, 3)), jnp.float32)
  of_encoder, of_decoder = encoder.init(jax.random.key(0), x), decoder.init(jax.random.key(1), z)
  for moved in jax.jit(jax.jacobian(lambda x: encoder.apply(of_encoder, x)))(x):
    assert moved.shape == (1, 3, 1, 4, 8, 2)
    assert (jnp.abs(moved) > 0).mean() > 0.99
  moved = jax.jit(jax.jacobian(lambda z: decoder.apply(of_decoder, z)))(z)
  assert moved.shape == (1, 4, 8, 4, 1, 3)
  assert (jnp.abs(moved) > 0).all()


@pytest.mark.parametrize("name", PAIRS)
def test_shared_outputs_are_parameters(name):
  _, decoder = PAIRS[name](outputs=2, shared=1)
  z = jax.random.normal(jax.random.key(0), (5, 3))
  params = decoder.init(jax.random.key(1), z)["params"]
  params["shared"]["value"] = jnp.array([0.7, -0.4])
  output = decoder.apply({"params": params}, z)
  assert output.shape == (5, 4, 8, 4)
  np.testing.assert_array_equal(output[..., 2:], np.broadcast_to(np.float32([0.7, -0.4]), (5, 4, 8, 2)))
  assert output[..., :2].std() > 1e-3


def test_sides_that_do_not_halve():
  with pytest.raises(UserError, match="6x8 does not divide"):
    ConvEncoder(2, (4, 4, 4)).init(jax.random.key(0), jnp.zeros((1, 6, 8, 1)))
  with pytest.raises(UserError, match="6x8 does not divide"):
    ConvDecoder((6, 8, 1), (4, 4, 4)).init(jax.random.key(0), jnp.zeros((1, 2)))


def test_the_vqvaes_sizes():
  # Two 4x4 convolutions, two blocks of a 3x3 and a 1x1 one, and one to the codes' width.
  f, conv = 256, lambda side, i, o: side**2 * i * o + o
  blocks = 2 * (conv(3, f, f) + conv(1, f, f))
  assert size(Encoder(64), jnp.zeros((1, 32, 32, 3))) == conv(4, 3, f) + conv(4, f, f) + blocks + conv(1, f, 64)
  decoder = conv(3, 64, f) + blocks + 2 * conv(3, f, f) + conv(3, f, 3) + 3
  assert size(Decoder(3, outputs=2, shared=1), jnp.zeros((1, 8, 8, 64))) == decoder


def test_positions_stay_in_their_places():
  encoder, decoder = Encoder(3, 8, halvings=2, blocks=1), Decoder(2, 8, halvings=2, blocks=1, outputs=2)
  x = jax.random.normal(jax.random.key(0), (1, 32, 48, 2))
  params = encoder.init(jax.random.key(1), x)
  z, far = jax.jit(lambda x: (encoder.apply(params, x), encoder.apply(params, x.at[:, 31, 47].add(9.0))))(x)
  assert z.shape == (1, 8, 12, 3)
  changed = jnp.abs(far - z).max(axis=(0, 3)) > 0
  assert changed[7, 11]
  assert not changed[:4].any()
  assert not changed[:, :8].any()
  of_decoder = decoder.init(jax.random.key(2), z)
  y, far = jax.jit(lambda z: (decoder.apply(of_decoder, z), decoder.apply(of_decoder, z.at[:, 0, 0].add(9.0))))(z)
  assert y.shape == (1, 32, 48, 4)
  changed = jnp.abs(far - y).max(axis=(0, 3)) > 0
  assert changed[:4, :4].all()
  assert not changed[20:].any()
  assert not changed[:, 20:].any()


def test_sides_that_a_vqvae_does_not_halve():
  with pytest.raises(UserError, match="6x8 does not divide"):
    Encoder(2, 4).init(jax.random.key(0), jnp.zeros((1, 6, 8, 1)))
