"""WaveGrad, a vocoder: waves of the mel spectrograms of spoken digits, and of recordings at the paper's size.

Paper: Chen et al. 2020, WaveGrad: estimating gradients for waveform generation, https://arxiv.org/abs/2009.00713: 128
bands of 24 kHz speech, 300 samples a frame, 1,000 steps of noise whose level is continuous, an absolute error, 15 M
parameters; samples of 6 to 1,000 steps

    jaxgen train wavegrad --corpus FILE
    jaxgen sample runs/wavegrad --n 20
    jaxgen train wavegrad --preset base --corpus DIR           recordings at 24 kHz

FILE is the Free Spoken Digit Dataset in one NumPy file: see `jaxgen.data.sources.speech`. DIR has folders train and
test of WAV files: see `jaxgen.data.sources.audio`. Sample i has the mel spectrogram of the test split's recording i.

Expect: not measured
Cost: not measured
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import entries
from jaxgen.core.wrappers import averaged
from jaxgen.data import audio, real
from jaxgen.data.mel import Mel, with_mel
from jaxgen.diffusion.losses import absolute
from jaxgen.diffusion.times import noise_levels
from jaxgen.evaluation.audio import vocoding
from jaxgen.interop import wavegrad as wavegrad_weights
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.audio.wavegrad import WaveGrad


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    length: samples of a wave.
    mel: the spectrogram on which the network is conditioned.
    network: further arguments of `WaveGrad`.
  """

  steps: int
  batch_size: int
  learning_rate: float
  ema: float
  length: int
  mel: Mel
  network: dict[str, Any]


SMALL = dict(
  factors=(4, 2, 2, 2, 2),
  channels=(64, 64, 32, 24, 16),
  down=(8, 16, 24, 32, 64),
  first=96,
)
PRESETS = {
  "speech": Preset(4_000, 16, 2e-3, 0.99, 2_048, Mel(audio.RATE, 64, 40), SMALL),
  "base": Preset(1_000_000, 256, 2e-4, 0.9999, 7_200, Mel(24_000, 300, 128, 1_200, 2_048), {}),  # 15.9 M parameters
}
NAMES = {"wavegrad_speech": {"preset": "speech"}, "wavegrad_base": {"preset": "base"}}


def experiment(
  preset: Literal[*PRESETS] = "speech",
  corpus: str | None = None,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  ema: float | None = None,
  length: int | None = None,
  scale: float = 5000.0,
  sampling_steps: int = 25,
  judged: int = 32,
  bfloat16: bool = False,
) -> Experiment:
  """A U-shaped network learns the noise in waves from their mel spectrograms. Flags not given are the preset's.

  Args:
    preset: data, and the size of everything.
    corpus: the recordings: a NumPy file of spoken digits, or a folder of WAV files.
    length: samples of a wave in training.
    scale: by which the noise level is multiplied before it is embedded; lmnt-com's weights have 1.
    sampling_steps: noise levels of a sample, evenly spaced in their logarithm.
    judged: the number of samples whose spectra are compared with the recordings'.
    bfloat16: the network computes in half precision.
  """
  given = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, ema=ema, length=length)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  speech = preset == "speech"
  cut = dict(augment=(audio.cut(p.length, random=True),), last=(audio.cut(p.length), with_mel(p.mel)))
  if speech:
    sound = audio.speech(corpus or "data/speech_digits.npz", length=2 * p.length, levels=None, **cut)
  else:
    sound = audio.recordings(corpus or "data/recordings", rate=p.mel.rate, length=2 * p.length, fit="pad", **cut)
  process = diffusion.linear(1000, 1e-6, 0.01)
  nothing = {"mel": np.zeros((p.mel.frames(p.length), p.mel.bands), np.float32)}
  network = WaveGrad(p.mel.bands, scale=scale, dtype=jnp.bfloat16 if bfloat16 else jnp.float32, **p.network)
  method = gaussian_diffusion(
    network,
    process,
    sound.spec,
    optimizers.adam(p.learning_rate, p.steps if speech else None, warmup=100 if speech else 0, clip=1.0),
    objective=Objective(times=noise_levels(process), time_input=lambda at: at.alpha, error=absolute),
    condition=entries(nothing),
    sampler=Sampler(diffusion.ancestral, diffusion.log_snr, sampling_steps),
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=sound,
    steps=p.steps,
    batch_size=p.batch_size,
    evaluators=(vocoding(judged),),
    conditions=real.entries(sound, ("mel",)),
    render=partial(audio.render, rate=p.mel.rate),
    sample_every=500 if speech else 20_000,
    checkpoint_every=250 if speech else 5_000,
    samples=20,
    sample_chunk=20,
    evaluate_batch=20,
    layouts={"lmnt": wavegrad_weights.lmnt(network)},
  )
