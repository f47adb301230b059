"""GPT-2 at its four sizes, on a text file.

Paper: Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, section 2.3 and
Table 2; the training settings are those of nanoGPT, https://github.com/karpathy/nanoGPT, whose README gives the
losses of OpenAI's weights on OpenWebText. A batch has 512 sequences, as in the GPT-2 paper, and not nanoGPT's 480 (12 x
5 x 8), so that it divides over a power of two of devices.

    jaxgen inspect gpt2 --size xl --target tpu:v5e:16x16 --fsdp 256
    jaxgen train gpt2 --corpus FILE
    jaxgen train gpt2 --size xl --corpus FILE --fsdp 256

FILE is any text; byte pair encoding is trained on it.

Expect: not run here, a pod's work
Cost: not run here; `jaxgen inspect gpt2 --target tpu:v5e:16x16` says it for a pod
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, optimizers
from jaxgen.data import text
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


class Size(NamedTuple):
  """A size of the network.

  Attributes:
    nats: nats per token of OpenWebText with OpenAI's weights, from nanoGPT's README.
    table: the name that nanoGPT's README has for it.
  """

  depth: int
  heads: int
  features: int
  learning_rate: float
  nats: float
  table: str


# Parameters are for 50,257 tokens and a context of 1024.
SIZES = {
  "small": Size(12, 12, 768, 6e-4, 3.12, "README, gpt2"),  # 124,439,808
  "medium": Size(24, 16, 1024, 3e-4, 2.84, "README, gpt2-medium"),  # 354,823,168
  "large": Size(36, 20, 1280, 2.5e-4, 2.67, "README, gpt2-large"),  # 774,030,080
  "xl": Size(48, 25, 1600, 2e-4, 2.54, "README, gpt2-xl"),  # 1,557,611,200
}
NOTE = "OpenAI's weights, trained on WebText, and their tokens"


def experiment(
  size: Literal[*SIZES] = "small",
  steps: int = 600_000,
  batch_size: int = 512,
  learning_rate: float | None = None,
  corpus: str = "data/text.txt",
  vocabulary: int = 50_257,
  context: int = 1024,
  dropout: float = 0.0,
  dtype: Literal["float32", "bfloat16"] = "bfloat16",
  remat: bool = True,
  unroll: int = 1,
  microbatches: int = 1,
  prompt: str = "\n",
  temperature: float = 1.0,
  top_k: int | None = None,
) -> Experiment:
  """A learning rate that is not given is the size's.

  Args:
    size: the network.
    corpus: a text file.
    vocabulary: number of different tokens. A multiple of 128, such as 50304, is faster and can be cut further.
    context: most tokens that it reads.
    dropout: rate, on embeddings, attention's weights and branches.
    dtype: of the computation; parameters, averages, statistics and softmax are float32.
    prompt: what every sample begins with.
    temperature: that logits are divided by in sampling.
    top_k: tokens among which a sample's next one is chosen, the likeliest; all by default.
  """
  chosen = SIZES[size]
  rate = chosen.learning_rate if learning_rate is None else learning_rate
  document = text.document(corpus, length=context, vocabulary=vocabulary, characters=False)
  options = gpt(chosen.features, chosen.heads, chosen.depth, context, dropout)
  network = LanguageModel(vocabulary, options._replace(dtype=jnp.dtype(dtype), remat=remat, unroll=unroll))
  method = language(
    network,
    spec=document.spec,
    start=None,
    length=context,
    optimizer=optimizers.adam(
      rate, steps, warmup=min(2_000, steps // 10), end=rate / 10, clip=1.0, weight_decay=0.1, b2=0.95
    ),
    sampling=Sampling(temperature, top_k),
    context=context,
  )
  return Experiment(
    method=method,
    data=document,
    steps=steps,
    batch_size=batch_size,
    microbatches=microbatches,
    evaluators=(likelihood(),),
    published=(
      Published("Karpathy 2022, nanoGPT", chosen.table, "test_nats_per_token_50257_levels", chosen.nats, note=NOTE),
    ),
    conditions=lambda i: {"prompt": text.encode_prompts(document.name, [prompt] * len(i))},
    render=text.render(document.name),
    evaluate_every=10_000,
    sample_every=10_000,
    samples=4,
    sample_chunk=4,
  )
