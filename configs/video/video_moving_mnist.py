"""Video diffusion on Moving MNIST: clips of digits that move and bounce, and their prediction from the first frames.

Paper: Ho et al. 2022, Video diffusion models, https://arxiv.org/abs/2204.03458, section 3: the space-time factorised
U-Net, joint training on images, reconstruction guidance. Moving MNIST is not in the paper; the data set's is Srivastava
et al. 2015, https://arxiv.org/abs/1502.04681.

    jaxgen train video_moving_mnist
    jaxgen train video_moving_mnist --images mnist --digits 2 --side 64 --frames 20 --tfds-dir DIR
    jaxgen train video_moving_mnist --network dit

The digits are scikit-learn's, which need no network. Predictions of test clips from their first frames are evaluated by
the exact positions, and compared with a copy of the last known frame and with the true frames. `--network dit` is a DiT
(Peebles and Xie 2022, https://arxiv.org/abs/2212.09748) with patches of 2 frames and 4x4 pixels, and attention over
space and time.

Expect: not measured
Cost: not measured
"""

from functools import partial
from typing import Literal

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.wrappers import averaged
from jaxgen.data import clips
from jaxgen.evaluation.clips import dynamics, frechet
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.video import joint
from jaxgen.nn import UNet
from jaxgen.nn.transformers.dit import DiT
from jaxgen.nn.video.unet import VideoUNet
from jaxgen.show.clips import predictions, render


def experiment(
  steps: int = 1_500,
  batch_size: int = 16,
  learning_rate: float = 1e-3,
  images: str = "digits",
  digits: int = 1,
  frames: int = 8,
  side: int = 16,
  network: Literal["unet", "dit"] = "unet",
  stills: int | None = None,
  channels: int = 32,
  ema: float = 0.99,
  prediction: diffusion.PredictionName = "v",
  solver: diffusion.SolverName = "ddim",
  sampling_steps: int = 50,
  known: int = 3,
  reconstruction: float = 2.0,
  judged: int = 64,
  tfds_dir: str | None = None,
) -> Experiment:
  """A space-time factorised U-Net learns clips of moving digits.

  Args:
    images: the digits: digits, mnist, fashion_mnist, or the name of a data set of 28x28 pictures.
    digits: the number of digits in a clip.
    frames: length of a clip.
    side: height and width of a frame.
    network: the space-time factorised U-Net, or a DiT.
    stills: frames of other clips that each clip is trained with, 2 by default; 0: clips alone, as the DiT always is.
    channels: the U-Net's width; the DiT's is three times that.
    prediction: what the network outputs.
    solver: how samples go from noise to clips.
    sampling_steps: steps of the solver.
    known: frames from which clips are predicted.
    reconstruction: the weight of reconstruction guidance in predictions.
    judged: number of samples that are judged.
  """
  if network == "dit" and stills:
    raise UserError("the DiT sees all frames at once and keeps no images apart: leave --stills out, or take the U-Net")
  stills = (0 if network == "dit" else 2) if stills is None else stills
  augment = (clips.stills(stills),) if stills else ()
  data = clips.moving(images, digits=digits, frames=frames, side=side, augment=augment, data_dir=tfds_dir)
  widths = dict(channels=channels, multipliers=(1, 2), blocks=1, attention=(side // 2,), heads=4, out_channels=1)
  networks = {
    "unet": VideoUNet(partial(UNet, **widths), frames=frames),
    "dit": DiT(4, 3 * channels, depth=4, heads=4, classes=None, out_channels=1, frames=2),
  }
  method = gaussian_diffusion(
    networks[network],
    diffusion.cosine(1000),
    data.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS[prediction]),
    sampler=Sampler(diffusion.SOLVERS[solver], steps=sampling_steps, reconstruction=reconstruction),
  )
  return Experiment(
    method=averaged(joint(method), ema),
    data=data,
    steps=steps,
    batch_size=batch_size,
    evaluators=(dynamics(known, judged), frechet(judged)),
    figures=(predictions(known, judged),),
    render=render(),
    samples=16,
    sample_chunk=16,
    sample_every=500,
    checkpoint_every=500,
  )
