"""Sizes that make nothing are refused in one sentence, by the network or by what puts it together."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.autoencoders import vae, vqvae
from jaxgen.nn.autoregressive.made import MADE, NADE, RNADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.nice import nice
from jaxgen.nn.flows.realnvp import realnvp, realnvp_vectors

IMAGE, Z = (1, 8, 8, 1), (1, 3)
REFUSED = {
  "MADE has members=0: it takes 1 or more": (lambda: MADE(1, (4,), members=0), IMAGE),
  "MADE has layers=0": (lambda: MADE(1, ()), IMAGE),
  r"MADE has hidden=\(4, 0\)": (lambda: MADE(1, (4, 0)), IMAGE),
  "NADE has hidden=0": (lambda: NADE(0), IMAGE),
  "RNADE has hidden=0": (lambda: RNADE(3, 0), IMAGE),
  "PixelCNN has features=0": (lambda: PixelCNN(1, 0), IMAGE),
  "gated PixelCNN has layers=0": (lambda: GatedPixelCNN(1, 4, 0), IMAGE),
  r"PixelCNN\+\+ has blocks=0": (lambda: PixelCNNpp(3, 4, 0), IMAGE),
  "encoder has latent=0": (lambda: vae.MLPEncoder(0), IMAGE),
  "encoder has levels=0": (lambda: vae.ConvEncoder(2, ()), IMAGE),
  "encoder has dim=0": (lambda: vqvae.Encoder(0), IMAGE),
  r"decoder has hidden=\(0,\)": (lambda: vae.MLPDecoder((8, 8, 1), (0,)), Z),
  "outputs=1 and shared=1 leaves 0 outputs that depend on z": (lambda: vae.MLPDecoder((8, 8, 1), (), shared=1), Z),
  "outputs=2 and shared=2 leaves 0": (lambda: vae.ConvDecoder((8, 8, 1), (4, 4), outputs=2, shared=2), Z),
  "outputs=1 and shared=2 leaves -1": (lambda: vqvae.Decoder(1, 4, shared=2), (1, 2, 2, 3)),
  "Glow has levels=0": (lambda: glow(0, 1, 4), IMAGE),
  r"NICE has widths=\(0,\)": (lambda: nice((0,)), IMAGE),
  "RealNVP has scales=0": (lambda: realnvp(0, 4, 1), IMAGE),
  "RealNVP has couplings=0": (lambda: realnvp_vectors(0, (4,)), Z),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_sizes_that_make_nothing(sentence):
  make, shape = REFUSED[sentence]
  with pytest.raises(UserError, match=sentence):
    jax.eval_shape(make().init, jax.random.key(0), jnp.zeros(shape))
