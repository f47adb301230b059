"""BERT: masked language model and next-sentence prediction on your own documents.

Paper: Devlin et al. 2018, BERT, https://arxiv.org/abs/1810.04805, section 3.1 and Appendix A.2: batches of 256, a
million steps, Adam at 1e-4 with 10,000 steps of warm-up and a weight decay of 0.01; 110 M and 340 M parameters

    jaxgen train bert_shakespeare --corpus FILE
    jaxgen inspect bert --size large --target tpu:v5e:16x16
    jaxgen import model.safetensors bert --tokenizer DIR --vocabulary 30522 --name mine
    jaxgen train bert --corpus "notes/*.txt" --tokenizer DIR --vocabulary 30522

FILE's documents stand between empty lines, and its lines are sentences; a folder, a pattern and JSON lines are read as
well (docs/language.md). DIR has the tokenizer of published weights, vocab.txt or tokenizer.json; without it WordPiece
of `vocabulary` tokens is trained. The paper trains the first nine tenths of the steps with 128 tokens: `--length 128`.

Expect: not measured
Cost: not measured
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, optimizers
from jaxgen.data import text
from jaxgen.evaluation.evaluators import means
from jaxgen.interop import encoder
from jaxgen.methods.sequence.masked import masked_language
from jaxgen.methods.sequence.masking import Masking
from jaxgen.nn.sequence.bert import BERT
from jaxgen.nn.sequence.options import SIZES as NETWORKS


class Size(NamedTuple):
  """A size of the network, with its recipe."""

  steps: int
  batch_size: int
  length: int
  vocabulary: int
  learning_rate: float


SIZES = {
  "shakespeare": Size(1_000, 64, 64, 2_000, 1e-3),
  "base": Size(1_000_000, 256, 512, 30_522, 1e-4),  # 110,106,428 with both heads, 109,514,298 without the second
  "large": Size(1_000_000, 256, 512, 30_522, 1e-4),
}
NAMES = {"bert_shakespeare": {"size": "shakespeare"}}


def experiment(
  size: Literal[*SIZES] = "base",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  corpus: str = "data/text.txt",
  tokenizer: str | None = None,
  vocabulary: int | None = None,
  length: int | None = None,
  next_sentence: bool = True,
  unit: Literal["token", "span"] = "token",
  share: float = 0.15,
  dtype: Literal["float32", "bfloat16"] = "float32",
  remat: bool = False,
  microbatches: int = 1,
) -> Experiment:
  """Arguments that are not given are those of the size.

  Args:
    size: the network and its recipe.
    corpus: a text file, a folder, a pattern, or JSON lines with a field's name, "data/*.jsonl#text".
    tokenizer: a published tokenizer's file or folder.
    vocabulary: number of tokens.
    length: tokens of a pair of segments.
    next_sentence: whether the network also tells if the second segment follows the first.
    unit: the unit that is masked as a whole.
    share: the share of tokens to predict.
    dtype: of the computation; parameters, averages, statistics and softmax are float32.
  """
  chosen = SIZES[size]
  given = lambda value, default: default if value is None else value
  steps, vocabulary = given(steps, chosen.steps), given(vocabulary, chosen.vocabulary)
  documents = text.segments(corpus, length=given(length, chosen.length), vocabulary=vocabulary, tokenizer=tokenizer)
  options = NETWORKS["BERT large" if size == "large" else "BERT base"]
  if size == "shakespeare":
    options = options._replace(features=128, heads=4, hidden=512, depth=4)
  network = BERT(vocabulary, options._replace(dtype=jnp.dtype(dtype), remat=remat), next_sentence=next_sentence)
  marks = text.marks(tokenizer)
  special = (marks.pad, marks.start, marks.end, marks.mask)
  rate = given(learning_rate, chosen.learning_rate)
  numbers = ("masked_nats", "masked_accuracy") + ("next_nats", "next_accuracy") * next_sentence
  return Experiment(
    method=masked_language(
      network,
      spec=documents.spec,
      optimizer=optimizers.adam(rate, steps, warmup=steps // 100, decay="linear", clip=1.0, weight_decay=0.01),
      masking=Masking(marks.mask, special, share=share, unit=unit),
      pad=marks.pad,
    ),
    data=documents,
    steps=steps,
    batch_size=given(batch_size, chosen.batch_size),
    microbatches=microbatches,
    evaluators=(means(*numbers),),
    layouts={"transformers": encoder.pretraining(network)},
    evaluate_every=1_000,
    samples=0,
  )
