"""The score networks' weights in the layout of the authors of GDSS."""

from jaxgen.interop.layout import Entry, same
from jaxgen.interop.vit import affine
from jaxgen.nn.graphs.gdss import ScoreA, ScoreX


def _conv(theirs: str, ours: str) -> list[Entry]:
  return [same(f"{theirs}.weight", f"{ours}/dense/kernel"), same(f"{theirs}.bias", f"{ours}/bias")]


def _elus(theirs: str, ours: str, depth: int) -> list[Entry]:
  if depth == 1:
    return affine(f"{theirs}.linear", f"{ours}/dense_0")
  return [e for i in range(depth) for e in affine(f"{theirs}.linears.{i}", f"{ours}/dense_{i}")]


def score_x(network: ScoreX) -> list[Entry]:
  """Of `ScoreNetworkX`."""
  entries = [e for i in range(network.depth) for e in _conv(f"layers.{i}", f"params/conv_{i}")]
  return [*entries, *_elus("final", "params/out", 3)]


def score_a(network: ScoreA) -> list[Entry]:
  """Of `ScoreNetworkA` with convolutions for queries and keys, conv="GCN"."""
  entries = _elus("final", "params/out", 3)
  for i in range(network.depth):
    theirs, ours = f"layers.{i}", f"params/layer_{i}"
    for j in range(network.powers if i == 0 else network.hidden):
      for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
        entries += _conv(f"{theirs}.attn.{j}.gnn_{part}", f"{ours}/attention_{j}/{name}")
    entries += _elus(f"{theirs}.mlp", f"{ours}/scores", network.mixing)
    entries += _elus(f"{theirs}.multi_channel", f"{ours}/values", 2)
  return entries
