"""WaveNet says digits in the voices of six speakers.

Paper: van den Oord et al. 2016, WaveNet: a generative model for raw audio, https://arxiv.org/abs/1609.03499: mu-law of
256 levels, dilated causal convolutions, gated units, global conditioning on the speaker and on the digit

    jaxgen train wavenet_speech --corpus FILE
    jaxgen sample runs/wavenet_speech --n 20

FILE is the Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset, in one NumPy file: see
`jaxgen.data.audio`. Recordings are cut, and filled with silence, to `length` samples at 8 kHz. Sample i says the digit
i mod 10 in the voice i // 10 mod 6. The paper does not give its sizes; later work of its authors has 30 layers of
512 channels and 3 taps: `--stack-count 3 --layers 10 --taps 3 --features 512 --hidden 512 --skip 256 --batch-size 8`.

Expect: not measured
Cost: not measured
"""

from jaxgen import Experiment, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import audio
from jaxgen.evaluation.audio import spoken
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.sequence.language import Sampling, language, waves
from jaxgen.nn.sequence.wavenet import WaveNet, stacks


def experiment(
  steps: int = 400,
  batch_size: int = 8,
  learning_rate: float = 4e-3,
  stack_count: int = 2,
  layers: int = 9,
  taps: int = 2,
  features: int = 32,
  hidden: int = 32,
  skip: int = 64,
  length: int = 4_096,
  levels: int = 256,
  ema: float = 0.99,
  temperature: float = 1.0,
  judged: int = 100,
  corpus: str = "data/speech_digits.npz",
) -> Experiment:
  """
  Args:
    stack_count: stacks of dilated convolutions, each with dilations 1, 2, 4, ...
    layers: of a stack.
    taps: of a convolution.
    features: channels between layers.
    hidden: channels within a gated unit.
    skip: channels of the skip connections to the output.
    length: samples of a wave, at 8 kHz.
    levels: of mu-law.
    temperature: that logits are divided by in sampling.
    judged: the number of samples that are judged by what a classifier hears.
    corpus: the recordings, one NumPy file.
  """
  speech = audio.speech(corpus, length=length, levels=levels)
  conditions = (("label", audio.DIGITS), ("speaker", audio.SPEAKERS))
  network = WaveNet(levels, stacks(stack_count, layers), taps, features, hidden, skip, conditions=conditions)
  method = language(
    network,
    spec=speech.spec,
    start=levels // 2,  # silence
    code=waves(speech.spec),
    conditions=("label", "speaker"),
    optimizer=optimizers.adam(learning_rate, steps, warmup=50, clip=1.0),
    sampling=Sampling(temperature),
  )
  return Experiment(
    method=averaged(method, ema),
    data=speech,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), spoken(judged)),
    conditions=lambda i: {
      "label": (i % audio.DIGITS).astype("int32"),
      "speaker": (i // 10 % audio.SPEAKERS).astype("int32"),
    },
    render=audio.render,
    sample_every=200,
    checkpoint_every=100,
    samples=20,
    sample_chunk=20,
    evaluate_batch=20,
  )
