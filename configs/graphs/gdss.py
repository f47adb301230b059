"""Graphs by a system of stochastic differential equations: GDSS on small communities and on ego graphs.

Paper: Jo et al. 2022, Score-based generative modeling of graphs via the system of stochastic differential equations,
https://arxiv.org/abs/2202.02514.

    pip install 'jaxgen[graphs]'
    jaxgen train gdss
    jaxgen train gdss --graphs ego:citeseer.txt --nodes 18     (a list of edges, two names a line)

Networks, equations and sampler are those of the authors' config for small communities. They train for 5,000 epochs of
one batch; their Langevin steps take the batch's mean norms, and ours each sample's own.

Expect: not measured
Cost: not measured
"""

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion.schedules import vp
from jaxgen.evaluation.evaluators import means
from jaxgen.evaluation.graphs import drawing, likeness
from jaxgen.methods.graphs.gdss import Part, Sampler, graph_score_sde
from jaxgen.methods.graphs.graphs import Graphs
from jaxgen.nn.graphs.gdss import ScoreA, ScoreX


def experiment(
  graphs: str = "community_small",
  nodes: int = 20,
  steps: int = 5_000,
  batch_size: int = 80,
  learning_rate: float = 1e-2,
  depth: int = 5,
  width: int = 32,
  sampling_steps: int = 1_000,
  snr: float = 0.05,
  langevin_noise: float = 0.7,
  s4: bool = False,
  ema: float = 0.999,
  judged: int = 20,
) -> Experiment:
  """Two networks learn the scores of nodes' degrees and of edges.

  Args:
    graphs: the data set, such as community_small or ego:FILE.
    nodes: the most nodes of a graph; sizes up to it are equally likely where the data set's are not known.
    depth: number of layers of the network of edges.
    width: features of a node.
    sampling_steps: number of steps of a sample.
    snr: length of the corrector's steps; 0 leaves them out.
    langevin_noise: the factor of the corrector's noise.
    s4: the authors' S4 in place of a predictor, with half as many network calls.
    ema: the average's decay.
    judged: number of samples that are judged.
  """
  source = data.graphs(graphs, nodes)
  sizes = {12: 2, 14: 2, 16: 2, 18: 2, 20: 1} if graphs == "community_small" else dict.fromkeys(range(2, nodes + 1), 1)
  schedule = vp(0.1, 1.0, t_min=1e-4)
  method = graph_score_sde(
    Part(ScoreX(3, width), schedule),
    Part(ScoreA(depth, width, width), schedule),
    Graphs((1.0,), (0.5, 0.5), sizes),
    source.spec,
    optimizers.adam(learning_rate, steps, clip=1.0),
    sampler=Sampler(sampling_steps, snr=snr, noise=langevin_noise, s4=s4),
  )
  return Experiment(
    method=averaged(method, ema),
    data=source,
    steps=steps,
    batch_size=batch_size,
    evaluators=(means("error_features", "error_adjacency"), likeness(judged, kernel="emd")),
    render=lambda samples, conditions: {".png": drawing(samples)},
    samples=16,
    sample_chunk=20,
    evaluate_batch=20,
  )
