"""Evaluators: functions of a run that return numbers by name. A config lists the ones it wants.

    Experiment(..., evaluators=(likelihood(), frechet()))

`likelihood` is in `jaxgen.evaluation.likelihood`. A number's name says its split, its unit and, where it matters, the
number of examples or samples behind it. A name that ends in `_se` is the standard error of the mean of that name.
"""

import math
import os

import numpy as np
from jaxtyping import Float, Num

from jaxgen.core.errors import UserError
from jaxgen.data.dataset import Dataset
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.judge import Judge
from jaxgen.evaluation.likelihood import mean_and_error


def accuracy(split: str = "test") -> Evaluator:
  """Share of a split's examples that are classified correctly, in [0, 1].

  Numbers: `test_accuracy`, its standard error, `test_examples`.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    correct = _per_example(run, split, "correct")["correct"]
    mean, error = mean_and_error(correct)
    return {f"{split}_accuracy": mean, f"{split}_accuracy_se": error, f"{split}_examples": float(len(correct))}

  return evaluate


def means(*names: str, split: str = "test") -> Evaluator:
  """Means over a split of numbers that the method's `evaluate` gives of each example.

  Numbers: for each name `test_NAME` and its standard error.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    values, found = run.evaluate_split(split), {}
    for name in names:
      found[f"{split}_{name}"], found[f"{split}_{name}_se"] = mean_and_error(values[name])
    return found

  return evaluate


def bleu(split: str = "test") -> Evaluator:
  """BLEU of a split's translations, 0 to 100, of a method whose samples are translations of the condition "source".

  Papineni et al. 2002, as sacrebleu computes it from the sentences as they are in the files, with its own tokens.

  Numbers: `test_bleu`, `test_examples`.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    from sacrebleu.metrics import BLEU

    from jaxgen.data import text

    source = run.data.source(split)
    tokens = source.gather(np.arange(len(source)))["source"]
    found = text.decode(run.data.name, run.sample(len(source), source=tokens))
    _, references = text.sentences(run.data, split)
    return {f"{split}_bleu": BLEU().corpus_score(found, [references]).score, f"{split}_examples": float(len(found))}

  return evaluate


def round_trip(split: str = "test") -> Evaluator:
  """How exactly a flow is inverted: the largest |x - f^-1(f(x))| over all values of a split, in the data's units.

  Number: `test_round_trip_max`.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    return {f"{split}_round_trip_max": float(_per_example(run, split, "round_trip")["round_trip"].max())}

  return evaluate


def frechet(
  num: int | None = None,
  *,
  seed: int = 0,
  judge: str | os.PathLike | None = None,
  split: str = "test",
  data: "Dataset | None" = None,
) -> Evaluator:
  """Fréchet distance of `num` samples to a split's images, and its floor, the distance of training images.

  Numbers: `frechet_N` of N samples; `frechet_N_floor` of N training examples (all of them, or a fixed random choice),
  which a perfect sampler would have; and their ratio `frechet_N_ratio`, 1 for samples as close to the split as the
  training examples. The distance falls with N for any samples: compare only equal N. If pixel values are integers,
  samples are first rounded to integers, as in stored pictures. The distance is NaN if samples are not finite.

  Args:
    num: number of samples; by default the number of training examples.
    seed: seed of the samples.
    judge: the run of a trained classifier whose features are compared; by default a small classifier is trained once on
      the training split and cached (see `jaxgen.evaluation.judge`).
    data: the data set to compare with; by default the run's. If the run's is dequantized, give it without that.

  The evaluator raises:
    UserError: more samples than training examples are asked for, the data has no labels and no judge is given, or the
      judge is for images of another shape.
  """
  if num is not None and num < 2:
    raise ValueError(f"frechet(num={num}): a distance needs at least 2 samples")
  known = {}  # the judge, the split's features and the floor, found once per data set and used at every evaluation

  def number(data: Dataset) -> int:
    total = len(data.source("train"))
    if num is not None and num > total:
      raise UserError(
        f"frechet(num={num}): {data.name} has {total} training examples to compare with; ask for at most that many"
      )
    return num or total

  def reference(data: Dataset) -> tuple[Judge, Float[np.ndarray, "n features"], int, float]:
    from jaxgen.data import real
    from jaxgen.evaluation.frechet import frechet_distance

    total, n = len(data.source("train")), number(data)
    looks = known.pop("judge", None) or _judge(data, judge)
    features = lambda split, indices=None: np.concatenate(
      [looks.features(_as_stored(x, data.levels)) for x in real.images(data, split, indices)]
    )
    test = features(split)
    chosen = None if n == total else np.sort(np.random.default_rng(0).permutation(total)[:n])
    return looks, test, n, frechet_distance(features("train", chosen), test)

  def evaluate(run: AnyRun) -> dict[str, float]:
    from jaxgen.evaluation.frechet import frechet_distance

    real = data or run.data
    if known.get("data") is not real:
      known.update(data=real, reference=reference(real))
    looks, test, n, floor = known["reference"]
    samples = run.sample(n, seed=seed)
    # Checked on the samples and not on their features: on a CPU, XLA's ReLU turns NaN into zero.
    if np.isfinite(samples).all():
      distance = frechet_distance(looks.features(_as_stored(samples, run.data.levels)), test)
    else:
      distance = math.nan
    ratio = distance / floor if floor else math.nan
    return {f"frechet_{n}": distance, f"frechet_{n}_floor": floor, f"frechet_{n}_ratio": ratio}

  def rehearse(run: AnyRun) -> list[str]:
    """Opens or trains the judge, and returns the numbers' names."""
    real = data or run.data
    name = f"frechet_{number(real)}"
    known["judge"] = _judge(real, judge)
    return [name, f"{name}_floor", f"{name}_ratio"]

  evaluate.rehearse = rehearse
  return evaluate


def _judge(data: Dataset, judge: str | os.PathLike | None) -> Judge:
  from jaxgen.evaluation import judge as judges

  if judge is None:
    return judges.trained_on(data)
  found, shape = judges.of_run(judge), data.batch_spec(1, train=False)["image"].shape[1:]
  if found.shape != shape:
    raise UserError(
      f"the judge {judge} takes images {list(found.shape)}, and {data.name} has {list(shape)}: give another"
    )
  return found


def _as_stored(images: Num[np.ndarray, "n h w c"], levels: int | None) -> Num[np.ndarray, "n h w c"]:
  from jaxgen.core import pictures

  return images if levels is None else pictures.quantize(images, levels)


def _per_example(run: AnyRun, split: str, name: str) -> dict[str, Num[np.ndarray, " n"]]:
  """The values of a split's examples whose names begin with `name`."""
  values = run.evaluate_split(split)
  found = {key: value for key, value in values.items() if key.startswith(name)}
  if not found:
    raise UserError(
      f"config {run.config.name} does not compute {name!r} of its examples, only {', '.join(sorted(values))}"
    )
  return found
