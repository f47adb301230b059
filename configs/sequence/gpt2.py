"""GPT-2 in its four sizes, GPT and GPT-3, on a text file or on your own documents.

Paper: Radford et al. 2019, Language models are unsupervised multitask learners (GPT-2),
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf, section 2.3 and
Table 2; the training settings are those of nanoGPT, https://github.com/karpathy/nanoGPT, whose README gives the
losses of OpenAI's weights on OpenWebText. A batch has 512 sequences, as in the GPT-2 paper, and not nanoGPT's 480 (12 x
5 x 8), so that it divides over a power of two of devices.

    jaxgen inspect gpt2 --size xl --target tpu:v5e:16x16 --fsdp 256
    jaxgen train gpt2 --corpus FILE
    jaxgen train gpt2 --size xl --corpus FILE --fsdp 256

    jaxgen import model.safetensors gpt2 --tokenizer DIR --name mine
    jaxgen sample runs/mine --prompt "The meaning of life is"

FILE is any text; byte pair encoding is trained on it, or DIR has a published tokenizer, vocab.json and merges.txt. With
`--documents True` FILE may be a folder, a pattern or JSON lines (docs/data.md), and no document sees another. The other
papers are Radford et al. 2018 (GPT) and Brown et al. 2020, https://arxiv.org/abs/2005.14165 (GPT-3, Table 2.1: learning
rates, and contexts of 2048); `nn.sequence.gpt` describes the choices where that table is inconsistent.

Expect: not run here, a pod's work
Cost: not run here; `jaxgen inspect gpt2 --target tpu:v5e:16x16` says it for a pod
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, optimizers
from jaxgen.data import text
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.interop import gpt as layouts
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.gpt import SIZES as NETWORKS
from jaxgen.nn.sequence.transformer import LanguageModel


class Size(NamedTuple):
  """A size of the network.

  Attributes:
    network: its name in `nn.sequence.gpt.SIZES`, which has the number of parameters.
    nats: nats per token of OpenWebText with OpenAI's weights, from nanoGPT's README.
    table: the name that nanoGPT's README has for it.
  """

  network: str
  learning_rate: float
  nats: float | None = None
  table: str = ""
  context: int = 1024
  vocabulary: int = 50_257


SIZES = {
  "small": Size("GPT-2 small", 6e-4, 3.12, "README, gpt2"),
  "medium": Size("GPT-2 medium", 3e-4, 2.84, "README, gpt2-medium"),
  "large": Size("GPT-2 large", 2.5e-4, 2.67, "README, gpt2-large"),
  "xl": Size("GPT-2 XL", 2e-4, 2.54, "README, gpt2-xl"),
  "gpt": Size("GPT", 2.5e-4, context=512, vocabulary=40_478),
  "gpt3_small": Size("GPT-3 small", 6e-4, context=2048),
  "gpt3_medium": Size("GPT-3 medium", 3e-4, context=2048),
  "gpt3_large": Size("GPT-3 large", 2.5e-4, context=2048),
  "gpt3_xl": Size("GPT-3 XL", 2e-4, context=2048),
  "gpt3_2.7b": Size("GPT-3 2.7B", 1.6e-4, context=2048),
  "gpt3_6.7b": Size("GPT-3 6.7B", 1.2e-4, context=2048),
  "gpt3_13b": Size("GPT-3 13B", 1e-4, context=2048),
  "gpt3_175b": Size("GPT-3 175B", 0.6e-4, context=2048),
}
NOTE = "OpenAI's weights, trained on WebText, and their tokens"


def experiment(
  size: Literal[*SIZES] = "small",
  steps: int = 600_000,
  batch_size: int = 512,
  learning_rate: float | None = None,
  corpus: str = "data/text.txt",
  documents: bool = False,
  tokenizer: str | None = None,
  vocabulary: int | None = None,
  context: int | None = None,
  dropout: float = 0.0,
  dtype: Literal["float32", "bfloat16"] = "bfloat16",
  remat: bool = True,
  unroll: int = 1,
  microbatches: int = 1,
  prompt: str = "\n",
  temperature: float = 1.0,
  top_k: int | None = None,
) -> Experiment:
  """Learning rate, vocabulary and context that are not given are the size's.

  Args:
    size: the network.
    corpus: a text file; of documents also a folder, a pattern, or JSON lines with a field's name, "data/*.jsonl#text".
    documents: rows have several documents, without attention between them; else windows of one text.
    tokenizer: a published tokenizer's file or folder.
    vocabulary: number of different tokens. A multiple of 128, such as 50304, is faster and can be cut further.
    context: most tokens that it reads.
    dropout: rate, on embeddings, attention's weights and branches.
    dtype: of the computation; parameters, averages, statistics and softmax are float32.
    prompt: what every sample begins with.
    temperature: that logits are divided by in sampling.
    top_k: tokens among which a sample's next one is chosen, the likeliest; all by default.
  """
  chosen = SIZES[size]
  given = lambda value, default: default if value is None else value
  rate, vocabulary = given(learning_rate, chosen.learning_rate), given(vocabulary, chosen.vocabulary)
  context = given(context, chosen.context)
  if documents:
    document = text.documents(corpus, length=context + 1, vocabulary=vocabulary, tokenizer=tokenizer)
  else:
    document = text.document(corpus, length=context, vocabulary=vocabulary, characters=False, tokenizer=tokenizer)
  options = NETWORKS[chosen.network]._replace(
    absolute=partial(Learned, context), dropout=dropout, attention_dropout=dropout
  )
  network = LanguageModel(vocabulary, options._replace(dtype=jnp.dtype(dtype), remat=remat, unroll=unroll))
  layout = layouts.openai_gpt if size == "gpt" else layouts.gpt2
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
    documents="documents" if documents else None,
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
    )
    if chosen.nats
    else (),
    layouts={"transformers": layout(network), "transformers_body": layout(network, prefix="")},
    conditions=lambda i: {"prompt": text.encode_prompts(document.name, [prompt] * len(i))},
    render=text.render(document.name),
    evaluate_every=10_000,
    sample_every=10_000,
    samples=4,
    sample_chunk=4,
  )
