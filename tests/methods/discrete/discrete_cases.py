"""The methods of discrete diffusion that `test_every_method.py` tests."""

from typing import Any

import flax.linen as nn
import numpy as np
import optax
from cases import BATCH, Case

from jaxgen import data, discrete
from jaxgen.core.condition import labels
from jaxgen.core.wrappers import averaged
from jaxgen.methods.discrete.diffusion import Objective, Sampler, discrete_diffusion
from jaxgen.methods.discrete.embedding import Codes, embedding_diffusion
from jaxgen.nn.transformers.ddit import DDiT

DIGITS = data.digits()
STRINGS = data.reversed_strings(5, 6, train="1-5-1", test="3-5-1")


class Perceptron(nn.Module):
  """A network of tokens of any shape that compiles in a second, with a class."""

  vocabulary: int
  dtype: Any

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = nn.Embed(self.vocabulary + 1, 2, **dtypes)(x).reshape(len(x), -1)
    h = nn.Dense(16, **dtypes)(h) + nn.Dense(16, **dtypes)(t[:, None].astype(self.dtype))
    h = nn.silu(h if label is None else h + nn.Embed(11, 16, **dtypes)(label))
    return nn.Dense(x[0].size * self.vocabulary, **dtypes)(h).reshape(*x.shape, self.vocabulary)


def mdlm(dtype):
  network = DDiT(8, 8, 1, 2, told=8, timeless=True, dropout=0.1, dtype=dtype, param_dtype=dtype)
  process = discrete.absorbing(discrete.linear(), 8)
  sampler = Sampler(discrete.remasking, steps=3, length=8)
  objective = Objective(batch_size=BATCH)
  options = dict(objective=objective, sampler=sampler, terms=4)
  return averaged(discrete_diffusion(network, process, STRINGS.spec, optax.adam(5e-3), **options), 0.9)


def d3pm(dtype):
  """On pictures, conditional, with guidance."""
  process = discrete.discretized_gaussian(17, 10, 0.01, 1.0)
  sampler = Sampler(discrete.ancestral, steps=10)
  options = dict(objective=Objective(hybrid=0.01), condition=labels(DIGITS.spec, 0.2), sampler=sampler, terms=2)
  return discrete_diffusion(Perceptron(17, dtype), process, DIGITS.spec, optax.adam(5e-3), **options)


def sedd(dtype):
  process = discrete.uniform(discrete.geometric(), 8)
  objective = Objective(discrete.PREDICTIONS["score"])
  sampler = Sampler(discrete.tau_leaping, steps=3)
  network = Perceptron(8, dtype)
  options = dict(objective=objective, sampler=sampler, terms=4)
  return discrete_diffusion(network, process, STRINGS.spec, optax.adam(5e-3), **options)


class OfVectors(nn.Module):
  """A network of rows of vectors that compiles in a second."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x, t, told=None, index=None):
    dense = lambda count: nn.Dense(count, dtype=self.dtype, param_dtype=self.dtype)
    h = nn.silu(dense(16)(x.reshape(len(x), -1).astype(self.dtype)) + dense(16)(t[:, None].astype(self.dtype)))
    return dense(x.shape[1] * self.width)(h).reshape(*x.shape[:2], self.width)


def diffusion_lm(dtype):
  """With self-conditioning, which the paper of bit diffusion adds."""
  options = dict(self_condition=True, sampling_steps=3, terms=4)
  method = embedding_diffusion(OfVectors(3, dtype), Codes(3), STRINGS.spec, optax.adam(5e-3), **options)
  return averaged(method, 0.9)


guided = lambda n: {"label": np.arange(n) % 10, "weight": np.full(n, 1.5, np.float32)}

CASES = {
  "MDLM": Case(mdlm, STRINGS, unit=("nll_nats", {"loss": 6})),
  "D3PM of pictures": Case(d3pm, DIGITS, conditions=guided, unit=("nll_nats", {"loss": 64})),
  "Diffusion-LM": Case(diffusion_lm, STRINGS),
  "SEDD": Case(sedd, STRINGS, unit=("nll_nats", {"loss": 6})),
}
