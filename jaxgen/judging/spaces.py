"""Feature spaces: a network with the preprocessing of pictures, by the name that numbers' names contain.

    inception_tf1      Inception-v3 of the TensorFlow graph, which resizes as TensorFlow 1 does: FID as first defined,
                       torch-fidelity, guided-diffusion's evaluator
    inception_pytorch  the same network on pictures resized as pytorch-fid does, (x - 127.5) / 127.5
    inception_clean    the same network on pictures resized as clean-fid does
    dinov2_antialias   DINOv2's ViT-L/14 on pictures of 224 x 224, resized by PyTorch's antialiased bicubic filter, as
                       EDM2's evaluator does: FD-DINOv2 is `fid` in this space
    dinov2_tf1         the same network on pictures resized as TensorFlow 1 does, as torch-fidelity does
    clip_336           CLIP's ViT-L/14 of OpenAI, on pictures of 336 x 336 resized by Pillow's bicubic filter, its
                       features of length 1: CMMD's. Pictures that are not square are squeezed, not cropped
    judge              the classifier that is trained here on the data's training split; needs no file

Pictures are always rounded to uint8 before. A file of weights is safetensors or npz; nothing is unpickled.
"""

import functools
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
from jaxgen.interop import dinov2, dual, files, inception, layout
from jaxgen.nn.joint.dual import MEAN, STD, DualEncoder, clip
from jaxgen.nn.vision.inception import Inception
from jaxgen.nn.vision.vit import SIZES, ViT

BATCH = {"cpu": 16}  # pictures that a network sees at once, over all of this process's devices; elsewhere 64

Picture = UInt8[np.ndarray, "_ _ _"]


class Space(NamedTuple):
  """The features in which pictures are compared.

  Attributes:
    name: the space's name in the numbers' names.
    features: pictures [H, W, C] -> their features by name: "features" [N, F], and what else the network gives,
      "spatial" and "logits"; float32.
    width: the number of features F.
    content: the SHA-256 of the network's weights.
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
    init: (module, pictures) -> all variables that the file has.
    entries: (module, names in the file) -> the layout of the file.
    outputs: (module, variables, pictures) -> its outputs by our names, "features" among them.
    size: the side of the pictures that it takes, in pixels.
    file: the file's name in the folder of weights.
    convert: how to make that file, for the error message if it is missing.
  """

  module: Any
  init: Callable[[Any, Any], Any]
  entries: Callable[[Any, Mapping[str, Any]], list[layout.Entry]]
  outputs: Callable[[Any, Any, Any], dict[str, Any]]
  size: int
  file: str
  convert: str


class Known(NamedTuple):
  """A space: its network's name and its filter of resizing; the network takes (x - centre) / scale."""

  network: str
  filter: str
  centre: Any
  scale: Any


def _inception(module: Inception, variables: Any, x: Any) -> dict[str, Any]:
  found = module.apply(variables, x)
  return {"features": found["2048"], "spatial": found["spatial"], "logits": found["logits_unbiased"]}


def _clip(module: DualEncoder, variables: Any, x: Any) -> dict[str, Any]:
  """The picture's features, of length 1."""
  return {"features": module.apply(variables, x, method="of_pictures")}


def _init(module: Any, x: Any) -> Any:
  return module.init(jax.random.key(0), x)


def _init_tokens(module: ViT, x: Any) -> Any:
  """A ViT's variables without a head."""
  return module.init(jax.random.key(0), x, method="tokens")


def _init_both(module: DualEncoder, x: Any) -> Any:
  return module.init(jax.random.key(0), x, jnp.zeros((1, 1), jnp.int32))


def _dinov2(module: ViT, variables: Any, x: Any) -> dict[str, Any]:
  """The normalised class token."""
  return {"features": module.apply(variables, x, method="features")}


def _converted(file: str, where: str, to: str) -> str:
  """The command by which the user converts a pickled file of weights."""
  return (
    f'{file} of {where}, converted on a machine with torch: python -c "import torch, safetensors.torch as s; '
    f"s.save_file({{k: v.contiguous() for k, v in torch.load('{file}', weights_only=True).items()}}, '{to}')\""
  )


