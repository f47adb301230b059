"""Make-A-Video on animated emoji: a video model that starts from a trained image model.

Paper: Singer et al. 2022, Make-A-Video, https://arxiv.org/abs/2209.14792, section 3.2: pseudo-3D convolutions and
attention that begin as the identity in time, the frame rate as a condition, and a network that fills in frames between
others. The text condition and the super-resolution networks are left out: clips are unconditional.

    jaxgen train make_a_video_emoji --stage image --name emoji_frames --folder emoji_clips
    jaxgen train make_a_video_emoji --from runs/emoji_frames --folder emoji_clips
    jaxgen train make_a_video_emoji --stage interpolation --name emoji_between --from runs/make_a_video_emoji \
      --folder emoji_clips

The first command trains the image model on single frames; the second one takes its weights, and its clips begin as 8
such images. Without `--from` it learns from nothing. Rates are in frames a loop, of which there are 16: a clip of 8
shows half of a loop at the rate 16, and all of it at the rate 8.

Expect: not measured
Cost: not measured
"""

from functools import partial
from typing import Literal

import numpy as np

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import UNCONDITIONAL, entries
from jaxgen.core.wrappers import averaged
from jaxgen.data import Dataset, clips, real
from jaxgen.evaluation.clips import frechet
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import UNet
from jaxgen.nn.video.unet import VideoUNet
from jaxgen.show.clips import render

LOOP, STRIDES = 16, (1, 2)  # frames of a loop, and from one frame of a clip to the next


def told(data: Dataset, names: tuple[str, ...], index: np.ndarray) -> dict[str, np.ndarray]:
  """The rates of test clips, and frames of them, every second or fourth, between which samples fill in the others."""
  batches = list(real.batches(data, "test", np.asarray(index) % len(data.source("test"))))
  return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


def experiment(
  stage: Literal["image", "video", "interpolation"] = "video",
  folder: str = "emoji_clips",
  steps: int = 2_000,
  batch_size: int | None = None,
  learning_rate: float = 5e-4,
  frames: int = 8,
  channels: int = 32,
  ema: float = 0.99,
  prediction: diffusion.PredictionName = "v",
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 50,
  rate: int | None = None,
  reconstruction: float = 2.0,
  judged: int = 64,
) -> Experiment:
  """A U-Net learns frames of animated emoji, and with layers over time whole clips.

  Args:
    stage: the image model, the video model that may start from it, or the one that is told every second or fourth frame
      and may start from the video model.
    folder: the sheets of animated emoji.
    batch_size: examples in a batch; 64 images, or 8 clips.
    frames: length of a clip.
    channels: the network's width, the same in both stages.
    prediction: the network's output.
    solver: how samples go from noise to clips.
    sampling_steps: steps of the solver.
    rate: frames a loop of samples, 16 or 8; by default sample i has that of test clip i, with which it is judged.
    reconstruction: the weight of reconstruction guidance, where frames are given.
    judged: number of clips that are judged.
  """
  widths = dict(channels=channels, multipliers=(1, 2, 2), blocks=1, attention=(16, 8), heads=4, out_channels=3)
  parts = dict(
    objective=Objective(diffusion.PREDICTIONS[prediction]),
    sampler=Sampler(diffusion.SOLVERS[solver], steps=sampling_steps, reconstruction=reconstruction),
  )
  optimizer = optimizers.adam(learning_rate, steps, warmup=100, clip=1.0)
  if stage == "image":
    data, network, condition = clips.emoji_frames(folder), UNet(**widths), UNCONDITIONAL
    more = dict(samples=64)
  else:
    between = stage == "interpolation"
    transforms = (clips.strided(frames, STRIDES, LOOP), *((clips.hinted((2, 4)),) if between else ()))
    data = clips.emoji_clips(folder, transforms=transforms)
    network = VideoUNet(partial(UNet, **widths), frames=frames, convs=True, rates=True, given=between)
    rates = {"rate": np.float32(0)}
    condition = entries({**rates, "given": np.zeros((frames, 32, 32, 4), np.float32)} if between else rates)
    more = dict(samples=16, sample_chunk=16, render=render())
    more["conditions"] = partial(told, data, ("rate", "given") if between else ("rate",))
    if not between:
      more["evaluators"] = (frechet(judged),)
      if rate is not None:
        more["conditions"] = lambda index: {"rate": np.full(len(index), rate, np.float32)}
  method = gaussian_diffusion(network, diffusion.cosine(1000), data.spec, optimizer, condition=condition, **parts)
  return Experiment(
    method=averaged(method, ema),
    data=data,
    steps=steps,
    batch_size=batch_size or (64 if stage == "image" else 8),
    sample_every=500,
    checkpoint_every=500,
    **more,
  )
