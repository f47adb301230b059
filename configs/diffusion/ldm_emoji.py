"""Text to image on emoji: a diffusion model of a first stage's latents learns pictures by their names, and edits them.

Paper: Rombach et al. 2022, High-resolution image synthesis with latent diffusion models,
https://arxiv.org/abs/2112.10752, section 3.3: the U-Net attends to the features of a Transformer that reads the text
and is trained with it. A tenth of the names is not told, and samples are guided away from no text, or a negative one.
`text_emoji` is the same of pixels.

    jaxgen train kl_emoji --file emoji_64.npz
    jaxgen train ldm_emoji --file emoji_64.npz --first-stage-run runs/kl_emoji
    jaxgen sample runs/ldm_emoji --prompt "red heart" --negative "face" --weight 3 --n 16

It learns from two styles. The samples in the run's folder are of the first names below, one after the other.

Expect: not measured
Cost: not measured
"""

import numpy as np
from first_stage import PRESETS

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import entries
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, first_stage
from jaxgen.data import captioned
from jaxgen.data.sources import emoji as source
from jaxgen.interop import runs
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.likelihood.autoencoder import latents
from jaxgen.nn.joint.text import TextTower, clip
from jaxgen.nn.unets.cross import CrossUNet
from jaxgen.nn.unets.text_unet import TextUNet

SHOWN = ("red heart", "cat face", "pizza", "sun", "green apple", "flag: Japan", "grinning face", "blue circle")
STAGE = PRESETS["kl_emoji"]


def experiment(
  file: str = "emoji_64.npz",
  first_stage_run: str | None = None,
  steps: int = 20_000,
  batch_size: int = 64,
  learning_rate: float = 5e-4,
  channels: int = 64,
  width: int = 96,
  depth: int = 3,
  ema: float = 0.999,
  text_dropout: float = 0.1,
  guidance: float = 3.0,
  solver: diffusion.SolverName = "ddim",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 50,
) -> Experiment:
  """A U-Net and a Transformer that reads names learn latents of emoji.

  Args:
    file: the .npz of emoji, 64 x 64 pixels.
    first_stage_run: the folder of a run of kl_emoji; without one the first stage stays as it is initialised.
    channels: the U-Net's width.
    width: features of a token.
    depth: blocks of the Transformer.
    text_dropout: the share of examples whose name is not told in training.
    guidance: the weight of samples where --weight does not say it; 1 is no guidance.
    solver: how samples go from noise to latents.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
  """
  emoji = captioned.emoji(file, side=STAGE.side)
  (length,), side = emoji.features["tokens"].shape, STAGE.side // 2 ** (len(STAGE.multipliers) - 1)
  unet = CrossUNet(
    channels, (1, 2, 2), blocks=1, depths=(0, 1, 1), heads=4, groups=8, out_channels=STAGE.latent
  )  # fmt: skip
  text = TextTower(emoji.vocabulary, clip(width, 4, depth, context=length), causal=False, end=captioned.END)
  method = gaussian_diffusion(
    TextUNet(text, unet),
    diffusion.cosine(1000),
    Spec((side, side, STAGE.latent)),
    optimizers.adam(learning_rate, steps, warmup=200, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS["v"]),
    condition=entries({"tokens": captioned.empty(length)}, text_dropout),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps, clip=False),
  )
  frozen = runs.frozen(first_stage_run) if first_stage_run else None
  method = first_stage(averaged(method, ema), *latents(STAGE.of_width(), STAGE.bottleneck), frozen)

  def prompts(run, texts):
    return source.tokens_of(emoji.name, list(texts), length)[0]

  def conditions(index):
    names = prompts(None, SHOWN)[np.asarray(index) % len(SHOWN)]
    return {"tokens": names, "weight": np.full(len(index), guidance, np.float32)}

  return Experiment(
    method=method,
    data=emoji,
    steps=steps,
    batch_size=batch_size,
    conditions=conditions,
    samples=16,
    sample_chunk=16,
    sample_every=2_000,
    prompts=prompts,
  )
