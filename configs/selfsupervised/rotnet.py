"""RotNet: which way up is a picture?

Paper: Gidaris et al. 2018, https://arxiv.org/abs/1803.07728, with residual networks instead of its network-in-network

    jaxgen train rotnet --name rotnet_digits
    jaxgen probe runs/rotnet_digits --layer block_2_1

Expect: digits: accuracy of 20 nearest neighbours 0.878, where random weights have 0.844 and pixels 0.972; one seed.
cifar10: not run here
Cost: digits: a minute on 2 CPU cores that had other work, too;
cifar10: 78,000 steps of four times the FLOPs of backbone_cifar10, not measured
"""

from typing import Literal

from jaxgen import Experiment, data, optimizers
from jaxgen.data.augment import crop
from jaxgen.data.transforms import flip
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.evaluation.features import knn
from jaxgen.methods.selfsupervised.rotnet import rotnet
from jaxgen.nn.vision import resnet

NAMES = {"rotnet_digits": {"images": "digits"}, "rotnet_cifar10": {"images": "cifar10"}}


def experiment(
  images: Literal["digits", "cifar10"] = "digits",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float = 0.1,
  weight_decay: float = 5e-4,
  tfds_dir: str | None = None,
) -> Experiment:
  """Steps that are not given are those of the pictures.

  Args:
    images: digits with a ResNet of three blocks, or CIFAR-10 with a ResNet-18, whose stem neither strides nor pools.
    weight_decay: of kernels.
  """
  small = images == "digits"
  steps = (500 if small else 78_000) if steps is None else steps
  if small:
    network, pictures = resnet.ResNet((1, 1, 1), 16, classes=4, small=True), data.digits(augment=(crop(1),))
  else:
    network = resnet.ResNet(**resnet.SIZES[18], classes=4, small=True)
    pictures = data.cifar10(tfds_dir, augment=(crop(4), flip()))
  optimizer = optimizers.sgd(learning_rate, steps, weight_decay=weight_decay, nesterov=True)
  return Experiment(
    method=rotnet(network, spec=pictures.spec, optimizer=optimizer),
    data=pictures,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(), knn()),
    evaluate_every=None if small else 3_900,
    checkpoint_every=250 if small else 3_900,
  )
