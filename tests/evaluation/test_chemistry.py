"""Judges of molecules by RDKit, on conformers that RDKit made."""

import types

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import small_molecules
from jaxgen.evaluation import chemistry

METHANE = 1.09 / 3**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])


def padded(positions, numbers):
  row = np.zeros((12, 4))
  row[: len(numbers), :3], row[: len(numbers), 3] = positions, numbers
  return row


class Source:
  def __init__(self, x):
    self.x = x

  def __len__(self):
    return len(self.x)

  def gather(self, indices):
    return {"molecule": self.x[indices]}


def test_samples_are_judged():
  """Conformers have their own SMILES and no strain, a stretched one has; torn ones are in parts, a crowd is none."""
  pytest.importorskip("rdkit", exc_type=ImportError)
  smiles = ("CCO", "CC#N", "CO")
  x = np.stack([padded(*small_molecules.conformers(one, 1)[0]) for one in smiles])
  assert chemistry.names(x) == list(smiles)
  assert max(abs(chemistry.strain(one)) for one in x) < 1e-3
  stretched, torn = x[2].copy(), x[0].copy()
  stretched[:, :3] *= 1.03
  torn[:3, :3] += 9
  crowd = padded(np.random.default_rng(0).normal(size=(8, 3)), np.full(8, 6))
  beside = x[2].copy()
  beside[6:9] = [[9 + 0.74 * i, 0, 0, 1] for i in range(3)]  # methanol, and a hydrogen with two bonds
  assert chemistry.names(np.stack([crowd, 0 * crowd, beside])) == [None, None, None]
  assert 1 < chemistry.strain(stretched) < 50
  assert chemistry.strain(torn) is None
  samples = np.stack([x[0], x[0], x[1], crowd])
  splits = {"train": Source(x[:1]), "test": Source(x[1:])}
  data = types.SimpleNamespace(source=lambda split: splits[split])
  numbers = chemistry.chemistry(4)(types.SimpleNamespace(data=data, sample=lambda num, seed: samples))
  assert numbers["valid_4"] == 3 / 4
  assert numbers["unique_4"] == 2 / 3
  assert numbers["novel_4"] == 1 / 2
  assert numbers["strained_4"] == 3 / 4
  assert numbers["test_valid"] == 1
  assert abs(numbers["strain_4"]) < 1e-3
  for picture in (chemistry.flat(samples), chemistry.solid(samples), chemistry.solid(0 * samples)):
    assert picture.startswith(b"\x89PNG")


def test_without_rdkit_there_is_one_sentence(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "rdkit", None)
  with pytest.raises(UserError, match="pip install 'jaxgen"):
    chemistry.names(padded(METHANE, [1, 1, 1, 1])[None])
