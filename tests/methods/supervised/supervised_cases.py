"""The supervised methods that `test_every_method.py` tests."""

from typing import Any

import optax
from cases import Case
from flax import linen as nn

from jaxgen import data
from jaxgen.core.wrappers import averaged
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import ConvNet
from jaxgen.nn.blocks.layers import BatchNorm, Dropout

DIGITS = data.digits()


class Normed(nn.Module):
  """A network with batch statistics."""

  dtype: Any

  @nn.compact
  def __call__(self, x, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Dense(32, **dtypes)(x.reshape(len(x), -1))
    h = nn.relu(BatchNorm(**dtypes)(h, index is not None))
    return nn.Dense(10, **dtypes)(Dropout(0.1)(h, index))


def small_classifier(dtype):
  network = ConvNet(10, (8, 16), 16, dtype=dtype, param_dtype=dtype)
  return averaged(classifier(network, spec=DIGITS.spec, optimizer=optax.adam(2e-3), label_smoothing=0.1), 0.9)


def normed_classifier(dtype):
  # Not Adam: what comes before the statistics has gradients of exactly 0 (a bias, a pixel that is the same in the whole
  # batch), of which Adam makes full steps out of rounding.
  return averaged(classifier(Normed(dtype), spec=DIGITS.spec, optimizer=optax.sgd(0.02, 0.9)), 0.9)


CASES = {
  "classifier": Case(small_classifier, DIGITS, pmap=True, unit=("nll_nats", {"loss": 1})),
  "classifier with batch statistics": Case(normed_classifier, DIGITS, whole="buffers", unit=("nll_nats", {"loss": 1})),
}
