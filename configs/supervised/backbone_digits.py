"""Backbones on scikit-learn's 8x8 digits: residual networks to Transformers, small.

Paper: He et al. 2016, https://arxiv.org/abs/1512.03385 (ResNet); Huang et al. 2017, https://arxiv.org/abs/1608.06993
(DenseNet); Szegedy et al. 2015, https://arxiv.org/abs/1409.4842 (GoogLeNet); Tan and Le 2019,
https://arxiv.org/abs/1905.11946 (EfficientNet); Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929 (ViT);
Touvron et al. 2021, https://arxiv.org/abs/2012.12877, section 4 (DeiT); Liu et al. 2021,
https://arxiv.org/abs/2103.14030 (Swin); Touvron et al. 2021, https://arxiv.org/abs/2103.17239 (CaiT); Yuan et al. 2021,
https://arxiv.org/abs/2101.11986 (T2T-ViT)

    jaxgen train backbone_digits --backbone swin
    jaxgen train backbone_digits --backbone resnet --name resnet_digits
    jaxgen train backbone_digits --backbone deit --teacher runs/resnet_digits

Expect: test accuracy 0.989 (convnet), of the others as the table of presets says (360 digits, standard errors of about
0.006, one seed each)
Cost: 8 seconds (convnet) to 4 minutes (swin) on 2 CPU cores; the table of presets says each
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.augment import crop
from jaxgen.data.transforms import Transform
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
from jaxgen.nn import ConvNet
from jaxgen.nn.vision.cait import CaiT
from jaxgen.nn.vision.densenet import DenseNet
from jaxgen.nn.vision.efficientnet import STAGES, EfficientNet
from jaxgen.nn.vision.googlenet import GoogLeNet
from jaxgen.nn.vision.resnet import ResNet
from jaxgen.nn.vision.swin import Swin
from jaxgen.nn.vision.t2t import DIGITS, T2TViT
from jaxgen.nn.vision.vit import ViT


class Recipe(NamedTuple):
  """The training of a network.

  Attributes:
    optimizer: (learning rate, steps, weight decay) -> the optimizer.
  """

  weight_decay: float
  label_smoothing: float
  optimizer: Callable[[float, int, float], optax.GradientTransformation]
  augment: tuple[Transform, ...]


def plain(rate: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
  """Everything decays, biases too."""
  return optax.adamw(optimizers.schedule(rate, steps), weight_decay=weight_decay)


def warmed_up(rate: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
  return optimizers.adam(rate, steps, warmup=100, clip=1.0, weight_decay=weight_decay)


PLAIN = Recipe(1e-4, 0.0, plain, ())
CROPPED = Recipe(0.05, 0.1, warmed_up, (crop(1),))


class Preset(NamedTuple):
  """A network and its recipe.

  Attributes:
    layouts: layouts of published weights, by name.
    auxiliary: weight of the loss of each auxiliary head.
  """

  network: Any
  steps: int
  learning_rate: float
  layouts: Mapping[str, Callable[[Any], Any]]
  recipe: Recipe = CROPPED
  auxiliary: float = 0.3


RESNET = {"timm": resnet_weights.timm}
EFFICIENTNET = {"timm": efficientnet_weights.timm, "transformers": efficientnet_weights.transformers}
VIT = {"timm": vit_weights.timm, "transformers": vit_weights.transformers}
SWIN = {"timm": swin_weights.timm, "transformers": swin_weights.transformers}
small_efficientnet = EfficientNet(
  1.0, 1.0, classes=10, stages=STAGES[:3], stem=16, out=64, drop_path=0.05, momentum=0.9, small=True
)
small_cait = CaiT(2, 64, 4, 4, class_depth=2, layer_scale=0.1, classes=10, drop_path=0.05)
small_t2t = T2TViT(64, 4, 4, 128, "transformer", token_width=32, splits=DIGITS, classes=10, drop_path=0.1)

# Test accuracy and seconds on 2 CPU cores that had other work, too.
PRESETS = {
  "convnet": Preset(ConvNet(10, channels=(32, 64), dropout=0.1), 1_000, 2e-3, {}, PLAIN),  # 0.989, 8
  "resnet": Preset(ResNet((1, 1, 1), 16, classes=10, small=True), 1_000, 2e-3, RESNET),  # 0.997, 40
  "resnet_v2": Preset(ResNet((1, 1, 1), 16, classes=10, small=True, preactivation=True), 1_000, 2e-3, RESNET),
  "densenet": Preset(
    DenseNet((4, 4), 12, 24, classes=10, small=True), 1_000, 2e-3, {"timm": densenet_weights.timm}
  ),  # 0.997, 90
  "googlenet": Preset(GoogLeNet(10, 0.125, small=True), 2_000, 1e-3, {}),
  "googlenet_bn": Preset(
    GoogLeNet(10, 0.125, batch_norm=True, small=True), 2_000, 1e-3, {"torchvision": googlenet_weights.torchvision}
  ),  # 0.986, 180; after 1,000 steps 0.967
  "efficientnet": Preset(small_efficientnet, 1_000, 4e-3, EFFICIENTNET),  # 0.997, 110
  "vit": Preset(ViT(2, 64, 4, 4, classes=10, drop_path=0.1), 2_000, 2e-3, VIT),  # 0.978, 120
  "deit": Preset(
    ViT(2, 64, 4, 4, classes=10, distilled=True, drop_path=0.1), 2_000, 2e-3, VIT, auxiliary=1.0
  ),  # 0.978 by hard distillation from resnet, 180
  "swin": Preset(Swin(1, 32, (2, 2), (2, 4), 4, classes=10, drop_path=0.1), 2_000, 2e-3, SWIN),  # 0.972, 240
  "cait": Preset(small_cait, 2_000, 2e-3, {"timm": cait_weights.timm}),  # 0.986, 180
  "t2t": Preset(small_t2t, 2_000, 2e-3, {"authors": t2t_weights.authors}),  # 0.994, 180
}
Backbone = Literal[*PRESETS]
NAMES = {
  "classifier_digits": {"backbone": "convnet"},
  "resnet_digits": {"backbone": "resnet"},
  "densenet_digits": {"backbone": "densenet"},
  "googlenet_digits": {"backbone": "googlenet_bn"},
  "efficientnet_digits": {"backbone": "efficientnet"},
  "vit_digits": {"backbone": "vit"},
  "deit_digits": {"backbone": "deit"},
  "swin_digits": {"backbone": "swin"},
  "cait_digits": {"backbone": "cait"},
  "t2t_digits": {"backbone": "t2t"},
}


def experiment(
  backbone: Backbone = "convnet",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  weight_decay: float | None = None,
  label_smoothing: float | None = None,
  ema: float | None = None,
  teacher: str | None = None,
  teacher_backbone: Backbone = "resnet",
  distillation: Literal["hard", "soft"] = "hard",
) -> Experiment:
  """Steps, rates and weights that are not given are the backbone's.

  Args:
    backbone: the network, with its recipe.
    weight_decay: 1e-4 of the convnet, else 0.05.
    label_smoothing: share of a target's mass that is spread over all classes; 0 of the convnet, else 0.1.
    teacher: the folder of a run of this config that a student learns from; without one it learns only from labels.
    teacher_backbone: the teacher's network.
    distillation: learn the teacher's likeliest class (hard) or its distribution (soft).
  """
  preset = PRESETS[backbone]
  recipe = preset.recipe
  chosen = lambda flag, of_preset: of_preset if flag is None else flag
  steps = chosen(steps, preset.steps)
  learned = teacher and Teacher(
    PRESETS[teacher_backbone].network,
    runs.frozen(teacher),
    kind=distillation,
    weight={"hard": 0.5, "soft": 0.1}[distillation],
  )
  digits = data.digits(augment=recipe.augment)
  method = classifier(
    preset.network,
    spec=digits.spec,
    optimizer=recipe.optimizer(
      chosen(learning_rate, preset.learning_rate), steps, chosen(weight_decay, recipe.weight_decay)
    ),
    label_smoothing=chosen(label_smoothing, recipe.label_smoothing),
    auxiliary=preset.auxiliary,
    teacher=learned or None,
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=250,
    checkpoint_every=250,
    best=("test_accuracy", "max"),
    layouts={name: layout(preset.network) for name, layout in preset.layouts.items()},
  )
