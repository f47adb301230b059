"""Maximum mean discrepancies: KID and CMMD, over pairs of features in blocks.

The squared discrepancy of two distributions in a kernel k (Gretton et al. 2012,
https://jmlr.org/papers/v13/gretton12a.html) is

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)                                                                  (1)

with x, x' from one and y, y' from the other. Its unbiased estimate leaves out the pairs of a sample with itself
(equation 3 there), its biased one does not (equation 5). Only a block of rows of the matrix of pairs is in memory.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Features = Float[np.ndarray, "_ _"]  # [examples, features]; the sets' sizes differ, and other widths are refused
Kernel = Callable[[Features, Features], Float[np.ndarray, "_ _"]]

BLOCK = 2048  # rows of the matrix of pairs that are in memory at once


def polynomial(x: Features, y: Features) -> Float[np.ndarray, "_ _"]:
  """KID's kernel, (x . y / d + 1)^3: Binkowski et al. 2018, https://arxiv.org/abs/1801.01401, equation 6."""
  return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(sigma: float) -> Kernel:
  """exp(-|x - y|^2 / (2 sigma^2))."""

  def kernel(x: Features, y: Features) -> Float[np.ndarray, "_ _"]:
    squares = np.sum(x**2, 1)[:, None] - 2 * x @ y.T + np.sum(y**2, 1)
    return np.exp(-np.maximum(squares, 0) / (2 * sigma**2))

  return kernel


class _Sums(NamedTuple):
  """For each member, the sums of the kernel over the other members of its set and over the other set."""

  own: Float[np.ndarray, " n"]
  other: Float[np.ndarray, " n"]
  itself: Float[np.ndarray, " n"]


def _sums(x: Features, y: Features, kernel: Kernel) -> tuple[_Sums, _Sums]:
  _check(x, y)
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  of_y = np.zeros(len(y))
  own, other, itself = [], [], []
  for block in _blocks(x):
    diagonal = _diagonal(block, kernel)
    own.append(sum(kernel(block, part).sum(1) for part in _blocks(x)) - diagonal)
    cross = [kernel(block, part) for part in _blocks(y)]
    other.append(sum(part.sum(1) for part in cross))
    of_y += np.concatenate([part.sum(0) for part in cross])
    itself.append(diagonal)
  of_x = _Sums(np.concatenate(own), np.concatenate(other), np.concatenate(itself))
  diagonals = [_diagonal(block, kernel) for block in _blocks(y)]
  own = [
    sum(kernel(block, part).sum(1) for part in _blocks(y)) - diagonal
    for block, diagonal in zip(_blocks(y), diagonals, strict=True)
  ]
  return of_x, _Sums(np.concatenate(own), of_y, np.concatenate(diagonals))


def _blocks(x: Features) -> Iterator[Features]:
  for start in range(0, len(x), BLOCK):
    yield x[start : start + BLOCK]


def _diagonal(x: Features, kernel: Kernel) -> Float[np.ndarray, " n"]:
  return np.array([kernel(row[None], row[None])[0, 0] for row in x])


def _check(x: Features, y: Features) -> None:
  for name, z in (("first", x), ("second", y)):
    if z.ndim != 2 or len(z) < 2:
      raise ValueError(f"a discrepancy needs 2 examples or more in each set; the {name} is of shape {list(z.shape)}")
    if not np.isfinite(z).all():
      raise ValueError(f"the {name} set has features that are not finite")
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"there are {x.shape[1]} features in one set and {y.shape[1]} in the other")


def kid(x: Features, y: Features) -> tuple[float, float]:
  """Kernel Inception Distance over all pairs, unbiased, and its standard error; it may be negative.

  The error is the jackknife's (Efron and Stein 1981), each member of either set left out once; it is exact arithmetic
  on the sums over rows and needs no second pass. Where the two distributions are equal it is too large rather than too
  small.

  Raises:
    ValueError: fewer than two examples in a set, other numbers of features, or ones that are not finite.
  """
  a, b = _sums(x, y, polynomial)
  n, m = len(x), len(y)
  xx, yy, xy = a.own.sum(), b.own.sum(), a.other.sum()
  value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
  variance = 0.0
  for sums, count, others in ((a, n, m), (b, m, n)):
    if count < 3:
      return float(value), math.nan
    within, constant = (xx, yy / (m * (m - 1))) if sums is a else (yy, xx / (n * (n - 1)))
    left_out = (
      (within - 2 * sums.own) / ((count - 1) * (count - 2)) + constant - 2 * (xy - sums.other) / ((count - 1) * others)
    )
    variance += (count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)
  return float(value), math.sqrt(variance)


def kid_of_subsets(
  x: Features,
  y: Features,
  *,
  subsets: int = 100,
  size: int = 1000,
  seed: int = 2020,
) -> tuple[float, float]:
  """KID as papers report it: mean and standard deviation over random subsets, as torch-fidelity draws them.

  The deviation is that of one subset, not the error of the mean: subsets overlap.

  Raises:
    ValueError: as `kid`, or a set is smaller than a subset.
  """
  _check(x, y)
  if min(len(x), len(y)) < size or size < 2:
    raise ValueError(f"subsets of {size} need as many examples, and there are {len(x)} and {len(y)}")
  random = np.random.RandomState(seed)
  values = []
  for _ in range(subsets):
    a = x[random.choice(len(x), size, replace=False)]
    b = y[random.choice(len(y), size, replace=False)]
    sums, others = _sums(a, b, polynomial)
    within = sums.own.sum() + others.own.sum()
    values.append(within / (size * (size - 1)) - 2 * sums.other.sum() / size**2)
  return float(np.mean(values)), float(np.std(values))


def cmmd(x: Features, y: Features, *, sigma: float = 10.0, scale: float = 1000.0) -> float:
  """CMMD: Jayasumana et al. 2024, https://arxiv.org/abs/2401.09603, section 4: a Gaussian kernel on CLIP's embeddings.

  The biased estimate, times `scale`, as in the authors' code. The paper's embeddings have length 1.

  Raises:
    ValueError: as `kid`.
  """
  a, b = _sums(x, y, gaussian(sigma))
  n, m = len(x), len(y)
  xx, yy = (a.own + a.itself).sum() / n**2, (b.own + b.itself).sum() / m**2
  return float(scale * (xx + yy - 2 * a.other.sum() / (n * m)))
