"""Judges of molecules that need RDKit: validity, uniqueness, novelty, strain, and drawings in two and three dimensions.

    pip install 'jaxgen[molecules]'

As in Hoogeboom et al. 2022, https://arxiv.org/abs/2203.17003, and their code: bonds are those of `molecules.orders`, a
molecule is valid if RDKit accepts all its parts, and its name is the largest part's SMILES; here without hydrogens.
"""

import io
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxgen.data.small_molecules import rdkit
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.molecules import orders

COLOURS = {1: "0.85", 6: "0.3", 7: "tab:blue", 8: "tab:red", 9: "tab:green"}
Molecule = Float[np.ndarray, "atoms four"]


def bonded(x: Molecule) -> Any:
  """RDKit's molecule of atoms with the bonds that their distances say, before RDKit has judged it, with its conformer.

  Raises:
    UserError: RDKit is not installed, or the bonds of an atom are not known.
  """
  Chem, _ = rdkit()
  x = x[x[:, 3] > 0]
  molecule = Chem.RWMol()
  for number in np.rint(x[:, 3]).astype(int):
    atom = Chem.Atom(int(number))
    atom.SetNoImplicit(True)  # hydrogens are atoms of the sample
    molecule.AddAtom(atom)
  kinds = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
  bonds = orders(x[None])[0] if len(x) else np.zeros((0, 0), int)
  for i, j in zip(*np.triu(bonds).nonzero(), strict=True):
    molecule.AddBond(int(i), int(j), kinds[bonds[i, j] - 1])
  conformer = Chem.Conformer(len(x))
  for i, place in enumerate(x[:, :3].tolist()):
    conformer.SetAtomPosition(i, place)
  molecule.AddConformer(conformer)
  return molecule.GetMol()


def accepted(x: Molecule) -> Any:
  """The largest part of a molecule, or None where it has no atoms or RDKit does not accept one of its parts."""
  Chem, _ = rdkit()
  whole = bonded(x)
  if not whole.GetNumAtoms() or Chem.SanitizeMol(whole, catchErrors=True):
    return None
  largest = max(Chem.GetMolFrags(whole, asMols=True, sanitizeFrags=False), key=lambda part: part.GetNumAtoms())
  Chem.SanitizeMol(largest)
  return largest


def names(x: Float[np.ndarray, "n atoms four"]) -> list[str | None]:
  """Canonical SMILES of the molecules' largest parts; None for those that are not valid."""
  Chem, _ = rdkit()
  found = map(accepted, x)
  return [None if molecule is None else Chem.MolToSmiles(Chem.RemoveHs(molecule, sanitize=False)) for molecule in found]


def strain(x: Molecule, steps: int = 2_000) -> float | None:
  """kcal/mol by which MMFF94's energy falls when a molecule relaxes; None for one in several parts, or without MMFF94.

  Args:
    steps: the most steps of the relaxation.
  """
  Chem, AllChem = rdkit()
  molecule = accepted(x)
  if molecule is None or molecule.GetNumAtoms() < (x[:, 3] > 0).sum():
    return None
  properties = AllChem.MMFFGetMoleculeProperties(molecule)
  if properties is None:
    return None
  field = AllChem.MMFFGetMoleculeForceField(molecule, properties)
  before = field.CalcEnergy()
  field.Minimize(maxIts=steps)
  return float(before - field.CalcEnergy())


