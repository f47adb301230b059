"""Where a config's networks of text to image come from: a folder of diffusers, a single file, or a run.

A run stores what it needs from it: the sizes, as JSON in its argument "model"; the tokenizer, in its folder; the values
of frozen networks, as any run does.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.data.sources import clip_bpe
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import load
from jaxgen.interop import pipelines
from jaxgen.interop.stable_diffusion import NETWORK, PRESETS, STAGE, Description, Networks

TOKENIZERS = "tokenizer", "tokenizer_2"  # folders within those of diffusers and of runs
FILES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"


def is_run(path: str | None) -> bool:
  return path is not None and Folder(path).exists()


def settled(arguments: Mapping[str, Any], presets: Mapping[str, Description]) -> dict[str, Any]:
  """{"model": the sizes, as JSON, "parameters": the dtype} of what "pretrained" names; {} where it names nothing.

  Raises:
    UserError: it is another family's, incomplete, or damaged.
  """
  path, model = arguments["pretrained"], arguments["model"]
  if path is None or model is not None:
    return {}
  if is_run(path):
    kept = Folder(path).info()["arguments"]
    if "preset" not in kept or "model" not in kept:
      raise UserError(f"{path} is a run of another config: its networks are not those of a text-to-image model")
    return {"model": kept["model"] or presets[kept["preset"]].to_json(), "parameters": kept["parameters"]}
  return {"model": pipelines.described(path).to_json(), "parameters": pipelines.dtype_of(path)}


def description(path: str | None, model: str | None, preset: Description) -> Description:
  """The sizes that `model` gives, or those of the weights, or the preset's."""
  if model is not None:
    return Description.of_json(model)
  if path is None:
    return preset
  if is_run(path):
    return Description.of_json(settled({"pretrained": path, "model": None}, PRESETS)["model"])
  return pipelines.described(path)


def sources(path: str, d: Description, networks: Networks) -> dict[str, Frozen]:
  """Where the parts' values come from, by their names in `params`: the folder or file, or a run's state."""
  if not is_run(path):
    return pipelines.sources(path, d, networks)

  def part(name: str) -> Any:
    state = load(path).state
    if "lora" in state.params:
      raise UserError(
        f"{path} has a low-rank change of its network: take the run that it changes, or one that has none"
      )
    values = state.averaged() if name == NETWORK else state.params[name]
    return jax.tree.map(np.asarray, values)

  names = (NETWORK, STAGE, *networks.encoders)
  return {name: Frozen(f"the run {path}", lambda name=name: part(name)) for name in names}


# --- Tokenizers ------------------------------------------------------------------------------------------------------


def tokenizer_of(path: str | None) -> pathlib.Path | None:
  """The tokenizer's folder within a folder of diffusers or a run; None where there is none."""
  folder = pathlib.Path(path or "").expanduser() / TOKENIZERS[0]
  return folder if path is not None and folder.is_dir() else None


def kept_tokenizers(given: str | None, path: str | None) -> Callable[[], dict[str, bytes]]:
  """The tokenizers' files that a new run's folder stores, {path within it: contents}; nothing where there is none.

  Args:
    given: a tokenizer, see `clip_bpe.reading`.
    path: the folder of diffusers, or the run, whose tokenizers are taken where none is given.
  """

  def files() -> dict[str, bytes]:
    places = {name: pathlib.Path(path).expanduser() / name for name in TOKENIZERS if path is not None}
    places = {TOKENIZERS[0]: pathlib.Path(given).expanduser()} if given else places
    found = {}
    for name, place in places.items():
      if not given and not place.is_dir():
        continue
      clip_bpe.reading(place)  # says what is wrong
      parts = [place] if place.is_file() else [place / file for file in FILES if (place / file).is_file()]
      found |= {f"{name}/{file.name}": file.read_bytes() for file in parts}
    return found

  return files


def readings(run: Any, count: int) -> list[clip_bpe.Reading]:
  """The tokenizers that a run keeps, as many as it has text encoders.

  Raises:
    UserError: it keeps none.
  """
  found = []
  for name in TOKENIZERS[:count]:
    folder = run.folder / name
    if not isinstance(folder, pathlib.Path) or not folder.is_dir():
      break
    others = [file for file in folder.iterdir() if file.name not in FILES]
    found.append(clip_bpe.reading(others[0] if others else folder))
  if not found:
    raise UserError(
      f"{run.folder.path} keeps no tokenizer, which makes tokens of a prompt: import the weights with --tokenizer, or "
      "sample from Python with tokens"
    )
  return found


def prompts(d: Description) -> Callable[[Any, Sequence[str]], np.ndarray]:
  """(a run, texts) -> tokens int32 [n, T], or [n, encoders, T] of several; a text that is too long gives a warning."""
  length = d.texts[0].context

  def tokens(run: Any, texts: Sequence[str]) -> np.ndarray:
    found = readings(run, len(d.texts))
    for text in texts:
      row = found[0].made.encode(text, add_special_tokens=False)
      if len(row.ids) > length - 2:
        print(
          f"the prompt has {len(row.ids):,} tokens, and the text encoder reads {length - 2} beside its two ends: it "
          f"does not see {text[row.offsets[length - 2][0] :]!r}",
          file=sys.stderr,
        )
    rows = [clip_bpe.framed(r.made, texts, length, r.start, r.end, r.pad)[0] for r in found]
    return rows[0] if len(rows) == 1 else np.stack(rows, axis=1)

  return tokens
