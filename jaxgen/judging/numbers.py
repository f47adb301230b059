"""Metrics of a set of pictures. A number's name contains everything that it depends on:

    fid_50000_inception_tf1_train    metric, number of samples, features with their preprocessing, reference

A number whose name ends in _se is a standard error. For FID, sFID and KID it is a jackknife's (FID's over ten groups of
samples, with a fixed reference; KID's over both sets); for precision and the like it is that of a mean over examples,
with fixed balls. An Inception Score's _split_std is the deviation over ten parts, as papers report it. FID of fewer
samples than features has another name, because its covariance does not have full rank.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.evaluation import frechet, kernel, moments
from jaxgen.evaluation.inception_score import inception_score
from jaxgen.evaluation.likelihood import mean_and_error
from jaxgen.evaluation.manifold import Manifold, manifold
from jaxgen.evaluation.moments import Moments
from jaxgen.judging.features import Features
from jaxgen.judging.pictures import Pictures
from jaxgen.judging.spaces import Space

GROUPS = 10  # of samples, for FID's jackknife
SPLITS = 10  # of the Inception Score


class Sets(NamedTuple):
  """The sets that a metric compares.

  Attributes:
    samples: the samples' features.
    real: the reference's features; None if only its moments are known.
    moments: name of features -> the reference's moments.
    manifold: the contents of the balls around both sets; computed once.
  """

  samples: Features
  real: Features | None
  moments: Callable[[str], Moments]
  manifold: Callable[[], Manifold]


Numbers = dict[str, float]  # by names without "_N_SPACE_REFERENCE", which `judge` adds


def _fid(sets: Sets, name: str = "fid", of: str = "features") -> Numbers:
  groups = _in_groups(sets.samples, of)
  reference = sets.moments(of)
  width = len(reference.mu)
  word = name if sets.samples.n > width else f"{name}_of_fewer_than_{width}_features"
  if len(groups) < 2:
    return {word: frechet.of_moments(groups[0], reference)}
  value, error = frechet.jackknifed(groups, reference)
  return {word: value, f"{word}_se": error}


def _in_groups(samples: Features, of: str) -> list[Moments]:
  """Moments of ten groups of consecutive samples, or of one group if there are fewer than 20 samples."""
  n = samples.n
  ends = [(i + 1) * n // GROUPS for i in range(GROUPS)] if n >= 2 * GROUPS else [n]
  groups: list[Moments | None] = [None] * len(ends)
  seen = 0
  for chunk in samples.chunks(of):
    start = 0
    while start < len(chunk):
      i = int(np.searchsorted(ends, seen, side="right"))
      part = moments.of(chunk[start : start + ends[i] - seen])
      groups[i] = part if groups[i] is None else moments.merge(groups[i], part)
      start, seen = start + part.n, seen + part.n
  return groups


def _fid_infinity(sets: Sets) -> Numbers:
  return {"fid_infinity": frechet.extrapolated(sets.samples.all(), sets.moments("features"))}


def _kid(sets: Sets) -> Numbers:
  value, error = kernel.kid(sets.samples.all(), sets.real.all())
  return {"kid": value, "kid_se": error}


def _inception_score(sets: Sets) -> Numbers:
  n = sets.samples.n
  splits = SPLITS if n >= SPLITS else 1
  mean, deviation = inception_score(sets.samples.chunks("logits"), n, splits)
  return {"inception_score": mean, "inception_score_split_std": deviation}


def _shares(sets: Sets, names: Sequence[str]) -> Numbers:
  found = sets.manifold()
  numbers = {}
  for name in names:
    word = {"precision": "precision_k3", "recall": "recall_k3", "density": "density_k5", "coverage": "coverage_k5"}
    mean, error = mean_and_error(getattr(found, name).astype(np.float64))
    numbers |= {word.get(name, name): mean, f"{word.get(name, name)}_se": error}
  return numbers


def _cmmd(sets: Sets) -> Numbers:
  return {"cmmd": kernel.cmmd(sets.samples.all(), sets.real.all())}


class Metric(NamedTuple):
  """A metric.

  Attributes:
    compute: the sets -> its numbers.
    needs: the network's output that it uses.
    against: the reference: all real "examples", their "moments", or "nothing".
    least: the smallest number of samples, and of real examples if it uses all of them.
    why: the reason for `least`, for the error message.
  """

  compute: Callable[[Sets], Numbers]
  needs: str = "features"
  against: str = "examples"
  least: int = 2
  why: str = "compares distributions"


BALLS = {"least": 6, "why": "uses 5th neighbours"}
METRICS: dict[str, Metric] = {
  "fid": Metric(_fid, against="moments"),
  "fid_infinity": Metric(_fid_infinity, against="moments", least=40, why="fits a line to distances of few and many"),
  "sfid": Metric(functools.partial(_fid, name="sfid", of="spatial"), "spatial", "moments"),
  "kid": Metric(_kid),
  "is": Metric(_inception_score, "logits", "nothing"),
  "prdc": Metric(functools.partial(_shares, names=("precision", "recall", "density", "coverage")), **BALLS),
  "authentic": Metric(functools.partial(_shares, names=("authentic",)), **BALLS),
  "cmmd": Metric(_cmmd),
}


def check_names(names: Sequence[str]) -> None:
  """Raises a UserError if a metric does not exist, or none is named."""
  if not names:
    raise UserError(f"--metrics takes one or more of {', '.join(METRICS)}, separated by commas")
  if unknown := [name for name in names if name not in METRICS]:
    raise UserError(f"there is no metric {unknown[0]!r}: they are {', '.join(METRICS)}")


def check_metrics(names: Sequence[str], space: Space, samples: Pictures, reference: Pictures | Any) -> None:
  """Raises a UserError if a metric cannot be computed for these sets in this space; computes nothing.

  Args:
    reference: pictures; anything else stands for the moments of a file of statistics.
  """
  check_names(names)
  for name in names:
    metric = METRICS[name]
    if metric.needs not in space.gives:
      raise UserError(f"{name} needs a network's {metric.needs}, and {space.name} has none: see --space")
    if metric.against == "examples" and not isinstance(reference, Pictures):
      raise UserError(f"{name} compares with every real example, but a file of statistics has only their moments")
    takes = [(samples, metric.least)]
    if metric.against != "nothing" and isinstance(reference, Pictures):
      takes.append((reference, metric.least if metric.against == "examples" else 2))
    for pictures, least in takes:
      if pictures.n < least:
        raise UserError(f"{name} {metric.why}, and needs {least} pictures or more: {pictures.name} has {pictures.n}")


def judge(
  samples: Pictures,
  reference: Pictures | tuple[str, Moments],
  space: Space,
  metrics: Sequence[str],
  folder: files.Place,
  *,
  resume: bool = True,
  progress: Callable[[str, int, int], Any] = lambda what, done, total: None,
) -> Numbers:
  """The metrics of a set of pictures against a reference, by their full names.

  Args:
    reference: pictures, or (a name for the numbers' names, moments of the reference's features in the same space).
    folder: where features are stored, so that the computation can continue after a kill.
    progress: called with "samples" or "reference", the number of finished pictures, and their total.

  Raises:
    UserError: as `check_metrics`, before any feature is computed; or the folder has features of other pictures.
  """
  check_metrics(metrics, space, samples, reference)
  sets = {"samples": samples}
  if isinstance(reference, Pictures) and any(METRICS[name].against != "nothing" for name in metrics):
    sets = {"reference": reference, **sets}
  kept: dict[str, Features] = {}
  for what, pictures in sets.items():
    kept[what] = Features(folder / what, pictures, space)
    kept[what].compute(resume, lambda done, what=what, n=pictures.n: progress(what, done, n))
  name = reference[0]

  @functools.cache
  def of_reference(of: str) -> Moments:
    return moments.sum_of(kept["reference"].chunks(of)) if isinstance(reference, Pictures) else reference[1]

  balls = functools.cache(lambda: manifold(kept["samples"].all(), kept["reference"].all()))
  compared = Sets(kept["samples"], kept.get("reference"), of_reference, balls)
  numbers: Numbers = {}
  for metric in metrics:
    try:
      found = METRICS[metric].compute(compared)
    except ValueError as error:
      raise UserError(f"{metric} of {samples.n} samples of {samples.name} against {name}: {error}") from error
    for word, value in found.items():
      stem = word.removesuffix("_se").removesuffix("_split_std")
      against = "" if stem == "inception_score" else f"_{name}"
      numbers[f"{stem}_{samples.n}_{space.name}{against}{word.removeprefix(stem)}"] = float(value)
  return numbers
