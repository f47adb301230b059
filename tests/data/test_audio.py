import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
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


# --- Files of sound ---------------------------------------------------------------------------------------------------


def tone(frequency, rate, seconds=0.25):
  return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


@pytest.fixture
def folder(tmp_path):
  """Two classes; a file is 0.25 s long, at 8 kHz and of 16 bits unless it is rewritten."""
  for name in ("a/1.wav", "a/2.wav", "b/3.wav"):
    save(tmp_path / name, tone(500, 8_000))
  return tmp_path


def save(path, wave, rate=8_000):
  path.parent.mkdir(exist_ok=True)
  wave = np.round(wave * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16) if wave.dtype == np.float64 else wave
  wavfile.write(path, rate, wave)


def test_files_are_cut_into_clips_and_classes_are_folders(folder):
  data = audio.recordings(folder, rate=8_000, length=900, classes=2)
  source = data.source("train")
  assert len(source) == 6  # 2,000 samples are two clips of 900
  assert source.gather(np.arange(6))["label"].tolist() == [0, 0, 0, 0, 1, 1]
  batch = data.transform(jax.random.key(0), source.gather(np.arange(6)), True)
  assert batch["wave"].shape == (6, 900, 1)
  whole = tone(500, 8_000)
  np.testing.assert_allclose(batch["wave"][3, :, 0], whole[900:1800], atol=1 / 2**15)
  assert "the ends of 3 recordings" in data.describe("train")
  assert data.spec == Spec((900, 1), None, 2, "wave", np.float32)
  padded = audio.recordings(folder, rate=8_000, length=3_000, fit="pad").source("train")
  assert len(padded) == 3
  assert (padded[0]["wave"][2_000:] == 0).all()
  np.testing.assert_array_equal(padded[0]["wave"][:900], source[0]["wave"])


def test_any_width_is_the_same_sound_and_another_rate_is_resampled(folder):
  wave = tone(500, 8_000)
  read = lambda **options: audio.recordings(folder, rate=8_000, length=2_000, **options).source("train")
  wanted = read()[0]["wave"]
  for other in (np.float32(wave), np.int32(wave * 2**31), np.uint8(np.round(wave * 128 + 128))):
    save(folder / "a/1.wav", other)
    step = 2**8 if other.dtype == np.uint8 else 1
    assert np.abs(read()[0]["wave"].astype(int) - wanted).max() <= step
  for rate in (22_050, 4_000):
    save(folder / "a/1.wav", tone(500, rate), rate)
    inside = slice(200, -200)
    assert np.abs(read()[0]["wave"].astype(int) - wanted)[inside].max() < 0.01 * 2**14
  assert "above 2,000 Hz in 1 recordings, which were resampled from 4,000" in audio.recordings(
    folder, rate=8_000, length=2_000
  ).describe("train")


def test_a_tone_that_the_new_rate_has_not_is_gone(folder):
  """A tone of 3 kHz is above half of 4,000 samples a second: the filter takes it away, and no lower one appears."""
  for path in folder.glob("*/*.wav"):
    save(path, tone(500, 8_000) + tone(3_000, 8_000) / 2)
  wave = audio.recordings(folder, rate=4_000, length=1_000).source("train")[0]["wave"][:, 0] / 2**15
  spectrum = np.abs(np.fft.rfft(wave[100:900])) / 400
  frequency = np.fft.rfftfreq(800, 1 / 4_000)
  assert abs(spectrum[frequency == 500][0] - 0.5) < 0.01
  assert spectrum[np.abs(frequency - 500) > 50].max() < 0.01


def test_stereo_is_kept_or_mixed_as_it_is_asked(folder):
  both = np.stack([tone(500, 8_000), tone(900, 8_000)], axis=1)
  for path in folder.glob("*/*.wav"):
    save(path, both)
  stereo = audio.recordings(folder, rate=8_000, length=2_000, channels=2).source("train")[0]["wave"]
  np.testing.assert_allclose(stereo / 2**15, both, atol=1 / 2**15)
  mixed = audio.recordings(folder, rate=8_000, length=2_000, mix=True).source("train")[0]["wave"]
  np.testing.assert_allclose(mixed[:, 0] / 2**15, both.mean(1), atol=1 / 2**15)


