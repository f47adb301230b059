"""VQ-VAE on CIFAR-10 at the paper's size.

Paper: van den Oord et al. 2017, Neural discrete representation learning, https://arxiv.org/abs/1711.00937, section 4.1:
256 features, 8x8 codes of 512, beta 0.25, the codebook as a moving average with decay 0.99, Adam at 2e-4, batches of
128, 250 k steps; 4.67 bits/dim. Here p(x | z) is a discretized logistic with a scale for each channel, and the prior a
Transformer that learns the codes while they are learned.

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network)
    jaxgen train vqvae_cifar10 --tfds-dir DIR

Expect: at most 4.67 bits/dim; not run to the end here
Cost: not measured; for an accelerator
"""

from jaxgen import Experiment, data, optimizers
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vqvae import reconstruct, vqvae
from jaxgen.nn.autoencoders.vqvae import Decoder, Encoder
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.probability.distributions import logistic
from jaxgen.show import figures

PUBLISHED = Published(
  paper="van den Oord et al. 2017 (VQ-VAE)",
  table="Section 4.1",
  metric="test_bits_per_dim_256_levels_elbo",
  number=4.67,
  note="the paper does not say what p(x | z) is",
)


def experiment(
  codes: int = 512,
  dim: int = 64,
  features: int = 256,
  commitment: float = 0.25,
  decay: float = 0.99,
  restart: float = 0.03,
  prior_features: int = 256,
  prior_depth: int = 6,
  drawn: bool = True,
  steps: int = 250_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  tfds_dir: str | None = None,
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
  """
  cifar10 = data.cifar10(tfds_dir)
  value = logistic(cifar10.levels)
  encoder, decoder = Encoder(dim, features), Decoder(3, features, outputs=value.parameters, shared=1)
  method = vqvae(
    encoder,
    decoder,
    LanguageModel(codes + 1, gpt(prior_features, 8, prior_depth, context=64, dropout=0.1)),
    value,
    spec=cifar10.spec,
    codes=codes,
    # The clip and the epsilons are of losses in nats per image, and the losses are in nats per value and per code.
    optimizer=optimizers.adam(learning_rate, eps=1e-8 / cifar10.spec.size),
    prior_optimizer=optimizers.adam(learning_rate, clip=1.0 / 64, eps=1e-8 / 64),
    commitment=commitment,
    decay=decay,
    restart=restart,
    drawn=drawn,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    figures=(figures.reconstructions(reconstruct(encoder, decoder, value)),),
    published=(PUBLISHED,),
    log_every=100,
    sample_every=20_000,
    checkpoint_every=5_000,
  )
