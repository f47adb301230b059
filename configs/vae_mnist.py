"""Variational autoencoder, 784-500-20, on binarized MNIST.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114: 500 tanh units in the
encoder and in the decoder, 20 latent dimensions as in Figure 2. The paper gives curves of the bound, no number; Burda
et al. 2016, https://arxiv.org/abs/1509.00519, Appendix D, give 88.71 nats of Larochelle's fixed binarization by 5,000
importance samples, of two layers of 200 units and 50 latent dimensions.

    jaxgen train configs/vae_mnist.py --tfds-dir DIR
    jaxgen train configs/vae_mnist.py --latent 2 --tfds-dir DIR     (draws the manifold of Figure 4, too)

Expect: 92.6 nats (standard error 0.2) by 5,000 importance samples; one seed
Cost: 4 minutes of training and 10 minutes of evaluation on 1 CPU core
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vae import to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import MLPDecoder, MLPEncoder
from jaxgen.probability.distributions import bernoulli
from jaxgen.show import figures


def experiment(
  steps: int = 30_000,
  batch_size: int = 100,
  learning_rate: float = 3e-3,
  latent: int = 20,
  hidden: tuple[int, ...] = (500,),
  beta: float = 1.0,
  free_bits: float = 0.0,
  ema: float = 0.999,
  importance_samples: int = 5_000,
  drawn: bool = True,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  encoder, decoder = MLPEncoder(latent, hidden), MLPDecoder((28, 28, 1), hidden[::-1])
  encode, decode = to_latent(encoder), to_image(decoder, bernoulli())
  method = vae(
    encoder,
    decoder,
    bernoulli(),
    shape=(28, 28, 1),
    levels=mnist.levels,
    latent=latent,
    optimizer=optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
    beta=beta,
    free_bits=free_bits,
    importance_samples=importance_samples,
    drawn=drawn,
    ema=ema,
    microbatches=microbatches,
  )
  drawings = [
    figures.reconstructions(lambda state, x: decode(state, encode(state, x))),
    figures.traversals(encode, decode),
  ]
  published = Published(
    paper="Burda et al. 2016 (VAE)",
    table="Appendix D, one stochastic layer, k = 1",
    metric=f"test_nll_nats_2_levels_importance_{importance_samples}",
    number=88.71,
    note="the paper's VAE has two layers of 200 units and 50 latent dimensions, and trains for 3,280 epochs; this one "
    "is Kingma and Welling's 784-500-20, for 60 epochs",
  )
  return Experiment(
    method=method,
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    figures=[*drawings, figures.manifold(decode)] if latent == 2 else drawings,
    published=(published,),
    log_every=500,
    sample_every=10_000,
    checkpoint_every=5_000,
  )
