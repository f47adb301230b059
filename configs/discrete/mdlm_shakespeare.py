"""Discrete diffusion on the characters of tiny Shakespeare: MDLM, D3PM, multinomial diffusion and SEDD.

Paper: MDLM: Sahoo et al. 2024, https://arxiv.org/abs/2406.07524; D3PM: Austin et al. 2021,
https://arxiv.org/abs/2107.03006; multinomial: Hoogeboom et al. 2021, https://arxiv.org/abs/2102.05379; SEDD: Lou et al.
2024, https://arxiv.org/abs/2310.16834. They have larger texts, and no number for this one.

    jaxgen train mdlm_shakespeare --corpus FILE
    jaxgen train mdlm_shakespeare --kind d3pm --corpus FILE          (any of KINDS; also as d3pm_shakespeare)
    jaxgen sample runs/mdlm_shakespeare --prompt "ROMEO:" --n 4

FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt. All kinds have the
same network, about as large as that of `jaxgen train transformer_shakespeare`.

Expect: not measured; the number is a bound in nats per character
Cost: not measured
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxgen import Experiment, UserError, discrete, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import text
from jaxgen.discrete import PREDICTIONS, Process
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.text import text_quality
from jaxgen.methods.discrete.diffusion import Objective, Sampler, discrete_diffusion
from jaxgen.nn.transformers.ddit import SIZES, DDiT


class Kind(NamedTuple):
  """A method of discrete diffusion.

  Attributes:
    process: vocabulary -> the process.
    prediction: the network's output.
    hybrid: the factor of the cross-entropy that is added to the bound.
    timeless: the network does not get the time, which the number of masks shows.
  """

  process: Callable[[int], Process]
  prediction: discrete.PredictionName = "x_0"
  hybrid: float = 0.0
  timeless: bool = False


KINDS = {
  "mdlm": Kind(lambda v: discrete.absorbing(discrete.linear(), v), timeless=True),
  "d3pm": Kind(lambda v: discrete.absorbing(discrete.linear(), v, 1000), hybrid=0.01),
  "d3pm_uniform": Kind(lambda v: discrete.uniform(discrete.cosine(), v, 1000), hybrid=0.01),
  "multinomial": Kind(lambda v: discrete.uniform(discrete.cosine(), v, 1000)),
  "sedd": Kind(lambda v: discrete.absorbing(discrete.linear(), v), "score"),
  "sedd_uniform": Kind(lambda v: discrete.uniform(discrete.geometric(), v), "score"),
}
NAMES = {"d3pm_shakespeare": {"kind": "d3pm"}, "sedd_shakespeare": {"kind": "sedd"}}


def experiment(
  kind: Literal[*KINDS] = "mdlm",
  steps: int = 5_000,
  batch_size: int = 32,
  learning_rate: float = 1e-3,
  size: Literal[*SIZES] = "tiny",
  context: int = 64,
  dropout: float = 0.0,
  ema: float = 0.999,
  solver: discrete.SolverName = "ancestral",
  sampling_steps: int = 128,
  length: int = 256,
  prompt: str = "\n",
  corpus: str = "data/tiny_shakespeare.txt",
  vocabulary: int = 65,
  characters: bool = True,
  evaluation_terms: int = 16,
  judged: int = 16,
) -> Experiment:
  """A Transformer that sees all of a window learns which characters noise has taken.

  Args:
    kind: the process, the network's output and the loss.
    size: of the network, `jaxgen.nn.transformers.ddit.SIZES`.
    context: characters of a window.
    dropout: rate after each branch of a block.
    ema: the average's decay.
    solver: what samples are drawn by; those of masks need a kind with masks.
    sampling_steps: of each window of a sample.
    length: characters of a sample, for kinds with masks; others write a window.
    prompt: what samples begin with, for kinds with masks.
    corpus: a text file.
    vocabulary: number of different tokens.
    characters: tokens are characters; else byte pair encoding, trained on the text.
    evaluation_terms: draws of the time for each evaluated window.
    judged: number of samples whose perplexity and variety are judged.
  """
  chosen = KINDS[kind]
  document = text.document(corpus, length=context - 1, vocabulary=vocabulary, characters=characters)
  process = chosen.process(vocabulary)
  masks = process.mask is not None
  if not masks and prompt != "\n":
    raise UserError(f"{kind} has no masks, so that its samples continue no prompt: leave out --prompt")
  method = discrete_diffusion(
    DDiT(vocabulary, states=process.states, timeless=chosen.timeless, dropout=dropout, **SIZES[size]),
    process,
    document.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(PREDICTIONS[chosen.prediction], hybrid=chosen.hybrid, batch_size=batch_size),
    sampler=Sampler(discrete.SOLVERS[solver], steps=sampling_steps, length=length if masks else None),
    terms=evaluation_terms,
  )
  return Experiment(
    method=averaged(method, ema),
    data=document,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), text_quality(judged, order=5 if characters else 3)),
    conditions=(lambda i: {"prompt": text.encode_prompts(document.name, [prompt] * len(i))}) if masks else None,
    render=text.render(document.name),
    samples=4,
    sample_chunk=4,
    evaluate_batch=128,
  )
