"""Likelihoods of all families in common units.

A method gives -log likelihoods in nats per example. This module turns them into numbers whose names have the full unit:

    test_nll_nats_2_levels                    nats per example, of examples whose values are integers of 2 levels
    test_bits_per_dim_256_levels              bits per value, of 256 levels
    test_bits_per_dim_256_levels_dequantized  an upper bound on the same, of a density of uniformly dequantized values
    test_nll_nats_density                     of real numbers: minus the logarithm of a density, per unit of the data
    test_nats_per_token_65_levels             nats per token, of 65 tokens

A likelihood with levels is that of the integers, -log P, however a method scales its examples. The suffix after the
levels says how it was computed: no suffix for an exact likelihood or the method's own bound; `_dequantized`, `_elbo`,
`_importance_5000` and so on. `table` refuses to compare numbers without a common unit.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Num

from jaxgen.core.errors import UserError
from jaxgen.core.keys import root
from jaxgen.core.method import State
from jaxgen.data.dataset import Dataset
from jaxgen.engine.experiment import AnyRun, Evaluator

VALUES = {"image": "dim", "x": "dim", "tokens": "token"}  # an example's name -> the name of a value of it


Partition = Callable[[State, Array], tuple[Array | float, Array | float, str]]


def likelihood(split: str = "test", partition: Partition | None = None) -> Evaluator:
  """Negative log-likelihood of a split, or the upper bound on it that the method computes.

  For each name of the method's `evaluate` that begins with "nll_nats", the numbers are the mean in nats per example and
  in bits per value, their standard errors, and the number of examples. If `evaluate` gives "tokens", each example's
  number of tokens, the mean per token is over all tokens, and nats per token are also given.

  Args:
    split: the split.
    partition: for an unnormalised model p(x) = exp(-U(x)) / Z, whose `evaluate` gives U(x) as "unnormalised_nll_nats":
      (state, key) -> (log Z, its standard error, suffix of the number's name). The suffix is "" if log Z is exact and
      "_ais_1000" or the like otherwise, after "_density" if x are real numbers. -log p(x) = U(x) + log Z, with the
      standard error of both; log Z is also a number of the evaluator.

  The evaluator raises:
    UserError: the method gives no likelihood, or one of integers for data that are not integers.
  """

  def evaluate(run: AnyRun) -> dict[str, float]:
    values = run.evaluate_split(split)
    nats = {name.removeprefix("nll_nats"): x for name, x in values.items() if name.startswith("nll_nats")}
    error_of, numbers = dict.fromkeys(nats, 0.0), {}
    if partition is not None and "unnormalised_nll_nats" in values:
      log_z, its_error, how = partition(run.state, root(0, "partition"))
      nats[how] = values["unnormalised_nll_nats"].astype(np.float64) + float(log_z)
      error_of[how] = float(its_error)
      numbers = {f"log_z{how}": float(log_z), f"log_z{how}_se": float(its_error)}
    if not nats:
      raise UserError(
        f"config {run.config.name} gives no likelihoods of its examples, only {', '.join(sorted(values))}"
      )
    word, size = of_data(run.data)
    counts = np.asarray(values.get("tokens", np.full(len(next(iter(nats.values()))), size)), np.float64)
    for how, x in nats.items():
      if run.data.levels is None and not how.startswith("_density"):
        raise UserError(
          f"{run.data.name} has no levels, so its likelihood is a density's, and the method of config "
          f'{run.config.name} gives that of integers: say "nll_nats_density", or the data\'s levels'
        )
      unit = how if how.startswith("_density") else f"_{run.data.levels}_levels{how}"
      (mean, error), (each, each_error) = mean_and_error(x), per_value(x, counts)
      error, each_error = math.hypot(error, error_of[how]), math.hypot(each_error, error_of[how] / counts.mean())
      found = {"nll_nats": (mean, error)}
      if word == "token":
        found["nats_per_token"] = each, each_error
      found[f"bits_per_{word}"] = each / math.log(2), each_error / math.log(2)
      for name, (mean, se) in found.items():
        numbers |= {f"{split}_{name}{unit}": mean, f"{split}_{name}{unit}_se": se}
    return numbers | {f"{split}_examples": float(len(counts))}

  return evaluate


def of_data(data: Dataset) -> tuple[str, int]:
  """(the name of a value of an example, the number of values of an example), as the method models it."""
  spec = data.batch_spec(1, train=False)
  name = next((name for name in VALUES if name in spec), None)
  if name is None:
    raise UserError(f"{data.name} has none of {', '.join(VALUES)}, so the meaning of its likelihood is not defined")
  return VALUES[name], math.prod(spec[name].shape[1:])


def mean_and_error(x: Num[np.ndarray, " n"]) -> tuple[float, float]:
  """The mean and its standard error, which is NaN for a single example."""
  x = np.asarray(x, np.float64)
  return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def per_value(nats: Num[np.ndarray, " n"], counts: Num[np.ndarray, " n"]) -> tuple[float, float]:
  """Sum of nats over sum of values, and its standard error (a ratio's, to first order)."""
  nats, counts = np.asarray(nats, np.float64), np.asarray(counts, np.float64)
  mean = float(nats.sum() / counts.sum())
  return mean, mean_and_error(nats - mean * counts)[1] / float(counts.mean())


def integers_from_density(nats: float, *, values: int, levels: int, width: float = 1.0) -> float:
  """The bound on -log P of integers, in nats per example, from -log p of their uniformly dequantized values.

  Theis et al. 2016, https://arxiv.org/abs/1511.01844, section 3.1. Papers give log p of values in some interval: NICE's
  1,980.5 nats of MNIST on [0, 1] are integers_from_density(-1980.5, values=784, levels=256) = 2366.9 nats.

  Args:
    nats: minus the logarithm of the density, per example.
    values: number of values of an example.
    levels: number of levels of a value.
    width: width of the interval over which the levels are spread.
  """
  return nats + values * math.log(levels / width)


def bits_per_value(nats: float, values: int) -> float:
  """Nats per example -> bits per value."""
  return nats / (values * math.log(2))


class Row(NamedTuple):
  """A likelihood in a table.

  Attributes:
    model: the model's name.
    data: name and split of the data.
    number: the number's name, from `likelihood`.
    mean, error: the number and its standard error.
  """

  model: str
  data: str
  number: str
  mean: float
  error: float = math.nan


class Unit(NamedTuple):
  """The unit that two likelihoods must share to be compared.

  Attributes:
    per: "nll_nats", "bits_per_dim", ...
    scale: "2_levels", "density", ...
  """

  split: str
  per: str
  scale: str


_NAME = re.compile(
  r"(?P<split>\w+?)_(?P<per>nll_nats|nats_per_token|bits_per_dim|bits_per_token)_(?P<scale>\d+_levels|density)"
  r"(?P<how>(?:_\w+)?(?<!_se))"
)


def unit(number: str) -> tuple[Unit, str] | None:
  """(the unit of a number, the suffix for how it was computed) from its name; None: it is not a likelihood."""
  found = _NAME.fullmatch(number)
  return found and (Unit(found["split"], found["per"], found["scale"]), found["how"].removeprefix("_"))


def table(rows: Sequence[Row]) -> str:
  """Likelihoods of one data set in one unit, the best first.

  Raises:
    UserError: rows of more than one data set or unit, or a number that is no likelihood.
  """
  kinds = {}
  for row in rows:
    found = unit(row.number)
    if found is None:
      raise UserError(
        f"{row.number} of {row.model} is not a likelihood with a unit in its name: leave it out of the table"
      )
    kinds[(row.data, found[0])] = row
  if len(kinds) > 1:
    (data, a), (other, b) = list(kinds)[:2]
    raise UserError(f"{'_'.join(a)} of {data} and {'_'.join(b)} of {other} have no common unit: make a table of each")
  lines = [
    (row.model, f"{row.mean:.4g}", f"{row.error:.2g}", unit(row.number)[1])
    for row in sorted(rows, key=lambda row: row.mean)
  ]
  ((data, same),) = kinds
  head = ("model", f"{'_'.join(same)} of {data}", "standard error", "estimate")
  return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * 4, *lines))
