"""Wasserstein GAN with gradient penalty on CIFAR-10 at the paper's size.

Paper: Gulrajani et al. 2017, Improved training of Wasserstein GANs, https://arxiv.org/abs/1704.00028, section 5.5 and
Appendix F, and their code: residual networks of 128 channels, batch norm in the generator alone, lambda = 10, five
critic updates of 64 images each for one of the generator (theirs has 128 images, here 64), Adam at 2e-4 falling to 0 in
100 k steps with beta_1 = 0 and beta_2 = 0.9. Their Inception score without labels is 7.86 (standard deviation 0.07).

    jaxgen train configs/wgan_gp_cifar10.py --tfds-dir DIR

Expect: not measured; an Inception score is not computed here
Cost: not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, gan, generate, gradient_penalty
from jaxgen.nn.adversarial.gan import ResNetDiscriminator, ResNetGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 100_000,
  batch_size: int = 64,
  learning_rate: float = 2e-4,
  k: int = 5,
  weight: float = 10.0,
  width: int = 128,
  latent: int = 128,
  ema: float | None = None,
  bfloat16: bool = False,
  tfds_dir: str | None = None,
) -> Experiment:
  # Their code adds the noise that makes integers continuous.
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, transforms=(dequantize(),), data_dir=tfds_dir)
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  generator = ResNetGenerator((32, 32, 3), width, dtype=dtype)
  adam = lambda: optax.adam(optax.linear_schedule(learning_rate, 0.0, steps), b1=0.0, b2=0.9)
  method = gan(
    generator,
    ResNetDiscriminator(width, dtype=dtype),
    shape=(32, 32, 3),
    latent=latent,
    loss=LOSSES["wasserstein"],
    penalty=gradient_penalty(weight),
    k=k,
    generator_optimizer=adam(),
    discriminator_optimizer=adam(),
    ema=ema,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=k * batch_size,
    evaluators=(frechet(10_000),),
    figures=(figures.latent_interpolations(partial(generate, generator), latent),),
    log_every=100,
    sample_every=10_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