NETWORKS: dict[str, Network] = {
  "inception": Network(
    Inception(),
    _init,
    lambda module, names: inception.torch_fidelity(module),
    _inception,
    299,
    "inception.safetensors",
    _converted(
      "pt_inception-2015-12-05-6726825d.pth",
      "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights",
      "inception.safetensors",
    ),
  ),
  "dinov2": Network(
    ViT(**SIZES["L/14"], layer_scale=1.0),
    _init_tokens,
    lambda module, names: (dinov2.hub if "cls_token" in names else dinov2.transformers)(module),
    _dinov2,
    224,
    "dinov2_vitl14.safetensors",
    _converted(
      "dinov2_vitl14_pretrain.pth",
      "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
      "dinov2_vitl14.safetensors",
    ),
  ),
  "clip": Network(
    clip("L/14"),
    _init_both,
    lambda module, names: (dual.openai if "visual.conv1.weight" in names else dual.transformers)(module),
    _clip,
    336,
    "clip_vitl14_336.safetensors",
    _converted(
      "pytorch_model.bin",
      "https://huggingface.co/openai/clip-vit-large-patch14-336",
      "clip_vitl14_336.safetensors",
    ),
  ),
}
# Means and standard deviations of the channels, of values 0..255.
IMAGENET = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
OPENAI = 255 * np.array(MEAN), 255 * np.array(STD)
SPACES: dict[str, Known] = {
  "inception_tf1": Known("inception", "tf1", 128.0, 128.0),
  "inception_pytorch": Known("inception", "bilinear", 127.5, 127.5),
  "inception_clean": Known("inception", "clean", 128.0, 128.0),
  "dinov2_antialias": Known("dinov2", "antialias_bicubic", *IMAGENET),
  "dinov2_tf1": Known("dinov2", "tf1", *IMAGENET),
  "clip_336": Known("clip", "pil_bicubic", *OPENAI),
}
JUDGE = "judge"  # the space that needs no file
UNTRAINED = Space(JUDGE, lambda pictures: {}, 0, "", ("features",))  # what is known before it is trained


def weights_folder() -> pathlib.Path:
  """Where files of weights are looked for: $JAXGEN_WEIGHTS, or weights/ in the cache."""
  return pathlib.Path(os.environ.get("JAXGEN_WEIGHTS") or cache_folder() / "weights")


def check_space(name: str) -> None:
  """Raises a UserError if there is no such space."""
  if name not in SPACES and name != JUDGE:
    raise UserError(f"there is no --space {name!r}: they are {', '.join((*SPACES, JUDGE))}")


def open_space(name: str, weights: str | os.PathLike | None = None) -> Space:
  """A space of a published network, with its weights.

  Args:
    weights: its .safetensors or .npz file; by default the file with its name in `weights_folder`.

  Raises:
    UserError: there is no such space or file, or the file has another network's weights.
  """
  check_space(name)
  if name == JUDGE:
    raise UserError(f"the space {JUDGE!r} is trained on a data set: open it with `trained_space`")
  known = SPACES[name]
  network = NETWORKS[known.network]
  path = pathlib.Path(weights) if weights else weights_folder() / network.file
  if not path.is_file():
    raise UserError(
      f"--space {name} needs the weights {path}, which is not a file: make it from {network.convert}; and give it as "
      f"--weights, or take --space {JUDGE}, which needs none"
    )
  tensors = files.load(path)
  blank = jax.ShapeDtypeStruct((1, network.size, network.size, 3), np.float32)
  outputs_of = functools.partial(network.outputs, network.module)
  like = jax.eval_shape(lambda x: network.init(network.module, x), blank)
  variables = layout.read(network.entries(network.module, tensors), tensors, like)
  variables["params"].pop("text", None)  # CLIP's text tower is not used
  with open(path, "rb") as file:
    content = hashlib.file_digest(file, "sha256").hexdigest()

  def outputs(variables: Any, x: Any) -> dict[str, Any]:
    with jax.default_matmul_precision("highest"):  # an accelerator's default precision would change the features
      return outputs_of(variables, (x - np.float32(known.centre)) / np.float32(known.scale))

  shapes = jax.eval_shape(outputs, variables, blank)
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
  if data.classes is None:
    raise UserError(
      f"--space {JUDGE} trains a classifier on labels, and {data.name} has none: take the --space of a "
      "published network"
    )
  judge = judges.trained_on(data)

  def features(pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    for p in pictures:
      if p.shape != judge.shape:
        raise UserError(
          f"the judge of {data.name} takes pictures {list(judge.shape)}, and one is {list(p.shape)}: resize them "
          "to one "
          "size, or take the --space of a published network"
        )
    return {"features": judge.features(np.stack(pictures).astype(np.float32) / 127.5 - 1).astype(np.float32)}

  blank = np.zeros(judge.shape, np.uint8)
  # The classifier's weights depend on the data and the machine: its features of one picture tell which they are.
  probe = features([blank, np.full_like(blank, 200)])["features"]
  return Space(JUDGE, features, probe.shape[1], hashlib.sha256(probe.tobytes()).hexdigest(), UNTRAINED.gives)


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
