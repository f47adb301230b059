"""A recurrent encoder-decoder with attention learns to write strings from their end.

Paper: Bahdanau et al. 2014, https://arxiv.org/abs/1409.0473, and Luong et al. 2015, https://arxiv.org/abs/1508.04025,
on a task that needs their attention: the first output token is the last input token. The network is trained on strings
of 1, 3, 5, ... 17 letters and tested on lengths that it has not seen, 2, 4, ... 16.

    jaxgen train reverse_strings

Expect: 0.997 of the strings exact (standard error 0.001), with `--attention multiplicative` 0.966
Cost: 1 minute on 2 CPU cores
"""

from typing import Literal

from jaxgen import Experiment, data, optimizers
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.sequence.seq2seq import Additive, Multiplicative, Seq2Seq
from jaxgen.show import figures

DECODERS = {"additive": Additive, "multiplicative": Multiplicative}


def experiment(
  steps: int = 600,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  features: int = 64,
  letters: int = 26,
  train_lengths: str = "1-17-2",
  test_lengths: str = "2-16-2",
  attention: Literal["additive", "multiplicative"] = "additive",
  label_smoothing: float = 0.0,
) -> Experiment:
  """
  Args:
    features: width of the recurrent layers and of the embeddings.
    letters: number of different letters.
    train_lengths: LEAST-MOST-STEP of the strings that are learned from.
    test_lengths: LEAST-MOST-STEP of the strings that are tested.
    attention: the decoder's attention to the source.
    label_smoothing: share of a target's mass that is spread over all tokens.
  """
  longest = max(int(lengths.split("-")[1]) for lengths in (train_lengths, test_lengths))
  strings = data.reversed_strings(letters, longest + 1, train=train_lengths, test=test_lengths)
  tokens = strings.spec.levels
  network = Seq2Seq(tokens, tokens, features, features, decoder=DECODERS[attention])
  return Experiment(
    method=seq2seq(
      network,
      spec=strings.spec,
      optimizer=optimizers.adam(learning_rate, steps, clip=1.0),
      label_smoothing=label_smoothing,
    ),
    data=strings,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    checkpoint_every=200,
    samples=0,
    figures=(figures.attention(network, figures.letters, start=1, end=2),),
    evaluate_batch=1024,
  )
