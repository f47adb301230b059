"""Numbers of a set of pictures, each with a name that says all that it depends on:

    fid_50000_inception_tf1_train    metric, number of samples, features with their preprocessing, what it is against

A number whose name ends in _se is a standard error: of FID, sFID and KID a jackknife's (FID's over ten groups of
samples, the reference taken as it is; KID's over both sets), of shares that of a mean over examples, the balls taken as
they are. An Inception Score's _split_std is the deviation of ten parts, as papers report it. FID of fewer samples than
features says so in its name: its covariance has not full rank.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.evaluation import frechet, kernel, moments
from jaxgen.evaluation.inception_score import inception_score
from jaxgen.evaluation.likelihood import mean_and_error
from jaxgen.evaluation.manifold import manifold
from jaxgen.evaluation.moments import Moments
from jaxgen.judging.features import Features
from jaxgen.judging.pictures import Pictures
from jaxgen.judging.spaces import Space

GROUPS = 10  # of samples, for FID's jackknife
SPLITS = 10  # of the Inception Score


class Sets(NamedTuple):
  """What a metric compares.

  Attributes:
    samples: the samples' features.
    real: the reference's; None where only its moments are known.
    moments: the reference's moments, of its features by name.
  """

  samples: Features
  real: Features | None
  moments: Callable[[str], Moments]


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
  """Moments of ten groups of consecutive samples, or of one where there are fewer than 20."""
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
  x = sets.samples.all()
  if len(x) < 40:
    raise UserError(f"fid_infinity fits a line to distances of few and many samples: {len(x)} are too few, take 40")
  return {"fid_infinity": frechet.extrapolated(x, sets.moments("features"))}


def _kid(sets: Sets) -> Numbers:
  value, error = kernel.kid(sets.samples.all(), sets.real.all())
  return {"kid": value, "kid_se": error}


def _inception_score(sets: Sets) -> Numbers:
  n = sets.samples.n
  splits = SPLITS if n >= SPLITS else 1
  mean, deviation = inception_score(sets.samples.chunks("logits"), n, splits)
  return {"inception_score": mean, "inception_score_split_std": deviation}


def _shares(sets: Sets, names: Sequence[str]) -> Numbers:
  found = manifold(sets.samples.all(), sets.real.all())
  numbers = {}
  for name in names:
    word = {"precision": "precision_k3", "recall": "recall_k3", "density": "density_k5", "coverage": "coverage_k5"}
    mean, error = mean_and_error(getattr(found, name).astype(np.float64))
    numbers |= {word.get(name, name): mean, f"{word.get(name, name)}_se": error}
  return numbers


def _cmmd(sets: Sets) -> Numbers:
  return {"cmmd": kernel.cmmd(sets.samples.all(), sets.real.all())}


class Metric(NamedTuple):
  """How a metric is computed, which of a network's outputs it needs, and whether of every real example."""

  compute: Callable[[Sets], Numbers]
  needs: str = "features"
  pairs: bool = True


METRICS: dict[str, Metric] = {
  "fid": Metric(_fid, pairs=False),
  "fid_infinity": Metric(_fid_infinity, pairs=False),
  "sfid": Metric(functools.partial(_fid, name="sfid", of="spatial"), "spatial"),
  "kid": Metric(_kid),
  "is": Metric(_inception_score, "logits", pairs=False),
  "prdc": Metric(functools.partial(_shares, names=("precision", "recall", "density", "coverage"))),
  "authentic": Metric(functools.partial(_shares, names=("authentic",))),
  "cmmd": Metric(_cmmd),
}


def check_metrics(names: Sequence[str], space: Space, has_examples: bool = True) -> None:
  """Raises a UserError where there is no such metric, the space lacks what it needs, or the reference does."""
  if not names:
    raise UserError(f"--metrics takes one or more of {', '.join(METRICS)}, with commas between them")
  for name in names:
    if name not in METRICS:
      raise UserError(f"there is no metric {name!r}: they are {', '.join(METRICS)}")
    if METRICS[name].needs not in space.gives:
      raise UserError(f"{name} needs a network's {METRICS[name].needs}, and {space.name} has none: see --space")
    if METRICS[name].pairs and not has_examples:
      raise UserError(f"{name} compares with every real example, and a file of statistics has their moments alone")


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
  """The metrics of a set of pictures against another, by their full names.

  Args:
    reference: pictures, or (what stands in the names, moments of their features in the same space).
    folder: where features are kept, so that what a kill has cut short can go on.
    progress: called with what is computed, how many pictures are done, and how many there are.

  Raises:
    UserError: as `check_metrics`; or the folder is of other pictures, or there are too few.
  """
  only_moments = isinstance(reference[1], Moments)
  check_metrics(metrics, space, not only_moments)
  if samples.n < 2:
    raise UserError("metrics of a distribution need 2 pictures or more")
  steps: Iterator[tuple[str, Pictures]] = iter((("samples", samples),))
  if not only_moments:
    steps = iter((("reference", reference), ("samples", samples)))
  kept: dict[str, Features] = {}
  for what, pictures in steps:
    kept[what] = Features(folder / what, pictures, space)
    kept[what].compute(resume, lambda done, what=what, n=pictures.n: progress(what, done, n))
  name = reference[0]

  @functools.cache
  def of_reference(of: str) -> Moments:
    return reference[1] if only_moments else moments.sum_of(kept["reference"].chunks(of))

  sets = Sets(kept["samples"], kept.get("reference"), of_reference)
  numbers: Numbers = {}
  for metric in metrics:
    try:
      found = METRICS[metric].compute(sets)
    except ValueError as error:
      raise UserError(f"{metric} of {samples.n} samples of {samples.name} against {name}: {error}") from error
    for word, value in found.items():
      stem = word.removesuffix("_se").removesuffix("_split_std")
      against = "" if stem == "inception_score" else f"_{name}"
      numbers[f"{stem}_{samples.n}_{space.name}{against}{word.removeprefix(stem)}"] = float(value)
  return numbers
