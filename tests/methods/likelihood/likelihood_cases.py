"""Methods of likelihood at sizes for tests."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
from cases import Case
from flax import linen as nn

from jaxgen import data
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import dequantize
from jaxgen.methods.likelihood.autoencoder import Adversary, autoencoder, codes
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.methods.likelihood.flow import flow
from jaxgen.methods.likelihood.vae import vae
from jaxgen.methods.likelihood.vqvae import vqvae
from jaxgen.nn.adversarial.patchgan import PatchDiscriminator
from jaxgen.nn.autoencoders import vqvae as networks
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from jaxgen.nn.autoregressive.made import MADE, NADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.blocks.layers import Conv
from jaxgen.nn.flows.bijections import BatchNorm, Chain, CheckerboardCoupling, Logit
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.nice import nice
from jaxgen.nn.flows.realnvp import ResNet
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.probability.distributions import bernoulli, categorical, logistic, logistic_mixture

DIGITS = data.digits()
BITS = data.binarized(data.digits())
DEQUANTIZED = data.digits(transforms=(dequantize(17),))
some_labels = lambda n: {"label": DIGITS.source("test").arrays["label"][:n]}


def small_vae(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  method = vae(
    ConvEncoder(4, (4, 4), 16, **dtypes),
    ConvDecoder((8, 8, 1), (4, 4), 16, outputs=2, shared=1, **dtypes),
    logistic(17),
    spec=DIGITS.spec,
    latent=4,
    optimizer=optax.adam(5e-3),
    importance_samples=5,
    chunk=2,
  )
  return averaged(method, 0.9)


class TinyDecoder(nn.Module):
  dtype: Any

  @nn.compact
  def __call__(self, z):
    h = Conv(4, double=True, dtype=self.dtype, param_dtype=self.dtype, name="in")(z)
    return Conv(1, dtype=self.dtype, param_dtype=self.dtype, name="out")(nn.silu(h))


class TinyStage(nn.Module):
  """A first stage, as `jaxgen.nn.autoencoders.ldm` has them, of three layers."""

  outputs: int = 1
  dtype: Any = "float32"

  def setup(self):
    self.encoder = Conv(2 * self.outputs, 2, stride=2, dtype=self.dtype, param_dtype=self.dtype)
    self.decoder = TinyDecoder(self.dtype)

  def encode(self, x):
    h = self.encoder(x)
    return h if self.outputs == 1 else tuple(jnp.split(h, 2, axis=-1))

  def decode(self, z):
    return self.decoder(z)

  def __call__(self, x):
    z = self.encode(x)
    return self.decode(z if self.outputs == 1 else z[0])


def small_vqgan(dtype):
  return autoencoder(
    TinyStage(dtype=dtype),
    codes(8),
    spec=DIGITS.spec,
    optimizer=optax.adam(2e-3),
    adversary=Adversary(PatchDiscriminator(4, 1, dtype=dtype, param_dtype=dtype), optax.adam(2e-3), start=1),
  )


def small_iwae(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return vae(
    MLPEncoder(4, (16,), **dtypes),
    MLPDecoder((8, 8, 1), (16,), **dtypes),
    bernoulli(),
    spec=BITS.spec,
    latent=4,
    optimizer=optax.adam(2e-3),
    k=3,
    importance_weighted=True,
    importance_samples=5,
  )


def small_vqvae(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  return vqvae(
    networks.Encoder(4, 8, halvings=1, blocks=1, **dtypes),
    networks.Decoder(1, 8, halvings=1, blocks=1, outputs=2, **dtypes),
    LanguageModel(9, gpt(8, 2, 1, context=16, dropout=0.1, dtype=dtype)),
    logistic(17),
    spec=DIGITS.spec,
    codes=8,
    optimizer=optax.adam(5e-3),
    prior_optimizer=optax.adam(5e-3),
  )


def small_nice(dtype):
  bijection = nice((32,), kernel_init=nn.initializers.lecun_normal(), dtype=dtype, param_dtype=dtype)
  return averaged(flow(bijection, spec=DEQUANTIZED.spec, optimizer=optax.adam(5e-3)), 0.9)


def small_realnvp(dtype):
  """One coupling layer of it.

  Not Adam: what comes before the statistics has gradients of exactly 0, of which Adam makes full steps out of rounding.
  """
  coupling = CheckerboardCoupling(ResNet(4, 1, 0.5, dtype, dtype))
  bijection = Chain((Logit(), coupling, BatchNorm(param_dtype=dtype)))
  return flow(bijection, spec=DEQUANTIZED.spec, optimizer=optax.sgd(0.1, 0.9))


def small_glow(dtype):
  bijection = glow(1, 2, 8, dtype=dtype, param_dtype=dtype)
  return averaged(flow(bijection, spec=DEQUANTIZED.spec, optimizer=optax.adam(2e-3)), 0.9)


def of_pixels(dtype, network, distribution, spec):
  """An autoregressive model of digits; `network` takes the dtypes."""
  network = network(dtype=dtype, param_dtype=dtype)
  return averaged(autoregressive(network, distribution, spec=spec, optimizer=optax.adam(5e-3)), 0.9)


small_nade = partial(of_pixels, network=partial(NADE, 16), distribution=bernoulli(), spec=BITS.spec)
small_made = partial(of_pixels, network=partial(MADE, 1, (32,), 3, True), distribution=bernoulli(), spec=BITS.spec)
small_gated_pixelcnn = partial(
  of_pixels, network=partial(GatedPixelCNN, 17, 8, 2, 8, classes=10), distribution=categorical(17), spec=DIGITS.spec
)
small_pixelcnnpp = partial(
  of_pixels,
  network=partial(PixelCNNpp, 6, 6, 1, 1, dropout=0.1),  # of two stages in test_autoregressive.py
  distribution=logistic_mixture(2, 17),
  spec=DIGITS.spec,
)

CASES = {
  "VAE, discretized logistic": Case(small_vae, DIGITS, unit=("nll_nats_elbo", {"loss": 64})),
  "IWAE, Bernoulli": Case(small_iwae, BITS, unit=("nll_nats_importance_5", {"loss": 64})),
  "VQ-VAE": Case(small_vqvae, DIGITS, whole="buffers", unit=("nll_nats_elbo", {"network/loss": 64, "prior/loss": 16})),
  "VQGAN": Case(small_vqgan, DIGITS, whole="buffers", falls=None),
  "NICE": Case(small_nice, DEQUANTIZED, unit=("nll_nats_dequantized", {"loss": 64})),
  "RealNVP": Case(small_realnvp, DEQUANTIZED, whole="buffers", unit=("nll_nats_dequantized", {"loss": 64})),
  "Glow": Case(small_glow, DEQUANTIZED, unit=("nll_nats_dequantized", {"loss": 64})),
  "NADE": Case(small_nade, BITS, unit=("nll_nats", {"loss": 64})),
  "MADE, 3 masks": Case(small_made, BITS, pmap=True, unit=("nll_nats", {"loss": 64})),
  "gated PixelCNN": Case(
    small_gated_pixelcnn, DIGITS, conditions=some_labels, unit=("nll_nats_given_label", {"loss": 64})
  ),
  "PixelCNN++": Case(small_pixelcnnpp, DIGITS, unit=("nll_nats", {"loss": 64})),
}
