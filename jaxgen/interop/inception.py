"""Inception-v3's weights under the names of pytorch-fid and torch-fidelity, which are torchvision's."""

from jaxgen.interop.layout import Entry
from jaxgen.interop.resnet import batch_norm, kernel
from jaxgen.interop.vit import affine
from jaxgen.nn.vision.inception import Inception, layers


def torch_fidelity(network: Inception) -> list[Entry]:
  """The names in pytorch-fid's and torch-fidelity's file of weights."""
  entries: list[Entry] = []
  for ours in layers():
    theirs = ours.replace("_branch", ".branch")
    entries += kernel(f"{theirs}.conv", ours) + batch_norm(f"{theirs}.bn", f"{ours}_norm")
  return entries + affine("fc", "params/head")
