"""Judges of sound: distances that are known, and a classifier of tones in place of one of speech."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import audio, digits
from jaxgen.data.mel import Mel, with_mel
from jaxgen.evaluation import audio as judges
from jaxgen.evaluation import judge

RATE, LENGTH, CLASSES = 8_000, 2_048, 4


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
  """A file of recordings like `speech:`'s: class c is a tone of 400 (c + 1) Hz, somewhat detuned, in noise."""
  random = np.random.default_rng(0)
  count = 160
  label, index = np.arange(count) % CLASSES, np.arange(count) // 16
  frequency = 400 * (label + 1) * random.uniform(0.95, 1.05, count)
  wave = 0.3 * np.sin(2 * np.pi * frequency[:, None] / RATE * np.arange(LENGTH)) + 0.01 * random.normal(
    size=(count, LENGTH)
  )
  file = tmp_path_factory.mktemp("tones") / "tones.npz"
  np.savez(
    file,
    wave=np.round(wave.reshape(-1) * 2**15).astype(np.int16),
    offsets=np.arange(count + 1) * LENGTH,
    label=label.astype(np.uint8),
    speaker=np.array(["one"] * count),
    index=index.astype(np.uint8),
  )
  return audio.speech(file, length=LENGTH, levels=None)


class Run(SimpleNamespace):
  """What the evaluators ask of a run: samples are the test split's recordings, in the order asked for."""

  def conditions(self, index):
    return self.asked(index)

  def sample(self, n, seed=0, **conditions):
    return self.drawn[:n]


def recordings(data, split="test"):
  source = data.source(split)
  raw = source.gather(np.arange(len(source)))
  return {
    k: np.asarray(v)
    for k, v in data.transform(jax.random.key(0), raw | {"index": np.arange(len(source))}, False).items()
  }


def test_the_classifier_hears_what_is_said_and_what_is_not(tones, monkeypatch):
  monkeypatch.setattr(judges, "trained_on", lambda data: judge.trained_on(data, judge.Recipe((8,), 16, 60, 32)))
  real = recordings(tones)
  evaluate = judges.spoken(40)
  run = Run(data=tones, drawn=real["wave"], asked=lambda i: {"label": real["label"][i]})
  evaluate.rehearse(run)
  found = evaluate(run)
  assert found["spoken_accuracy_real"] > 0.95
  assert found["spoken_accuracy_40"] == pytest.approx((real["label"][:40] == heard(tones, real["wave"][:40])).mean())
  assert found["spoken_accuracy_40"] > 0.9
  # The same waves, asked to be another digit, are wrong; and noise is further away than recordings are.
  other = evaluate(Run(data=tones, drawn=real["wave"], asked=lambda i: {"label": (real["label"][i] + 1) % CLASSES}))
  assert other["spoken_accuracy_40"] < 0.1
  assert other["spoken_frechet_40"] == found["spoken_frechet_40"] < 4 * found["spoken_frechet_40_floor"] + 1
  noise = np.random.default_rng(1).normal(size=(40, LENGTH)).astype(np.float32) / 5
  far = evaluate(Run(data=tones, drawn=noise, asked=run.asked))
  assert far["spoken_frechet_40"] > 5 * found["spoken_frechet_40"]
  broken = np.where(np.arange(LENGTH) == 7, np.nan, noise)
  assert np.isnan(evaluate(Run(data=tones, drawn=broken, asked=run.asked))["spoken_accuracy_40"])
  for wrong, words in [
    (Run(data=tones, drawn=noise, asked=lambda i: {}), "asks for none"),
    (Run(data=digits(), drawn=noise, asked=run.asked), "digits has no 'wave'"),
  ]:
    with pytest.raises(UserError, match=words):
      evaluate(wrong)
    with pytest.raises(UserError, match=words):
      evaluate.rehearse(wrong)
  by_speaker = judges.pictures(tones, "speaker", 1)
  assert by_speaker.spec.shape == (16, 32, 1)
  assert (by_speaker.classes, set(recordings(by_speaker)["label"])) == (1, {0})
  with pytest.raises(UserError, match="80 training recordings"):
    judges.spoken(81).rehearse(run)


def heard(data, waves):
  """The class of the tone whose frequency is the loudest."""
  spectrum = np.abs(np.fft.rfft(waves[..., 0], axis=1))
  return np.round(np.fft.rfftfreq(LENGTH, 1 / RATE)[spectrum.argmax(1)] / 400).astype(int) - 1


def test_log_spectral_distance_of_known_pairs():
  wave = np.random.default_rng(0).normal(size=(3, 1_024, 1)).astype(np.float32)
  np.testing.assert_allclose(judges.log_spectral_distance(wave, wave), 0, atol=1e-6)
  np.testing.assert_allclose(judges.log_spectral_distance(10 * wave, wave), 20, atol=1e-3)  # ten times is 20 dB
  np.testing.assert_allclose(judges.log_spectral_distance(-wave, wave), 0, atol=1e-6)  # it does not see phases
  silence = np.zeros_like(wave)
  np.testing.assert_allclose(judges.log_spectral_distance(silence, silence), 0)
  # A wave of full scale that falls on a frequency is at 0 dB there, and at -6 dB, the half, in the two beside it; its
  # other frequencies and silence are at -80 dB. It is mirrored into itself at both ends.
  cosine = np.cos(2 * np.pi * 16 / 256 * np.arange(2_049))[None, :, None]
  wanted = np.sqrt((80**2 + 2 * (80 - 20 * np.log10(2)) ** 2) / 129)
  np.testing.assert_allclose(judges.log_spectral_distance(cosine, np.zeros_like(cosine)), wanted, rtol=1e-6)


def test_vocoding_compares_with_the_recordings_of_the_spectrograms(tones):
  data = dataclasses.replace(tones, last=(with_mel(Mel(RATE, 64, 20)),))
  told = {}

  class Vocoder(Run):
    def sample(self, n, seed=0, **conditions):
      told.update(conditions)
      return self.drawn[:n]

  real = recordings(data)["wave"]
  found = judges.vocoding(8)(Vocoder(data=data, drawn=real / 2))
  assert told["mel"].shape == (8, LENGTH // 64, 20)
  assert abs(found["vocoded_lsd_8"] - 20 * np.log10(2)) < 0.1
  assert found["vocoded_lsd_8_noise"] > 10
  with pytest.raises(UserError, match="no mel spectrograms"):
    judges.vocoding(8)(Vocoder(data=tones, drawn=real))
