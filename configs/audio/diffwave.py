"""DiffWave says digits in the voices of six speakers, and is a vocoder at the paper's sizes.

Paper: Kong et al. 2020, DiffWave: a versatile diffusion model for audio synthesis, https://arxiv.org/abs/2009.09761:
30 layers of dilations 1, 2, .., 512, 64 channels (base) or 128 (large), 50 or 200 steps of noise, 6 steps of a sample

    jaxgen train diffwave --corpus FILE
    jaxgen sample runs/diffwave --n 20
    jaxgen train diffwave --preset base --corpus DIR           a vocoder, of recordings at 22,050 Hz
    jaxgen train diffwave --preset large --corpus DIR
    jaxgen train diffwave --conditional False --corpus FILE    told neither digit nor speaker

FILE is the Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset, in one NumPy file: see
`jaxgen.data.sources.speech`. Sample i says the digit i mod 10 in the voice i // 10 mod 6.

The paper's vocoder learns from LJ Speech. DIR has folders train and test of WAV files: see `jaxgen.data.sources.audio`.
Sample i of a vocoder has the mel spectrogram of the test split's recording i.

Expect: not measured
Cost: not measured
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import UNCONDITIONAL, entries
from jaxgen.core.wrappers import averaged
from jaxgen.data import audio, real
from jaxgen.data.mel import Mel, with_mel
from jaxgen.diffusion.grids import of_variances
from jaxgen.diffusion.times import aligned
from jaxgen.evaluation.audio import spoken, vocoding
from jaxgen.interop import diffwave as diffwave_weights
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.audio.diffwave import DiffWave


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    length: samples of a wave.
    layers, cycle: dilations are 1, 2, .., 2^(cycle - 1), again and again.
    noise_steps: T.
    last_beta: beta_T; beta_1 is 1e-4.
    fast: variances of the short process that samples go back along.
    judged: samples that are judged.
  """

  steps: int
  batch_size: int
  learning_rate: float
  ema: float
  length: int
  channels: int
  layers: int
  cycle: int
  noise_steps: int
  last_beta: float
  fast: tuple[float, ...]
  judged: int


FAST = (1e-4, 1e-3, 0.01, 0.05, 0.2)  # and a last one: the paper's, Appendix B
PRESETS = {
  "speech": Preset(2_000, 8, 2e-3, 0.99, 4_096, 24, 18, 9, 50, 0.2, (*FAST, 0.7), 100),
  "base": Preset(1_000_000, 16, 2e-4, 0.9999, 15_872, 64, 30, 10, 50, 0.05, (*FAST, 0.5), 32),  # 2,619,971 parameters
  "large": Preset(1_000_000, 16, 2e-4, 0.9999, 15_872, 128, 30, 10, 200, 0.02, (*FAST, 0.7), 32),  # 6,885,315
}
NAMES = {
  "diffwave_speech": {"preset": "speech"},
  "diffwave_base": {"preset": "base"},
  "diffwave_large": {"preset": "large"},
}
MEL = Mel(rate=22_050, hop=256, bands=80)


def experiment(
  preset: Literal[*PRESETS] = "speech",
  corpus: str | None = None,
  conditional: bool = True,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  ema: float | None = None,
  length: int | None = None,
  channels: int | None = None,
  layers: int | None = None,
  cycle: int | None = None,
  fast: bool = True,
  judged: int | None = None,
  bfloat16: bool = False,
) -> Experiment:
  """A network of dilated convolutions learns the noise in waves. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    corpus: the recordings: a NumPy file of spoken digits, or a folder of WAV files.
    conditional: tell the network digit and speaker, or the mel spectrogram; without, it is unconditional.
    length: samples of a wave.
    channels: of every layer.
    layers: the number of dilated convolutions.
    cycle: dilations are 1, 2, .., 2^(cycle - 1), again and again.
    fast: samples take the paper's 6 steps, and not all steps of the noise.
    judged: the number of samples that evaluators judge.
    bfloat16: the network computes in half precision.
  """
  given = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, ema=ema, length=length)
  given |= dict(channels=channels, layers=layers, cycle=cycle, judged=judged)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  speech = preset == "speech"
  if speech:
    sound = audio.speech(corpus or "data/speech_digits.npz", length=p.length, levels=None)
    labels = (("label", audio.DIGITS), ("speaker", audio.SPEAKERS))
    told, nothing = dict(labels=labels), {name: np.int32(0) for name, _ in labels}
    asked = lambda i: {"label": (i % 10).astype("int32"), "speaker": (i // 10 % 6).astype("int32")}
    judges = (spoken(p.judged), spoken(p.judged, of="speaker", classes=audio.SPEAKERS))
  else:
    cut, frames = audio.cut(p.length, random=True), MEL.frames(p.length)
    last = (audio.cut(p.length), with_mel(MEL))
    sound = audio.recordings(
      corpus or "data/recordings", rate=MEL.rate, length=2 * p.length, fit="pad", augment=(cut,), last=last
    )
    told, nothing = dict(factors=(16, 16)), {"mel": np.zeros((frames, MEL.bands), np.float32)}
    asked, judges = real.entries(sound, ("mel",)), (vocoding(p.judged),)
  process = diffusion.linear(p.noise_steps, 1e-4, p.last_beta)
  network = DiffWave(p.channels, p.layers, p.cycle, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  network = network.clone(**told) if conditional else network
  method = gaussian_diffusion(
    network,
    process,
    sound.spec,
    optimizers.adam(p.learning_rate, p.steps if speech else None, warmup=100 if speech else 0),
    objective=Objective(time_input=aligned(process)),
    condition=entries(nothing) if conditional else UNCONDITIONAL,
    sampler=Sampler(
      diffusion.ancestral,
      of_variances(p.fast) if fast else diffusion.trailing,
      len(p.fast) if fast else p.noise_steps,
    ),
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=sound,
    steps=p.steps,
    batch_size=p.batch_size,
    evaluators=judges if conditional else (),
    conditions=asked if conditional else None,
    render=partial(audio.render, rate=audio.rate_of(sound)),
    sample_every=500 if speech else 20_000,
    checkpoint_every=250 if speech else 5_000,
    samples=20,
    sample_chunk=20,
    evaluate_batch=20,
    layouts={} if speech and conditional else {"lmnt": diffwave_weights.lmnt(network)},
  )
