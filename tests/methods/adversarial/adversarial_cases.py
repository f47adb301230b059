"""The adversarial methods at sizes for `test_every_method.py`. They are games: their losses need not fall."""

import jax.numpy as jnp
import numpy as np
import optax
from cases import Case

from jaxgen import data
from jaxgen.core.condition import labels
from jaxgen.core.wrappers import averaged
from jaxgen.methods.adversarial.gan import LOSSES, gan, r1, uniform
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator

DIGITS = data.digits()


def small_gan(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  method = gan(
    MLPGenerator((8, 8, 1), (16,), output=jnp.tanh, **dtypes),
    MLPDiscriminator((16,), dropout=(0.1, 0.1), **dtypes),
    spec=DIGITS.spec,
    latent=4,
    penalty=r1(0.1),
    k=2,
    slices=(2, 1),
    generator_optimizer=optax.adam(1e-3),
    discriminator_optimizer=optax.adam(2e-3),
  )
  return averaged(method, {"generator": 0.9})


def small_dcgan(dtype):
  """Not Adam, as for the other methods with batch statistics."""
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  method = gan(
    DCGANGenerator((8, 8, 1), 4, classes=10, **dtypes),
    DCGANDiscriminator(4, spectral=True, classes=10, **dtypes),
    spec=DIGITS.spec,
    latent=4,
    loss=LOSSES["hinge"],
    draw=uniform,
    generator_optimizer=optax.sgd(0.02, 0.9),
    discriminator_optimizer=optax.sgd(0.02, 0.9),
    condition=labels(DIGITS.spec),
  )
  return averaged(method, {"generator": 0.9})


# At first D is 1/2 or its output is 0: three times log 2, and 2 of the hinge.
CASES = {
  "GAN, non-saturating with R1": Case(
    small_gan, DIGITS, falls=None, unit=(2.08, {"discriminator/loss": 1, "generator/loss": 1})
  ),
  "DCGAN, hinge, spectral norm, conditional": Case(
    small_dcgan,
    DIGITS,
    whole="buffers",
    conditions=lambda n: {"label": np.arange(n) % 10},
    falls=None,
    unit=(2.0, {"discriminator/loss": 1, "generator/loss": 1}),
  ),
}
