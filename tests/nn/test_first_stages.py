"""First stages of latent diffusion against diffusers, whose outputs tests/fixtures/make_first_stages.py keeps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from packed import FIXTURES
from published import assert_gradients, load

from jaxgen.core.errors import UserError
from jaxgen.interop import layout
from jaxgen.interop import ldm as ldm_layout
from jaxgen.methods.likelihood.vqvae import nearest
from jaxgen.nn.autoencoders import ldm
from jaxgen.nn.autoencoders.ldm import KLAutoencoder, VQAutoencoder
from jaxgen.nn.autoencoders.tiles import Tiled, tiled


def drawn(network: KLAutoencoder, variables, x, eps):
  mean, log_std = network.apply(variables, x, method="encode")
  return network.apply(variables, mean + jnp.exp(log_std) * eps, method="decode")


def quantized(network: VQAutoencoder, variables, x):
  variables, e = {"params": variables["params"]}, variables["codebook"]["embedding"]
  z = network.apply(variables, x, method="encode")
  return network.apply(variables, z + jax.lax.stop_gradient(e[nearest(e, z)] - z), method="decode")


class Known(NamedTuple):
  network: nn.Module
  apply: Callable
  mistake: tuple[str, object]  # of the network's module: what stands there instead


def same_padding(features, *arguments, padding="SAME", **options):
  return RIGHT_CONV(features, *arguments, padding=((1, 1), (1, 1)) if padding != "SAME" else padding, **options)


RIGHT_CONV = ldm.Conv
OPTIONS = dict(blocks=1, groups=2, dtype="float64", param_dtype="float64")
KNOWN = {
  "KL": Known(KLAutoencoder(2, 3, 4, (1, 2), **OPTIONS), drawn, ("LOG_VARIANCES", (-0.1, 0.1))),
  "VQ": Known(VQAutoencoder(3, 3, 4, (1, 1, 2), attention=(2,), **OPTIONS), quantized, ("Conv", same_padding)),
}


def read(name: str):
  """(network, variables, arguments, what else is in the fixture)."""
  network, arrays = KNOWN[name].network, load("first_stages.npz", name)
  arguments = {key: jnp.asarray(value) for key, value in arrays["argument"].items()}
  shapes = jax.eval_shape(network.init, jax.random.key(0), arguments["x"])
  if name == "VQ":
    shapes = shapes | {"codebook": {"embedding": jax.ShapeDtypeStruct((7, 3), "float64")}}
  return network, layout.read(ldm_layout.diffusers(network), arrays["weight"], shapes), arguments, arrays, shapes


@pytest.mark.parametrize("name", KNOWN)
def test_output_and_gradients_equal_diffusers(name, x64):
  network, variables, arguments, arrays, _ = read(name)
  cotangent, expected, wanted = arrays["cotangent"][""], arrays["output"][""], arrays["gradient"]

  def loss(variables):
    output = KNOWN[name].apply(network, variables, **arguments)
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(ldm_layout.diffusers(network), gradients)
  assert found.keys() - wanted.keys() == ({"quantize.embedding.weight"} if name == "VQ" else set())
  assert_gradients(found, wanted)


@pytest.mark.parametrize("name", KNOWN)
def test_fixture_tells_mistakes(name, x64, monkeypatch):
  network, variables, arguments, arrays, _ = read(name)
  monkeypatch.setattr(ldm, *KNOWN[name].mistake)
  output = jax.jit(lambda v: KNOWN[name].apply(network, v, **arguments))(variables)
  expected = arrays["output"][""]
  assert np.abs(output - expected).max() > 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name, x64):
  network, variables, _, arrays, shapes = read(name)
  tensors = layout.write(ldm_layout.diffusers(network), variables)
  assert tensors.keys() == arrays["weight"].keys()
  for tensor, value in tensors.items():
    np.testing.assert_array_equal(value, arrays["weight"][tensor], err_msg=tensor)
  entries = ldm_layout.authors(network)
  again = layout.read(entries, layout.write(entries, variables), shapes)
  jax.tree.map(np.testing.assert_array_equal, again, variables)


PUBLISHED = {
  "Stable Diffusion": (KLAutoencoder(), 83_653_863),
  # What diffusers' networks of these sizes have.
  "Stable Diffusion 3": (KLAutoencoder(latent=16, quant=False), 83_819_683),
  "LDM-4": (VQAutoencoder(latent=3, multipliers=(1, 2, 4)), 55_322_782 - 8192 * 3),  # and a codebook
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_published_sizes(name):
  network, count = PUBLISHED[name]
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == count


def test_says_what_does_not_fit():
  network = KLAutoencoder(channels=4, groups=2)
  with pytest.raises(UserError, match="sides divide by 8, not 20 x 16: cut them to 16 x 16, or pad them"):
    jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 20, 16, 3)))


def test_tile_by_tile_as_diffusers(x64):
  """tests/fixtures/make_tiles.py: 18 x 14 pixels in tiles of 8, with rests of every kind; in float64."""
  network, variables, _, _, _ = read("KL")
  with np.load(FIXTURES / "tiles.npz") as kept:
    arrays = {name: jnp.asarray(kept[name]) for name in kept.files}
  tiles, variables = Tiled(network, 8), jax.tree.map(jnp.asarray, variables)
  mean, log_std = jax.jit(lambda x: tiles.apply(variables, x, "encode"))(arrays["x"])
  np.testing.assert_allclose(mean, arrays["mean"], rtol=0, atol=1e-9 * np.abs(arrays["mean"]).max())
  np.testing.assert_allclose(2 * log_std, arrays["log_variance"], rtol=0, atol=1e-9)
  picture = jax.jit(lambda z: tiles.apply(variables, z, "decode"))(arrays["z"])
  np.testing.assert_allclose(picture, arrays["picture"], rtol=0, atol=1e-9 * np.abs(picture).max())
  with pytest.raises(UserError, match="tiles of 12 pixels do not divide by 8, four latents"):
    Tiled(network, 12).apply(variables, arrays["x"], "encode")


def test_tiles_of_what_is_local_are_the_whole(x64):
  """A function of each pixel alone is the same in tiles, whatever its size."""
  doubled = lambda x: {"twice": x.repeat(2, 1).repeat(2, 2), "next": (x + 1).repeat(2, 1).repeat(2, 2)}
  for sides in ((5, 23), (16, 9)):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, *sides, 1)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), tiled(doubled, x, 8, 16), doubled(x))
