"""A recurrent encoder-decoder with attention translates English into German: Multi30k's descriptions of pictures.

Paper: Bahdanau et al. 2014, Neural machine translation by jointly learning to align and translate,
https://arxiv.org/abs/1409.0473; data: Elliott et al. 2016, https://aclanthology.org/W16-3210

    jaxgen train configs/attention_multi30k.py --corpus DIR

DIR holds train.en, train.de, test_2016_flickr.en and test_2016_flickr.de, or the same with .gz, a sentence a line.

Expect: not measured
Cost: not measured
"""

from typing import Literal

import optax

from jaxgen import Experiment
from jaxgen.data import text
from jaxgen.evaluation.evaluators import bleu
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.sequence.seq2seq import Additive, Multiplicative, Seq2Seq
from jaxgen.optimizers import kernels
from jaxgen.show import figures


def experiment(
  steps: int = 4_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  features: int = 192,
  embedding: int = 128,
  attention: Literal["additive", "multiplicative"] = "additive",
  dropout: float = 0.2,
  label_smoothing: float = 0.1,
  vocabulary: int = 4_000,
  length: int = 32,
  corpus: str = "data/multi30k",
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 10, steps)
  decoder = {"additive": Additive, "multiplicative": Multiplicative}[attention]
  network = Seq2Seq(vocabulary, vocabulary, features, embedding, decoder=decoder, dropout=dropout)
  method = seq2seq(
    network,
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
    figures=(figures.attention(network, figures.pieces(pairs), start=text.START, end=text.END),),
  )
