"""Variational autoencoder with a Bernoulli likelihood on scikit-learn's 8x8 digits, black and white.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114: one hidden layer of
tanh in the encoder and in the decoder, as in its Appendix C. Test likelihood by importance sampling: Burda et al. 2016,
https://arxiv.org/abs/1509.00519, section 5.1.

    jaxgen train vae_digits
    jaxgen train vae_digits --latent 2           (draws the manifold, too: the paper's Figure 4)
    jaxgen train vae_digits --importance-weighted True --k 20

Expect: 17.85 nats by 5,000 importance samples (standard error 0.19), the bound 18.59; on the training digits 16.58. One
seed
Cost: 1 minute on 2 CPU cores, which others used as well
"""

from jaxgen import Experiment, data, optimizers
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vae import to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import MLPDecoder, MLPEncoder
from jaxgen.probability.distributions import bernoulli
from jaxgen.show import figures


def experiment(
  latent: int = 10,
  hidden: tuple[int, ...] = (200,),
  k: int = 1,
  importance_weighted: bool = False,
  beta: float = 1.0,
  free_bits: float = 0.0,
  importance_samples: int = 5_000,
  drawn: bool = True,
  steps: int = 4_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
) -> Experiment:
  """
  Args:
    latent: dimensions of z.
    hidden: units of the encoder's hidden layers; the decoder has them in reverse order.
    k: samples of z for each training example.
    importance_weighted: train by the importance-weighted bound of k samples instead of the ELBO.
    beta: factor of the KL.
    free_bits: nats up to which a latent dimension's KL is not made smaller.
    importance_samples: samples of z for each example whose likelihood is evaluated.
    drawn: samples are drawn from p(x | z), else they are its means.
  """
  digits = data.binarized(data.digits())
  encoder, decoder = MLPEncoder(latent, hidden), MLPDecoder(digits.spec.shape, hidden[::-1])
  encode, decode = to_latent(encoder), to_image(decoder, bernoulli())
  method = vae(
    encoder,
    decoder,
    bernoulli(),
    spec=digits.spec,
    latent=latent,
    # Adam's epsilon is that of a loss in nats per image, and the loss is in nats per value.
    optimizer=optimizers.adam(learning_rate, steps, eps=1e-8 / digits.spec.size),
    k=k,
    importance_weighted=importance_weighted,
    beta=beta,
    free_bits=free_bits,
    importance_samples=importance_samples,
    drawn=drawn,
  )
  drawings = [
    figures.reconstructions(lambda state, x: decode(state, encode(state, x))),
    figures.traversals(encode, decode),
  ]
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood("train"), likelihood()),
    figures=[*drawings, figures.manifold(decode)] if latent == 2 else drawings,
    sample_every=1_000,
  )
