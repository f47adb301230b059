"""Files of weights: safetensors and npz, which hold arrays and nothing that could run."""

import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.interop.layout import Later


def load(path: files.PathLike) -> dict[str, np.ndarray]:
  """The arrays of a .safetensors or .npz file, by name.

  Raises:
    UserError: there is no such file, it is on an object store, it is of another kind (a pickle, which may run anything
      when it is read), or it is damaged.
  """
  if files.is_remote(path):
    raise UserError(f"{path}: weights are read from this machine's files: copy it here first")
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path} is not a file: give the .safetensors or .npz file of the weights")
  try:
    if path.suffix == ".safetensors":
      from safetensors.flax import load_file  # the one for numpy has no bfloat16

      return {name: np.asarray(array) for name, array in load_file(path).items()}
    if path.suffix == ".npz":
      with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
  except Exception as error:  # safetensors raises an exception class of its own, numpy half a dozen
    if not _pickled(path):
      raise UserError(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
  pickled = _pickled(path)
  what = "a pickle, which may run anything when it is read" if pickled else f"of the kind {path.suffix or '(none)'}"
  raise UserError(f"{path} is {what}: weights are read from .safetensors and .npz, convert it with safetensors' tools")


_DTYPES = {
  "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
  "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def opened(path: files.PathLike) -> Mapping[str, Any]:
  """The arrays of a .safetensors or .npz file by name; those of .safetensors are read one by one, when they are used.

  Raises:
    UserError: as in `load`.
  """
  path = pathlib.Path(path)
  if path.suffix != ".safetensors" or not path.is_file():
    return load(path)
  from safetensors import safe_open

  try:
    with safe_open(path, "numpy"), open(path, "rb") as file:  # it checks the header
      size = int.from_bytes(file.read(8), "little")
      header = json.loads(file.read(size))
  except Exception:  # said by `load`
    return load(path)
  header.pop("__metadata__", None)

  def tensor(name: str) -> Later:
    about = header[name]
    if about["dtype"] not in _DTYPES:
      raise UserError(f"{path}: the tensor {name!r} has the dtype {about['dtype']}, which is not read here")
    dtype, (low, high) = jnp.dtype(_DTYPES[about["dtype"]]), about["data_offsets"]
    bytes_of = lambda: np.fromfile(path, np.uint8, high - low, offset=8 + size + low)
    return Later(tuple(about["shape"]), dtype, lambda: bytes_of().view(dtype).reshape(about["shape"]))

  return {name: tensor(name) for name in header}


def _pickled(path: pathlib.Path) -> bool:
  """Whether a file that cannot be read is a pickle, by itself or, as PyTorch's are, in an archive."""
  with open(path, "rb") as file:
    if file.read(1) == b"\x80":
      return True
  try:
    with zipfile.ZipFile(path) as archive:
      return any(name.endswith(".pkl") for name in archive.namelist())
  except zipfile.BadZipFile:
    return False


def save(path: files.PathLike, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes arrays by name to a .safetensors or .npz file, whole or not at all. In .npz, bfloat16 becomes float32.

  Raises:
    UserError: another suffix, or no such folder.
  """
  path = files.place(path)
  if path.suffix not in (".safetensors", ".npz"):
    raise UserError(f"{path}: weights are written as .safetensors or .npz")
  if not files.is_remote(path) and not path.parent.is_dir():
    raise UserError(f"{path}: there is no folder {path.parent}")
  with files.written(path) as file:
    if path.suffix == ".npz":
      # numpy has no bfloat16 of its own: it would write bytes that nobody reads as numbers.
      known = lambda array: array.astype(np.float32) if array.dtype.name == "bfloat16" else array
      np.savez(file, **{name: known(np.asarray(array)) for name, array in tensors.items()})
    else:
      from safetensors.numpy import save_file

      arrays = {name: np.array(array, order="C") for name, array in tensors.items()}
      # It takes a name, not a file; transformers requires the metadata "pt", which names the order of axes.
      save_file(arrays, file.name, metadata={"format": "pt"})
