"""Mel spectrograms against librosa's, of tests/fixtures/make_mel.py, and what follows from their definition."""

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.mel import Mel, filters, from_mel, hann, to_mel, with_mel

LIBROSA = dict(np.load(conftest.REPOSITORY / "tests" / "fixtures" / "mel.npz"))
MELS = {
  "htk": Mel(8_000, 50, 12, None, None, 20.0),
  "slaney": Mel(22_050, 60, 16, 100, 128, 0.0, 9_000.0, htk=False, area=True),
}


@pytest.mark.parametrize("name", MELS)
def test_filters_and_spectrograms_equal_librosa(name, x64):
  mel, wave = MELS[name], jnp.asarray(LIBROSA["wave"], jnp.float64)
  window, fft = mel.sizes()
  triangles = filters(mel.rate, fft, mel.bands, mel.low, mel.high or mel.rate / 2, mel.htk, mel.area)
  np.testing.assert_allclose(triangles, LIBROSA[f"{name}/filters"].T, rtol=0, atol=1e-12)
  wanted = LIBROSA[f"{name}/mel"].swapaxes(1, 2)[:, : 600 // mel.hop] / np.linalg.norm(hann(window, fft))
  np.testing.assert_allclose(mel.energies(wave), wanted, rtol=1e-11, atol=0)
  scaled = (20 * np.log10(wanted) + 80) / 100
  np.testing.assert_allclose(mel.of(wave), np.clip(scaled, 0, 1), rtol=0, atol=1e-11)
  assert 0.1 < scaled.mean() < 0.9  # the ends of the scale hide little


def test_the_scales_at_points_known_by_hand():
  np.testing.assert_allclose(to_mel(np.array([0.0, 700.0])), [0, 2595 * np.log10(2)])
  np.testing.assert_allclose(to_mel(np.array([0.0, 500.0, 1_000.0, 6_400.0]), htk=False), [0, 7.5, 15, 42])
  hertz = np.linspace(0, 12_000, 50)
  for htk in (True, False):
    np.testing.assert_allclose(from_mel(to_mel(hertz, htk), htk), hertz, atol=1e-9)


def test_ten_times_louder_is_twenty_decibels_and_silence_is_zero(x64):
  wave = jnp.asarray(LIBROSA["wave"], jnp.float64)
  mel = MELS["htk"]
  np.testing.assert_allclose(mel.of(wave) - mel.of(wave / 10), 0.2, atol=1e-12)
  silent = mel.of(jnp.zeros((1, 600)))
  np.testing.assert_array_equal(silent, np.zeros((1, 12, 12)))
  np.testing.assert_array_equal(mel.of(1e9 * wave), np.ones((2, 12, 12)))  # and no more than 1


def test_it_is_added_to_a_batch_and_what_does_not_fit_is_one_sentence():
  batch = {"wave": jnp.zeros((2, 600, 1)), "index": jnp.arange(2)}
  made = with_mel(MELS["htk"])(jax.random.key(0), batch)
  assert made.keys() == {"wave", "index", "mel"}
  assert made["mel"].shape == (2, 12, 12)
  for mel, shape, words in [
    (MELS["htk"], (1, 600, 2), r"one channel, and the wave is \[600, 2\]"),
    (MELS["htk"], (1, 620, 1), "whole frames of 50"),
    (MELS["htk"], (1, 100, 1), "a wave of more than 128, and these have 200 and 100"),
    (Mel(8_000, 50, 12, window=200, fft=128), (1, 600, 1), "window of at most 128"),
  ]:
    with pytest.raises(UserError, match=words):
      with_mel(mel)(jax.random.key(0), {"wave": jnp.zeros(shape), "index": jnp.arange(1)})
