"""Equivariant diffusion of all molecules with up to six heavy atoms (C, N, O) that pass plausibility rules.

Paper: Hoogeboom et al. 2022, Equivariant diffusion for molecule generation in 3D, https://arxiv.org/abs/2203.17003. It
has QM9, and a network of 256 features and 9 blocks.

    python -m jaxgen.data.small_molecules small_molecules.npz
    jaxgen train equivariant_molecules --corpus small_molecules.npz
    jaxgen train equivariant_molecules --corpus small_molecules.npz --gyration True --name gyration

With --gyration True molecules are asked for by their radius of gyration, as the paper asks for properties of QM9.
Samples are drawn, and kept in the format XYZ.

Expect: not measured. 0.976 of the test split's atoms are stable by the paper's table of bond lengths, which was fitted
to the geometries of QM9 and not to MMFF94's; of its molecules 0.874
Cost: not measured; making the data took 5 minutes on a CPU that was busy with other work as well
"""

import numpy as np

from jaxgen import Experiment, optimizers
from jaxgen.core.condition import UNCONDITIONAL, Condition
from jaxgen.core.wrappers import averaged
from jaxgen.data import molecules
from jaxgen.evaluation.chemistry import chemistry, solid
from jaxgen.evaluation.evaluators import means
from jaxgen.evaluation.molecules import drawing, gyration_error, stability
from jaxgen.methods.molecules.equivariant import Molecules, molecular_diffusion
from jaxgen.nn.graphs.egnn import EGNN

# Numbers of atoms in the training split of that file.
SIZES = {
  2: 3, 3: 9, 4: 24, 5: 51, 6: 144, 7: 369, 8: 798, 9: 1428, 10: 2172, 11: 2865, 12: 3171, 13: 2913, 14: 2568, 15: 1653,
  16: 1068, 17: 444, 18: 210, 19: 42, 20: 12,
}  # fmt: skip


def experiment(
  steps: int = 20_000,
  batch_size: int = 64,
  learning_rate: float = 5e-4,
  hidden: int = 64,
  depth: int = 4,
  noise_steps: int = 1_000,
  sampling_steps: int = 250,
  ema: float = 0.999,
  corpus: str = "data/small_molecules.npz",
  atoms: int = 20,
  evaluation_terms: int = 16,
  judged: int = 256,
  rdkit: bool = False,
  gyration: bool = False,
) -> Experiment:
  """EGNN learns the noise of positions and atoms.

  Args:
    hidden: features of an atom.
    depth: number of blocks.
    noise_steps: steps of the process.
    sampling_steps: number of steps of a sample.
    ema: the average's decay.
    corpus: the file of molecules.
    atoms: the most atoms of a molecule.
    evaluation_terms: draws of the time for each evaluated molecule.
    judged: number of samples whose stability is judged.
    rdkit: whether samples are judged by RDKit, too: validity, uniqueness, novelty and strain.
    gyration: whether the network is told the radius of gyration.
  """
  data = molecules(corpus, atoms, gyration=gyration)
  told = (
    Condition(("gyration",), lambda batch: batch["gyration"], np.zeros(1, np.float32)) if gyration else UNCONDITIONAL
  )
  method = molecular_diffusion(
    EGNN(hidden, depth),
    Molecules((1, 6, 7, 8), SIZES),
    data.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    steps=noise_steps,
    sampling_steps=sampling_steps,
    condition=told,
    terms=evaluation_terms,
  )
  judges = [stability(judged)] + [chemistry(judged)] * rdkit + [gyration_error(judged)] * gyration
  return Experiment(
    method=averaged(method, ema),
    data=data,
    steps=steps,
    batch_size=batch_size,
    evaluators=(means("nll_nats_density"), *judges),
    conditions=(lambda i: {"gyration": (np.asarray(i) % 4 - 1.5)[:, None].astype(np.float32)}) if gyration else None,
    render=lambda samples, conditions: {".xyz": drawing(samples).encode(), ".png": solid(samples)},
    samples=16,
    evaluate_batch=128,
  )
