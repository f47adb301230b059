"""Convolutional variational autoencoder with a discretized logistic likelihood on scikit-learn's 8x8 digits.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114; the likelihood of
Kingma et al. 2016, https://arxiv.org/abs/1606.04934, section 5.2, here with a scale for each pixel.

    jaxgen train conv_vae_digits
    jaxgen train conv_vae_digits --free-bits 0.1

Expect: 1.82 bits/dim by 500 importance samples (standard error 0.01), the bound 1.90; frechet_1437 7.56, 6.3 times its
floor: pixels are drawn each by itself. One seed; with more steps or features it overfits
Cost: 2.5 minutes on 2 CPU cores, which others used as well
"""

import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vae import to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder
from jaxgen.probability.distributions import logistic
from jaxgen.show import figures


def experiment(
  latent: int = 16,
  channels: tuple[int, ...] = (16, 32),
  hidden: int = 64,
  k: int = 1,
  importance_weighted: bool = False,
  beta: float = 1.0,
  free_bits: float = 0.0,
  importance_samples: int = 500,
  drawn: bool = True,
  steps: int = 2_500,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  weight_decay: float = 0.3,
  ema: float = 0.99,
) -> Experiment:
  """
  Args:
    latent: dimensions of z.
    channels: of the encoder's levels, each at half the side of the previous one; the decoder has them in reverse order.
    hidden: units of the dense layers.
    k: samples of z for each training example.
    importance_weighted: train by the importance-weighted bound of k samples instead of the ELBO.
    beta: factor of the KL.
    free_bits: nats up to which a latent dimension's KL is not made smaller.
    importance_samples: samples of z for each example whose likelihood is evaluated.
    drawn: samples are drawn from p(x | z), else they are its means.
    weight_decay: of all parameters, times the learning rate.
  """
  digits = data.digits()
  value = logistic(digits.levels)
  encoder = ConvEncoder(latent, channels, hidden)
  decoder = ConvDecoder(digits.spec.shape, channels[::-1], hidden, outputs=value.parameters)
  encode, decode = to_latent(encoder), to_image(decoder, value)
  # The clip and Adam's epsilon are those of a loss in nats per image, and the loss is in nats per value.
  values, rate = digits.spec.size, optimizers.schedule(learning_rate, steps)
  adamw = optax.adamw(rate, eps=1e-8 / values, weight_decay=weight_decay)
  method = vae(
    encoder,
    decoder,
    value,
    spec=digits.spec,
    latent=latent,
    optimizer=optax.chain(optax.clip_by_global_norm(50.0 / values), adamw),
    k=k,
    importance_weighted=importance_weighted,
    beta=beta,
    free_bits=free_bits,
    importance_samples=importance_samples,
    drawn=drawn,
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    figures=(
      figures.reconstructions(lambda state, x: decode(state, encode(state, x))),
      figures.traversals(encode, decode),
    ),
    sample_every=500,
  )
