"""unCLIP, which is DALL-E 2: a text's CLIP embedding, a picture's, the picture, larger ones; small, of emoji.

Paper: Ramesh et al. 2022, Hierarchical text-conditional image generation with CLIP latents,
https://arxiv.org/abs/2204.06125: a diffusion prior, a decoder and two super-resolution models without a text. CLIP is
that of a run of `clip_emoji`, which is frozen and sees 32 pixels. Pictures have 16, 32 and 64.

    jaxgen train clip_emoji --file emoji_32.npz
    jaxgen cascade unclip_emoji --file emoji_64.npz --clip runs/clip_emoji
    jaxgen cascade runs/unclip_emoji --n 64 --out samples.png
    jaxgen train unclip_emoji --stage prior --file emoji_64.npz --clip runs/clip_emoji      (one stage alone)

Sample i is of the name of the test split's emoji i; the decoder alone is told that emoji's embedding. The paper's sizes
are in `nn.joint.prior` and `nn.unets.efficient`. Its autoregressive prior is not here.

Expect: not measured
Cost: not measured
"""

import dataclasses
import io
from typing import Literal

import numpy as np
from clip_emoji import dual_encoder

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.wrappers import averaged, warmed_up
from jaxgen.data import captioned, real, transforms
from jaxgen.diffusion.times import steps_from_zero
from jaxgen.evaluation.joint import clip_score, prior_cosine
from jaxgen.interop import prior as prior_weights
from jaxgen.interop import runs
from jaxgen.methods.diffusion.cascade import low_resolution
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Model, Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.joint import unclip
from jaxgen.methods.joint.features import clip_pairs, told_features
from jaxgen.nn.joint.prior import PriorTransformer
from jaxgen.nn.unets.efficient import EfficientUNet

# Stages in turn, with the name under which a stage is told what the one before has made.
STAGES = {"prior": "", "decoder": "embedding", "up_32": "low", "up_64": "low"}
SIDE = 64  # of the data's pictures
SIDES = {"decoder": 16, "up_32": 32, "up_64": 64}
BELOW = (False, True, True)
NETWORKS = {
  "decoder": dict(channels=(32, 64, 96), blocks=(1, 2, 2), strides=(1, 2, 2), attention=BELOW, cross=BELOW),
  "up_32": dict(channels=(32, 64, 96), blocks=(1, 2, 3), strides=(2, 2, 2), attention=BELOW, cross=(False,) * 3),
  "up_64": dict(channels=(24, 48, 96, 96), blocks=(1, 1, 2, 3), cross=(False,) * 4),
}
CLIP_SIDE = 32  # of the pictures that `clip_emoji` sees


def decoder_model(stage: str = "decoder") -> Model:
  """The network of a stage that makes pictures, with what it needs to denoise: for `methods.joint.unclip`'s edits."""
  return Model(EfficientUNet(**NETWORKS[stage]), diffusion.cosine(1000), diffusion.PREDICTIONS["v"], steps_from_zero)


def as_arrays(samples, conditions) -> dict[str, bytes]:
  """Embeddings are no pictures: they are written as they are."""
  file = io.BytesIO()
  np.save(file, samples)
  return {".npy": file.getvalue()}


