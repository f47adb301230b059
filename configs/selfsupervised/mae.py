"""Masked autoencoders: MAE and SimMIM.

Paper: He et al. 2021, https://arxiv.org/abs/2111.06377, section 4 and Table 8 (800 epochs, batch 4096, mask ratio 0.75,
normalised pixels); Xie et al. 2021, https://arxiv.org/abs/2111.09886 (SimMIM)

    jaxgen train mae --name mae_digits
    jaxgen probe runs/mae_digits
    jaxgen train mae --preset base --tfds-dir DIR

The paper's recipe is that of base, large and huge; digits and cifar10 are ours. `--network simmim` replaces each masked
patch by a learned token, with the absolute error of pixels and a ratio of 0.6; it masks single patches.

Expect: digits: accuracy of 20 nearest neighbours 0.911, where random weights have 0.556 and pixels 0.972; of a
linear probe 0.922 (0.817 and 0.964); one seed. The others are not run here
Cost: digits: 2 minutes on 2 CPU cores that had other work, too; base: 250,200 steps of batch 4096, not measured
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, optimizers
from jaxgen.data.transforms import flip
from jaxgen.data.views import resized_crop
from jaxgen.evaluation.evaluators import means
from jaxgen.evaluation.features import knn
from jaxgen.interop import mae as mae_weights
from jaxgen.methods.selfsupervised.masked import masked_autoencoder
from jaxgen.nn.selfsupervised.mae import MAE, SimMIM
from jaxgen.nn.vision.vit import SIZES, ViT


class Preset(NamedTuple):
  """Encoder, decoder and recipe.

  Attributes:
    encoder: the ViT's sizes.
    decoder: width, depth and heads.
  """

  encoder: dict
  decoder: tuple[int, int, int]
  steps: int
  batch_size: int
  learning_rate: float
  warmup: int


# 800 epochs of 1,281,167 pictures in batches of 4096, 40 of them warm-up; base rate 1.5e-4 per 256 pictures.
IMAGENET = dict(decoder=(512, 8, 16), steps=250_200, batch_size=4096, learning_rate=2.4e-3, warmup=12_510)
PRESETS = {
  "digits": Preset(dict(patch=2, width=64, depth=4, heads=4), (32, 2, 4), 2_000, 128, 1e-3, 100),
  "cifar10": Preset(dict(patch=4, width=192, depth=12, heads=3), (96, 2, 3), 78_000, 512, 1.5e-3, 4_000),
  "base": Preset(SIZES["B/16"], **IMAGENET),  # 111,907,840
  "large": Preset(SIZES["L/16"], **IMAGENET),  # 329,541,888
  "huge": Preset(SIZES["H/14"], **IMAGENET),  # 657,074,508
}
NAMES = {
  "mae_digits": {"preset": "digits"},
  "mae_cifar10": {"preset": "cifar10"},
  "mae_imagenet": {"preset": "base"},
  "simmim_digits": {"preset": "digits", "network": "simmim"},
}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  network: Literal["mae", "simmim"] = "mae",
  mask_ratio: float | None = None,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  normalize: bool | None = None,
  dtype: Literal["float32", "bfloat16"] | None = None,
  remat: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """Sizes, steps and rates that are not given are the preset's.

  Args:
    preset: the pictures, and the network's size.
    network: mae: the encoder gets only the visible patches; simmim: it also gets a learned token for each masked patch.
    mask_ratio: share of the patches that are masked; 0.75 of mae, 0.6 of simmim.
    normalize: each patch that is predicted is normalised; by default of mae.
    dtype: of the computation; parameters are float32. By default bfloat16 on ImageNet.
  """
  sizes = PRESETS[preset]
  chosen = lambda flag, otherwise: otherwise if flag is None else flag
  imagenet = preset not in ("digits", "cifar10")
  steps, batch_size = chosen(steps, sizes.steps), chosen(batch_size, sizes.batch_size)
  is_mae = network == "mae"
  kind = jnp.dtype(chosen(dtype, "bfloat16" if imagenet else "float32"))
  vit = ViT(**sizes.encoder, fixed_positions=is_mae, remat=remat, dtype=kind)
  made = MAE(vit, *sizes.decoder) if is_mae else SimMIM(vit)
  if imagenet:
    view = data.RandomResizedCrop(area=(0.2, 1.0))
    pictures = data.imagenet(tfds_dir, view=view, test_view=data.CenterCrop(), augment=(flip(),))
  elif preset == "cifar10":
    pictures = data.cifar10(tfds_dir, augment=(resized_crop(area=(0.2, 1.0)), flip()))
  else:
    pictures = data.digits()
  rate = chosen(learning_rate, sizes.learning_rate)
  optimizer = optimizers.adam(rate, steps, warmup=min(sizes.warmup, steps // 10), weight_decay=0.05, b2=0.95)
  return Experiment(
    method=masked_autoencoder(
      made,
      spec=pictures.spec,
      optimizer=optimizer,
      mask_ratio=chosen(mask_ratio, 0.75 if is_mae else 0.6),
      normalize=chosen(normalize, is_mae),
      distance="squared" if is_mae else "absolute",
    ),
    data=pictures,
    steps=steps,
    batch_size=batch_size,
    microbatches=microbatches,
    evaluators=(means("masked_loss"), *(() if imagenet else (knn(),))),
    evaluate_every=None if preset == "digits" else 10_000,
    checkpoint_every=500 if preset == "digits" else 2_500,
    layouts={"transformers": mae_weights.transformers(made)} if is_mae else {},
  )
