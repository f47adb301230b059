"""How well samples cover the clouds of a mixture: Lin et al. 2018 (PacGAN), https://arxiv.org/abs/1712.04086, 4.1."""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError
from jaxgen.data.sources import modes
from jaxgen.engine.experiment import AnyRun, Evaluator


def coverage(
  x: Float[np.ndarray, "n d"], centres: Float[np.ndarray, "modes d"], std: float
) -> Float[np.ndarray, " modes"]:
  """The share of samples within 3 sigma of each centre. A sample near two centres counts for the nearer one."""
  distance = np.linalg.norm(x[:, None] - centres, axis=-1)
  nearest = distance.argmin(axis=1)
  near = distance[np.arange(len(x)), nearest] <= 3 * std
  return np.bincount(nearest[near], minlength=len(centres)) / len(x)


def modes_covered(num: int = 2_500, *, seed: int = 0) -> Evaluator:
  """Coverage of the clouds of `points:MODES:STD` by `num` samples.

  Numbers, with `_N` for N samples: `modes_hit`, the clouds that have a sample within 3 sigma (standard deviations) of
  their centre; `share_within_3_sigma` of all samples, of any centre, which for the data itself is 1 - exp(-9 / 2) =
  0.989; and `least_mode`, the share of the cloud that has fewest, times the number of clouds: 1 where all have as many.

  The evaluator raises:
    UserError: the run's data are no such points.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    kind, *rest = run.data.name.split(":")
    if kind != "points":
      raise UserError(f"modes are those of points:MODES:STD, and the data is {run.data.name}: leave modes_covered out")
    centres, std = modes(rest[0]), float(rest[1])
    shares = coverage(run.sample(num, seed=seed), centres, std)
    return {
      f"modes_hit_{num}": float(np.count_nonzero(shares)),
      f"share_within_3_sigma_{num}": float(shares.sum()),
      f"least_mode_{num}": float(shares.min() * len(shares)),
    }

  return evaluate
