"""Feature spaces: a network and how pictures are brought to it, under the name that stands in a number's name.

    inception_tf1      Inception-v3 of the TensorFlow graph, which resizes as TensorFlow 1 does: FID as first defined,
                       torch-fidelity, guided-diffusion's evaluator
    inception_pytorch  the same network on pictures resized as pytorch-fid does, (x - 127.5) / 127.5
    inception_clean    the same network on pictures resized as clean-fid does
    judge              the classifier that is trained here on the data's training split; needs no file

Pictures are always rounded to uint8 before. A file of weights is safetensors or npz; nothing is unpickled.
"""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import UInt8

from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError
from jaxgen.data import Dataset
from jaxgen.evaluation import judge as judges
from jaxgen.evaluation.resizing import resize
from jaxgen.interop import files, inception, layout
from jaxgen.nn.vision.inception import Inception

BATCH = {"cpu": 16}  # pictures that a network sees at once, over all of this process's devices; elsewhere 64

Picture = UInt8[np.ndarray, "_ _ _"]


class Space(NamedTuple):
  """Where pictures are compared.

  Attributes:
    name: what stands in numbers' names.
    features: pictures [H, W, C] -> their features by name: "features" [N, F], and what else the network gives,
      "spatial" and "logits"; float32.
    width: the number of features F.
    content: what tells one network's features from another's: the SHA-256 of its weights.
    gives: the names of all features.
  """

  name: str
  features: Callable[[Sequence[Picture]], dict[str, np.ndarray]]
  width: int
  content: str
  gives: tuple[str, ...]


class Network(NamedTuple):
  """A published network.

  Attributes:
    module: the Flax module.
    entries: the layout of its file.
    features: its outputs by our names.
    size: the side of the pictures that it takes, in pixels.
    file: the file's name among the weights that are kept.
    convert: how its user makes that file, for the error where there is none.
  """

  module: Any
  entries: Callable[[Any], list[layout.Entry]]
  features: Mapping[str, str]
  size: int
  file: str
  convert: str


class Known(NamedTuple):
  """A space: its network's name and its filter of resizing; the network takes (x - centre) / scale."""

  network: str
  filter: str
  centre: Any
  scale: Any


FID_WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
NETWORKS: dict[str, Network] = {
  "inception": Network(
    Inception(),
    inception.torch_fidelity,
    {"features": "2048", "spatial": "spatial", "logits": "logits_unbiased"},
    299,
    "inception.safetensors",
    f"{FID_WEIGHTS} of https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights, converted on a machine with "
    f'torch: python -c "import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in '
    f"torch.load('{FID_WEIGHTS}', weights_only=True).items()}}, 'inception.safetensors')\"",
  ),
}
SPACES: dict[str, Known] = {
  "inception_tf1": Known("inception", "tf1", 128.0, 128.0),
  "inception_pytorch": Known("inception", "bilinear", 127.5, 127.5),
  "inception_clean": Known("inception", "clean", 128.0, 128.0),
}
JUDGE = "judge"  # the space that needs no file


def weights_folder() -> pathlib.Path:
  """Where files of weights are looked for: $JAXGEN_WEIGHTS, or weights/ in the cache."""
  return pathlib.Path(os.environ.get("JAXGEN_WEIGHTS") or cache_folder() / "weights")


def check_space(name: str) -> None:
  """Raises a UserError where there is no such space."""
  if name not in SPACES and name != JUDGE:
    raise UserError(f"there is no --space {name!r}: they are {', '.join((*SPACES, JUDGE))}")


def open_space(name: str, weights: str | os.PathLike | None = None) -> Space:
  """A space of a published network, with its weights.

  Args:
    weights: its .safetensors or .npz file; by default the one of its name in `weights_folder`.

  Raises:
    UserError: there is no such space or file, or the file is of another network.
  """
  check_space(name)
  if name == JUDGE:
    raise UserError(f"the space {JUDGE!r} is learned from a data set: say which")
  known = SPACES[name]
  network = NETWORKS[known.network]
  path = pathlib.Path(weights) if weights else weights_folder() / network.file
  if not path.is_file():
    raise UserError(
      f"--space {name} needs the weights {path}, which is no file: make it of {network.convert}; and give it as "
      f"--weights, or take --space {JUDGE}, which needs none"
    )
  like = jax.eval_shape(
    network.module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, network.size, network.size, 3), np.float32)
  )
  variables = layout.read(network.entries(network.module), files.load(path), like)
  with open(path, "rb") as file:
    content = hashlib.file_digest(file, "sha256").hexdigest()

  def outputs(variables: Any, x: Any) -> dict[str, Any]:
    with jax.default_matmul_precision("highest"):  # an accelerator's own would be another network's features
      found = network.module.apply(variables, (x - np.float32(known.centre)) / np.float32(known.scale))
    return {ours: found[theirs] for ours, theirs in network.features.items()}

  shapes = jax.eval_shape(outputs, variables, jax.ShapeDtypeStruct((1, network.size, network.size, 3), np.float32))
  apply = _spread(outputs, variables)

  def features(pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    x = np.stack([resize(in_colour(p), (network.size, network.size), known.filter) for p in pictures])
    return apply(x)

  return Space(name, features, shapes["features"].shape[1], content, tuple(shapes))


def trained_space(data: Dataset) -> Space:
  """The space of the classifier that is trained once on the data's training split: `evaluation.judge`.

  Raises:
    UserError: the data has no labels; or, by `features`, pictures are of another shape.
  """
  judge = judges.trained_on(data)

  def features(pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    for p in pictures:
      if p.shape != judge.shape:
        raise UserError(
          f"the judge of {data.name} takes pictures {list(judge.shape)}, and one is {list(p.shape)}: bring them to one "
          "size, or take the --space of a published network"
        )
    return {"features": judge.features(np.stack(pictures).astype(np.float32) / 127.5 - 1).astype(np.float32)}

  blank = np.zeros(judge.shape, np.uint8)
  # The classifier's weights depend on the data and the machine: its features of one picture tell which they are.
  probe = features([blank, np.full_like(blank, 200)])["features"]
  return Space(JUDGE, features, probe.shape[1], hashlib.sha256(probe.tobytes()).hexdigest(), ("features",))


def in_colour(picture: Picture) -> Picture:
  """A picture with three channels, as PIL's convert("RGB") gives it: grey three times, without alpha."""
  return np.repeat(picture[..., :1], 3, -1) if picture.shape[-1] < 3 else picture[..., :3]


def _spread(outputs: Callable, variables: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Applies a network to any number of pictures in batches of one shape, spread over this process's devices."""
  devices = jax.local_devices()
  batch = BATCH.get(devices[0].platform, 64)
  count = next(n for n in range(len(devices), 0, -1) if batch % n == 0)
  mesh = Mesh(np.array(devices[:count]), ("data",))
  own, copied = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
  compiled = jax.jit(outputs, in_shardings=(copied, own), out_shardings=own)
  placed = jax.device_put(jax.tree.map(jnp.asarray, variables), copied)

  def apply(x: np.ndarray) -> dict[str, np.ndarray]:
    parts = []
    for start in range(0, len(x), batch):
      chunk = x[start : start + batch]
      padded = np.pad(chunk, [(0, batch - len(chunk)), (0, 0), (0, 0), (0, 0)], mode="edge")
      found = compiled(placed, jax.device_put(padded, own))
      parts.append({name: np.asarray(y, np.float32)[: len(chunk)] for name, y in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  return apply
