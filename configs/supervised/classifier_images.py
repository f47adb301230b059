"""A residual network that classifies your own images: a folder for each class, an npz with labels, tar shards.

Paper: He et al. 2016, Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385.

    jaxgen train classifier_images --data folder:pets --size 64
    jaxgen train classifier_images --data folder:pets --size 224 --depth 50
    jaxgen import resnet18.safetensors classifier_images --data folder:pets --size 224 --fresh params/head

Channels, classes and, if all pictures have the same, the size are read from the data; digits are a trial.
Pictures below 64 pixels get the stem without stride and pooling. The accuracy is that of the split "test", or of
"train" if there is no other.

Expect: not run to the end; no number is published of data that are your own
Cost: 64x64 with ResNet-18: 3.7e11 FLOPs an update of 64 pictures, meant for an accelerator
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from jaxgen import Experiment, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.wrappers import averaged
from jaxgen.data.augment import crop
from jaxgen.data.own import own
from jaxgen.data.transforms import flip
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import resnet as resnet_weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision import resnet


def experiment(
  data: str = "digits",
  size: int | None = None,
  depth: Literal[18, 34, 50, 101, 152] = 18,
  width: int = 64,
  steps: int = 10_000,
  batch_size: int = 64,
  learning_rate: float = 0.05,
  weight_decay: float = 5e-4,
  label_smoothing: float = 0.1,
  ema: float | None = None,
  mirrored: bool = True,
  dtype: Literal["float32", "bfloat16"] = "float32",
  tfds_dir: str | None = None,
) -> Experiment:
  """A residual network learns the classes of images.

  Args:
    data: folder:DIR with a folder for each class, npz:FILE, tar:DIR, tfds:NAME, hf:DIR, or digits.
    size: side to which pictures are resized: the shorter side is scaled and the middle cut out.
    depth: layers of the residual network.
    width: features of its first stage.
    weight_decay: of kernels.
    label_smoothing: share of a target's mass that is spread over all classes.
    mirrored: half of the pictures are seen mirrored.
    dtype: of the computation; parameters are float32.
  """
  images = own(data, size, labelled=True, data_dir=tfds_dir)
  if images.classes is None:
    raise UserError(f"{data} has no labels, which a classifier learns: put the images of each class into a folder")
  side = min(images.spec.shape[:2])
  augment = (crop(max(1, side // 8)), *((flip(),) if mirrored else ()))
  images = dataclasses.replace(images, augment=augment)
  sizes = resnet.SIZES[depth] | {"width": width}
  network = resnet.ResNet(**sizes, classes=images.classes, small=side < 64, dtype=jnp.dtype(dtype))
  method = classifier(
    network,
    spec=images.spec,
    optimizer=optimizers.sgd(learning_rate, steps, warmup=steps // 20, weight_decay=weight_decay, nesterov=True),
    label_smoothing=label_smoothing,
  )
  split = "test" if images.has("test") else "train"
  return Experiment(
    method=averaged(method, ema),
    data=images,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(split),),
    best=(f"{split}_accuracy", "max"),
    evaluate_every=1_000,
    checkpoint_every=1_000,
    layouts={"timm": resnet_weights.timm(network)},
  )
