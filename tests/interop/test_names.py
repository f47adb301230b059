"""One scheme names all layouts."""

import ast
import importlib
import inspect

import conftest

LIBRARIES = {"timm", "torchvision", "transformers", "torch", "authors", "diffusers", "openai", "open_clip"} | {
  "hub",
  "lmnt",
  "torch_fidelity",
}
# transformers' models of one network, and a library's forms of it with other heads or inputs.
FORMS = {
  "gpt": {"openai_gpt", "gpt2", "gpt_neo"},
  "encoder": {"pretraining", "reading"},
  "cross_unet": {"control"},
  "gdss": {"score_x", "score_a"},
}
OTHERS = {
  "__init__",
  "files",
  "layout",
  "lora",
  "pipelines",
  "pretrained",
  "runs",
  "stable_diffusion",
  "transfer",
}  # no network's


def test_layouts_are_named_by_network_and_library():
  found = {}
  for path in sorted((conftest.REPOSITORY / "jaxgen" / "interop").glob("*.py")):
    if path.stem not in OTHERS:
      module = importlib.import_module(f"jaxgen.interop.{path.stem}")
      functions = {n: f for n, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__}
      takes = {name: list(inspect.signature(f).parameters) for name, f in functions.items() if not name.startswith("_")}
      found[path.stem] = {name for name, (first, *_) in takes.items() if first == "network" and name != "blocks"}
  assert {name for name, layouts in found.items() if not layouts} == set()
  assert FORMS.items() <= {name: layouts - LIBRARIES for name, layouts in found.items()}.items()
  assert set.union(*(layouts - FORMS.get(name, set()) for name, layouts in found.items())) == LIBRARIES
  assert found["swin"] == {"timm", "transformers", "authors"}
  assert found["encoder"] - FORMS["encoder"] == found["encoder_decoder"] == {"transformers"}


def test_configs_call_layouts_by_these_names():
  calls = []
  for path in (conftest.REPOSITORY / "configs").rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
          if isinstance(value, ast.Attribute) and ast.unparse(value).split(".")[0].endswith("_weights"):
            calls.append((ast.literal_eval(key), value.attr))
  assert len(calls) > 10
  assert all(key == name and key in LIBRARIES for key, name in calls)
