"""The methods of molecules that `test_every_method.py` tests."""

import atexit
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import optax
from cases import Case

from jaxgen.core.wrappers import averaged
from jaxgen.data import Dataset
from jaxgen.methods.molecules.equivariant import Molecules, molecular_diffusion
from jaxgen.nn.graphs.egnn import EGNN

ATOMS = 4
KIND = Molecules((1, 6, 8), {2: 20, 3: 20, 4: 20})


def write(folder):
  """Random molecules in the file that `molecules:FILE` reads."""
  rng = np.random.default_rng(0)
  numbers = rng.choice([1, 6, 8], (60, ATOMS)).astype(np.uint8)
  numbers[np.arange(ATOMS) >= np.repeat([2, 3, 4], 20)[rng.permutation(60)][:, None]] = 0
  path = pathlib.Path(folder) / "molecules.npz"
  split = np.array(["train", "test"])[np.arange(60) % 2]
  np.savez(path, positions=rng.normal(size=(60, ATOMS, 3)).astype(np.float32), numbers=numbers, split=split)
  return path


FOLDER = tempfile.mkdtemp(prefix="jaxgen-molecules-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
DATA = Dataset(f"molecules:{write(FOLDER)}", {"molecule": jax.ShapeDtypeStruct((ATOMS, 4), np.float32)})


def equivariant(dtype):
  network = EGNN(6, 1, dtype=dtype, param_dtype=dtype)
  method = molecular_diffusion(network, KIND, DATA.spec, optax.adam(2e-3), steps=20, sampling_steps=3, terms=2)
  return averaged(method, 0.9)


CASES = {"equivariant diffusion of molecules": Case(equivariant, DATA)}
