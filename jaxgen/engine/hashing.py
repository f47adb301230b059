"""A checkpoint's manifest and the hashes in it (`engine.digests`).

The arrays of a state have names (`named_leaves`). The manifest, `jaxgen.json`, lists every leaf with its dtype, shape
and SHA-256, the SHA-256 of the whole state (`state_hash`), the files beside it, and the caller's own entries. Typed
PRNG keys are hashed as their key data (uint32).
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from jaxgen.core import files
from jaxgen.engine.digests import digests

MANIFEST = "jaxgen.json"
FORMAT = 2  # of the manifest and of the hash; in format 1 every array's digest was the SHA-256 of its bytes
UNCHECKED = {MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt"}  # written last, and not read by jaxgen
SMALL = 2**20  # bytes; up to here a file's content is checked before Orbax reads it


class Leaf(NamedTuple):
  """Dtype, shape and SHA-256 of an array. For PRNG keys: the name of the key type, and the hash of the key data."""

  dtype: str
  shape: tuple[int, ...]
  sha256: str


def named_leaves(state: PyTree) -> dict[str, Any]:
  """The state's leaves by name, "params/unet/conv_in/kernel": the path from the root, its parts joined by slashes.

  They are sorted by code point, the order in which they are hashed.
  """
  flat = jax.tree_util.tree_flatten_with_path(state)[0]
  named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
  # Orbax joins the parts of a path by dots, so names must differ when joined by slashes and when joined by dots.
  if len({name.replace("/", ".") for name in named}) != len(flat):
    raise ValueError("two leaves of the state have the same name: keys must not contain slashes or dots that clash")
  return dict(sorted(named.items()))


def _is_key(leaf) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_data(leaf):
  """The array that is stored for a leaf: the leaf itself, or a PRNG key's data."""
  return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def from_data(data, like):
  """The leaf whose stored array is `data`: the inverse of `to_data`."""
  if not _is_key(like):
    return data
  impl = []  # only an array, or a tracer, tells the name of its key's implementation
  jax.eval_shape(lambda key: impl.append(jax.random.key_impl(key)), like)
  return jax.random.wrap_key_data(data, impl=impl[0])


def combine(leaves: Mapping[str, Leaf]) -> str:
  lines = (f"{name} {leaf.dtype} {list(leaf.shape)} {leaf.sha256}\n" for name, leaf in sorted(leaves.items()))
  return hashlib.sha256("".join(lines).encode()).hexdigest()


def leaf_hashes(state: PyTree) -> dict[str, Leaf]:
  """Dtype, shape and SHA-256 of every leaf by name, in the order of the names.

  An array's bytes are hashed in C order, little-endian, block by block; for a PRNG key, those of its data. The hashes
  do not depend on the mesh. If arrays are spread over several processes, all of them call it.
  """
  named = named_leaves(state)
  found = digests({name: to_data(x) for name, x in named.items()})
  return {name: Leaf(str(x.dtype), tuple(x.shape), found[name]) for name, x in named.items()}


def state_hash(state: PyTree) -> str:
  """SHA-256 of a state: of the lines "name dtype [shape] sha256\\n" of its leaves (`leaf_hashes`) in their order."""
  return combine(leaf_hashes(state))


def files_of(folder: files.Place) -> dict[str, list]:
  """Size of every file, and SHA-256 of the small ones: {path: [bytes, sha256 or None]}.

  The files are checked before Orbax reads them: Orbax reports a file that is missing, cut short or changed from threads
  that nobody waits for. The large files hold arrays, which have hashes of their own.
  """
  found = {}
  for name, size in sorted(files.sizes(folder).items()):
    if name.rpartition("/")[2] not in UNCHECKED:
      digest = hashlib.sha256((folder / name).read_bytes()).hexdigest() if size <= SMALL else None
      found[name] = [size, digest]
  return found


def _canonical(content: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: files.Place, leaves: Mapping[str, Leaf], **content: Any) -> None:
  content |= {"format": FORMAT, "sha256": combine(leaves), "leaves": leaves, "files": files_of(folder)}
  _write(folder, content)


def add_to_manifest(folder: files.Place, step: int, **content: Any) -> None:
  """Changes entries of a checkpoint's manifest.

  Raises:
    ValueError: it is missing or damaged, in words.
  """
  _write(folder, {**read_manifest(folder, step), **content})


def _write(folder: files.Place, content: Mapping[str, Any]) -> None:
  content = json.loads(json.dumps(content))  # tuples become lists here, as they will when the file is read
  files.write(folder / MANIFEST, json.dumps({**content, "manifest_sha256": _canonical(content)}, indent=1))


def read_manifest(folder: files.Place, step: int) -> dict[str, Any]:
  """The manifest of a checkpoint.

  Raises:
    ValueError: it is missing or damaged, in words.
  """
  try:
    content = json.loads((folder / MANIFEST).read_bytes())
    if content.pop("manifest_sha256") != _canonical(content) or content["step"] != step:
      raise ValueError
  except OSError as e:
    raise ValueError(f"{MANIFEST} cannot be read ({e.strerror})") from e
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise ValueError(f"{MANIFEST} is damaged") from e
  content["leaves"] = {name: Leaf(d, tuple(s), h) for name, (d, s, h) in content["leaves"].items()}
  return content


def difference(saved: Mapping[str, Leaf], like: Mapping[str, Any]) -> str | None:
  """The differences of names, dtypes and shapes between a saved and a requested state; None if there are none."""
  differences = []
  for name in sorted(saved.keys() | like.keys()):
    if name not in like:
      differences.append(f"{name} is in the checkpoint only")
    elif name not in saved:
      differences.append(f"{name} is missing in the checkpoint")
    else:
      there = f"{saved[name].dtype}{list(saved[name].shape)}"
      here = f"{like[name].dtype}{list(like[name].shape)}"
      if there != here:
        differences.append(f"{name} is {there} in the checkpoint and {here} here")
  more = f" (and {len(differences) - 1} more differences)" if len(differences) > 1 else ""
  return differences[0] + more if differences else None
