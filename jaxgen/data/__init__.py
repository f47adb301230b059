"""Data: sources with random access, transforms on the device, batches that are a function of the step."""

from jaxgen.data.dataset import Dataset, binarized, images
from jaxgen.data.known import (
  binarized_mnist,
  cifar10,
  deit_augment,
  digits,
  graphs,
  imagenet,
  markov_chain,
  mnist,
  molecules,
  points,
  reversed_strings,
)
from jaxgen.data.own import own
from jaxgen.data.sources.views import CenterCrop, RandomResizedCrop

__all__ = [
  "CenterCrop",
  "Dataset",
  "RandomResizedCrop",
  "binarized",
  "binarized_mnist",
  "cifar10",
  "deit_augment",
  "digits",
  "graphs",
  "imagenet",
  "images",
  "markov_chain",
  "molecules",
  "mnist",
  "own",
  "points",
  "reversed_strings",
]
