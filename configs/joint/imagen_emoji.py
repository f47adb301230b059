"""Imagen, a text-conditional cascade of diffusion models: emoji of 16, 32 and 64 pixels, and the paper's at size.

Paper: Saharia et al. 2022, Photorealistic text-to-image diffusion models with deep language understanding,
https://arxiv.org/abs/2205.11487: a frozen text encoder, a base model and two super-resolution models, classifier-free
guidance, dynamic thresholding at the 99.5th percentile, noise in the low-resolution pictures. `nn.unets.efficient` says
how the networks differ. Here the text encoder is the text tower of a run of `clip_emoji`; the paper's is T5-XXL.

    jaxgen train clip_emoji --file emoji_32.npz
    jaxgen cascade imagen_emoji --file emoji_64.npz --clip runs/clip_emoji
    jaxgen cascade runs/imagen_emoji --n 64 --out samples.png
    jaxgen train imagen_emoji --stage up_32 --file emoji_64.npz --clip runs/clip_emoji     (one stage alone)

Sample i is of the name of the test split's emoji i. `--preset imagen` is 64, 256 and 1024 pixels of `--captions`, with
T5-XXL (4.8 B) and 2 B, 600 M and 400 M parameters.

Expect: not measured
Cost: not measured; the preset imagen is not for one machine
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from clip_emoji import dual_encoder

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import entries, together
from jaxgen.core.wrappers import averaged, warmed_up
from jaxgen.data import captioned, real, transforms
from jaxgen.evaluation.joint import clip_score
from jaxgen.interop import runs
from jaxgen.methods.diffusion.cascade import low_resolution
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.joint.features import clip_texts, t5_texts, told_features
from jaxgen.nn.sequence import t5
from jaxgen.nn.unets.efficient import SIZES, EfficientUNet

# Stages in turn, with the name under which a stage is told what the one before has made.
STAGES = {"base": "", "up_32": "low", "up_64": "low"}
PLACES = {
  "emoji": {"base": 16, "up_32": 32, "up_64": 64},
  "imagen": {"base": 64, "up_32": 256, "up_64": 1024},
}
BELOW = dict(attention=(False, True, True), cross=(False, True, True))
NETWORKS = {
  "base": dict(channels=(32, 64, 96), blocks=(1, 2, 2), strides=(1, 2, 2), **BELOW),
  "up_32": dict(channels=(32, 64, 96), blocks=(1, 2, 3), strides=(2, 2, 2), **BELOW),
  "up_64": dict(channels=(24, 48, 96, 96), blocks=(1, 1, 2, 3), cross=(False, False, True, True)),
}
CLIP_SIDE = 32  # of the pictures that `clip_emoji` sees


def experiment(
  stage: Literal[*STAGES] = "base",
  preset: Literal[*PLACES] = "emoji",
  file: str = "emoji_64.npz",
  captions: str | None = None,
  clip: str | None = None,
  clip_width: int = 96,
  clip_depth: int = 3,
  steps: int = 3_000,
  batch_size: int = 64,
  learning_rate: float = 1e-3,
  ema: float = 0.999,
  text_dropout: float = 0.1,
  guidance: float = 2.0,
  percentile: float = 99.5,
  augmentation: float = 1.0,
  level: float = 0.1,
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 50,
) -> Experiment:
  """One stage of a cascade learns pictures of a text.

  Args:
    stage: which of the cascade's models.
    preset: emoji with small networks, or the paper's sizes.
    file: the .npz of emoji, 64 x 64 pixels.
    captions: of the preset imagen, the data, `captions:` of docs/data.md without that word and the tokenizer.
    clip: the folder of a run of clip_emoji, whose text tower is read; without one it keeps its random initialisation.
    clip_width, clip_depth: that run's width and depth.
    text_dropout: the share of training examples whose text is dropped.
    guidance: the weight of the prediction with the text in samples; 1 is no guidance.
    percentile: of dynamic thresholding.
    augmentation: the largest level of noise in the low-resolution picture in training, from 0 to 1.
    level: the level of that noise in samples.
    bfloat16: the network computes in half precision.
    remat: residual blocks are computed again for the backward pass, which then takes less memory.
    solver: how samples go from noise to pictures.
    sampling_steps: steps of the solver.
  """
  sides, first = PLACES[preset], stage == "base"
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  before = dict(zip(list(STAGES)[1:], sides.values(), strict=False)).get(stage)  # the side of what it is told
  shrink = () if sides[stage] == max(sides.values()) else (transforms.shrink(sides[stage]),)
  steps_of_data = (transforms.scale(), *shrink, *(() if first else (transforms.low_resolution(before),)))
  augment = () if first else (transforms.levels(augmentation),)
  if preset == "emoji":
    pictures = captioned.emoji(file, side=max(sides.values()))
    network = EfficientUNet(**NETWORKS[stage], dtype=dtype, remat=remat)
    encoder = dual_encoder(clip_width, clip_depth, pictures.vocabulary, *pictures.features["tokens"].shape)
    reader, width = clip_texts(encoder, CLIP_SIDE), clip_width
  else:
    pictures = captioned.captions(captions or "captions", "32128", side=max(sides.values()), length=128)
    pictures = dataclasses.replace(pictures, vocabulary=32_128)
    network = EfficientUNet(**SIZES[f"Imagen {sides[stage]}"], dtype=dtype, remat=remat)
    reader, width = t5_texts(t5.T5Encoder(**t5.SIZES["v1.1 XXL"])), t5.SIZES["v1.1 XXL"]["features"]
  pictures = dataclasses.replace(pictures, transforms=steps_of_data, augment=augment)
  (words,) = pictures.features["tokens"].shape
  nothing = {"text": np.zeros((words, width), np.float32), "mask": np.zeros(words, bool)}
  told = entries(nothing, text_dropout)
  method = gaussian_diffusion(
    network,
    diffusion.continuous_cosine(),
    pictures.spec,
    optimizers.adam(learning_rate, steps, warmup=200, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS["v" if not first else "eps"]),
    condition=told if first else together({"text": told, "low": low_resolution()}),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.log_snr, sampling_steps, percentile=percentile),
  )
  names = ("tokens",) if first else ("tokens", "low")
  of_test, level = real.entries(pictures, names), np.float32(level)

  def conditions(index):
    one = np.ones(len(index), np.float32)
    return {**of_test(index), "weight": guidance * one} | ({} if first else {"level": level * one})

  return Experiment(
    method=told_features(averaged(method, warmed_up(ema)), reader, runs.frozen(clip) if clip else None),
    data=pictures,
    steps=steps,
    batch_size=batch_size,
    evaluators=(clip_score(clip),) if clip else (),
    conditions=conditions,
    prompts=captioned.prompts if preset == "emoji" else None,
    samples=16,
    sample_chunk=16,
    sample_every=1_000,
    checkpoint_every=500,
  )
