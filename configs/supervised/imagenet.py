"""Backbones on ImageNet-1k, 224x224: residual networks to Transformers, each with one of four recipes.

Paper: He et al. 2016, https://arxiv.org/abs/1512.03385 (ResNet); Huang et al. 2017, https://arxiv.org/abs/1608.06993
(DenseNet); Szegedy et al. 2015, https://arxiv.org/abs/1409.4842 (GoogLeNet); Tan and Le 2019,
https://arxiv.org/abs/1905.11946 (EfficientNet); Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929 (ViT);
Touvron et al. 2021, https://arxiv.org/abs/2012.12877 (DeiT); Liu et al. 2021,
https://arxiv.org/abs/2103.14030 (Swin); Touvron et al. 2021, https://arxiv.org/abs/2103.17239 (CaiT); Yuan et al. 2021,
https://arxiv.org/abs/2101.11986 (T2T-ViT)

    jaxgen inspect imagenet --backbone swin_t
    jaxgen train imagenet --backbone resnet50 --tfds-dir DIR
    jaxgen train imagenet --backbone deit_b --teacher runs/imagenet --name deit --tfds-dir DIR
    jaxgen import FILE imagenet --backbone vit_b16

All see random resized crops (8 to 100 % of the area, ratio 3/4 to 4/3) and mirror images, and are evaluated on the
middle of a picture: 224 of 256 pixels, CaiT all and T2T 0.9 of the shorter side. The recipes, and what differs:

STEPS (ResNet, DenseNet, GoogLeNet): torchvision's "IMAGENET1K_V1": 90 epochs, batch 256, SGD 0.1 with momentum, a tenth
  of it every 30 epochs, decay 1e-4, bilinear. Here the rate falls at epoch 80 once more (Goyal et al. 2017), and biases
  and gains do not decay. He et al. 2016, section 3.4, cropped from pictures of 256 to 480 pixels and jittered colours.
DEIT (ViT, DeiT, CaiT, EfficientNet): Touvron et al. 2021, Table 9: 300 epochs, batch 1,024, AdamW 1e-3 with 5 epochs of
  warm-up, decay 0.05, label smoothing 0.1, stochastic depth 0.1, RandAugment 9/0.5, mixup 0.8, cutmix 1.0, erasing
  0.25, repeated augmentation 3, bicubic, no average and no clipping. `data.deit_augment` describes the differences in
  mixing and in RandAugment; mixed labels are smoothed after mixing, which is the same. EfficientNet's paper has
  RMSProp, AutoAugment and dropout instead; CaiT's stochastic depth by size is --drop-path.
SWIN_RECIPE: Liu et al. 2021, A2.1: as DEIT with 20 epochs of warm-up, gradients clipped to a norm of 1, and without
  repeated augmentation. Its stochastic depth is 0.2 (T), 0.3 (S) and 0.5 (B): --drop-path.
T2T_RECIPE: Yuan et al. 2021, section 4.1: as DEIT with batch 512 and a rate of 5e-4, without repeated augmentation; the
  authors train 310 epochs and evaluate an average (--ema 0.99996).

Expect: not run here; the published accuracies stand in the table of presets
Cost: not run here, a pod's work; `jaxgen inspect` counts parameters and FLOPs
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import Transform, flip
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import cait as cait_weights
from jaxgen.interop import densenet as densenet_weights
from jaxgen.interop import efficientnet as efficientnet_weights
from jaxgen.interop import googlenet as googlenet_weights
from jaxgen.interop import resnet as resnet_weights
from jaxgen.interop import runs
from jaxgen.interop import swin as swin_weights
from jaxgen.interop import t2t as t2t_weights
from jaxgen.interop import vit as vit_weights
from jaxgen.methods.supervised.classifier import Teacher, classifier
from jaxgen.nn.vision import cait, densenet, efficientnet, resnet, swin, t2t, vit
from jaxgen.nn.vision.googlenet import GoogLeNet


class Recipe(NamedTuple):
  """The training and evaluation of a network.

  Attributes:
    drop_path: stochastic depth's rate; None: the network has no such argument.
    optimizer: (learning rate, steps, weight decay) -> the optimizer.
    augment: is it standardized? -> what is done on the device.
    resample: the filter, in training and evaluation.
    repeats: of a picture in a row.
  """

  steps: int
  batch_size: int
  learning_rate: float
  weight_decay: float
  label_smoothing: float
  drop_path: float | None
  optimizer: Callable[[float, int, float], optax.GradientTransformation]
  augment: Callable[[bool], tuple[Transform, ...]]
  resample: Literal["bilinear", "bicubic"]
  repeats: int = 1


def in_steps(rate: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
  """A tenth of the rate after epochs 30, 60 and 80 of 90."""
  falling = optax.piecewise_constant_schedule(rate, {steps * epoch // 90: 0.1 for epoch in (30, 60, 80)})
  return optimizers.sgd(falling, weight_decay=weight_decay)


def cosine(warmup: int, clip: float | None) -> Callable[[float, int, float], optax.GradientTransformation]:
  """AdamW with a warm-up over so many epochs of 300, and gradients of at most the norm `clip`."""
  return lambda rate, steps, weight_decay: optimizers.adam(
    rate, steps, warmup=warmup * steps // 300, clip=clip, weight_decay=weight_decay
  )


def deit(standardized: bool) -> tuple[Transform, ...]:
  return data.deit_augment(standardized=standardized)


STEPS = Recipe(450_000, 256, 0.1, 1e-4, 0.0, None, in_steps, lambda standardized: (flip(),), "bilinear")
DEIT = Recipe(375_000, 1024, 1e-3, 0.05, 0.1, 0.1, cosine(5, None), deit, "bicubic", 3)
SWIN_RECIPE = DEIT._replace(optimizer=cosine(20, 1.0), repeats=1)
T2T_RECIPE = DEIT._replace(learning_rate=5e-4, batch_size=512, steps=750_000, repeats=1)


class Family(NamedTuple):
  """The options that networks of different sizes share.

  Attributes:
    paper: the source of the accuracies.
    layouts: layouts of published weights, by name.
    auxiliary: as in `classifier`.
    standardized: see `data.imagenet`.
    share: of the shorter side of a picture, which evaluation shows.
  """

  network: Callable[..., Any]
  recipe: Recipe
  paper: str
  layouts: Mapping[str, Callable[[Any], Any]]
  auxiliary: float = 0.3
  standardized: bool = True
  share: float = 0.875


RESNET = Family(
  resnet.ResNet,
  STEPS,
  "torchvision's weights, v1.5 and this recipe",
  {"timm": resnet_weights.timm, "transformers": resnet_weights.transformers},
)
RESNET_V2 = RESNET._replace(layouts={"timm": resnet_weights.timm})
DENSENET = Family(densenet.DenseNet, STEPS, "Huang et al. 2017, Table 3", {"timm": densenet_weights.timm})
GOOGLENET = Family(GoogLeNet, STEPS, "torchvision's weights, with batch normalisation", {})
EFFICIENTNET = Family(
  efficientnet.EfficientNet,
  DEIT,
  "Tan and Le 2019, Table 2, by its own recipe; B1 to B7 at 240 to 600 pixels, where this config has 224",
  {"timm": efficientnet_weights.timm, "transformers": efficientnet_weights.transformers},
)
VIT = Family(
  vit.ViT,
  DEIT,
  "Touvron et al. 2021 (DeiT), Table 7, without distillation",
  {"timm": vit_weights.timm, "transformers": vit_weights.transformers},
  standardized=False,
)
DISTILLED = VIT._replace(
  paper="Touvron et al. 2021 (DeiT), Table 7, distilled from RegNetY-16GF", auxiliary=1.0, standardized=True
)
SWIN = Family(
  swin.Swin,
  SWIN_RECIPE,
  "Liu et al. 2021 (Swin), Table 1",
  {"timm": swin_weights.timm, "transformers": swin_weights.transformers},
)
CAIT = Family(cait.CaiT, DEIT, "Touvron et al. 2021 (CaiT)", {"timm": cait_weights.timm}, share=1.0)
T2T = Family(
  t2t.T2TViT, T2T_RECIPE, "Yuan et al. 2021, their code's README", {"authors": t2t_weights.authors}, share=0.9
)


class Preset(NamedTuple):
  """A network of a family.

  Attributes:
    accuracy: the published top-1 accuracy with one crop; None: none was published for this setting.
  """

  family: Family
  options: Mapping[str, Any]
  accuracy: float | None = None


V1, V2 = resnet.VERSIONS["v1"], resnet.VERSIONS["v2"]
PRESETS = {
  "resnet18": Preset(RESNET, resnet.SIZES[18], 0.698),
  "resnet34": Preset(RESNET, resnet.SIZES[34], 0.733),
  "resnet50": Preset(RESNET, resnet.SIZES[50], 0.761),
  "resnet101": Preset(RESNET, resnet.SIZES[101], 0.774),
  "resnet152": Preset(RESNET, resnet.SIZES[152], 0.783),
  "resnet18_v1": Preset(RESNET, resnet.SIZES[18] | V1),
  "resnet34_v1": Preset(RESNET, resnet.SIZES[34] | V1),
  "resnet50_v1": Preset(RESNET, resnet.SIZES[50] | V1),
  "resnet101_v1": Preset(RESNET, resnet.SIZES[101] | V1),
  "resnet152_v1": Preset(RESNET, resnet.SIZES[152] | V1),
  "resnet18_v2": Preset(RESNET_V2, resnet.SIZES[18] | V2),
  "resnet34_v2": Preset(RESNET_V2, resnet.SIZES[34] | V2),
  "resnet50_v2": Preset(RESNET_V2, resnet.SIZES[50] | V2),
  "resnet101_v2": Preset(RESNET_V2, resnet.SIZES[101] | V2),
  "resnet152_v2": Preset(RESNET_V2, resnet.SIZES[152] | V2),
  "densenet121": Preset(DENSENET, densenet.SIZES[121], 0.750),
  "densenet169": Preset(DENSENET, densenet.SIZES[169], 0.762),
  "densenet201": Preset(DENSENET, densenet.SIZES[201], 0.774),
  "densenet161": Preset(DENSENET, densenet.SIZES[161]),
  "googlenet": Preset(GOOGLENET, {}),
  "googlenet_bn": Preset(
    GOOGLENET._replace(layouts={"torchvision": googlenet_weights.torchvision}), {"batch_norm": True}, 0.698
  ),
  "efficientnet_b0": Preset(EFFICIENTNET, efficientnet.SIZES["B0"], 0.771),
  "efficientnet_b1": Preset(EFFICIENTNET, efficientnet.SIZES["B1"]),
  "efficientnet_b2": Preset(EFFICIENTNET, efficientnet.SIZES["B2"]),
  "efficientnet_b3": Preset(EFFICIENTNET, efficientnet.SIZES["B3"]),
  "efficientnet_b4": Preset(EFFICIENTNET, efficientnet.SIZES["B4"]),
  "efficientnet_b5": Preset(EFFICIENTNET, efficientnet.SIZES["B5"]),
  "efficientnet_b6": Preset(EFFICIENTNET, efficientnet.SIZES["B6"]),
  "efficientnet_b7": Preset(EFFICIENTNET, efficientnet.SIZES["B7"]),
  "vit_ti16": Preset(VIT, vit.SIZES["Ti/16"], 0.722),
  "vit_s32": Preset(VIT, vit.SIZES["S/32"]),
  "vit_s16": Preset(VIT, vit.SIZES["S/16"], 0.799),
  "vit_b32": Preset(VIT, vit.SIZES["B/32"]),
  "vit_b16": Preset(VIT, vit.SIZES["B/16"], 0.818),
  "vit_b8": Preset(VIT, vit.SIZES["B/8"]),
  "vit_l32": Preset(VIT, vit.SIZES["L/32"]),
  "vit_l16": Preset(VIT, vit.SIZES["L/16"]),
  "vit_l14": Preset(VIT, vit.SIZES["L/14"]),
  "vit_h14": Preset(VIT, vit.SIZES["H/14"]),
  "deit_ti": Preset(DISTILLED, vit.DEIT["Ti"], 0.745),
  "deit_s": Preset(DISTILLED, vit.DEIT["S"], 0.812),
  "deit_b": Preset(DISTILLED, vit.DEIT["B"], 0.834),
  "swin_t": Preset(SWIN, swin.SIZES["T"], 0.813),
  "swin_s": Preset(SWIN, swin.SIZES["S"], 0.830),
  "swin_b": Preset(SWIN, swin.SIZES["B"], 0.835),
  "swin_l": Preset(SWIN, swin.SIZES["L"]),
  "cait_xxs24": Preset(CAIT, cait.SIZES["XXS-24"], 0.776),
  "cait_xxs36": Preset(CAIT, cait.SIZES["XXS-36"]),
  "cait_xs24": Preset(CAIT, cait.SIZES["XS-24"]),
  "cait_xs36": Preset(CAIT, cait.SIZES["XS-36"]),
  "cait_s24": Preset(CAIT, cait.SIZES["S-24"]),
  "cait_s36": Preset(CAIT, cait.SIZES["S-36"]),
  "cait_s48": Preset(CAIT, cait.SIZES["S-48"]),
  "cait_m24": Preset(CAIT, cait.SIZES["M-24"]),
  "cait_m36": Preset(CAIT, cait.SIZES["M-36"]),
  "cait_m48": Preset(CAIT, cait.SIZES["M-48"]),
  "t2t_7": Preset(T2T, t2t.SIZES["7"], 0.717),
  "t2t_10": Preset(T2T, t2t.SIZES["10"], 0.752),
  "t2t_12": Preset(T2T, t2t.SIZES["12"], 0.765),
  "t2t_14": Preset(T2T, t2t.SIZES["14"], 0.815),
  "t2t_19": Preset(T2T, t2t.SIZES["19"], 0.819),
  "t2t_24": Preset(T2T, t2t.SIZES["24"], 0.823),
  "t2t_t14": Preset(T2T, t2t.SIZES["t-14"], 0.817),
  "t2t_t19": Preset(T2T, t2t.SIZES["t-19"], 0.824),
  "t2t_t24": Preset(T2T, t2t.SIZES["t-24"], 0.826),
}
Backbone = Literal[*PRESETS]
NAMES = {
  "resnet_imagenet": {"backbone": "resnet50"},
  "densenet_imagenet": {"backbone": "densenet121"},
  "googlenet_imagenet": {"backbone": "googlenet"},
  "efficientnet_imagenet": {"backbone": "efficientnet_b0"},
  "vit_imagenet": {"backbone": "vit_b16"},
  "deit_imagenet": {"backbone": "deit_b"},
  "swin_imagenet": {"backbone": "swin_t"},
  "cait_imagenet": {"backbone": "cait_xxs24"},
  "t2t_imagenet": {"backbone": "t2t_14"},
}


def experiment(
  backbone: Backbone = "resnet50",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  weight_decay: float | None = None,
  label_smoothing: float | None = None,
  drop_path: float | None = None,
  dtype: Literal["float32", "bfloat16"] = "bfloat16",
  remat: bool | None = None,
  unroll: int | None = None,
  teacher: str | None = None,
  teacher_backbone: Backbone = "resnet50",
  distillation: Literal["hard", "soft"] = "hard",
  ema: float | None = None,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """Steps, batch size, rates and weights that are not given are the recipe's.

  Args:
    backbone: the network, with its recipe.
    weight_decay: of kernels; by the recipe 1e-4 with SGD and 0.05 with AdamW.
    label_smoothing: share of a target's mass that is spread over all classes; by the recipe 0 with SGD, else 0.1.
    drop_path: rate at which the last residual branch is left out in training; of networks with DeiT's recipe, 0.1.
    dtype: of the computation; parameters are float32.
    teacher: the folder of a run of this config that a student learns from; without one it learns only from labels.
    teacher_backbone: the teacher's network.
    distillation: learn the teacher's likeliest class (hard) or its distribution (soft).
  """
  family, options, published = PRESETS[backbone]
  recipe = family.recipe
  chosen = lambda flag, of_recipe: of_recipe if flag is None else flag
  steps = chosen(steps, recipe.steps)
  if recipe.drop_path is not None:
    options = options | {"drop_path": chosen(drop_path, recipe.drop_path)}
  elif drop_path is not None:
    raise ValueError(f"{backbone} is trained without drop_path: leave it out")
  for flag, value in {"remat": remat, "unroll": unroll}.items():
    if value is not None:
      if not hasattr(family.network, flag):
        what = "blocks in a loop" if flag == "unroll" else "blocks that it can compute again"
        raise ValueError(f"{backbone} has no {what}, and so no {flag}: leave it out")
      options = {**options, flag: value}
  network = family.network(**options, dtype=jnp.dtype(dtype))
  learned = None
  if teacher is not None:
    taught = PRESETS[teacher_backbone]
    learned = Teacher(
      taught.family.network(**taught.options, dtype=jnp.dtype(dtype)),
      runs.frozen(teacher),
      kind=distillation,
      weight={"hard": 0.5, "soft": 0.1}[distillation],
    )
  images = data.imagenet(
    tfds_dir,
    view=data.RandomResizedCrop(resample=recipe.resample),
    test_view=data.CenterCrop(family.share, recipe.resample),
    augment=recipe.augment(family.standardized),
    repeats=recipe.repeats,
    standardized=family.standardized,
  )
  method = classifier(
    network,
    spec=images.spec,
    optimizer=recipe.optimizer(
      chosen(learning_rate, recipe.learning_rate), steps, chosen(weight_decay, recipe.weight_decay)
    ),
    label_smoothing=chosen(label_smoothing, recipe.label_smoothing),
    auxiliary=family.auxiliary,
    teacher=learned,
  )
  return Experiment(
    method=averaged(method, ema),
    data=images,
    steps=steps,
    batch_size=chosen(batch_size, recipe.batch_size),
    microbatches=microbatches,
    evaluators=(accuracy(),),
    published=() if published is None else (Published(family.paper, backbone, "test_accuracy", published),),
    evaluate_every=25_000,
    checkpoint_every=5_000,
    layouts={name: layout(network) for name, layout in family.layouts.items()},
  )
