"""Latent diffusion of mel spectrograms, with a vocoder: spoken digits.

Paper: Liu et al. 2023, AudioLDM: text-to-audio generation with latent diffusion models, https://arxiv.org/abs/2301.12503,
section 3: an autoencoder of mel spectrograms, a U-Net that learns its latents, and a vocoder. Theirs is conditioned on
a text by joint embeddings of sounds and texts (CLAP) and has HiFi-GAN as the vocoder; here it is conditioned on the
digit, and the vocoder is WaveGrad.

    jaxgen train wavegrad_speech --corpus FILE
    jaxgen train audioldm_first_stage --corpus FILE
    jaxgen train audioldm --first-stage-run runs/audioldm_first_stage --vocoder-run runs/wavegrad_speech --corpus FILE

FILE is the Free Spoken Digit Dataset in one NumPy file: see `jaxgen.data.sources.speech`. Sample i says the digit i mod
10. The spectrogram is that of `wavegrad_speech`, whose vocoder takes clips of any length.

Expect: not measured
Cost: not measured
"""

import dataclasses
from typing import Literal

import numpy as np
from wavegrad import PRESETS

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import entries, labels
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, first_stage
from jaxgen.data import audio
from jaxgen.data.mel import of_picture, with_picture
from jaxgen.evaluation.audio import spoken
from jaxgen.evaluation.evaluators import means
from jaxgen.interop import runs
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.vocoder import vocoded
from jaxgen.methods.likelihood.autoencoder import autoencoder, kl, latents, reconstruct
from jaxgen.nn import UNet
from jaxgen.nn.audio.wavegrad import WaveGrad
from jaxgen.nn.autoencoders.ldm import KLAutoencoder
from jaxgen.show import figures

NAMES = {"audioldm_first_stage": {"part": "first_stage"}, "audioldm_speech": {"part": "latents"}}
LATENT = 4  # channels


def experiment(
  part: Literal["first_stage", "latents"] = "latents",
  corpus: str = "data/speech_digits.npz",
  first_stage_run: str | None = None,
  vocoder_run: str | None = None,
  steps: int = 1_500,
  batch_size: int = 32,
  learning_rate: float = 1e-3,
  channels: int = 32,
  first_stage_channels: int = 16,
  ema: float = 0.99,
  label_dropout: float = 0.1,
  guidance: float = 2.0,
  sampling_steps: int = 50,
  vocoder_steps: int = 25,
  judged: int = 100,
) -> Experiment:
  """An autoencoder of mel spectrograms, or a U-Net that learns its latents of a digit, and of none.

  Args:
    part: which of the two.
    corpus: the recordings, one NumPy file.
    first_stage_run: the folder of a run of audioldm_first_stage; without one the autoencoder stays as initialised.
    vocoder_run: the folder of a run of wavegrad_speech; without one the vocoder stays as initialised.
    channels: the U-Net's width.
    first_stage_channels: the autoencoder's width.
    label_dropout: the share of training examples whose digit is dropped.
    guidance: the weight of the conditional prediction in samples; 1 is no guidance.
    sampling_steps: steps of the latents' solver.
    vocoder_steps: noise levels of the vocoder.
    judged: the number of samples that a classifier evaluates.
  """
  recipe = PRESETS["speech"]
  mel, length = recipe.mel, 2 * recipe.length
  sound = audio.speech(corpus, length=length, levels=None, last=(with_picture(mel),))
  sound = dataclasses.replace(sound, feature="image")
  stage = KLAutoencoder(LATENT, 1, first_stage_channels, (1, 2, 2), blocks=1, groups=4)  # halves frames and bands twice
  bottleneck = kl(1e-4)
  rate = optimizers.adam(learning_rate, steps, warmup=100, clip=1.0)
  if part == "first_stage":
    method = autoencoder(stage, bottleneck, spec=sound.spec, optimizer=rate)
    return Experiment(
      method=averaged(method, {"network": ema}),
      data=sound,
      steps=steps,
      batch_size=batch_size,
      evaluators=(means("squared_error", "latent", "latent_square"),),
      figures=(figures.reconstructions(reconstruct(stage, bottleneck)),),
      checkpoint_every=250,
    )
  frames = mel.frames(length)
  spec = Spec((frames // 4, mel.bands // 4, LATENT), classes=audio.DIGITS)
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 2), blocks=1, out_channels=LATENT, classes=audio.DIGITS + 1),
    diffusion.cosine(1000),
    spec,
    rate,
    objective=Objective(diffusion.PREDICTIONS["v"]),
    condition=labels(spec, label_dropout),
    sampler=Sampler(steps=sampling_steps, clip=False),
  )
  source = lambda folder: runs.frozen(folder) if folder else None
  method = first_stage(averaged(method, ema), *latents(stage, bottleneck), source(first_stage_run))
  vocoder = gaussian_diffusion(
    WaveGrad(mel.bands, **recipe.network),
    diffusion.linear(1000, 1e-6, 0.01),
    dataclasses.replace(sound, feature="wave").spec,
    rate,
    objective=Objective(time_input=lambda at: at.alpha),
    condition=entries({"mel": np.zeros((frames, mel.bands), np.float32)}),
    sampler=Sampler(diffusion.ancestral, diffusion.log_snr, vocoder_steps),
  )
  return Experiment(
    method=vocoded(method, vocoder, of_picture, source(vocoder_run)),
    data=sound,
    steps=steps,
    batch_size=batch_size,
    evaluators=(spoken(judged),),
    conditions=lambda i: {"label": (i % 10).astype("int32"), "weight": np.full(len(i), guidance, np.float32)},
    render=audio.render,
    sample_every=500,
    checkpoint_every=250,
    samples=20,
    sample_chunk=20,
    evaluate_batch=20,
  )
