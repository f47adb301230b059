"""Mean and covariance of a stream of features, as partial sums that can be merged, and the files that papers share.

total = sum_of(chunks)                 # one pass, one chunk in memory at a time
write("cifar10_train.npz", total)      # mu, sigma: what pytorch-fid, torch-fidelity and ADM read
"""

import functools
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.core import files
from jaxgen.core.errors import UserError

ABOUT = ("features", "weights", "data")  # texts that jaxgen writes into a statistics file, besides mu, sigma and n


class Moments(NamedTuple):
  """The first two moments of a set of features, in float64.

  Attributes:
    n: number of members; 0 where a file does not say it.
    mu: their mean.
    scatter: sum over members of (x - mu)(x - mu)^T, divided by n - 1 the covariance.
  """

  n: int
  mu: Float[np.ndarray, " features"]
  scatter: Float[np.ndarray, "features features"]

  @property
  def sigma(self) -> Float[np.ndarray, "features features"]:
    """The unbiased covariance, as numpy.cov gives it.

    Raises:
      ValueError: there are fewer than two members.
    """
    if self.n < 2:
      raise ValueError(f"a covariance needs at least 2 members, and there are {self.n}")
    return self.scatter / (self.n - 1)


def of(x: Float[np.ndarray, "n features"]) -> Moments:
  """The moments of one chunk.

  Raises:
    ValueError: it is empty, or a feature is not finite.
  """
  x = np.asarray(x, np.float64)
  if not len(x):
    raise ValueError("an empty set has no moments")
  if not np.isfinite(x).all():
    raise ValueError("there are features that are not finite")
  mu = x.mean(0)
  centred = x - mu
  return Moments(len(x), mu, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
  """The moments of both sets together (Chan, Golub and LeVeque 1983, equation 2.1, for a covariance)."""
  n, delta = a.n + b.n, b.mu - a.mu
  scatter = a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n)
  return Moments(n, a.mu + delta * (b.n / n), scatter)


def sum_of(chunks: Iterable[Float[np.ndarray, "_ features"]]) -> Moments:
  """The moments of all chunks, added in order: the same chunks give the same bits.

  Raises:
    ValueError: there are no chunks, or a feature is not finite.
  """
  parts = map(of, chunks)
  try:
    return functools.reduce(merge, parts)
  except TypeError:
    raise ValueError("an empty set has no moments") from None


def write(file: str | pathlib.Path, moments: Moments, **about: str) -> None:
  """Writes moments as .npz: mu and sigma in float64, as in pytorch-fid, and n and texts that identify them.

  Args:
    about: the features' name, which has their preprocessing, the SHA-256 of their weights, and the data.
  """
  with files.written(pathlib.Path(file)) as opened:
    np.savez(opened, mu=moments.mu, sigma=moments.sigma, n=np.int64(moments.n), **about)


def is_statistics(file: str | pathlib.Path) -> bool:
  """Whether a file is an .npz with mu or sigma, or one that cannot be read; otherwise it is of pictures."""
  try:
    with np.load(file, allow_pickle=False) as arrays:
      return bool({"mu", "sigma"} & set(arrays.files))
  except files.NPZ_ERRORS:
    return True


def read(file: str | pathlib.Path, **about: str) -> tuple[Moments, dict[str, str]]:
  """(the moments in a .npz with mu and sigma, the texts that identify them).

  If the file does not contain the number of members, n is set to 2, which leaves `sigma` as in the file.

  Args:
    about: values that these texts must have, if the file has them: features="inception_tf1", weights=SHA-256.

  Raises:
    UserError: the file is missing, damaged, has no mu and sigma of one size, or is of other features.
  """
  path = pathlib.Path(file)
  if not path.is_file():
    raise UserError(f"there is no file {path} of statistics: `jaxgen statistics DATA --out {path}` makes one")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found: dict[str, Any] = {name: arrays[name] for name in arrays.files if name in ("mu", "sigma", "n", *ABOUT)}
  except files.NPZ_ERRORS as error:
    raise UserError(f"{path} cannot be read as statistics ({error}): it is an .npz with mu and sigma") from error
  missing = [name for name in ("mu", "sigma") if name not in found]
  if missing:
    raise UserError(
      f"{path} has no {missing[0]}: statistics are an .npz with mu [features] and sigma [features, features]"
    )
  count = np.asarray(found.get("n", 0))
  if count.size != 1 or any(x.dtype.kind not in "fiu" for x in (found["mu"], found["sigma"], count)):
    raise UserError(f"{path}: mu and sigma must be real numbers, and n one number: make the statistics anew")
  mu, sigma, n = np.float64(found["mu"]), np.float64(found["sigma"]), int(count.item())
  if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
    raise UserError(
      f"{path}: mu is {list(mu.shape)} and sigma {list(sigma.shape)}: of n features they are [n] and [n, n]"
    )
  if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
    raise UserError(f"{path} has values that are not finite: make the statistics anew")
  if (
    not np.allclose(sigma, sigma.T, rtol=1e-4, atol=1e-4 * np.abs(sigma).max(initial=0)) or (sigma.diagonal() < 0).any()
  ):
    raise UserError(
      f"{path}: sigma is not a covariance, symmetric with variances of 0 or more: make the statistics anew"
    )
  said = {name: str(found[name]) for name in ABOUT if name in found}
  for name, value in about.items():
    if said.get(name, value) != value:
      raise UserError(f"{path} is of the {name} {said[name]}, and the samples' are {value}: compare the same")
  return Moments(max(n, 2), mu, sigma * (max(n, 2) - 1)), said
