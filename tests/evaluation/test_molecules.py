"""Bonds and stability against the code of tests/fixtures/make_bonds.py, and of molecules that are known."""

import types

import conftest
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import molecules, small_molecules
from jaxgen.data.sources.molecules import gyration
from jaxgen.evaluation.molecules import drawing, gyration_error, orders, stability, stable_atoms

# Methane and water as in a textbook: C-H of 1.09, O-H of 0.96 angstrom.
TETRAHEDRON = 1.09 / 3**0.5 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
METHANE = np.array([[0, 0, 0, 6.0], *[[*p, 1.0] for p in TETRAHEDRON]])
WATER = np.array([[0, 0, 0, 8.0], [0.96, 0, 0, 1], [-0.24, 0.93, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_orders_and_stability_equal_the_authors():
  with np.load(conftest.REPOSITORY / "tests/fixtures/bonds.npz") as known:
    np.testing.assert_array_equal(orders(known["x"]), known["orders"])
    np.testing.assert_array_equal(stable_atoms(known["x"]), known["stable"])
    assert set(np.unique(known["orders"])) == {0, 1, 2, 3}
    assert 0 < known["stable"].sum() < known["stable"].size


def test_known_molecules():
  pair = np.stack([METHANE, WATER])
  assert stable_atoms(pair).sum(1).tolist() == [5, 3]
  broken = METHANE.copy()
  broken[1, :3] *= 3
  source = type("Source", (), {"__len__": lambda self: 2, "gather": lambda self, i: {"molecule": pair[i]}})()
  run = types.SimpleNamespace(
    data=types.SimpleNamespace(source=lambda split: source), sample=lambda num, seed: np.stack([WATER, broken])
  )
  numbers = stability(2)(run)
  assert numbers["molecule_stability_2"] == 0.5
  assert numbers["atom_stability_2"] == 6 / 8
  assert numbers["test_molecule_stability"] == numbers["test_atom_stability"] == 1.0
  assert drawing(pair[1:]).splitlines()[:3] == ["3", "", "O 0.0000 0.0000 0.0000"]
  with pytest.raises(UserError, match="atomic number 2 are not known"):
    orders(np.full((1, 2, 4), 2.0))


def test_the_radius_of_gyration_that_was_asked_for(tmp_path):
  """Two atoms d apart have d / 2. The data is standardised by its training molecules; samples that do as they were
  asked have no error, and those in another order have."""
  rng = np.random.default_rng(0)
  distance = rng.uniform(0.8, 1.6, 40)
  positions = np.zeros((40, 3, 3))
  positions[:, 1, 0] = distance
  split = np.array(["train", "test"])[np.arange(40) % 2]
  np.savez(tmp_path / "m.npz", positions=positions, numbers=np.array([[6, 8, 0]] * 40), split=split)
  data = molecules(tmp_path / "m.npz", 3, gyration=True)
  train = data.source("train").arrays
  np.testing.assert_allclose(gyration(train["molecule"]), distance[::2] / 2, rtol=1e-6)
  of_train = distance[::2] / 2
  np.testing.assert_allclose(train["gyration"][:, 0], (of_train - of_train.mean()) / of_train.std(), atol=1e-5)
  assert data.spec.feature == "molecule"

  def sample(num, seed, gyration):
    x = np.zeros((num, 3, 4))
    x[:, :2, 3], x[:, 1, 0] = 6, 2 * (gyration[:, 0] * of_train.std() + of_train.mean())
    return x

  numbers = gyration_error(20)(types.SimpleNamespace(data=data, sample=sample))
  assert numbers["gyration_error_20"] < 1e-5
  assert numbers["gyration_error_20_shuffled"] > 0.05


def test_small_molecules_are_all_there():
  """Of up to two heavy atoms they can be listed by hand."""
  pytest.importorskip("rdkit", exc_type=ImportError)
  assert small_molecules.enumerated(1) == ["C", "N", "O"]
  singles, others = (
    {"CC", "CN", "CO", "NN", "NO", "OO"},
    {"C=C", "C=N", "C=O", "N=N", "N=O", "O=O", "C#C", "C#N", "N#N"},
  )
  assert set(small_molecules.enumerated(2)[3:]) == singles | others
  assert set(small_molecules.sane(sorted(singles | others))) == (singles | others) - {"OO", "O=O", "NO"}
  (positions, numbers), *_ = small_molecules.conformers("CO", 1)
  assert sorted(numbers.tolist()) == [1, 1, 1, 1, 6, 8]
  x = np.concatenate([positions, numbers[:, None]], axis=1)[None]
  assert stable_atoms(x).all()


def test_without_rdkit_there_is_one_sentence(monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "rdkit", None)
  with pytest.raises(UserError, match="pip install 'jaxgen"):
    small_molecules.enumerated(1)
  with pytest.raises(UserError, match="1 heavy atom or more"):
    small_molecules.enumerated(0)