def experiment(
  stage: Literal[*STAGES] = "prior",
  file: str = "emoji_64.npz",
  clip: str | None = None,
  clip_width: int = 96,
  clip_depth: int = 3,
  steps: int = 3_000,
  batch_size: int = 64,
  learning_rate: float = 1e-3,
  width: int = 128,
  depth: int = 4,
  ema: float = 0.999,
  dropout: float = 0.1,
  text_dropout: float = 0.5,
  guidance: float = 2.0,
  draws: int = 2,
  augmentation: float = 0.5,
  level: float = 0.1,
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 50,
) -> Experiment:
  """One stage learns embeddings of a text, pictures of an embedding, or larger pictures.

  Args:
    stage: which of the models.
    file: the .npz of emoji, 64 x 64 pixels.
    clip: the folder of a run of clip_emoji; without one CLIP keeps its random initialisation.
    clip_width, clip_depth: that run's width and depth.
    width, depth: of the prior's Transformer.
    dropout: the share of training examples for which the prior's text, or the decoder's embedding, is dropped.
    text_dropout: the share for which the decoder's text is dropped.
    guidance: the weight of the prediction with them in samples of the prior and the decoder; 1 is no guidance.
    draws: the number of the prior's samples, of which the one nearest to the text's embedding is kept.
    augmentation: the largest level of noise in the low-resolution picture in training, from 0 to 1.
    level: the level of that noise in samples.
    solver: how samples go from noise to data.
    sampling_steps: steps of the solver.
  """
  emoji, is_picture, larger = captioned.emoji(file, side=SIDE), stage != "prior", stage.startswith("up")
  encoder = dual_encoder(clip_width, clip_depth, emoji.vocabulary, *emoji.features["tokens"].shape)
  chain = [transforms.scale()]
  if not larger:
    chain.append(transforms.shrink(CLIP_SIDE, "picture"))
  if is_picture and SIDES[stage] < SIDE:
    chain.append(transforms.shrink(SIDES[stage]))
  if larger:
    chain.append(transforms.low_resolution(SIDES[stage] // 2))
  augment = (transforms.levels(augmentation),) if larger else ()
  emoji = dataclasses.replace(emoji, transforms=tuple(chain), augment=augment)
  (words,) = emoji.features["tokens"].shape
  sizes = dict(words=words, width=clip_width, features=clip_width)
  optimizer = optimizers.adam(learning_rate, steps, warmup=200, clip=1.0)
  of = lambda prediction: Objective(diffusion.PREDICTIONS[prediction])
  sampler = Sampler(diffusion.SOLVERS[solver], diffusion.trailing, sampling_steps)
  frozen, layouts = runs.frozen(clip) if clip else None, {}
  more = dict(evaluators=(clip_score(clip),) if clip and not larger else ())
  if is_picture:
    told = low_resolution() if larger else unclip.pictures(**sizes, dropout=dropout, text_dropout=text_dropout)
    model = decoder_model(stage)
    method = gaussian_diffusion(
      model.network, model.schedule, emoji.spec, optimizer, objective=of("v"), condition=told, sampler=sampler
    )
    method = averaged(method, warmed_up(ema))
    if not larger:
      method = told_features(method, clip_pairs(encoder, CLIP_SIDE, ("text", "mask", "embedding")), frozen)
  else:
    network = PriorTransformer(clip_width, width=width, depth=depth, heads=4, words=words)
    method = gaussian_diffusion(
      network,
      diffusion.cosine(1000),
      unclip.embeddings(clip_width),
      optimizer,
      objective=of("x_0"),
      condition=unclip.texts(**sizes, dropout=dropout),
      sampler=sampler._replace(clip=False),
    )
    method = unclip.better_of(averaged(method, warmed_up(ema)), draws)
    method = told_features(method, clip_pairs(encoder, CLIP_SIDE), frozen)
    layouts = {"diffusers": prior_weights.diffusers(network)}
    more = dict(evaluators=(prior_cosine(),), render=as_arrays)
  names = {"prior": ("tokens",), "decoder": ("tokens", "picture")}.get(stage, ("low",))
  of_test = real.entries(emoji, names)

  def conditions(index):
    one = np.ones(len(index), np.float32)
    return {**of_test(index), **({"level": level * one} if larger else {"weight": guidance * one})}

  return Experiment(
    method=method,
    data=emoji,
    steps=steps,
    batch_size=batch_size,
    conditions=conditions,
    prompts=None if larger else captioned.prompts,
    samples=16 if is_picture else 0,
    sample_chunk=16,
    sample_every=1_000,
    checkpoint_every=500,
    layouts=layouts,
    **more,
  )
