"""CLIP and SigLIP at their published sizes, on your own pictures and captions.

Paper: Radford et al. 2021, https://arxiv.org/abs/2103.00020: batch 32,768, 32 epochs of 400 million pairs, Adam with
decoupled weight decay 0.2 of kernels, linear warm-up of 2,000 steps and cosine decay, beta_2 0.98 and eps 1e-6 (ViT;
Tables 18 to 20). Zhai et al. 2023, https://arxiv.org/abs/2303.15343 (`--preset siglip_b16`).
Weight decay acts only on kernels here; OpenAI's acts on everything but gains and biases, including the tables of tokens
and positions.

    jaxgen train clip --pairs DIR --merges bpe_simple_vocab_16e6.txt.gz
    jaxgen import weights.safetensors clip --activation quick --name clip

`--pairs` is a folder of shards of webdataset, or of lists: see the docs' page on data. A file of weights does not say
its activation: an import asks for `--activation`, quick for OpenAI's weights.

Expect: not run here at any of these sizes
Cost: B/32: not measured; not for a CPU
"""

from typing import Literal

import jax.numpy as jnp

from jaxgen import Experiment, data, optimizers
from jaxgen.data import captioned
from jaxgen.data.transforms import standardize
from jaxgen.evaluation.joint import retrieval
from jaxgen.interop import dual as layouts
from jaxgen.methods.joint.contrastive import bounded, contrastive
from jaxgen.methods.joint.losses import infonce, siglip
from jaxgen.nn.joint import dual


def experiment(
  preset: Literal[
    "B/32", "B/16", "L/14", "H/14", "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "siglip_b16"
  ] = "B/32",
  pairs: str = "pairs",
  merges: str = "bpe_simple_vocab_16e6.txt.gz",
  activation: Literal["quick", "exact"] | None = None,
  vocabulary: int = 49_408,
  steps: int = 390_625,
  batch_size: int = 32_768,
  learning_rate: float = 5e-4,
  bfloat16: bool = False,
) -> Experiment:
  """Learns features in which matching pictures and captions are similar.

  Args:
    preset: the size, as published.
    pairs: pictures and captions.
    merges: the tokenizer's merges file; also for SigLIP, whose own tokenizer is not implemented.
    activation: of CLIP's Transformers; by default the size's own. An import needs it.
    vocabulary: number of tokens; 32,000 to import SigLIP's published weights.
    bfloat16: the network computes in half precision; parameters stay as they are.
  """
  is_siglip, side, context = preset == "siglip_b16", 224, 77
  if is_siglip:
    network, context = dual.siglip("B/16", vocabulary), 64
    named = {"transformers": layouts.transformers(network)}
  else:
    network = dual.clip(preset, activation, vocabulary=vocabulary)
    side = getattr(network.image, "side", side)
    residual = preset.startswith("RN")
    names = ("openai", "open_clip") if residual else ("transformers", "openai", "open_clip")
    told = "quick" if residual and activation is None else activation  # residual networks are OpenAI's
    named = {name: layouts.unless_told(getattr(layouts, name)(network), told) for name in names}
  if bfloat16:
    options = network.text.options._replace(dtype=jnp.bfloat16)
    network = network.clone(
      image=network.image.clone(dtype=jnp.bfloat16), text=network.text.clone(options=options), dtype=jnp.bfloat16
    )
  captions = captioned.captions(
    pairs, merges, side=side, length=context, vocabulary=vocabulary, view=data.RandomResizedCrop((0.9, 1.0)),
    last=() if is_siglip else (standardize(dual.MEAN, dual.STD),),
  )  # fmt: skip
  betas = dict(b2=0.999, eps=1e-8) if preset.startswith("RN") else dict(b2=0.98, eps=1e-6)
  optimizer = optimizers.adam(learning_rate, steps, warmup=2_000, weight_decay=0.2, **betas)
  return Experiment(
    method=contrastive(
      network,
      spec=captions.spec,
      optimizer=optimizer if is_siglip else bounded(optimizer),
      loss=siglip() if is_siglip else infonce(),
    ),
    data=captions,
    steps=steps,
    batch_size=batch_size,
    evaluators=(retrieval(),),
    evaluate_batch=256,
    layouts=named,
  )
