"""Generative adversarial network on MNIST as in the paper that had the idea.

Paper: Goodfellow et al. 2014, Generative adversarial nets, https://arxiv.org/abs/1406.2661, section 5, and their code:
a generator of two layers of 1,200 ReLU from 100 uniform numbers, a discriminator of two layers of 240 maxout units of
five pieces with dropout, SGD with momentum in batches of 100, rate 0.1 divided by 1.000004 at every step down to 1e-6,
momentum from 0.5 to 0.7 over 250 epochs of 50,000 images, k = 1. Its 225 nats (Table 1) are an estimate by a Parzen
window on samples, which is unreliable (Theis et al. 2016, https://arxiv.org/abs/1511.01844) and is not computed here.
Their last bias starts from the pixels' means, here from 0, and pixels are in [-1, 1] here.

    jaxgen prepare mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train gan_mnist --tfds-dir DIR

Expect: not measured
Cost: 150 k steps, not measured; not for a CPU
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, uniform
from jaxgen.nn.adversarial.gan import MLPDiscriminator, MLPGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 150_000,
  batch_size: int = 100,
  learning_rate: float = 0.1,
  loss: LossName = "non_saturating",
  k: int = 1,
  latent: int = 100,
  ema: float | None = None,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """The first adversarial networks.

  Args:
    batch_size: images of each update of the discriminator.
    loss: what both minimise.
    k: updates of the discriminator for each of the generator.
    latent: number of values that the generator begins with.
  """
  mnist = data.images("tfds:mnist", (28, 28, 1), classes=10, data_dir=tfds_dir, train="train[:50000]")
  within = lambda most: lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -most, most)
  # tanh(x / 2) in [-1, 1] is the paper's sigmoid in [0, 1].
  output = lambda x: jnp.tanh(x / 2)
  generator = MLPGenerator((28, 28, 1), (1200, 1200), output=output, kernel_init=within(0.05))
  rate = optax.exponential_decay(learning_rate, 1, 1 / 1.000004, end_value=1e-6)
  momentum = optax.linear_schedule(0.5, 0.7, 250 * 500)
  sgd = lambda: optax.inject_hyperparams(optax.sgd)(rate, momentum=momentum)
  method = gan(
    generator,
    MLPDiscriminator((240, 240), pieces=5, dropout=(0.2, 0.5), kernel_init=within(0.005)),
    spec=mnist.spec,
    latent=latent,
    loss=LOSSES[loss],
    k=k,
    draw=uniform,
    generator_optimizer=sgd(),
    discriminator_optimizer=sgd(),
  )
  return Experiment(
    method=averaged(method, None if ema is None else {"generator": ema}),
    data=mnist,
    steps=steps,
    batch_size=k * batch_size,
    microbatches=microbatches,
    evaluators=(frechet(),),
    figures=(figures.latent_interpolations(partial(generate, generator), latent),),
    log_every=500,
    sample_every=15_000,
    checkpoint_every=15_000,
  )
