"""Flax networks and the blocks they share; nothing here knows of methods."""

from jaxgen.nn.adm import ADM
from jaxgen.nn.convnet import ConvNet
from jaxgen.nn.refinenet import RefineNet
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet import UNet

__all__ = ["ADM", "ConvNet", "RefineNet", "SongUNet", "UNet"]
