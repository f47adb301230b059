"""The Transformer translates English into German: Multi30k's descriptions of pictures.

Paper: Vaswani et al. 2017, Attention is all you need, https://arxiv.org/abs/1706.03762, smaller, since the data is;
data: Elliott et al. 2016, https://aclanthology.org/W16-3210

    jaxgen train configs/transformer_multi30k.py --corpus DIR

DIR holds train.en, train.de, test_2016_flickr.en and test_2016_flickr.de, or the same with .gz, a sentence a line.

Expect: test BLEU (2016 Flickr, greedy decoding, sacrebleu's own tokens) 35.6; 33.4 after 2,000 steps. One seed
Cost: 40 minutes on 2 CPU cores
"""

import optax

from jaxgen import Experiment
from jaxgen.data import text
from jaxgen.evaluation.evaluators import bleu
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.sequence.transformer import EncoderDecoder, Options
from jaxgen.optimizers import kernels
from jaxgen.show import figures


def experiment(
  steps: int = 4_000,
  batch_size: int = 128,
  learning_rate: float = 3e-3,
  features: int = 128,
  heads: int = 4,
  hidden: int = 512,
  depth: int = 2,
  dropout: float = 0.1,
  label_smoothing: float = 0.1,
  vocabulary: int = 4_000,
  length: int = 32,
  corpus: str = "data/multi30k",
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 10, steps)
  method = seq2seq(
    EncoderDecoder(vocabulary, Options(features, heads, hidden, depth, norm="pre", dropout=dropout)),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=1e-4, mask=kernels)),
    vocabulary=vocabulary,
    length=length,
    start=text.START,
    end=text.END,
    pad=text.PAD,
    label_smoothing=label_smoothing,
  )
  pairs = text.pairs(corpus, ("en", "de"), vocabulary=vocabulary, length=length, test="test_2016_flickr")
  return Experiment(
    method=method,
    data=pairs,
    steps=steps,
    batch_size=batch_size,
    evaluators=(bleu(),),
    evaluate_every=1_000,
    checkpoint_every=500,
    samples=32,
    conditions=figures.sources(pairs),
    render=figures.translations(pairs),
  )
