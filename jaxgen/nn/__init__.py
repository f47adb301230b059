"""Flax networks and the blocks they share; nothing here knows of methods."""

from jaxgen.nn.unets.adm import ADM
from jaxgen.nn.unets.refinenet import RefineNet
from jaxgen.nn.unets.song_unet import SongUNet
from jaxgen.nn.unets.unet import UNet
from jaxgen.nn.vision.convnet import ConvNet

__all__ = ["ADM", "ConvNet", "RefineNet", "SongUNet", "UNet"]
