"""DCGAN on faces of 64x64 pixels, at the widths of PyTorch's example or of the authors.

Paper: Radford et al. 2015, Unsupervised representation learning with deep convolutional generative adversarial
networks, https://arxiv.org/abs/1511.06434, section 4 and Figure 1, and their code for faces: z of 100 uniform numbers,
Adam at 2e-4 with beta_1 = 0.5, batches of 128, and weights N(0, 0.02^2). With 64 filters and 4x4 kernels, PyTorch's
example, the generator has 3,576,704 parameters; `--authors True` has their 128 filters, 5x5 kernels and weight decay of
1e-5, 18,885,760.

    jaxgen train dcgan_celeba --images DIR     (pictures DIR/train/*.jpg, such as CelebA's)
    jaxgen train dcgan_celeba --images DIR --authors True

The paper has no number for faces. Images are cut square from the middle and scaled.

Expect: not measured
Cost: 25 epochs of CelebA are 32 k steps of both networks; not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, uniform
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 32_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  loss: LossName = "non_saturating",
  authors: bool = False,
  side: int = 64,
  latent: int = 100,
  ema: float | None = None,
  bfloat16: bool = False,
  images: str = "data/celeba",
) -> Experiment:
  """Convolutions that grow an image.

  Args:
    loss: what both minimise.
    authors: the authors' widths, kernels and weight decay in place of PyTorch's.
    side: pixels that images are scaled to.
    latent: number of values that the generator begins with.
    bfloat16: networks compute in half precision.
    images: folder with pictures in train/.
  """
  faces = data.images(f"folder:{images}", (side, side, 3))
  size = dict(width=128, kernel=5) if authors else dict(width=64, kernel=4)
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  generator = DCGANGenerator(faces.spec.shape, **size, units=authors, dtype=dtype)
  decay = optax.add_decayed_weights(1e-5 if authors else 0.0)
  adam = lambda: optax.chain(decay, optimizers.adam(learning_rate, b1=0.5))
  method = gan(
    generator,
    DCGANDiscriminator(**size, dtype=dtype),
    spec=faces.spec,
    latent=latent,
    loss=LOSSES[loss],
    draw=uniform,
    generator_optimizer=adam(),
    discriminator_optimizer=adam(),
  )
  return Experiment(
    method=averaged(method, None if ema is None else {"generator": ema}),
    data=faces,
    steps=steps,
    batch_size=batch_size,
    figures=(figures.latent_interpolations(partial(generate, generator), latent),),
    log_every=100,
    sample_every=2_000,
    checkpoint_every=2_000,
  )
