"""Judges of samples: classifiers whose features are compared.

A judge is either a small convolutional network, trained here once on the data set's training split and kept in a cache,
or a classifier that the user has trained, given by its run. The features are the input of its last dense layer.

The small network is for small data: a linear classifier on its features has an accuracy of 98 % on the test digits and
97 % on MNIST, but 51 % on CIFAR-10 (first 1,000 test images). For such data, give the run of a better classifier.

The cache is $JAXGEN_CACHE, ~/.cache/jaxgen by default. A file's name is a hash of everything that the weights come
from: the training images as the judge sees them, their labels, the recipe, the code of the network and of its loss, the
versions of the libraries, XLA's flags, and the kind of device. A file that cannot be read is trained again.

A judge depends only on the data and the machine, so that every process of a cluster makes and uses its own.
"""

import contextlib
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jaxtyping import Float

import jaxgen
from jaxgen.core import files
from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Player, State, compose
from jaxgen.data import pipeline, real
from jaxgen.data.dataset import Dataset
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.program import Program
from jaxgen.engine.run import load
from jaxgen.nn.blocks import layers
from jaxgen.nn.vision.convnet import ConvNet

CODE = ("core/method.py", "evaluation/judge.py", "nn/blocks/conv.py", "nn/blocks/layers.py", "nn/vision/convnet.py")

Features = Callable[[Float[np.ndarray, "n h w c"]], Float[np.ndarray, "n features"]]


class Recipe(NamedTuple):
  """The judge's training: Adam with a cosine decay to zero."""

  channels: tuple[int, ...] = (32, 64)
  features: int = 64
  steps: int = 300
  batch_size: int = 128
  learning_rate: float = 3e-3
  dropout: float = 0.25
  seed: int = 0


class Judge(NamedTuple):
  """A network whose features samples are compared in.

  Attributes:
    features: images [N, H, W, C] in [-1, 1] -> their features [N, F] in float64.
    shape: the (H, W, C) of the images.
    logits: features [N, F] -> logits of the classes [N, K]; None: the judge compares only.
  """

  features: Features
  shape: tuple[int, int, int]
  logits: Callable[[Float[np.ndarray, "n features"]], Float[np.ndarray, "n classes"]] | None = None


def trained_on(data: Dataset, recipe: Recipe = Recipe()) -> Judge:  # noqa: B008 - a NamedTuple does not change
  """The small network, trained on a data set's training split or taken from the cache.

  Raises:
    UserError: the data has no labels.
  """
  if data.classes is None:
    raise UserError(
      f"{data.name} has no labels to train a judge of samples: give the run of a classifier, frechet(judge='runs/...')"
    )
  shape = data.batch_spec(1, train=False)["image"].shape[1:]
  network = ConvNet(data.classes, recipe.channels, recipe.features, recipe.dropout)
  like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))["params"]
  file = cache_folder() / f"judge_{_content(data, recipe)}.npz"
  params = _load(file, like)
  if params is None:
    params = _train(data, network, recipe)
    _save(file, params)
  apply = jax.jit(lambda params, x: network.apply({"params": params}, x.astype(np.float32), method="features"))
  head = {name: np.asarray(x, np.float64) for name, x in params["out"].items()}
  return Judge(_in_chunks(lambda x: apply(params, x)), shape, lambda x: x @ head["kernel"] + head["bias"])


def of_run(folder: str | os.PathLike) -> Judge:
  """A trained classifier: the input of its network's last dense layer, with averaged weights if it has any.

  Raises:
    UserError: the folder is not a finished run, or not of a classifier.
  """
  run = load(folder)
  spec = run.data.batch_spec(1, train=False)
  shape, method = spec["image"].shape[1:], run.experiment.method

  def features(state: State, images: Any) -> Any:
    n = images.shape[0]
    batch = {
      "image": images.astype(spec["image"].dtype),
      "label": jnp.zeros(n, np.int32),
      "index": jnp.arange(n, dtype=np.int32),
    }
    return _read_by_last_dense(method, state, batch)

  abstract = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)), spec)
  try:
    found = jax.eval_shape(features, abstract, spec["image"])
  except LookupError:
    found = None
  if found is None or found.ndim != 2 or found.shape[0] != 1:
    raise UserError(f"{folder} is a run of {run.config.name}, which cannot judge samples: give the run of a classifier")
  state, apply = _on_host(run.state), jax.jit(features)
  return Judge(_in_chunks(lambda x: apply(state, x)), shape)


def _read_by_last_dense(method: Method, state: State, batch: dict[str, Any]) -> Any:
  """The input of the last dense layer that is called while a method evaluates a batch.

  Raises:
    LookupError: there is none, or the method is not a classifier.
  """
  inputs = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, (linen.Dense, layers.Dense)) and context.method_name == "__call__":
      inputs.append(args[0])
    return call(*args, **kwargs)

  with linen.intercept_methods(note):
    if "correct" not in method.evaluate(state, batch, state.key):
      raise LookupError("the method is not a classifier")
  if not inputs:
    raise LookupError("the method's network has no dense layer")
  return inputs[-1]


