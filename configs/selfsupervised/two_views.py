"""Learning from two views without labels: SimCLR, MoCo, BYOL, SimSiam, Barlow Twins, VICReg and DINO.

Paper: Chen et al. 2020, https://arxiv.org/abs/2002.05709 (SimCLR), v2 https://arxiv.org/abs/2006.10029; He et al. 2020,
https://arxiv.org/abs/1911.05722 (MoCo), v2 https://arxiv.org/abs/2003.04297, v3 https://arxiv.org/abs/2104.02057;
Grill et al. 2020, https://arxiv.org/abs/2006.07733 (BYOL); Chen and He 2021, https://arxiv.org/abs/2011.10566
(SimSiam); Zbontar et al. 2021, https://arxiv.org/abs/2103.03230 (Barlow Twins); Bardes et al. 2022,
https://arxiv.org/abs/2105.04906 (VICReg); Caron et al. 2021, https://arxiv.org/abs/2104.14294 (DINO, two global views)

    jaxgen train two_views --method simclr --name simclr_digits
    jaxgen probe runs/simclr_digits
    jaxgen train simclr_cifar10 --tfds-dir DIR
    jaxgen train backbone_digits --backbone resnet --from runs/simclr_digits --name tuned

Rates, temperatures and heads of the small presets are ours, with the papers' heads in proportion. So are the views of
digits: crops of half the area or more, because smaller crops of 8x8 pixels show nothing, and SimCLR's full colour
strength also for MoCo and SimSiam. On CIFAR-10 they are the papers' for larger pictures, without blur as in SimCLR's
and SimSiam's appendices; MoCo v1 has v2's colours.

Expect: digits: accuracy of 20 nearest neighbours 0.972 (simclr), 0.975 (simsiam), 0.928 (byol), 0.967 (moco_v2), 0.978
(vicreg), 0.944 (barlow_twins) and 0.894 (dino), where random weights have 0.844 and pixels 0.972; of a linear
probe 0.986, 0.969, 0.953, 0.975, 0.967, 0.944 and 0.881 (0.872 and 0.964); one seed. cifar10: not run here
Cost: digits: a minute on 2 CPU cores that had other work, too;
cifar10: 78,000 steps (200 epochs), about twice the FLOPs of backbone_cifar10 a step; not measured
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.data.views import byol_views, simclr_views
from jaxgen.evaluation.features import knn
from jaxgen.methods.selfsupervised import objectives
from jaxgen.methods.selfsupervised.two_views import Objective, two_views
from jaxgen.nn.selfsupervised.heads import Embedder, Head, Prototypes
from jaxgen.nn.vision import resnet


class Preset(NamedTuple):
  """A method: its objective and its heads.

  Attributes:
    objective: (steps, batch size, temperature or None) -> the objective.
    projector, predictor: of a network's features, without the dtypes.
    views: the colours of its paper, for MoCo v1 those of v2: SimCLR's of half the strength.
    least: its paper's smallest share of the area, for CIFAR-10.
  """

  objective: Callable[[int, int, float | None], Objective]
  projector: partial
  predictor: partial | None = None
  views: Callable = simclr_views
  least: float = 0.08


def sharp(make: Callable, tau: float, **options: Any) -> Callable[[int, int, float | None], Objective]:
  """An objective with a temperature that a flag may change."""
  return lambda steps, batch, given: make(tau if given is None else given, **options)


def plain(make: Callable, **options: Any) -> Callable[[int, int, float | None], Objective]:
  """An objective without a temperature."""

  def objective(steps: int, batch: int, given: float | None) -> Objective:
    if given is not None:
      raise ValueError("this method has no temperature: leave --tau out")
    return make(**options)

  return objective


def slow(steps: int, batch: int, given: float | None, tau: float = 0.2) -> Objective:
  """MoCo, with a queue of 8 batches."""
  return objectives.moco(tau if given is None else given, 0.99, queue=8 * batch, groups=4)


def byol(steps: int, batch: int, given: float | None) -> Objective:
  return plain(objectives.byol, momentum=0.99, steps=steps)(steps, batch, given)


def dino(steps: int, batch: int, given: float | None) -> Objective:
  return objectives.dino(0.99, steps, tau=0.1 if given is None else given)


def moco_v3(steps: int, batch: int, given: float | None) -> Objective:
  return objectives.moco_v3(0.2 if given is None else given, 0.99, steps)


two, three = partial(Head, (256, 64)), partial(Head, (256, 256, 128))
normed = partial(Head, (256, 128), norm=True, last_norm=True)
PRESETS = {
  "simclr": Preset(sharp(objectives.simclr, 0.5), two),
  "simclr_v2": Preset(sharp(objectives.simclr, 0.5), three),
  "moco": Preset(partial(slow, tau=0.07), partial(Head, (64,)), least=0.2),
  "moco_v2": Preset(slow, two, least=0.2),
  "moco_v3": Preset(moco_v3, normed, normed, byol_views),
  "byol": Preset(byol, partial(Head, (256, 64), norm=True), partial(Head, (256, 64), norm=True), byol_views),
  "simsiam": Preset(plain(objectives.simsiam), normed, partial(Head, (64, 128), norm=True), least=0.2),
  "barlow_twins": Preset(
    plain(objectives.barlow_twins), partial(Head, (256, 128), norm=True, last_bias=False), None, byol_views
  ),
  "vicreg": Preset(plain(objectives.vicreg), partial(Head, (256, 128), norm=True, last_bias=False), None, byol_views),
  "dino": Preset(dino, partial(Prototypes, 256, hidden=128, bottleneck=64), None, byol_views, least=0.4),
}
NAMES = {
  "simclr_digits": {"method": "simclr"},
  "moco_digits": {"method": "moco_v2"},
  "byol_digits": {"method": "byol"},
  "simsiam_digits": {"method": "simsiam"},
  "barlow_twins_digits": {"method": "barlow_twins"},
  "vicreg_digits": {"method": "vicreg"},
  "dino_digits": {"method": "dino"},
  "simclr_cifar10": {"method": "simclr", "images": "cifar10"},
  "moco_cifar10": {"method": "moco_v2", "images": "cifar10"},
}


def experiment(
  method: Literal[*PRESETS] = "simclr",
  images: Literal["digits", "cifar10"] = "digits",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  weight_decay: float = 1e-6,
  optimizer: Literal["adam", "lars"] | None = None,
  tau: float | None = None,
  stop_gradient: bool = True,
  dtype: Literal["float32", "bfloat16"] = "float32",
  tfds_dir: str | None = None,
) -> Experiment:
  """Steps, batch size, optimizer and rate that are not given are those of the pictures.

  Args:
    method: the objective of the two views, with its heads.
    images: digits with a ResNet of three blocks, or CIFAR-10 with a ResNet-18, whose stem neither strides nor pools.
    weight_decay: of kernels.
    optimizer: adam (of digits, 2e-3) or lars (of CIFAR-10, 1.0 for 512 pictures).
    tau: the temperature; by default the method's.
    stop_gradient: False shows how SimSiam collapses without it.
    dtype: of the computation; parameters are float32.
  """
  preset = PRESETS[method]
  small = images == "digits"
  chosen = lambda flag, otherwise: otherwise if flag is None else flag
  steps, batch_size = chosen(steps, 1_000 if small else 78_000), chosen(batch_size, 128 if small else 512)
  optimizer = chosen(optimizer, "adam" if small else "lars")
  rate = chosen(learning_rate, {"adam": 2e-3, "lars": 1.0}[optimizer])
  options = dict(dtype=jnp.dtype(dtype))
  if small:
    network = resnet.ResNet((1, 1, 1), 16, small=True, **options)
    pictures = data.digits(augment=(preset.views(blur=False, least=0.5),))
  else:
    network = resnet.ResNet(**resnet.SIZES[18], small=True, **options)
    strength = {"strength": 0.5} if preset.views is simclr_views else {}
    pictures = data.cifar10(tfds_dir, augment=(preset.views(blur=False, least=preset.least, **strength),))
  heads = preset.projector(**options), preset.predictor and preset.predictor(**options)
  if not stop_gradient and method != "simsiam":
    raise ValueError(f"{method} has no stop_gradient: leave it out, or use simsiam")
  objective = preset.objective(steps, batch_size, tau) if stop_gradient else objectives.simsiam(False)
  of: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": optimizers.adam, "lars": optimizers.lars}
  return Experiment(
    method=two_views(
      Embedder(network, *heads),
      objective,
      spec=pictures.spec,
      optimizer=of[optimizer](rate, steps, warmup=steps // 20, weight_decay=weight_decay),
    ),
    data=pictures,
    steps=steps,
    batch_size=batch_size,
    evaluators=(knn(),),
    evaluate_every=None if small else 3_900,
    checkpoint_every=500 if small else 3_900,
  )
