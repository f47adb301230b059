"""A decoder-only Transformer on the characters of tiny Shakespeare: nanoGPT's settings for a CPU and for a GPU.

Paper: Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, as in Karpathy's
nanoGPT, https://github.com/karpathy/nanoGPT, whose README gives validation losses of 1.88 (CPU) and 1.4697 nats per
character (GPU, the best of evaluations every 250 steps)

    jaxgen train transformer_shakespeare --corpus FILE
    jaxgen train transformer_shakespeare --size gpu --corpus FILE
    jaxgen sample runs/transformer_shakespeare --prompt "ROMEO:" --temperature 0.8 --top-k 20 --n 4

FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt. With byte pair
encoding: `--characters False --vocabulary 1000`.

Expect: 1.895 nats per character on the last tenth of the text (standard error 0.005). One seed; size gpu not measured
Cost: 4 minutes on 2 CPU cores that were busy with other work as well
"""

from typing import Literal, NamedTuple

from jaxgen import Experiment, optimizers
from jaxgen.data import text
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.text import text_quality
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


class Size(NamedTuple):
  """A size of the network, with its recipe.

  Attributes:
    nats: nats per character, from nanoGPT's README.
    table: the name that nanoGPT's README has for it.
  """

  steps: int
  batch_size: int
  context: int
  depth: int
  heads: int
  features: int
  dropout: float
  nats: float
  table: str


SIZES = {
  "cpu": Size(2_000, 12, 64, 4, 4, 128, 0.0, 1.88, "README, CPU"),
  "gpu": Size(5_000, 64, 256, 6, 6, 384, 0.2, 1.4697, "README, GPU"),
}
NOTE = (
  "there on some windows of the last tenth of the text, here on all; here with biases, and embeddings that do not decay"
)
NAMES = {"transformer_shakespeare_gpu": {"size": "gpu"}}


def experiment(
  size: Literal[*SIZES] = "cpu",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float = 1e-3,
  corpus: str = "data/tiny_shakespeare.txt",
  vocabulary: int = 65,
  characters: bool = True,
  prompt: str = "\n",
  length: int = 500,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  judged: int = 0,
) -> Experiment:
  """Steps and batch size that are not given are the size's.

  Args:
    size: nanoGPT's setting for a CPU or for a GPU: network, context, dropout, steps and batch size.
    corpus: a text file.
    vocabulary: number of different tokens.
    characters: tokens are characters; else byte pair encoding, trained on the text.
    prompt: what every sample begins with.
    length: tokens of a sample, its prompt included.
    temperature: that logits are divided by in sampling.
    top_k: tokens among which a sample's next one is chosen, the likeliest; all by default.
    top_p: nucleus sampling: keep the smallest set of likeliest tokens with this probability; all by default.
    judged: number of samples whose perplexity and variety are computed at every evaluation; 0: none.
  """
  chosen = SIZES[size]
  steps = chosen.steps if steps is None else steps
  document = text.document(corpus, length=chosen.context, vocabulary=vocabulary, characters=characters)
  options = gpt(chosen.features, chosen.heads, chosen.depth, chosen.context, chosen.dropout, activation=gelu)
  method = language(
    LanguageModel(vocabulary, options),
    spec=document.spec,
    start=None,
    length=length,
    optimizer=optimizers.adam(
      learning_rate, steps, warmup=100, end=learning_rate / 10, clip=1.0, weight_decay=0.1, b2=0.99
    ),
    sampling=Sampling(temperature, top_k, top_p),
    context=chosen.context,
  )
  return Experiment(
    method=method,
    data=document,
    steps=steps,
    batch_size=chosen.batch_size if batch_size is None else batch_size,
    evaluators=(likelihood(), *([text_quality(judged, order=5 if characters else 3)] if judged else [])),
    published=(
      Published(
        "Karpathy 2022, nanoGPT",
        chosen.table,
        "test_nats_per_token_65_levels",
        chosen.nats,
        note=NOTE,
        best=size == "gpu",
      ),
    ),
    conditions=lambda i: {"prompt": text.encode_prompts(document.name, [prompt] * len(i))},
    render=text.render(document.name),
    evaluate_every=250,
    sample_every=500,
    checkpoint_every=250,
    best=(f"test_nats_per_token_{vocabulary}_levels", "min"),
    samples=4,
    sample_chunk=4,
    evaluate_batch=128,
  )
