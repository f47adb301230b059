"""Reads fixtures that keep a network by its publisher's names: tests/fixtures/records.py."""

import pathlib

import jax.extend
import numpy as np

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def projected(name: str, gradient: np.ndarray) -> np.ndarray:
  """As in the scripts that made the fixtures."""
  return np.random.default_rng(list(name.encode())).standard_normal((4, gradient.size)) @ gradient.ravel()


def load(file: str, network: str) -> dict[str, dict[str, np.ndarray]]:
  """The arrays of one network: {"weight": {name: array}, "argument": .., "gradient": .., "output": {"": array}, ..}."""
  found = {}
  with np.load(FIXTURES / file) as arrays:
    for key in arrays.files:
      prefix, _, rest = key.partition("/")
      if prefix == network:
        group, _, name = rest.partition("/")
        found.setdefault(group, {})[name] = arrays[key]
  return found


def products(jaxpr):
  """The inputs of every product of matrices."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      yield equation.invars
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from products(inner)
