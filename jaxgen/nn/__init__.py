"""Flax networks and the blocks they share; nothing here knows of methods."""

from jaxgen.nn.convnet import ConvNet
from jaxgen.nn.unet import UNet

__all__ = ["ConvNet", "UNet"]
