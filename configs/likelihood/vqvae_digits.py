"""VQ-VAE with an autoregressive Transformer over its codes on scikit-learn's 8x8 digits.

Paper: van den Oord et al. 2017, Neural discrete representation learning, https://arxiv.org/abs/1711.00937: the codebook
as a moving average (Appendix A.1), with restarts of unused codes. The prior learns the codes while they are learned;
the paper's, a PixelCNN, learns them afterwards.

    jaxgen train vqvae_digits

Expect: at most 2.14 bits/dim (standard error 0.02); frechet_1437 3.59, 3.0 times its floor; 29 of 32 codes in use
(perplexity). One seed
Cost: 5 minutes on 2 CPU cores, which others used as well
"""

import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vqvae import reconstruct, vqvae
from jaxgen.nn.autoencoders.vqvae import Decoder, Encoder
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.probability.distributions import logistic
from jaxgen.show import figures


def experiment(
  codes: int = 32,
  dim: int = 8,
  features: int = 32,
  commitment: float = 0.25,
  decay: float = 0.99,
  restart: float = 0.03,
  prior_features: int = 32,
  prior_depth: int = 2,
  drawn: bool = True,
  steps: int = 3_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  weight_decay: float = 0.1,
) -> Experiment:
  """
  Args:
    codes: vectors in the codebook.
    dim: width of a code.
    features: of the encoder and the decoder.
    commitment: factor of the distance of the encoder's vectors to their codes.
    decay: of the codebook's moving averages.
    restart: share of the mean use below which a code starts anew.
    prior_features: width of the Transformer over codes.
    prior_depth: its blocks.
    drawn: samples are drawn from p(x | z), else they are its means.
    weight_decay: of all parameters, times the learning rate.
  """
  digits = data.digits()
  value = logistic(digits.levels)
  encoder = Encoder(dim, features, halvings=1, blocks=1)
  decoder = Decoder(1, features, halvings=1, blocks=1, outputs=value.parameters)
  rate = optimizers.schedule(learning_rate, steps)

  def adamw(numbers: int) -> optax.GradientTransformation:
    """With the clip and the epsilon of a loss in nats per image, of so many values or codes; the loss is in nats per
    value or code."""
    adam = optax.adamw(rate, eps=1e-8 / numbers, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(50.0 / numbers), adam)

  method = vqvae(
    encoder,
    decoder,
    LanguageModel(codes + 1, gpt(prior_features, 4, prior_depth, context=16, dropout=0.1)),
    value,
    spec=digits.spec,
    codes=codes,
    optimizer=adamw(digits.spec.size),
    prior_optimizer=adamw(16),
    commitment=commitment,
    decay=decay,
    restart=restart,
    drawn=drawn,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    figures=(figures.reconstructions(reconstruct(encoder, decoder, value)),),
    sample_every=500,
  )