@pytest.mark.parametrize(
  ("options", "wave", "words"),
  [
    ({}, np.stack([tone(500, 8_000)] * 2, 1), "has 2 channels, and the config asks for 1 channel.*audio:RATE,mix:DIR"),
    ({"channels": 2}, None, "has 1 channel, and the config asks for 2 channels"),
    ({"channels": 2, "mix": True}, None, "a mix of channels has one"),
    ({}, np.zeros(2_000), "is silent, all its 2,000 samples are 0"),
    ({"length": 2_001}, None, "has 2,000 samples at 8,000 a second.*clips of 2,001, and 2 more files are too short"),
    ({}, np.full(2_000, np.nan, np.float32), "not finite"),
    ({"classes": 1}, None, "expects 1 classes"),
    ({"rate": 0}, None, "audio:RATE:DIR"),
  ],
)
def test_sound_that_does_not_fit_is_one_sentence(folder, options, wave, words):
  if wave is not None:
    save(folder / "a/1.wav", wave)
  with pytest.raises(UserError, match=words) as error:
    audio.recordings(folder, **{"rate": 8_000, "length": 1_000} | options).source("train")
  assert "\n" not in str(error.value)


def test_damaged_and_missing_files_of_sound(folder, monkeypatch):
  source = lambda split="train": audio.recordings(folder, rate=8_000, length=1_000).source(split)
  whole = (folder / "a/1.wav").read_bytes()
  for damaged in (b"", b"no sound", whole[:30], whole[:1_000]):
    (folder / "a/1.wav").write_bytes(damaged)
    with pytest.raises(UserError, match=r"1\.wav cannot be read as sound"):
      source()
  (folder / "a/1.wav").rename(folder / "a/1.flac")
  monkeypatch.setitem(sys.modules, "soundfile", None)
  with pytest.raises(UserError, match=r"pip install 'jaxgen\[audio\]'"):
    source()
  with pytest.raises(UserError, match="no split 'test'"):
    source("test")
  with pytest.raises(UserError, match="no sound files"):
    audio.recordings(folder / "a", rate=8_000, length=10, classes=1).source("train")


def test_flac_is_the_same_sound(folder):
  soundfile = pytest.importorskip("soundfile")
  read = lambda: audio.recordings(folder, rate=4_000, length=1_000).source("train")[0]["wave"]
  wanted = read()
  (folder / "a/1.wav").unlink()
  soundfile.write(folder / "a/1.flac", tone(500, 8_000), 8_000, subtype="PCM_16")
  assert np.abs(read().astype(int) - wanted).max() <= 1
  (folder / "a/1.flac").write_bytes(b"fLaC")
  with pytest.raises(UserError, match="cannot be read as sound"):
    read()


def test_clips_are_cut_out_at_random_in_training_alone():
  wave = jnp.arange(20.0)[None, :, None].repeat(64, 0)
  batch = {"wave": wave, "index": jnp.arange(64)}
  out = audio.cut(15, random=True)(jax.random.key(0), batch)["wave"]
  assert out.shape == (64, 15, 1)
  assert set(np.asarray(out[:, 0, 0])) == set(range(6))
  np.testing.assert_array_equal(out[:, :, 0] - out[:, :1, 0], np.arange(15.0)[None].repeat(64, 0))
  some = {name: x[3:5] for name, x in batch.items()}
  np.testing.assert_array_equal(audio.cut(15, random=True)(jax.random.key(0), some)["wave"], out[3:5])
  np.testing.assert_array_equal(audio.cut(15)(jax.random.key(0), batch)["wave"], wave[:, :15])
  with pytest.raises(UserError, match="waves of 20 samples have no clips of 21"):
    audio.cut(21)(jax.random.key(0), batch)


# --- What shows waves -------------------------------------------------------------------------------------------------


def test_a_tone_is_heard_and_seen():
  tones = np.stack([tone(f, 8_000, 0.5) for f in (500, 2_000)])
  files = audio.render(tones, {"label": np.array([3, 4]), "mel": np.zeros((2, 5, 3))})
  rate, heard = wavfile.read(io.BytesIO(files[".wav"]))
  assert (rate, heard.dtype) == (8000, np.int16)
  np.testing.assert_allclose(heard[:4000] / 2**15, tones[0], atol=1e-4)
  assert (heard[4000:4800] == 0).all()
  np.testing.assert_allclose(heard[4800:8800] / 2**15, tones[1], atol=1e-4)
  picture = np.asarray(Image.open(io.BytesIO(files[".png"])).convert("L"), np.float64)
  # In each half of the picture the darkest row of the spectrogram; high tones stand above low ones.
  height, width = picture.shape
  rows = [picture[height // 2 : -height // 5, a:b].mean(axis=1).argmin() for a, b in ((90, 180), (300, 400))]
  assert rows[0] > rows[1] + 20
  # Stereo at another rate: the same sound, in two channels.
  rate, heard = wavfile.read(io.BytesIO(audio.render(np.stack([tones] * 2, axis=2), {}, 16_000)[".wav"]))
  assert (rate, heard.shape) == (16_000, (2 * (4_000 + 1_600), 2))
