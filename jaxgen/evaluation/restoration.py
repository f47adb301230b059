"""Evaluators of super-resolution: samples compared with the pictures from which their low-resolution ones were made."""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError
from jaxgen.core.pictures import quantize
from jaxgen.data import real
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.likelihood import mean_and_error


def psnr(a: Float[np.ndarray, "n h w c"], b: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
  """Each pair's peak signal-to-noise ratio in dB, 10 log10(4 / mean squared error), of images in [-1, 1]."""
  error = np.mean((np.asarray(a, np.float64) - b) ** 2, axis=(1, 2, 3))
  with np.errstate(divide="ignore"):
    return 10 * np.log10(4 / error)


def shrunk(images: Float[np.ndarray, "n h w c"], side: int) -> Float[np.ndarray, "n side side c"]:
  """Images whose pixels are means of squares, as `data.transforms.low_resolution` makes them."""
  n, height, width, channels = images.shape
  return images.reshape(n, side, height // side, side, width // side, channels).mean((2, 4))


def restoration(num: int = 256, *, level: float = 0.0, seed: int = 0, split: str = "test") -> Evaluator:
  """Samples for the low-resolution pictures of a split, compared with the pictures.

  Numbers: `psnr_N` in dB, a mean over N pictures; `psnr_N_bicubic`, of the low-resolution pictures enlarged by bicubic
  interpolation, which blur has little against; and `consistency_N`, the mean squared error between a downsampled sample
  and its low-resolution picture, for values in [-1, 1]: Saharia et al. 2021 (SR3), section 4.2. Good samples differ
  from the picture in details that the model cannot know, so that a blurred mean has a better PSNR.

  Args:
    num: N, the first pictures of the split; all where it has fewer.
    level: the noise that the low-resolution pictures get.
    seed: of the samples.

  The evaluator raises:
    UserError: the data has no "low".
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    import jax

    data, n = run.data, min(num, len(run.data.source(split)))
    if "low" not in data.batch_spec(1, train=False):
      raise UserError(f"{data.name} has no pictures of low resolution: give it the transform low_resolution")
    batches = list(real.batches(data, split, np.arange(n)))
    image, low = (np.concatenate([b[name] for b in batches]) for name in ("image", "low"))
    samples = run.sample(n, seed=seed, low=low, level=np.full(n, level, np.float32))
    samples = samples if data.levels is None else quantize(samples, data.levels)
    enlarged = np.asarray(jax.image.resize(low, image.shape, "cubic")).clip(-1, 1)
    consistency = np.mean((shrunk(samples, low.shape[1]) - low) ** 2)
    found = {f"psnr_{n}": psnr(samples, image), f"psnr_{n}_bicubic": psnr(enlarged, image)}
    return {name: mean_and_error(each)[0] for name, each in found.items()} | {f"consistency_{n}": float(consistency)}

  return evaluate
