"""Flax networks and the blocks they share; they do not depend on methods."""

from jaxgen.nn.unets.adm import ADM
from jaxgen.nn.unets.edm2 import EDM2UNet
from jaxgen.nn.unets.refinenet import RefineNet
from jaxgen.nn.unets.song_unet import SongUNet
from jaxgen.nn.unets.unet import UNet
from jaxgen.nn.vision.convnet import ConvNet

__all__ = ["ADM", "ConvNet", "EDM2UNet", "RefineNet", "SongUNet", "UNet"]
