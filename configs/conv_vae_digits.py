"""Convolutional variational autoencoder with a discretized logistic likelihood on scikit-learn's 8x8 digits.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114; the likelihood of
Kingma et al. 2016, https://arxiv.org/abs/1606.04934, section 5.2, here with a scale for each pixel.

    jaxgen train configs/conv_vae_digits.py
    jaxgen train configs/conv_vae_digits.py --free-bits 0.1

Expect: 1.82 bits/dim by 500 importance samples (standard error 0.01), the bound 1.90; frechet_1437 7.56, 6.3 times its
floor: pixels are drawn each by itself. One seed; with more steps or features it overfits
Cost: 2.5 minutes on 2 CPU cores, which others used as well
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vae import to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder
from jaxgen.probability.distributions import logistic
from jaxgen.show import figures


def experiment(
  steps: int = 2_500,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  weight_decay: float = 0.3,
  latent: int = 16,
  channels: tuple[int, ...] = (16, 32),
  hidden: int = 64,
  k: int = 1,
  importance_weighted: bool = False,
  beta: float = 1.0,
  free_bits: float = 0.0,
  importance_samples: int = 500,
  drawn: bool = True,
  ema: float = 0.99,
) -> Experiment:
  digits = data.digits()
  likelihood_of_values = logistic(digits.levels)
  encoder = ConvEncoder(latent, channels, hidden)
  decoder = ConvDecoder((8, 8, 1), channels[::-1], hidden, outputs=2)
  encode, decode = to_latent(encoder), to_image(decoder, likelihood_of_values)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = vae(
    encoder,
    decoder,
    likelihood_of_values,
    shape=(8, 8, 1),
    levels=digits.levels,
    latent=latent,
    optimizer=optax.chain(optax.clip_by_global_norm(50.0), optax.adamw(rate, weight_decay=weight_decay)),
    k=k,
    importance_weighted=importance_weighted,
    beta=beta,
    free_bits=free_bits,
    importance_samples=importance_samples,
    drawn=drawn,
    ema=ema,
  )
  return Experiment(
    method=method,
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
