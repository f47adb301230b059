"""Masked diffusion of sequences with known probabilities: a Markov chain of the second order.

Paper: Sahoo et al. 2024, Simple and effective masked diffusion language models, https://arxiv.org/abs/2406.07524. The
data is ours: the smallest possible number of nats is its entropy, `jaxgen.data.sources.chain.entropy`.

    jaxgen train mdlm_chain
    jaxgen train mdlm_chain --noise uniform

Expect: at most 1.089 nats per token (standard error 0.003), 0.018 above the entropy of 1.071; one seed
Cost: 2 to 3 minutes on 2 CPU cores that were busy with other work as well
"""

from typing import Literal

from jaxgen import Experiment, data, discrete, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.text import text_quality
from jaxgen.methods.discrete.diffusion import Objective, Sampler, discrete_diffusion
from jaxgen.nn.transformers.ddit import DDiT

NOISES = {"absorbing": discrete.absorbing, "uniform": discrete.uniform}


def experiment(
  noise: Literal[*NOISES] = "absorbing",
  steps: int = 3_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  width: int = 64,
  depth: int = 3,
  vocabulary: int = 4,
  length: int = 8,
  ema: float = 0.995,
  schedule: discrete.ScheduleName = "linear",
  solver: discrete.SolverName = "ancestral",
  sampling_steps: int = 32,
  evaluation_terms: int = 32,
  judged: int = 1_000,
) -> Experiment:
  """A small Transformer learns the chain.

  Args:
    noise: the noise: tokens become masks, or random tokens.
    width: features of a token.
    depth: number of blocks.
    vocabulary: number of different tokens.
    length: tokens of a sequence.
    ema: the average's decay.
    schedule: the share of tokens that remain, as a function of time.
    solver: the solver for samples.
    sampling_steps: number of steps of the solver.
    evaluation_terms: number of times that are drawn for each evaluated sequence.
    judged: number of samples whose perplexity and variety are evaluated.
  """
  chain = data.markov_chain(vocabulary, length)
  process = NOISES[noise](discrete.SCHEDULES[schedule](), vocabulary)
  method = discrete_diffusion(
    DDiT(vocabulary, width, depth, 4, states=process.states, told=32, timeless=process.mask is not None),
    process,
    chain.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(batch_size=batch_size),
    sampler=Sampler(discrete.SOLVERS[solver], steps=sampling_steps),
    terms=evaluation_terms,
  )
  return Experiment(
    method=averaged(method, ema),
    data=chain,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), text_quality(judged, order=3)),
    render=lambda samples, conditions: {".txt": "\n".join(" ".join(map(str, row)) for row in samples).encode()},
    evaluate_batch=1000,
  )
