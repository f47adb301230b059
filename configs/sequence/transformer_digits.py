"""A decoder-only Transformer on the pixels of scikit-learn's 8x8 digits, one after the other.

Paper: Chen et al. 2020, Generative pretraining from pixels (image GPT),
https://cdn.openai.com/papers/Generative_Pretraining_from_Pixels_V2.pdf, section 2: GPT-2 over pixels in raster order

    jaxgen train transformer_digits

Expect: 1.81 bits/dim on the test digits (standard error 0.01); frechet_1437 2.72, 2.43 times its floor. One seed
Cost: 1 minute 50 seconds on 2 CPU cores
"""

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


def experiment(
  steps: int = 2_000,
  batch_size: int = 64,
  learning_rate: float = 2e-3,
  depth: int = 3,
  heads: int = 4,
  features: int = 64,
  dropout: float = 0.1,
  weight_decay: float = 0.1,
  ema: float = 0.99,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
) -> Experiment:
  """
  Args:
    depth: number of blocks.
    heads: number of attention's heads.
    features: width of the model.
    dropout: rate, on embeddings, attention's weights and each branch's output.
    weight_decay: of kernels, decoupled.
    temperature: that logits are divided by in sampling.
    top_k: tokens among which a sample's next one is chosen, the likeliest; all by default.
    top_p: nucleus sampling: keep the smallest set of likeliest tokens with this probability; all by default.
  """
  digits = data.digits()
  spec = digits.spec
  method = language(
    LanguageModel(spec.levels + 1, gpt(features, heads, depth, spec.size, dropout)),
    spec=spec,
    start=spec.levels,
    optimizer=optimizers.adam(learning_rate, steps, warmup=100, clip=1.0, weight_decay=weight_decay, b2=0.99),
    sampling=Sampling(temperature, top_k, top_p),
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    sample_every=500,
    checkpoint_every=500,
  )
