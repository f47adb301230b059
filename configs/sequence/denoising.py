"""Encoder-decoders that are pretrained on texts without translations: BART, MASS and ProphetNet restore what noise has
hidden.

Paper: Lewis et al. 2019, BART, https://arxiv.org/abs/1910.13461; Song et al. 2019, MASS,
https://arxiv.org/abs/1905.02450; Qi et al. 2020, ProphetNet, https://arxiv.org/abs/2001.04063

    jaxgen train denoising --corpus DIR                (or jaxgen train bart_multi30k)
    jaxgen train mass_multi30k --corpus DIR
    jaxgen train prophetnet_multi30k --corpus DIR
    jaxgen inspect denoising --size large --target tpu:v5e:16x16

DIR holds the German sentences and their English ones, as of the config multi30k; only the second language is read.
BART reconstructs the whole sentence from one with masked spans, MASS predicts one half of it from the other, ProphetNet
does the same with two streams. The papers permute sentences as well, and these are single ones. The token that starts a
sequence, which no text contains, is the mask. Sizes base and large are the papers' networks: ProphetNet has one, large.

Expect: not measured
Cost: not measured
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, optimizers
from jaxgen.data import text
from jaxgen.evaluation.evaluators import means
from jaxgen.interop import encoder_decoder, prophetnet
from jaxgen.methods.sequence import noise
from jaxgen.methods.sequence.seq2seq import Marks, seq2seq
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.options import SIZES as NETWORKS
from jaxgen.nn.sequence.prophetnet import LARGE, ProphetNet
from jaxgen.nn.sequence.transformer import EncoderDecoder


class Size(NamedTuple):
  """A size of the network, with its recipe."""

  steps: int
  batch_size: int
  vocabulary: int
  learning_rate: float


SIZES = {
  "small": Size(4_000, 128, 4_000, 1e-3),
  "base": Size(500_000, 512, 50_265, 4e-4),  # BART 139,420,416
  "large": Size(500_000, 512, 50_265, 4e-4),  # BART 406,291,456; ProphetNet 391,321,600 with 30,522 tokens
}
SMALL = dict(features=128, heads=4, hidden=512, depth=2)
NAMES = {
  "bart_multi30k": {"method": "bart"},
  "mass_multi30k": {"method": "mass"},
  "prophetnet_multi30k": {"method": "prophetnet"},
}


def experiment(
  method: Literal["bart", "mass", "prophetnet"] = "bart",
  size: Literal[*SIZES] = "small",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  share: float | None = None,
  mean: float = 3.0,
  vocabulary: int | None = None,
  length: int = 32,
  corpus: str = "data/multi30k",
  dtype: Literal["float32", "bfloat16"] = "float32",
  remat: bool = False,
) -> Experiment:
  """Arguments that are not given are those of the size.

  Args:
    method: the noise of the source, and the prediction of the target.
    size: the network and its recipe.
    share: the share of masked tokens; by default 0.3 for BART and one half for the others.
    mean: length of BART's spans.
    vocabulary: number of tokens.
    length: most tokens of a sentence; longer ones lose their end.
    corpus: the folder of the sentences.
    dtype: of the computation; parameters, averages, statistics and softmax are float32.
  """
  chosen = SIZES[size]
  given = lambda value, default: default if value is None else value
  steps, vocabulary = given(steps, chosen.steps), given(vocabulary, chosen.vocabulary)
  pairs = text.pairs(corpus, ("en", "de"), vocabulary=vocabulary, length=length, test="test_2016_flickr")
  known = noise.Tokens(text.START, text.PAD, (text.START, text.END))
  options = dict(dtype=jnp.dtype(dtype), remat=remat)
  if method == "prophetnet":
    own = LARGE if size != "small" else LARGE._replace(**SMALL, absolute=partial(Learned, length + 1, 1))
    network = ProphetNet(vocabulary, own._replace(**options))
    layout, future = prophetnet.transformers(network), (0.5, 0.5)
  else:
    own = NETWORKS["BART large" if size == "large" else "BART base"]
    own = own if size != "small" else own._replace(**SMALL)
    network = EncoderDecoder(vocabulary, own._replace(**options), output_bias=True)
    layout, future = encoder_decoder.transformers(network), (1.0,)
  if method == "bart":
    lessons = noise.denoising(known, noise.text_infilling(known, given(share, 0.3), mean), text.START)
  else:
    lessons = noise.mass(known, given(share, 0.5))
  rate = given(learning_rate, chosen.learning_rate)
  return Experiment(
    method=seq2seq(
      network,
      spec=pairs.spec,
      optimizer=optimizers.adam(rate, steps, warmup=steps // 10, decay="linear", clip=1.0, weight_decay=0.01, b2=0.98),
      marks=Marks(text.START, text.END, text.PAD),
      lessons=lessons,
      future=future,
    ),
    data=pairs,
    steps=steps,
    batch_size=given(batch_size, chosen.batch_size),
    evaluators=(means("nll_nats", "tokens", "correct"),),
    layouts={"transformers": layout},
    evaluate_every=1_000,
    samples=0,
  )
