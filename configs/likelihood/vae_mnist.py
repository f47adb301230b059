"""Variational and importance-weighted autoencoders of binarized MNIST.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114: 500 tanh units in the
encoder and in the decoder, 20 latent dimensions as in Figure 2; it gives curves of the bound, no number.
Burda et al. 2016, Importance weighted autoencoders, https://arxiv.org/abs/1509.00519, one stochastic layer: two layers
of 200 tanh units, 50 latent dimensions, batches of 20, 3,280 epochs; 5,000 importance samples of MNIST binarized anew
at every use (Table 1) and of Larochelle's fixed binarization (Appendix D).

    jaxgen train vae_mnist --tfds-dir DIR
    jaxgen train vae_mnist --model vae_500_plane --tfds-dir DIR     (draws the manifold of Kingma's Figure 4, too)
    jaxgen train vae_mnist --model iwae_5 --tfds-dir DIR

Expect: nats (standard error 0.2) in 50 to 60 epochs, one seed each: vae_500 92.6; vae 93.8 and iwae_5 90.2; vae_fixed
93.3 and iwae_5_fixed 90.6
Cost: vae_500 4 minutes of training and 10 minutes of evaluation on 1 CPU core, iwae_5 7 and 10
"""

from typing import Literal, NamedTuple

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vae import to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import MLPDecoder, MLPEncoder
from jaxgen.probability.distributions import bernoulli
from jaxgen.show import figures


class Preset(NamedTuple):
  """A model of a paper.

  Attributes:
    binarized: "once" is the fixed binarization; "anew" draws it in every epoch.
    nats: the paper's number, in nats; None: the paper has none.
  """

  binarized: Literal["once", "anew"]
  hidden: tuple[int, ...]
  latent: int
  importance_weighted: bool
  k: int
  table: str
  nats: float | None
  note: str


KINGMA = (
  "the paper's VAE has two layers of 200 units and 50 latent dimensions, and trains for 3,280 epochs; this one is "
  "Kingma and Welling's 784-500-20, for 60 epochs"
)
BURDA = "the paper trains for 3,280 epochs in batches of 20, this for 50 to 60 in batches of 100"
D, D_LAYER = "Appendix D", "Appendix D, one stochastic layer, k = 1"
PRESETS = {
  "vae_500": Preset("once", (500,), 20, False, 1, D_LAYER, 88.71, KINGMA),
  "vae_500_plane": Preset("once", (500,), 2, False, 1, D_LAYER, None, KINGMA),
  "vae": Preset("anew", (200, 200), 50, False, 1, "Table 1", 86.76, BURDA),
  "iwae_1": Preset("anew", (200, 200), 50, True, 1, "Table 1", 86.76, BURDA),
  "iwae_5": Preset("anew", (200, 200), 50, True, 5, "Table 1", 85.54, BURDA),
  "iwae_50": Preset("anew", (200, 200), 50, True, 50, "Table 1", 84.78, BURDA),
  "vae_fixed": Preset("once", (200, 200), 50, False, 1, D, 88.71, BURDA),
  "iwae_1_fixed": Preset("once", (200, 200), 50, True, 1, D, 88.71, BURDA),
  "iwae_5_fixed": Preset("once", (200, 200), 50, True, 5, D, 87.63, BURDA),
  "iwae_50_fixed": Preset("once", (200, 200), 50, True, 50, D, 87.10, BURDA),
}
Model = Literal[
  "vae_500", "vae_500_plane", "vae", "iwae_1", "iwae_5", "iwae_50", "vae_fixed", "iwae_1_fixed", "iwae_5_fixed",
  "iwae_50_fixed",
]  # fmt: skip
NAMES = {"iwae_mnist": {"model": "iwae_5"}}


def experiment(
  model: Model = "vae_500",
  beta: float = 1.0,
  free_bits: float = 0.0,
  importance_samples: int = 5_000,
  drawn: bool = True,
  steps: int = 30_000,
  batch_size: int = 100,
  learning_rate: float = 3e-3,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """
  Args:
    model: networks, the bound that is trained and the number k of its samples (iwae_5: 5), and MNIST binarized anew at
      every use or once (_fixed and vae_500). vae_500 has Kingma's networks and vae_500_plane a latent plane; the others
      have Burda's.
    beta: factor of the KL; of the ELBO alone.
    free_bits: nats up to which a latent dimension's KL is not made smaller; of the ELBO alone.
    importance_samples: samples of z for each example whose likelihood is evaluated.
    drawn: samples are drawn from p(x | z), else they are its means.
  """
  preset = PRESETS[model]
  mnist = data.binarized_mnist(tfds_dir, drawn=preset.binarized)
  encoder = MLPEncoder(preset.latent, preset.hidden)
  decoder = MLPDecoder(mnist.spec.shape, preset.hidden[::-1])
  encode, decode = to_latent(encoder), to_image(decoder, bernoulli())
  method = vae(
    encoder,
    decoder,
    bernoulli(),
    spec=mnist.spec,
    latent=preset.latent,
    # Adam's epsilon is that of a loss in nats per image, as the papers', and the loss is in nats per value.
    optimizer=optimizers.adam(learning_rate, steps, eps=1e-8 / mnist.spec.size),
    k=preset.k,
    importance_weighted=preset.importance_weighted,
    beta=beta,
    free_bits=free_bits,
    importance_samples=importance_samples,
    drawn=drawn,
  )
  drawings = [
    figures.reconstructions(lambda state, x: decode(state, encode(state, x))),
    figures.traversals(encode, decode),
  ]
  paper = f"Burda et al. 2016 ({'IWAE' if preset.importance_weighted else 'VAE'})"
  metric = f"test_nll_nats_2_levels_importance_{importance_samples}"
  published = [] if preset.nats is None else [Published(paper, preset.table, metric, preset.nats, preset.note)]
  return Experiment(
    method=averaged(method, ema),
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    figures=[*drawings, figures.manifold(decode)] if preset.latent == 2 else drawings,
    published=published,
    log_every=500,
    sample_every=10_000,
    checkpoint_every=5_000,
    microbatches=microbatches,
  )