def chemistry(num: int = 256, *, seed: int = 0, split: str = "test") -> Evaluator:
  """What RDKit says of samples, beside a split's own molecules.

  Numbers: `valid_N`, the share of N samples that is valid; `unique_N`, different ones among the valid; `novel_N`, the
  share of these that no training molecule is; and `strain_N`, the median of `strain` in kcal/mol over the share
  `strained_N` of samples of which it is known. `test_valid` and `test_strain` are of up to N molecules of the split.

  Args:
    num: number of samples.
    seed: of the samples.
    split: the split.

  The evaluator raises:
    UserError: RDKit is not installed.
  """
  if num < 1:
    raise ValueError(f"chemistry(num={num}): give 1 or more samples")

  def energies(x: np.ndarray) -> tuple[float, float]:
    """(median, share of the molecules that have one)."""
    found = [e for e in map(strain, x) if e is not None]
    return float(np.median(found)) if found else float("nan"), len(found) / len(x)

  def evaluate(run: AnyRun) -> dict[str, float]:
    train, other = run.data.source("train"), run.data.source(split)
    samples = np.asarray(run.sample(num, seed=seed))
    known = set(names(train.gather(np.arange(len(train)))["molecule"]))
    valid = [name for name in names(samples) if name is not None]
    different = set(valid)
    share = lambda part, whole: part / whole if whole else float("nan")
    chosen = np.linspace(0, len(other) - 1, min(num, len(other))).round().astype(int)
    x = other.gather(chosen)["molecule"]
    median, strained = energies(samples)
    return {
      f"valid_{num}": len(valid) / num,
      f"unique_{num}": share(len(different), len(valid)),
      f"novel_{num}": share(len(different - known), len(different)),
      f"strain_{num}": median,
      f"strained_{num}": strained,
      f"{split}_valid": float(np.mean([name is not None for name in names(x)])),
      f"{split}_strain": energies(x)[0],
    }

  return evaluate


def flat(x: Float[np.ndarray, "n atoms four"], columns: int = 4) -> bytes:
  """A PNG of structural formulas; the place of a molecule that is not valid is empty."""
  Chem, AllChem = rdkit()
  from rdkit.Chem import Draw

  drawn = []
  for one in x:
    molecule = accepted(one)
    molecule = Chem.Mol() if molecule is None else Chem.RemoveHs(molecule, sanitize=False)
    molecule.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(molecule)
    AllChem.Compute2DCoords(molecule)
    drawn.append(molecule)
  rows = -(-len(drawn) // columns)
  canvas = Draw.rdMolDraw2D.MolDraw2DCairo(200 * columns, 200 * rows, 200, 200)
  canvas.drawOptions().prepareMolsBeforeDrawing = False
  canvas.DrawMolecules(drawn)
  canvas.FinishDrawing()
  return canvas.GetDrawingText()


def solid(x: Float[np.ndarray, "n atoms four"], columns: int = 4, inches: float = 2.2) -> bytes:
  """A PNG of atoms and bonds in space, each molecule along its two longest axes, nearer atoms in front. No RDKit."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = -(-len(x) // columns)
  figure = Figure((columns * inches, rows * inches), dpi=100, layout="constrained")
  FigureCanvasAgg(figure)
  for n, one in enumerate(x):
    axes = figure.add_subplot(rows, columns, n + 1)
    axes.set_axis_off()
    axes.set_aspect("equal")
    atoms = one[one[:, 3] > 0]
    if not len(atoms):
      continue
    centred = atoms[:, :3] - atoms[:, :3].mean(0)
    places = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    places = np.pad(places, ((0, 0), (0, 3 - places.shape[1])))
    bonds = orders(atoms[None])[0]
    for i, j in zip(*np.triu(bonds).nonzero(), strict=True):
      a, b = places[[i, j]]
      axes.plot(*np.stack([a, b])[:, :2].T, color="0.5", linewidth=1.5 * bonds[i, j], zorder=min(a[2], b[2]))
    for place, number in zip(places, np.rint(atoms[:, 3]).astype(int), strict=True):
      size = 60 if number == 1 else 140
      axes.scatter(
        *place[:2], s=size, color=COLOURS.get(number, "k"), edgecolors="k", linewidths=0.5, zorder=place[2] + 0.01
      )
    axes.margins(0.15)
  file = io.BytesIO()
  figure.savefig(file, format="png")
  return file.getvalue()
