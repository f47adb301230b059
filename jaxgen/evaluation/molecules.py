"""Judges of molecules in space: bonds by their lengths, and whether every atom has as many as it should.

Hoogeboom et al. 2022, https://arxiv.org/abs/2203.17003, with the lengths of their code, for H, C, N, O and F.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.data.sources.molecules import gyration
from jaxgen.engine.experiment import AnyRun, Evaluator

NAMES = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
# Picometres. Two atoms have the highest order whose length, and the margin, is above their distance, if the single
# bond's is, too.
LENGTHS = (
  {
    (1, 1): 74, (1, 6): 109, (1, 7): 101, (1, 8): 96, (1, 9): 92, (6, 6): 154, (6, 7): 147, (6, 8): 143, (6, 9): 135,
    (7, 7): 145, (7, 8): 140, (7, 9): 136, (8, 8): 148, (8, 9): 142, (9, 9): 142,
  },
  {(6, 6): 134, (6, 7): 129, (6, 8): 120, (7, 7): 125, (7, 8): 121, (8, 8): 121},
  {(6, 6): 120, (6, 7): 116, (6, 8): 113, (7, 7): 110},
)  # fmt: skip
MARGINS = (10, 5, 3)


def orders(x: Float[np.ndarray, "n atoms four"]) -> Int[np.ndarray, "n atoms atoms"]:
  """The order of the bond of every two atoms, 0 to 3, of molecules [N, A, 4]: x, y, z in angstrom, the atomic number.

  Raises:
    UserError: an atom whose bonds are not known.
  """
  numbers = np.rint(x[..., 3]).astype(int)
  if unknown := set(np.unique(numbers)) - {0} - set(NAMES):
    raise UserError(f"the lengths of bonds of the atomic number {min(unknown)} are not known here: leave the judge out")
  away = 100 * np.linalg.norm(x[:, :, None, :3] - x[:, None, :, :3], axis=-1)
  found = np.zeros(away.shape, int)
  short = np.ones(away.shape, bool)  # a double bond is a single one, too
  for order, (table, margin) in enumerate(zip(LENGTHS, MARGINS, strict=True), 1):
    limit = np.full((10, 10), -np.inf)
    for (a, b), length in table.items():
      limit[a, b] = limit[b, a] = length + margin
    short &= away < limit[numbers[:, :, None], numbers[:, None]]
    found[short] = order
  found[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = 0
  return found


def stable_atoms(x: Float[np.ndarray, "n atoms four"]) -> Bool[np.ndarray, "n atoms"]:
  """Which atoms have as many bonds as their valence; padding has none, and is not stable."""
  numbers = np.rint(x[..., 3]).astype(int)
  valence = np.array([VALENCE.get(n, -1) for n in range(10)])
  return orders(x).sum(-1) == valence[numbers]


def stability(num: int = 1_000, *, seed: int = 0, split: str = "test") -> Evaluator:
  """The shares of atoms, and of molecules whose atoms all are, that are stable.

  Numbers: `atom_stability_N` and `molecule_stability_N` of N samples; `test_atom_stability` and
  `test_molecule_stability` of a split, which are the best to be hoped for.

  Args:
    num: number of samples.
    seed: of the samples.
    split: the split.
  """
  if num < 1:
    raise ValueError(f"stability(num={num}): give 1 or more samples")

  def shares(x: np.ndarray) -> tuple[float, float]:
    stable, there = stable_atoms(x), x[..., 3] > 0
    return float(stable[there].mean()), float((stable | ~there).all(1).mean())

  def evaluate(run: AnyRun) -> dict[str, float]:
    source = run.data.source(split)
    of_split = shares(source.gather(np.arange(len(source)))["molecule"])
    of_samples = shares(np.asarray(run.sample(num, seed=seed)))
    names = (
      f"atom_stability_{num}",
      f"molecule_stability_{num}",
      f"{split}_atom_stability",
      f"{split}_molecule_stability",
    )
    return dict(zip(names, (*of_samples, *of_split), strict=True))

  return evaluate


def gyration_error(num: int = 256, *, seed: int = 0, split: str = "test") -> Evaluator:
  """How far the radius of gyration of samples is from the one that they were asked to have.

  Numbers, in angstrom: `gyration_error_N`, the mean absolute difference of N samples from the radii of N of a split's
  molecules, and `gyration_error_N_shuffled` of the same radii in another order, about what a model has that does not
  listen.

  Args:
    num: number of samples.
    seed: of the samples.
    split: the split.
  """
  if num < 2:
    raise ValueError(f"gyration_error(num={num}): give 2 or more samples")

  def evaluate(run: AnyRun) -> dict[str, float]:
    source, train = run.data.source(split), run.data.source("train")
    of_train = gyration(train.gather(np.arange(len(train)))["molecule"])
    asked = source.gather(np.random.default_rng(seed).integers(0, len(source), num))["gyration"]
    samples = np.asarray(run.sample(num, seed=seed, gyration=asked))
    wanted = asked[:, 0] * max(of_train.std(), 1e-6) + of_train.mean()
    errors = [float(np.abs(gyration(samples) - x).mean()) for x in (wanted, np.roll(wanted, 1))]
    return {f"gyration_error_{num}": errors[0], f"gyration_error_{num}_shuffled": errors[1]}

  return evaluate


def drawing(x: Float[np.ndarray, "n atoms four"]) -> str:
  """Molecules in the format XYZ, one after the other, for molecule viewers."""
  blocks = []
  for molecule in x:
    there = molecule[molecule[:, 3] > 0]
    rows = [f"{NAMES.get(round(float(a[3])), 'X')} {a[0]:.4f} {a[1]:.4f} {a[2]:.4f}" for a in there]
    blocks.append("\n".join([str(len(rows)), "", *rows]))
  return "\n".join(blocks) + "\n"
