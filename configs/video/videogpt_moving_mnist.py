"""VideoGPT on Moving MNIST: a 3-D VQ-VAE with axial attention, and a GPT over its codes.

Paper: Yan et al. 2021, VideoGPT, https://arxiv.org/abs/2104.10157, section 3. The paper's loss is a squared error, here
it is the likelihood of the data's 256 levels. The paper's prior learns the codes after they are learned, here it learns
them meanwhile, as with the VQ-VAE of images. Moving MNIST: Srivastava et al. 2015, https://arxiv.org/abs/1502.04681.

    jaxgen train videogpt_moving_mnist
    jaxgen train videogpt_moving_mnist --images mnist --digits 2 --side 64 --frames 16 --tfds-dir DIR

Expect: not measured
Cost: not measured
"""

import optax

from jaxgen import Experiment, optimizers
from jaxgen.data import clips
from jaxgen.evaluation.clips import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.vqvae import vqvae
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.nn.video.vqvae import Decoder3d, Encoder3d
from jaxgen.probability.distributions import logistic
from jaxgen.show.clips import render

STRIDES = ((2, 2, 2), (1, 2, 2))  # of frames, height and width


def experiment(
  images: str = "digits",
  digits: int = 1,
  frames: int = 8,
  side: int = 16,
  codes: int = 128,
  dim: int = 16,
  features: int = 32,
  blocks: int = 1,
  commitment: float = 0.25,
  decay: float = 0.99,
  prior_features: int = 64,
  prior_depth: int = 3,
  steps: int = 3_000,
  batch_size: int = 32,
  learning_rate: float = 1e-3,
  weight_decay: float = 0.1,
  judged: int = 64,
  tfds_dir: str | None = None,
) -> Experiment:
  """Clips of moving digits become codes, half as many frames of a quarter of the side, and a GPT learns these.

  Args:
    images: the digits: digits, mnist, fashion_mnist, or the name of a data set of 28x28 pictures.
    digits: the number of digits in a clip.
    frames: length of a clip.
    side: height and width of a frame.
    codes: vectors in the codebook.
    dim: width of a code.
    features: of the encoder and the decoder.
    blocks: their residual blocks with axial attention.
    commitment: factor of the distance of the encoder's vectors to their codes.
    decay: of the codebook's moving averages.
    prior_features: width of the Transformer over codes.
    prior_depth: its blocks.
    weight_decay: of all parameters, times the learning rate.
    judged: number of samples that are judged.
  """
  data = clips.moving(images, digits=digits, frames=frames, side=side, data_dir=tfds_dir)
  value, length = logistic(data.levels), (frames // 2) * (side // 4) ** 2
  rate = optimizers.schedule(learning_rate, steps)

  def adamw(numbers: int) -> optax.GradientTransformation:
    """With the clip and the epsilon of a loss in nats per clip, of so many values or codes."""
    adam = optax.adamw(rate, eps=1e-8 / numbers, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(200.0 / numbers), adam)

  method = vqvae(
    Encoder3d(dim, features, STRIDES, blocks),
    Decoder3d(1, features, STRIDES, blocks, outputs=value.parameters),
    LanguageModel(codes + 1, gpt(prior_features, 4, prior_depth, context=length, dropout=0.1)),
    value,
    spec=data.spec,
    codes=codes,
    optimizer=adamw(data.spec.size),
    prior_optimizer=adamw(length),
    commitment=commitment,
    decay=decay,
    drawn=False,
  )
  return Experiment(
    method=method,
    data=data,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet(judged)),
    render=render(),
    samples=16,
    sample_chunk=16,
    sample_every=1_000,
    checkpoint_every=1_000,
  )
