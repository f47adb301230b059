"""Video diffusion on videos of your own: GIF, WebP, MP4 and its like, or folders of frames.

Paper: Ho et al. 2022, Video diffusion models, https://arxiv.org/abs/2204.03458, section 3: the space-time factorised
U-Net, trained on clips and on single frames jointly. The widths are chosen here and are not the paper's.

    jaxgen train video_diffusion --folder videos --side 64 --frames 16
    jaxgen train video_diffusion --folder videos --size large --bfloat16 --remat

Training draws the stretch of a video, and with `--strides 1 4` also its frame rate. Evaluations see the middle.

Expect: not run to the end; no number is published of data that are your own
Cost: not measured. The sizes have 7,534,467 and 400,203,523 parameters, with three colours
"""

from functools import partial
from typing import Literal

import jax.numpy as jnp

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import clips
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.video import joint
from jaxgen.nn import UNet
from jaxgen.nn.video.unet import VideoUNet
from jaxgen.show.clips import render

SIZES = {
  "small": dict(channels=64, multipliers=(1, 2, 2), blocks=2, heads=4),
  "large": dict(channels=256, multipliers=(1, 2, 3, 4), blocks=2, heads=8),
}


def experiment(
  folder: str = "videos",
  size: Literal[*SIZES] = "small",
  frames: int = 16,
  side: int = 64,
  colours: Literal[1, 3] = 3,
  stride: int = 1,
  strides: tuple[int, int] | None = None,
  fps: float | None = None,
  stills: int = 4,
  steps: int = 50_000,
  batch_size: int = 8,
  learning_rate: float = 2e-4,
  ema: float = 0.999,
  prediction: diffusion.PredictionName = "v",
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 100,
  reconstruction: float = 2.0,
  bfloat16: bool = False,
  remat: bool = False,
  microbatches: int = 1,
) -> Experiment:
  """A space-time factorised U-Net learns clips.

  Args:
    folder: the folder of videos; without folders for splits inside, all of it is for training.
    size: of the network.
    frames: length of a clip.
    side: height and width that frames are brought to: the shorter side is scaled and the middle cut out.
    colours: 1 for shades of grey, else 3.
    stride: frames of a video from one of a clip's to the next.
    strides: the least and the largest stride of training; by default `stride`.
    fps: frames a second that the files must have; any by default.
    stills: frames of other clips that each clip is trained with; 0: clips alone.
    prediction: what the network outputs.
    solver: how samples go from noise to clips.
    sampling_steps: steps of the solver.
    reconstruction: the weight of reconstruction guidance, where frames are given.
    bfloat16: the network computes in half precision.
  """
  data = clips.video(
    folder,
    (frames, side, side, colours),
    stride=stride,
    fps=fps,
    strides=strides,
    augment=(clips.stills(stills),) if stills else (),
  )
  widths = SIZES[size]
  attention = tuple(side >> n for n in range(len(widths["multipliers"])) if side >> n <= 32)
  options = dict(attention=attention, out_channels=colours, remat=remat)
  image = partial(UNet, dtype=jnp.bfloat16 if bfloat16 else jnp.float32, **options, **widths)
  method = gaussian_diffusion(
    VideoUNet(image, frames=frames),
    diffusion.cosine(1000),
    data.spec,
    optimizers.adam(learning_rate, steps, warmup=min(1_000, steps // 10), clip=1.0),
    objective=Objective(diffusion.PREDICTIONS[prediction]),
    sampler=Sampler(diffusion.SOLVERS[solver], steps=sampling_steps, reconstruction=reconstruction),
  )
  return Experiment(
    method=averaged(joint(method), ema),
    data=data,
    steps=steps,
    batch_size=batch_size,
    microbatches=microbatches,
    render=render(),
    samples=16,
    sample_chunk=8,
    sample_every=2_000,
    checkpoint_every=2_000,
  )
