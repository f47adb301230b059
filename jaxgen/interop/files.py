"""Files of weights: safetensors and npz, which hold arrays and nothing that could run."""

import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxgen.errors import UserError


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a .safetensors or .npz file, by name.

  Raises:
    UserError: there is no such file, it is of another kind (a pickle, which may run anything when it is read), or it is
      damaged.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path} is not a file: give the .safetensors or .npz file of the weights")
  try:
    if path.suffix == ".safetensors":
      from safetensors.flax import load_file  # numpy's own has no bfloat16

      return {name: np.asarray(array) for name, array in load_file(path).items()}
    if path.suffix == ".npz":
      with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
  except UserError:
    raise
  except Exception as error:  # safetensors raises an exception class of its own, numpy half a dozen
    raise UserError(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
  with open(path, "rb") as file:
    head = file.read(2)
  pickled = head[:1] == b"\x80" or (
    zipfile.is_zipfile(path) and any(n.endswith(".pkl") for n in zipfile.ZipFile(path).namelist())
  )
  what = "a pickle, which may run anything when it is read" if pickled else f"of the kind {path.suffix or '(none)'}"
  raise UserError(f"{path} is {what}: weights are read from .safetensors and .npz, convert it with safetensors' tools")


def save(path: str | pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name to a .safetensors or .npz file, whole or not at all.

  Raises:
    UserError: another suffix, or no such folder.
  """
  path = pathlib.Path(path)
  if path.suffix not in (".safetensors", ".npz"):
    raise UserError(f"{path}: weights are written as .safetensors or .npz")
  if not path.parent.is_dir():
    raise UserError(f"{path}: there is no folder {path.parent}")
  temporary = path.with_name(f".{path.name}.part{path.suffix}")
  try:
    if path.suffix == ".npz":
      np.savez(temporary, **tensors)
    else:
      from safetensors.numpy import save_file

      save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, temporary)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
