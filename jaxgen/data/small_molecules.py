"""Makes a file for `molecules:FILE`: all molecules of a few heavy atoms C, N and O that pass rules of sanity, in space.

    pip install 'jaxgen[molecules]'
    python -m jaxgen.data.small_molecules small_molecules.npz

Molecules are enumerated from one atom on, by an atom more with any bond, and by raising the order of any bond, those of
order 0 too. Kept are those without charges for which all of `RULES` holds, RDKit finds conformers by ETKDG and MMFF94
relaxes them. Hydrogens are atoms of the file. A tenth of the molecules, by SHA-256 of their SMILES, is "test": all
conformers of a molecule are in one split.
"""

import argparse
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.core.errors import UserError

VALENCE = {6: 4, 7: 3, 8: 2}
# In words, and what a molecule that breaks it contains, as SMARTS.
RULES = {
  "no bond of two oxygens": "O~O",
  "no row of three atoms other than carbon": "[N,O]~[N,O]~[N,O]",
  "no triple bond in a ring": "[*;r]#[*;r]",
  "no two double bonds at one atom of a ring": "[*;r]=[*;r]=*",
  "no double bond within a ring of three or four": "[r3,r4]=;@[r3,r4]",
  "no ring of three or four atoms that shares atoms with another ring": "[r3,r4;!R1]",
  "no single bond of a nitrogen without double bond and an oxygen": "[NX3]-[OX2]",
  "no two oxygens with hydrogen at one carbon": "[OH]C[OH]",
  "no enol and no enamine": "C=C[OH,NH2]",
}


def enumerated(heavy: int) -> list[str]:
  """Canonical SMILES of all molecules of 1 to `heavy` atoms that RDKit accepts, before the rules.

  Raises:
    UserError: no atom, or RDKit is not installed.
  """
  if heavy < 1:
    raise UserError(f"molecules have 1 heavy atom or more, not {heavy}: change their number")
  Chem = rdkit()[0]
  found, last = [], {Chem.MolToSmiles(Chem.MolFromSmiles(one)) for one in "CNO"}
  for size in range(1, heavy + 1):
    todo = list(last)
    while todo:  # until no bond can be raised
      new = {smiles for one in todo for smiles in _raised(Chem, one)} - last
      last |= new
      todo = list(new)
    found += sorted(last)
    if size < heavy:
      last = {smiles for one in last for smiles in _grown(Chem, one)}
  return found


def _smiles(Chem: Any, molecule: Any) -> str | None:
  changed = molecule.GetMol()
  return None if Chem.SanitizeMol(changed, catchErrors=True) else Chem.MolToSmiles(changed)


def _editable(Chem: Any, smiles: str) -> Any:
  molecule = Chem.MolFromSmiles(smiles)
  Chem.Kekulize(molecule, clearAromaticFlags=True)
  return Chem.RWMol(molecule)


def _grown(Chem: Any, smiles: str) -> Iterator[str]:
  orders = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
  start = _editable(Chem, smiles)
  for atom, number in itertools.product(list(start.GetAtoms()), VALENCE):
    for order in range(1, 1 + min(3, atom.GetTotalNumHs(), VALENCE[number])):
      molecule = Chem.RWMol(start)
      molecule.AddBond(atom.GetIdx(), molecule.AddAtom(Chem.Atom(number)), orders[order - 1])
      _forget_hydrogens(molecule)
      if made := _smiles(Chem, molecule):
        yield made


def _raised(Chem: Any, smiles: str) -> Iterator[str]:
  next_order = {Chem.BondType.SINGLE: Chem.BondType.DOUBLE, Chem.BondType.DOUBLE: Chem.BondType.TRIPLE}
  start = _editable(Chem, smiles)
  free = [atom.GetIdx() for atom in start.GetAtoms() if atom.GetTotalNumHs()]
  for i, j in itertools.combinations(free, 2):
    molecule, bond = Chem.RWMol(start), start.GetBondBetweenAtoms(i, j)
    if bond is None:
      molecule.AddBond(i, j, Chem.BondType.SINGLE)
    elif bond.GetBondType() in next_order:
      molecule.GetBondBetweenAtoms(i, j).SetBondType(next_order[bond.GetBondType()])
    else:
      continue
    _forget_hydrogens(molecule)
    if made := _smiles(Chem, molecule):
      yield made


def _forget_hydrogens(molecule: Any) -> None:
  for atom in molecule.GetAtoms():
    atom.SetNumExplicitHs(0)
    atom.SetNoImplicit(False)


def sane(smiles: list[str]) -> list[str]:
  """Those of the molecules that break none of `RULES`, with the bonds of aromatic rings single and double in turn."""
  Chem = rdkit()[0]
  patterns = [Chem.MolFromSmarts(rule) for rule in RULES.values()]
  return [one for one in smiles if not any(map(_editable(Chem, one).HasSubstructMatch, patterns))]


def conformers(smiles: str, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
  """(positions [A, 3] in angstrom, atomic numbers [A]) of up to `count` conformers that MMFF94 relaxes; [] if none."""
  Chem, AllChem = rdkit()
  molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
  options = AllChem.ETKDGv3()
  options.randomSeed = 0
  found = list(AllChem.EmbedMultipleConfs(molecule, count, options))
  if not found or not AllChem.MMFFHasAllMoleculeParams(molecule):
    return []
  relaxed = AllChem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2_000)
  numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], np.uint8)
  done = [i for i, (failed, _) in zip(found, relaxed, strict=True) if not failed]
  return [(np.asarray(molecule.GetConformer(i).GetPositions(), np.float32), numbers) for i in done]


def make(file: Path, heavy: int = 6, count: int = 3) -> dict[int, int]:
  """Writes the file and returns its sizes, {number of atoms: conformers in "train"}.

  Args:
    file: where it goes.
    heavy: the largest number of atoms other than hydrogen.
    count: conformers of each molecule, at most.

  Raises:
    UserError: no atom or conformer is asked for, or RDKit is not installed.
  """
  if count < 1:
    raise UserError(f"a molecule has 1 conformer or more, not {count}: change their number")
  rows, smiles, split = [], [], []
  for one in sane(enumerated(heavy)):
    part = "test" if int(hashlib.sha256(one.encode()).hexdigest(), 16) % 10 == 0 else "train"
    for row in conformers(one, count):
      rows.append(row)
      smiles.append(one)
      split.append(part)
  most = max(len(numbers) for _, numbers in rows)
  positions, numbers = np.zeros((len(rows), most, 3), np.float32), np.zeros((len(rows), most), np.uint8)
  for i, (where, kinds) in enumerate(rows):
    positions[i, : len(kinds)], numbers[i, : len(kinds)] = where - where.mean(0), kinds
  np.savez_compressed(file, positions=positions, numbers=numbers, split=np.array(split), smiles=np.array(smiles))
  sizes = (numbers[np.array(split) == "train"] > 0).sum(1)
  return {int(n): int((sizes == n).sum()) for n in np.unique(sizes)}


def rdkit() -> tuple[Any, Any]:
  """(Chem, AllChem) of RDKit. Raises a UserError where it is not installed."""
  try:
    from rdkit import Chem, RDLogger
    from rdkit.Chem import AllChem
  except ImportError:
    raise UserError("RDKit makes and judges molecules, and is not installed: pip install 'jaxgen[molecules]'") from None
  RDLogger.DisableLog("rdApp.*")
  return Chem, AllChem


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("file", type=Path)
  parser.add_argument("--heavy", type=int, default=6)
  parser.add_argument("--conformers", type=int, default=3)
  given = parser.parse_args()
  print(make(given.file, given.heavy, given.conformers))
