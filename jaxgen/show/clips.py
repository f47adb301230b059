"""Clips as what they are: an animated WebP, and strips of their frames."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgen.core import pictures
from jaxgen.engine.experiment import AnyRun
from jaxgen.evaluation.clips import position_errors, predicted

STRIPS = 16  # the most clips whose frames are shown beside each other


def render(fps: float = 8.0) -> Callable[[Any, Mapping[str, Any]], dict[str, bytes]]:
  """Renders samples that are clips in [-1, 1]: {".webp": all of them, playing, ".png": the frames of the first 16}.

  Args:
    fps: frames a second.
  """

  def shown(clips: Float[np.ndarray, "n time h w c"], conditions: Mapping[str, Any]) -> dict[str, bytes]:
    return {".webp": pictures.animation(clips, fps), ".png": pictures.png(pictures.strips(clips[:STRIPS]))}

  return shown


def predictions(known: int = 4, num: int = 64) -> Callable[[AnyRun], dict[str, bytes]]:
  """A figure of Moving MNIST's predictions: see `evaluation.clips.dynamics`, whose arguments these are.

  Files: predictions.webp, the true clip of each pair on the left and the predicted one on the right; predictions.png,
  their frames; position_error.png, the mean distance to the exact positions in each frame.
  """

  def figure(run: AnyRun) -> dict[str, bytes]:
    batch, some = predicted(run, known, num)
    pairs = np.stack([some["_true"], some[""]], axis=1)[: STRIPS // 2].reshape(-1, *some[""].shape[1:])
    errors = {name: position_errors(clips, batch).mean((0, 2)) for name, clips in some.items()}
    return {
      "predictions.webp": pictures.animation(pairs, 8.0),
      "predictions.png": pictures.png(pictures.strips(pairs)),
      "position_error.png": _by_time(errors, known),
    }

  return figure


def _by_time(errors: Mapping[str, np.ndarray], known: int) -> bytes:
  from matplotlib.figure import Figure
  from matplotlib.ticker import MaxNLocator

  names = {"": "predicted", "_true": "true frames", "_copy": "last known frame copied"}
  figure = Figure((5, 3), layout="constrained")
  axes = figure.subplots()
  for name, values in errors.items():
    axes.plot(np.arange(known, len(values)), values[known:], label=names[name], marker="o", markersize=3)
  axes.set(xlabel=f"frame, of which the first {known} are known", ylabel="error of position, pixels", ylim=(0, None))
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.legend()
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=100)
  return buffer.getvalue()
