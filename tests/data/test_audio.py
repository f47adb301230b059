import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from jaxgen.core.errors import UserError
from jaxgen.data import audio

# --- mu-law -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [4, 256])
def test_mu_law_round_trip_is_within_half_a_step(levels, x64):
  """The inverse's slope is log(1 + mu) (1 / mu + |x|), and half a step is 1 / mu; over a step the slope grows by at
  most (1 + mu)^(1 / mu)."""
  mu = levels - 1
  x = np.concatenate([np.linspace(-1, 1, 20_001), [1e-5, -1e-5, 0.0]])
  tokens = np.asarray(audio.mu_law(jnp.asarray(x), levels))
  back = np.asarray(audio.mu_law_inverse(jnp.asarray(tokens), levels))
  assert set(tokens) == set(range(levels))
  bound = np.log1p(mu) / mu * (1 / mu + np.abs(x)) * (1 + mu) ** (1 / mu)
  assert (np.abs(back - x) <= bound).all()
  assert np.abs(back - x).max() > 0.4 * bound.max()  # it does use what it has
  tokens = jnp.arange(levels)
  np.testing.assert_array_equal(audio.mu_law(audio.mu_law_inverse(tokens, levels), levels), tokens)


def test_mu_law_at_points_done_by_hand(x64):
  # f(1 / 255 (256^(1/2) - 1)) = 1/2, whose place among 256 values on [-1, 1] is 0.75 * 255 = 191.25.
  x = jnp.array([-1.0, -15 / 255, 0.0, 15 / 255, 1.0])
  np.testing.assert_array_equal(audio.mu_law(x), [0, 64, 128, 191, 255])
  np.testing.assert_allclose(audio.mu_law_inverse(jnp.array([0, 255])), [-1, 1], atol=1e-12)
  # Silence: the nearest of the 256 values is 1 / 255 of the way, 0.00009 of full scale.
  np.testing.assert_allclose(audio.mu_law_inverse(jnp.array([128])), (256 ** (1 / 255) - 1) / 255, rtol=1e-9)


# --- Spoken digits ----------------------------------------------------------------------------------------------------


def recordings(count=12):
  """Each is its number, repeated 3 + number times."""
  lengths = 3 + np.arange(count)
  return dict(
    wave=np.repeat(np.arange(count, dtype=np.int16) * 1000, lengths),
    offsets=np.concatenate([[0], np.cumsum(lengths)]),
    label=(np.arange(count) % 10).astype(np.uint8),
    speaker=np.array(["theo", "anna"] * (count // 2)),
    index=np.array([0, 4, 5, 49] * (count // 4), np.uint8),
  )


def write(path, **changes):
  arrays = recordings() | changes
  np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
  return path


def test_recordings_are_cut_and_filled_with_silence(tmp_path):
  data = audio.speech(write(tmp_path / "s.npz"), length=6)
  train, test = data.source("train"), data.source("test")
  assert (len(train), len(test)) == (6, 6)
  np.testing.assert_array_equal(test[0]["wave"], [0] * 6)
  np.testing.assert_array_equal(test[1]["wave"], [1000] * 4 + [0] * 2)
  np.testing.assert_array_equal(train[2]["wave"], [6000] * 6)  # the seventh of all, of 9 samples
  assert [int(train[i]["label"]) for i in range(4)] == [2, 3, 6, 7]
  assert [int(train[i]["speaker"]) for i in range(4)] == [1, 0, 1, 0]  # anna, theo
  left_out = ["  left out: the ends of 4 recordings, which are longer than 6 samples"]  # those of 9, 10, 13 and 14
  assert data.describe("train").splitlines()[-1:] == left_out
  batch = data.transform(jax.random.key(0), test.gather(np.arange(2)), False)
  assert batch.keys() == {"tokens", "label", "speaker"}
  np.testing.assert_array_equal(batch["tokens"][1], audio.mu_law(jnp.array([1000 / 2**15] * 4 + [0.0] * 2)))


@pytest.mark.parametrize(
  ("changes", "names"),
  [
    (dict(index=None), "lacks one of the arrays.*index"),
    (dict(offsets=np.arange(13)), "is damaged"),
    (dict(label=np.zeros(5, np.uint8)), "is damaged"),
    (dict(wave=np.zeros(102)), "is damaged"),
    (dict(wave=np.array([None] * 102)), "cannot be read"),
    (dict(label=np.full(12, 10, np.uint8)), "10 classes"),
  ],
)
def test_damaged_recordings(tmp_path, changes, names):
  with pytest.raises(UserError, match=names):
    audio.speech(write(tmp_path / "s.npz", **changes), length=6).source("test")


def test_files_that_are_none(tmp_path):
  path = write(tmp_path / "s.npz")
  with pytest.raises(UserError, match="no file"):
    audio.speech(tmp_path / "other.npz", length=6).source("test")
  with pytest.raises(UserError, match="no split 'val'"):
    audio.speech(path, length=6).source("val")
  whole = path.read_bytes()
  for damaged in (whole[: len(whole) // 2], b"no numbers", b""):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="cannot be read"):
      audio.speech(path, length=6).source("test")
  np.save(tmp_path / "one.npy", np.zeros(3))
  with pytest.raises(UserError, match="cannot be read"):
    audio.speech(tmp_path / "one.npy", length=6).source("test")


def test_the_real_ones():
  path = "../shared/data/speech_digits/fsdd_8k_int16.npz"
  try:
    source = audio.speech(path, length=4096).source("train")
  except UserError:
    pytest.skip("the recordings are not here")
  test = audio.speech(path, length=4096).source("test")
  assert (len(source), len(test)) == (2700, 300)
  assert np.bincount(test.arrays["speaker"]).tolist() == [50] * 6
  assert np.bincount(test.arrays["label"]).tolist() == [30] * 10


# --- What shows waves -------------------------------------------------------------------------------------------------


def test_a_tone_is_heard_and_seen():
  time = np.arange(4000) / audio.RATE
  tone = np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in (500, 2000)])
  files = audio.render(tone, {"label": np.array([3, 4])})
  rate, heard = wavfile.read(io.BytesIO(files[".wav"]))
  assert (rate, heard.dtype) == (8000, np.int16)
  np.testing.assert_allclose(heard[:4000] / 2**15, tone[0], atol=1e-4)
  assert (heard[4000:4800] == 0).all()
  np.testing.assert_allclose(heard[4800:8800] / 2**15, tone[1], atol=1e-4)
  picture = np.asarray(Image.open(io.BytesIO(files[".png"])).convert("L"), np.float64)
  # In each half of the picture the darkest row of the spectrogram; high tones stand above low ones.
  height, width = picture.shape
  rows = [picture[height // 2 : -height // 5, a:b].mean(axis=1).argmin() for a, b in ((90, 180), (300, 400))]
  assert rows[0] > rows[1] + 20
