"""Backbones on CIFAR-10, 32x32.

Paper: He et al. 2016, https://arxiv.org/abs/1512.03385, the network of Table 1 with section 4.2's stem, cosine schedule
as is usual today; Tan and Le 2019, https://arxiv.org/abs/1905.11946, with a stem that does not stride, so that small
pictures stay larger; Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, in patches of 4x4 with the recipe of
Touvron et al. 2021, https://arxiv.org/abs/2012.12877, Table 9

    jaxgen train backbone_cifar10 --backbone resnet18 --tfds-dir DIR
    jaxgen import FILE backbone_cifar10 --backbone vit_ti --fresh params/head params/patches     (from 16x16 patches)

Expect: not run here; about 0.95 is common for resnet18 with this recipe
Cost: 78,000 steps of 4.3e11 FLOPs (resnet18), 117,000 of 2.8e11 (vit_ti): 14 minutes at a sustained 40 TFLOP/s, days on
a CPU; an estimate, not measured
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.augment import crop, cutmix, either, mixup, rand_augment
from jaxgen.data.transforms import Transform, flip
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import efficientnet as efficientnet_weights
from jaxgen.interop import resnet as resnet_weights
from jaxgen.interop import vit as vit_weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision import efficientnet, resnet, vit


class Preset(NamedTuple):
  """A network and its recipe.

  Attributes:
    network: the network without its dtype.
    optimizer: (learning rate, steps, weight decay) -> the optimizer.
    layouts: layouts of published weights, by name.
    depth: number of blocks, for a learning rate that decays from block to block; None: one learning rate for all.
  """

  network: partial
  steps: int
  learning_rate: float
  weight_decay: float
  label_smoothing: float
  optimizer: Callable[[float, int, float], optax.GradientTransformation]
  augment: tuple[Transform, ...]
  layouts: Mapping[str, Callable[[Any], Any]]
  depth: int | None = None


def sgd(rate: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
  return optimizers.sgd(rate, steps, weight_decay=weight_decay, nesterov=True)


def adamw(warmups: int) -> Callable[[float, int, float], optax.GradientTransformation]:
  """A warm-up over one of so many parts of the training."""
  return lambda rate, steps, weight_decay: optimizers.adam(
    rate, steps, warmup=steps // warmups, clip=1.0, weight_decay=weight_decay
  )


WEAK = (crop(4), flip())
STRONG = (*WEAK, rand_augment(2, 9.0))
MIXED = (*STRONG, either(mixup(0.8, 10), cutmix(1.0, 10)))
RESNET = {"timm": resnet_weights.timm}
EFFICIENTNET = {"timm": efficientnet_weights.timm, "transformers": efficientnet_weights.transformers}
VIT = {"timm": vit_weights.timm, "transformers": vit_weights.transformers}
TI = vit.SIZES["Ti/16"] | {"patch": 4}

resnet18 = partial(resnet.ResNet, **resnet.SIZES[18], classes=10, small=True)
efficientnet_b0 = partial(efficientnet.EfficientNet, **efficientnet.SIZES["B0"], classes=10, small=True)
vit_ti = partial(vit.ViT, **TI, classes=10, drop_path=0.1)
PRESETS = {
  "resnet18": Preset(resnet18, 78_000, 0.1, 5e-4, 0.0, sgd, WEAK, RESNET),
  "efficientnet_b0": Preset(efficientnet_b0, 78_000, 2e-3, 0.05, 0.1, adamw(40), STRONG, EFFICIENTNET),
  "vit_ti": Preset(vit_ti, 117_000, 5e-4, 0.05, 0.1, adamw(60), MIXED, VIT, TI["depth"]),
}
NAMES = {
  "resnet18_cifar10": {"backbone": "resnet18"},
  "efficientnet_b0_cifar10": {"backbone": "efficientnet_b0"},
  "vit_ti_cifar10": {"backbone": "vit_ti"},
}


def experiment(
  backbone: Literal[*PRESETS] = "resnet18",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  layer_rate: float = 1.0,
  weight_decay: float | None = None,
  label_smoothing: float | None = None,
  ema: float | None = None,
  dtype: Literal["float32", "bfloat16"] = "float32",
  remat: bool = False,
  tfds_dir: str | None = None,
) -> Experiment:
  """Steps, rates and weights that are not given are the backbone's.

  Args:
    backbone: the network, with its recipe.
    layer_rate: factor of the learning rate from one block of the ViT to the previous one, below 1 for fine-tuning.
    weight_decay: of kernels; 5e-4 of resnet18, else 0.05.
    label_smoothing: share of a target's mass that is spread over all classes; 0 of resnet18, else 0.1.
    dtype: of the computation; parameters are float32.
  """
  preset = PRESETS[backbone]
  chosen = lambda flag, of_preset: of_preset if flag is None else flag
  steps = chosen(steps, preset.steps)
  if remat and not hasattr(preset.network.func, "remat"):
    raise ValueError(f"{backbone} has no blocks that it can compute again, and so no remat: leave it out")
  network = preset.network(dtype=jnp.dtype(dtype), **({"remat": True} if remat else {}))
  optimizer = preset.optimizer(
    chosen(learning_rate, preset.learning_rate), steps, chosen(weight_decay, preset.weight_decay)
  )
  if layer_rate != 1:
    if preset.depth is None:
      raise ValueError(f"{backbone} has no layer_rate: leave it out, or use vit_ti")
    optimizer = optax.chain(optimizer, optimizers.layer_decay(layer_rate, preset.depth))
  cifar10 = data.cifar10(tfds_dir, augment=preset.augment)
  method = classifier(
    network,
    spec=cifar10.spec,
    optimizer=optimizer,
    label_smoothing=chosen(label_smoothing, preset.label_smoothing),
  )
  return Experiment(
    method=averaged(method, ema),
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=3_900,
    checkpoint_every=3_900,
    layouts={name: layout(network) for name, layout in preset.layouts.items()},
  )
