"""A decoder-only Transformer on the pixels of scikit-learn's 8x8 digits, one after the other.

Paper: Chen et al. 2020, Generative pretraining from pixels (image GPT),
https://cdn.openai.com/papers/Generative_Pretraining_from_Pixels_V2.pdf, section 2: GPT-2 over pixels in raster order

    jaxgen train configs/transformer_digits.py

Expect: not measured
Cost: not measured
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.sequence.language import language, pixels
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.optimizers import kernels


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
  digits = data.digits()
  shape, levels = (8, 8, 1), digits.levels
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = language(
    LanguageModel(levels + 1, gpt(features, heads, depth, 64, dropout)),
    vocabulary=levels,
    length=64,
    start=levels,
    code=pixels(shape, levels),
    optimizer=optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=weight_decay, mask=kernels)
    ),
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    ema=ema,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    sample_every=500,
    checkpoint_every=500,
  )
