"""A decoder-only Transformer on the characters of tiny Shakespeare: nanoGPT's setting for a GPU.

Paper: Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, as in Karpathy's
nanoGPT, https://github.com/karpathy/nanoGPT, whose README gives a validation loss of 1.4697 nats per character, best
of evaluations every 250 steps

    jaxgen train configs/transformer_shakespeare_gpu.py --corpus FILE
    jaxgen sample runs/transformer_shakespeare_gpu --prompt "ROMEO:" --temperature 0.8 --top-k 20 --n 4

FILE is https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt. With byte pair
encoding: `--characters False --vocabulary 1000`.

Expect: not measured
Cost: not measured
"""

import optax

from jaxgen import Experiment
from jaxgen.data import text
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.sequence.language import language
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 5_000,
  batch_size: int = 64,
  learning_rate: float = 1e-3,
  context: int = 256,
  depth: int = 6,
  heads: int = 6,
  features: int = 384,
  dropout: float = 0.2,
  corpus: str = "data/tiny_shakespeare.txt",
  vocabulary: int = 65,
  characters: bool = True,
  prompt: str = "\n",
  length: int = 500,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> Experiment:
  data = text.document(corpus, length=context, vocabulary=vocabulary, characters=characters)
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps, learning_rate / 10)
  method = language(
    LanguageModel(vocabulary, gpt(features, heads, depth, context, dropout)),
    vocabulary=vocabulary,
    length=length,
    start=None,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.1, mask=kernels)),
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    context=context,
  )
  return Experiment(
    method=method,
    data=data,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    published=(
      Published(
        "Karpathy 2022, nanoGPT",
        "README, GPU",
        "test_nats_per_token_65_levels",
        1.4697,
        note="there on some windows of the last tenth of the text, here on all; here with biases, residual layers as "
        "large as others at first, and embeddings that do not decay",
      ),
    ),
    conditions=lambda i: {"prompt": text.encode_prompts(data.name, [prompt] * len(i))},
    render=text.render(data.name),
    evaluate_every=250,
    sample_every=500,
    checkpoint_every=250,
    best=(f"test_nats_per_token_{vocabulary}_levels", "min"),
    samples=4,
    sample_chunk=4,
    evaluate_batch=128,
  )
