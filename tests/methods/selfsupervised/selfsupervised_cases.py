"""The self-supervised methods that `test_every_method.py` tests."""

from functools import partial
from typing import Any

import optax
from cases import Case
from flax import linen as nn

from jaxgen import data
from jaxgen.data.transforms import flip
from jaxgen.data.views import color_jitter, resized_crop, two_views
from jaxgen.methods.selfsupervised import objectives
from jaxgen.methods.selfsupervised.masked import masked_autoencoder
from jaxgen.methods.selfsupervised.rotnet import rotnet
from jaxgen.methods.selfsupervised.two_views import two_views as method_of
from jaxgen.nn.blocks.layers import BatchNorm
from jaxgen.nn.selfsupervised.heads import Embedder, Head, Prototypes
from jaxgen.nn.selfsupervised.mae import MAE, SimMIM
from jaxgen.nn.vision.vit import ViT

VIEWS = two_views((resized_crop(area=(0.5, 1.0)), flip(), color_jitter(0.3, 0.3)), (flip(),))
DIGITS = data.digits(augment=(VIEWS,))


class Small(nn.Module):
  """A network with batch statistics and features."""

  dtype: Any
  classes: int = 4

  def setup(self):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    self.dense, self.norm, self.head = nn.Dense(16, **dtypes), BatchNorm(**dtypes), nn.Dense(self.classes, **dtypes)

  def features(self, x, index=None):
    return nn.relu(self.norm(self.dense(x.reshape(len(x), -1)), index is not None))

  def __call__(self, x, index=None):
    return self.head(self.features(x, index))


def method(objective, projector, dtype, predictor=None):
  heads = [head and head(dtype=dtype, param_dtype=dtype) for head in (projector, predictor)]
  # Not Adam: see supervised_cases.py.
  return method_of(Embedder(Small(dtype), *heads), objective, spec=DIGITS.spec, optimizer=optax.sgd(0.02, 0.9))


def turned(dtype):
  return rotnet(Small(dtype), spec=DIGITS.spec, optimizer=optax.sgd(0.02, 0.9))


def masked(dtype, network, **options):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  vit = ViT(2, 8, 1, 2, 16, fixed_positions=network is MAE, **dtypes)
  made = MAE(vit, 8, 1, 2) if network is MAE else SimMIM(vit)
  return masked_autoencoder(made, spec=data.digits().spec, optimizer=optax.adam(2e-3), **options)


plain, normed = partial(Head, (16, 8)), partial(Head, (16, 8), norm=True, last_norm=True)
contrast = lambda objective, *heads, **options: Case(
  lambda dtype: method(objective, heads[0], dtype, *heads[1:]), DIGITS, whole="not a mean", falls=None, **options
)
CASES = {
  "SimCLR": contrast(objectives.simclr(0.5), plain),
  "Barlow Twins": contrast(objectives.barlow_twins(), plain),
  "VICReg": contrast(objectives.vicreg(), plain),
  "SimSiam": contrast(objectives.simsiam(), normed, partial(Head, (8, 8), norm=True)),
  "BYOL": contrast(objectives.byol(0.9, 100), plain, partial(Head, (8, 8), norm=True)),
  "DINO": contrast(objectives.dino(0.9, 100), partial(Prototypes, 12, hidden=16, bottleneck=8)),
  "MoCo": contrast(objectives.moco(0.2, 0.9, queue=32, groups=4), plain),
  "MoCo v3": contrast(objectives.moco_v3(0.2, 0.9, 100), normed, normed),
  "MAE": Case(partial(masked, network=MAE), data.digits(), unit=("masked_loss", {"loss": 1})),
  "SimMIM": Case(
    partial(masked, network=SimMIM, mask_ratio=0.6, normalize=False, distance="absolute"),
    data.digits(),
    unit=("masked_loss", {"loss": 1}),
  ),
  "RotNet": Case(turned, DIGITS, whole="buffers", unit=("nll_nats", {"loss": 1})),
}
