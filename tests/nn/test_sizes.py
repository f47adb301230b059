"""Sizes that make nothing are refused in one sentence, by the network or by what puts it together."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn import SongUNet, UNet
from jaxgen.nn.adversarial.gan import MLPDiscriminator, MLPGenerator
from jaxgen.nn.autoencoders import vae, vqvae
from jaxgen.nn.autoregressive.made import MADE, NADE, RNADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.energy.ebm import EnergyConvNet, EnergyMLP
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.nice import nice
from jaxgen.nn.flows.realnvp import realnvp, realnvp_vectors
from jaxgen.nn.sequence.recurrent import Recurrent
from jaxgen.nn.sequence.wavenet import WaveNet
from jaxgen.nn.unets.refinenet import RefineNet
from jaxgen.nn.unets.vdm import ScoreNetwork
from jaxgen.nn.vision.swin import Swin
from jaxgen.nn.vision.vit import ViT

IMAGE, Z, TIME = (1, 8, 8, 1), (1, 3), ((1, 8, 8, 1), (1,))
OPTIONS = dict(channels=8, multipliers=(1,), blocks=1, attention=(), out_channels=1)
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
  "U-Net has levels=0": (lambda: UNet(**OPTIONS | {"multipliers": ()}), *TIME),
  r"U-Net has multipliers=\(1, 0\)": (lambda: UNet(**OPTIONS | {"multipliers": (1, 0)}), *TIME),
  "U-Net has channels=0": (lambda: SongUNet(**OPTIONS | {"channels": 0}), *TIME),
  "U-Net has blocks=0": (lambda: UNet(**OPTIONS | {"blocks": 0}), *TIME),
  "score network has depth=0": (lambda: ScoreNetwork(-5.0, 5.0, 8, 0), *TIME),
  "RefineNet has levels=0": (lambda: RefineNet(channels=8, levels=0), *TIME),
  "recurrent network has layers=0": (lambda: Recurrent(4, layers=0), (1, 5, 3)),
  "recurrent cell has features=0": (lambda: Recurrent(0), (1, 5, 3)),
  r"Swin has depths=\(0, 2\)": (lambda: Swin(4, 8, (0, 2), (1, 2), 2), IMAGE),
  "Swin has stages=0": (lambda: Swin(4, 8, (), (), 2), IMAGE),
  "Swin has window=0": (lambda: Swin(4, 8, (2,), (1,), 0), IMAGE),
  "row of blocks has depth=0": (lambda: ViT(4, 8, 0, 2), IMAGE),
  "WaveNet has layers=0": (lambda: WaveNet(8, ()), (1, 5)),
  r"WaveNet has dilations=\(1, 0\)": (lambda: WaveNet(8, (1, 0)), (1, 5)),
  "WaveNet has kernel=1: it takes 2 or more": (lambda: WaveNet(8, (1,), kernel=1), (1, 5)),
  r"energy has widths=\(0,\)": (lambda: EnergyMLP((0,)), IMAGE),
  "energy has stride=0": (lambda: EnergyConvNet(((4, 3, 0),)), IMAGE),
  r"generator has hidden=\(0,\)": (lambda: MLPGenerator((2,), (0,)), Z),
  "discriminator has pieces=0": (lambda: MLPDiscriminator((4,), pieces=0), IMAGE),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_sizes_that_make_nothing(sentence):
  make, *shapes = REFUSED[sentence]
  of = lambda shape: jnp.zeros(shape, int if shape == (1, 5) else float)
  with pytest.raises(UserError, match=sentence):
    jax.eval_shape(make().init, jax.random.key(0), *map(of, shapes))
