"""Discrete diffusion of graphs: DiGress on planar graphs, stochastic block models and small communities.

Paper: Vignac et al. 2023, DiGress: Discrete denoising diffusion for graph generation, https://arxiv.org/abs/2209.14734.
It reports that about 75 % of its samples of planar graphs, and of block models, are valid, unique and novel.

    pip install 'jaxgen[graphs]'
    jaxgen train digress --preset community_small
    jaxgen train digress --preset planar                   (also as digress_planar; digress_sbm)

The presets planar and sbm have the sizes and the learning rate of the authors' configs, which train for 100,000 and
50,000 epochs: 200,000 steps of planar graphs and 550,000 of block models, for a GPU. `--preset tiny` is for a look.

Expect: not measured
Cost: not measured
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import means
from jaxgen.evaluation.graphs import Family, drawing, likeness
from jaxgen.interop.digress import authors
from jaxgen.methods.graphs.digress import graph_diffusion
from jaxgen.methods.graphs.graphs import Graphs
from jaxgen.nn.graphs.transformer import DiGress, GraphTransformer

# Sizes of block models: the sum of 2 to 5 blocks of 20 to 40 nodes, all equally likely.
BLOCK = np.where(np.arange(41) < 20, 0, 1 / 21)
TWO = np.convolve(BLOCK, BLOCK)
MANY = [TWO, np.convolve(TWO, BLOCK), np.convolve(TWO, TWO), np.convolve(np.convolve(TWO, TWO), BLOCK)]
SBM_SIZES = {n: float(sum(p[n] for p in MANY if n < len(p)) / 4) for n in range(40, 201)}


class Preset(NamedTuple):
  """A data set and the network and training for it.

  Attributes:
    graphs: the data set's name.
    nodes: the most nodes of a graph.
    sizes: {number of nodes: how likely}.
    edges: the share of pairs that are joined, of the training graphs.
    family: what is valid.
    depth: number of layers.
    width: features of nodes, pairs and the graph.
    batch_size: graphs of a batch.
    steps: number of training steps.
    noise_steps: steps of the process.
  """

  graphs: str
  nodes: int
  sizes: Mapping[int, float]
  edges: float
  family: Family | None = None
  depth: int = 8
  width: tuple[int, int, int] = (256, 64, 64)
  batch_size: int = 64
  steps: int = 200_000
  noise_steps: int = 1_000


COMMUNITY = dict(graphs="community_small", nodes=20, sizes={12: 2, 14: 2, 16: 2, 18: 2, 20: 1}, edges=0.3117)
PRESETS = {
  "planar": Preset("planar", 64, {64: 1}, 0.0884, "planar", depth=10),
  "sbm": Preset("sbm", 200, SBM_SIZES, 0.0807, "sbm", batch_size=12, steps=550_000),
  "community_small": Preset(**COMMUNITY, depth=4, width=(64, 32, 32), batch_size=32, steps=5_000, noise_steps=500),
  "tiny": Preset(**COMMUNITY, depth=1, width=(16, 8, 8), batch_size=16, steps=200, noise_steps=50),
}
NAMES = {"digress_planar": {"preset": "planar"}, "digress_sbm": {"preset": "sbm"}}


def experiment(
  preset: Literal[*PRESETS] = "community_small",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float = 2e-4,
  depth: int | None = None,
  noise_steps: int | None = None,
  edge_weight: float = 5.0,
  features: Literal["all", "eigenvalues", "cycles", "none"] = "all",
  ema: float = 0.99,
  remat: bool = False,
  evaluation_terms: int = 16,
  judged: int = 40,
) -> Experiment:
  """A graph Transformer learns which edges noise has changed.

  Args:
    preset: the data set, the network's size and the length of training.
    depth: number of layers; by default the preset's.
    noise_steps: steps of the process, and of a sample; by default the preset's.
    edge_weight: weight of the edges' cross-entropy relative to that of the nodes.
    features: additional features of the noisy graph, inputs of the network: "cycles" has cycles of 3 to 6 nodes,
      "eigenvalues" also those of the Laplacian, "all" also its eigenvectors, and "none" has none of these.
    ema: the average's decay.
    remat: computes each layer a second time for the gradient and keeps less in memory.
    evaluation_terms: draws of the time for each evaluated graph.
    judged: number of samples that are judged.
  """
  chosen = PRESETS[preset]
  graphs = data.graphs(chosen.graphs, chosen.nodes)
  steps = chosen.steps if steps is None else steps
  x, e, _ = chosen.width
  body = GraphTransformer(
    1,
    2,
    chosen.depth if depth is None else depth,
    chosen.width,
    wide=(x, e, 2048 if x == 256 else x),
    hidden=(128, 64, 128) if x == 256 else chosen.width,
    remat=remat,
  )
  method = graph_diffusion(
    DiGress(body, features),
    Graphs((1.0,), (1 - chosen.edges, chosen.edges), chosen.sizes),
    graphs.spec,
    optimizers.adam(learning_rate, steps),
    steps=chosen.noise_steps if noise_steps is None else noise_steps,
    edge_weight=edge_weight,
    terms=evaluation_terms,
  )
  return Experiment(
    method=averaged(method, ema),
    data=graphs,
    steps=steps,
    batch_size=chosen.batch_size if batch_size is None else batch_size,
    evaluators=(means("nll_nats"), likeness(judged, family=chosen.family)),
    render=lambda samples, conditions: {".png": drawing(samples)},
    layouts={"digress": authors(body, "params/body")},
    samples=16,
    sample_chunk=8,
    evaluate_batch=8,
  )