def _on_host(state: State) -> State:
  """The state on this process's own device, without the parts that only training needs."""
  host = lambda tree: jax.tree.map(np.asarray, tree)
  return state.replace(
    step=host(state.step),
    skipped=host(state.skipped),
    key=jax.random.key(0),
    params=host(state.params),
    opt={},
    ema=host(state.ema),
    buffers={},
  )


def _in_chunks(apply: Callable[[Any], Any]) -> Features:
  """Applies a compiled function to any number of images, in chunks of one shape."""

  def features(images):
    parts = []
    for start in range(0, len(images), real.CHUNK):
      chunk = images[start : start + real.CHUNK]
      padded = np.pad(chunk, [(0, real.CHUNK - len(chunk)), (0, 0), (0, 0), (0, 0)], mode="edge")
      parts.append(np.asarray(apply(padded), np.float64)[: len(chunk)])
    return np.concatenate(parts)

  return features


def _init(network: ConvNet, key: Any, batch: Batch) -> tuple[dict[str, Any], dict]:
  return {"network": network.init(key, batch["image"][:1])["params"]}, {}


def _cross_entropy(network: ConvNet, params: Any, state: State, batch: Batch, key: Any):
  logits = network.apply({"params": params}, batch["image"], index=batch["index"], rngs={"dropout": key})
  return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), ({}, state.buffers)


def _train(data: Dataset, network: ConvNet, recipe: Recipe) -> dict[str, Any]:
  """The network's parameters after training on one device of this process."""
  optimizer = optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps))
  method = compose(partial(_init, network), [("network", Player(partial(_cross_entropy, network), optimizer))])
  mesh = make_mesh(devices=jax.local_devices()[:1])
  # All updates are made in few dispatches, because their batches are small.
  updates = min(recipe.steps, 50)
  program = Program(method, data.raw_spec(recipe.batch_size), mesh, prepare=data.transform, updates=updates)
  with contextlib.closing(pipeline.Stream(data.source("train"), recipe.seed, recipe.batch_size)) as stream:
    state = program.init(recipe.seed, {k: x[0] for k, x in stream.take(0, 1).items()})
    for start in range(0, recipe.steps, updates):
      count = min(updates, recipe.steps - start)
      state, _ = program.dispatch(state, program.put_many(stream.take(start, count)), count)
  return jax.tree.map(np.asarray, state.params["network"])


def _content(data: Dataset, recipe: Recipe) -> str:
  """SHA-256 of all that a judge's weights come from."""
  content = hashlib.sha256()
  device = jax.local_devices()[0]
  versions = [metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")]
  flags = sorted(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag)
  kind = (device.platform, device.device_kind, bool(jax.config.jax_enable_x64))
  content.update(repr((recipe, data.classes, versions, flags, kind)).encode())
  for name in CODE:
    content.update((pathlib.Path(jaxgen.__file__).parent / name).read_bytes())
  for batch in real.batches(data, "train"):
    content.update(repr([(name, x.shape, x.dtype) for name, x in sorted(batch.items())]).encode())
    for name in ("image", "label"):
      content.update(np.ascontiguousarray(batch[name]))
  # The transformed training examples are hashed above, augmentation here.
  some = pipeline.batch_at(data.source("train"), recipe.seed, 0, recipe.batch_size)
  augmented = jax.jit(data.transform, static_argnums=2)(jax.random.key(0), some, True)["image"]
  content.update(np.asarray(augmented).tobytes())
  return content.hexdigest()[:32]


def _load(file: pathlib.Path, like: dict[str, Any]) -> dict[str, Any] | None:
  """The cached parameters; None where there is no file, or one that is damaged or of another network."""
  names = flax.traverse_util.flatten_dict(like, sep="/")
  try:
    with np.load(file, allow_pickle=False) as arrays:  # a zip file: its checksums are verified
      found = {name: arrays[name] for name in arrays.files}
  except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
    return None
  same = found.keys() == names.keys() and all(
    found[name].shape == leaf.shape and found[name].dtype == leaf.dtype for name, leaf in names.items()
  )
  return flax.traverse_util.unflatten_dict(found, sep="/") if same else None


def _save(file: pathlib.Path, params: dict[str, Any]) -> None:
  """Writes the parameters to the cache, completely or not at all. Several processes may do so at once."""
  # If the cache cannot be written, the judge is trained again next time.
  with contextlib.suppress(OSError), files.written(file) as opened:
    np.savez(opened, **flax.traverse_util.flatten_dict(params, sep="/"))
