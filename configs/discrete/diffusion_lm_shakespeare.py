"""Characters by continuous diffusion of their codes: Diffusion-LM and bit diffusion on tiny Shakespeare.

Paper: Diffusion-LM: Li et al. 2022, https://arxiv.org/abs/2205.14217; bit diffusion: Chen et al. 2022,
https://arxiv.org/abs/2208.04202. The papers have other texts, and no number for this one.

    jaxgen train diffusion_lm_shakespeare --corpus FILE
    jaxgen train diffusion_lm_shakespeare --kind bits --corpus FILE      (also as bit_diffusion_shakespeare)

FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt. The network, the
windows and the training are those of `jaxgen train mdlm_shakespeare`, so that bounds in nats per character compare.

Expect: not measured; the number is a bound in nats per character
Cost: not measured
"""

from typing import Literal

from jaxgen import Experiment, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import text
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.text import text_quality
from jaxgen.methods.discrete.embedding import Codes, bits, embedding_diffusion
from jaxgen.nn.transformers.ddit import SIZES, DDiT

NAMES = {"bit_diffusion_shakespeare": {"kind": "bits"}}


def experiment(
  kind: Literal["embeddings", "bits"] = "embeddings",
  steps: int = 5_000,
  batch_size: int = 32,
  learning_rate: float = 1e-3,
  size: Literal[*SIZES] = "tiny",
  context: int = 64,
  width: int = 16,
  clamp: bool | None = None,
  self_condition: bool = True,
  dropout: float = 0.0,
  ema: float = 0.999,
  sampling_steps: int = 200,
  corpus: str = "data/tiny_shakespeare.txt",
  vocabulary: int = 65,
  characters: bool = True,
  evaluation_terms: int = 16,
  judged: int = 16,
) -> Experiment:
  """A Transformer predicts the codes of a window's characters from noisy ones.

  Args:
    kind: embeddings that are learned, or the bits of a character's number.
    size: of the network, `jaxgen.nn.transformers.ddit.SIZES`.
    context: characters of a window, and of a sample.
    width: values of an embedding.
    clamp: whether each predicted code of a sample is replaced by the nearest character's; by default for embeddings,
      as in the papers.
    self_condition: whether the network also reads its last prediction.
    dropout: rate after each branch of a block.
    ema: the average's decay.
    sampling_steps: number of steps of a sample.
    corpus: a text file.
    vocabulary: number of different tokens.
    characters: tokens are characters; else byte pair encoding, trained on the text.
    evaluation_terms: draws of the time for each evaluated window.
    judged: number of samples whose perplexity and variety are judged.
  """
  document = text.document(corpus, length=context - 1, vocabulary=vocabulary, characters=characters)
  codes = Codes(width) if kind == "embeddings" else bits(vocabulary)
  method = embedding_diffusion(
    DDiT(codes.width, dropout=dropout, **SIZES[size]),
    codes,
    document.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    clamp=kind == "embeddings" if clamp is None else clamp,
    self_condition=self_condition,
    sampling_steps=sampling_steps,
    terms=evaluation_terms,
  )
  return Experiment(
    method=averaged(method, ema),
    data=document,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), text_quality(judged, order=5 if characters else 3)),
    render=text.render(document.name),
    samples=4,
    sample_chunk=4,
    evaluate_batch=128,
  )
