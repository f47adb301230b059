"""Precision, recall, density, coverage and authenticity: metrics from balls around examples in feature space.

The ball of an example reaches to its k-th nearest neighbour within its own set, itself not counted.

    precision  share of samples in the ball of some real example                   Kynkaanniemi et al. 2019, equation 2
    recall     share of real examples in the ball of some sample
    density    mean number of real examples' balls that a sample is in, over k     Naeem et al. 2020, equation 4
    coverage   share of real examples whose ball has a sample                      equation 5
    authentic  share of samples that are farther from the nearest real example     Alaa et al. 2022, section 3.3
               than this one is from its own nearest neighbour

https://arxiv.org/abs/1904.06991, https://arxiv.org/abs/2002.09797, https://arxiv.org/abs/2102.08921. A ball has its
border for precision and recall and has it not for density and coverage, as in the authors' formulas; Kynkaanniemi et
al. take k = 3 and Naeem et al. k = 5. Only a block of rows of the matrix of distances is in memory.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Features = Float[np.ndarray, "_ _"]  # [examples, features]; the sets' sizes differ, and other widths are refused

BLOCK = 1024  # rows of the matrix of distances that are in memory at once


class Manifold(NamedTuple):
  """What each sample and each real example contributes to the five shares, which are their means.

  Attributes:
    precision, authentic: of each sample, whether it counts.
    density: of each sample, its number of balls over k.
    recall, coverage: of each real example, whether it counts.
  """

  precision: Bool[np.ndarray, " samples"]
  recall: Bool[np.ndarray, " real"]
  density: Float[np.ndarray, " samples"]
  coverage: Bool[np.ndarray, " real"]
  authentic: Bool[np.ndarray, " samples"]


def _squares(rows: Features, x: Features) -> Float[np.ndarray, "_ _"]:
  """Squared distances; those of equal rows, which the expansion leaves at the size of rounding, are 0."""
  lengths = np.sum(rows**2, 1)[:, None] + np.sum(x**2, 1)
  squares = lengths - 2 * rows @ x.T
  return np.where(squares > 1e-14 * lengths, squares, 0)


def _blocks(x: Features) -> Iterator[tuple[int, Features]]:
  for start in range(0, len(x), BLOCK):
    yield start, x[start : start + BLOCK]


def _to_neighbours(x: Features, ks: tuple[int, ...]) -> list[Float[np.ndarray, " n"]]:
  """Of each member, the squared distance to its k-th nearest neighbour within the set, for several k."""
  found = []
  for start, rows in _blocks(x):
    squares = _squares(rows, x)
    squares[np.arange(len(rows)), start + np.arange(len(rows))] = 0  # itself
    found.append(np.partition(squares, ks, axis=1)[:, ks])
  return list(np.concatenate(found).T)


def manifold(samples: Features, real: Features, *, k: int = 3, k_density: int = 5) -> Manifold:
  """What samples and real examples contribute to precision, recall, density, coverage and authenticity.

  Args:
    k: the neighbour that a ball reaches to, for precision and recall.
    k_density: the same for density and coverage.

  Raises:
    ValueError: a set has no more than k members, features differ in number or are not finite.
  """
  most = max(k, k_density)
  if min(k, k_density) < 1:
    raise ValueError(f"a ball reaches to the 1st neighbour or a later one, not k={k}, k_density={k_density}")
  for name, x in (("samples", samples), ("real examples", real)):
    if len(x) <= most:
      raise ValueError(f"the {most}th neighbours need more than {most} {name}, and there are {len(x)}")
    if not np.isfinite(x).all():
      raise ValueError(f"the {name} have features that are not finite")
  if samples.shape[1] != real.shape[1]:
    raise ValueError(f"samples have {samples.shape[1]} features and real examples {real.shape[1]}")
  origin = np.asarray(real, np.float64).mean(0)  # a common offset costs digits in the expansion of squares
  samples, real = np.asarray(samples, np.float64) - origin, np.asarray(real, np.float64) - origin
  (of_samples,) = _to_neighbours(samples, (k,))
  of_real, of_real_density, of_real_nearest = _to_neighbours(real, (k, k_density, 1))
  recall, nearest = np.zeros(len(real), bool), np.full(len(real), np.inf)
  precision, density, authentic = [], [], []
  for start, rows in _blocks(samples):
    squares = _squares(rows, real)  # [samples of the block, real]
    precision.append((squares <= of_real).any(1))
    density.append((squares < of_real_density).sum(1) / k_density)
    recall |= (squares <= of_samples[start : start + len(rows), None]).any(0)
    nearest = np.minimum(nearest, squares.min(0))
    j: Int[np.ndarray, " n"] = squares.argmin(1)
    authentic.append(squares[np.arange(len(rows)), j] > of_real_nearest[j])
  parts = (np.concatenate(part) for part in (precision, density, authentic))
  inside, balls, own = parts
  return Manifold(inside, recall, balls, nearest < of_real_density, own)
