"""Discrete diffusion of graphs: DiGress of Vignac et al. 2023, https://arxiv.org/abs/2209.14734, "Vi" below.

A graph of N nodes is a type of each node and a type of each pair of nodes, 0 for no edge. Each is noised by itself, by
(1) of `jaxgen.discrete` with the data's own frequencies for pi (Vi section 4.1), and a pair once, so that noise is
symmetric and no node is joined to itself. The network predicts all types from the noisy graph, and is trained by

    (D1)  mean over nodes of -log p(x | G_t) + lambda mean over pairs of -log p(e | G_t)

A step to s < t draws each type from (4) with p(x_0 | G_t) for u by (5), the sum over x_0. The bound on -log p(G), in
nats per graph, is (7) over all nodes and pairs that are there, and the term of the size:

    (D2)  -log p(N) + KL(q(G_T | G) || p(G_T)) + sum_t KL(q(G_s | G_t, G) || p(G_s | G_t))

p(G) is the probability of a graph with ordered nodes; a graph without one is up to N! times as likely.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, fold_in, split
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.discrete import Predicted, Process, losses, marginal, sampling, schedules
from jaxgen.discrete.draws import categorical
from jaxgen.discrete.predictions import posterior
from jaxgen.methods.graphs.graphs import (
  Examples,
  Graphs,
  Mask,
  Tokens,
  check_graphs,
  check_kind,
  decode,
  dense,
  encode,
  there,
)

Time = Float[Array, " batch"]
Nats = Float[Array, " batch"]
Predict = Callable[[Tokens, Time], Tokens]  # (G_t, t) -> a `Predicted` of nodes and one of pairs


def processes(kind: Graphs, schedule: schedules.Schedule, steps: int) -> Tokens:
  """The noise of nodes and of pairs; None for nodes of a single type, of which nothing is lost."""
  one = len(kind.nodes) == 1
  of = lambda frequencies: marginal(schedule, np.asarray(frequencies), steps)
  return Tokens(None if one else of(kind.nodes), of(kind.pairs))


def _each(
  do: Callable[..., Array], process: Tokens, *parts: Tokens, missing: Callable[..., Any] = lambda *args: None
) -> Tokens:
  """`do(process, *parts)` of nodes and of pairs; of nodes without a process, what `missing` makes of the parts."""
  of = lambda process, *args: missing(*args) if process is None else do(process, *args)
  return Tokens(*(of(*args) for args in zip(process, *parts, strict=True)))


def diffuse(process: Tokens, x_0: Tokens, t: Time, keys: Key[Array, " batch"]) -> Tokens:
  """A draw of G_t given G."""
  draw = lambda process, x, keys: losses.diffuse(process, x, t, keys)
  return _each(draw, process, x_0, Tokens(*split(keys)), missing=lambda x, keys: x)


def bound(
  kind: Graphs,
  process: Tokens,
  predict: Predict,
  x: Examples,
  keys: Key[Array, " batch"],
  *,
  terms: int | None = None,
  dtype: Any = jnp.float32,
) -> Nats:
  """An unbiased estimate of (D2), nats per graph.

  Args:
    kind: what graphs are made of.
    process: of `processes`.
    predict: the model; it is called once a term.
    x: graphs; one of a size that `kind` gives no probability has a bound of infinity.
    keys: of each graph.
    terms: draws of t, each from its own part of 1 .. T; None: all.

  Raises:
    UserError: terms outside 1 .. T.
  """
  T = process.pairs.steps
  terms = T if terms is None else terms
  if not 1 <= terms <= T:
    raise UserError(f"the bound takes 1 to {T} terms, or None for all of them, not {terms}: change it")
  x_0, mask = encode(x)
  zero = jnp.zeros(len(x), dtype)
  both = lambda nats: nats.nodes + nats.pairs

  def add(total: Array, part: tuple) -> tuple[Array, None]:
    k, low, high = part
    t_keys, x_keys = split(fold_in(keys, k))
    step = jax.vmap(lambda key: jax.random.randint(key, (), low + 1, high + 1))(t_keys).astype(dtype)
    s, t = (step - 1) / T, step / T
    x_t = diffuse(process, x_0, t, x_keys)
    term = lambda process, *args: losses.term(process, *args[:-1], s, t, mask=args[-1])
    nats = _each(term, process, predict(x_t, t), x_0, x_t, mask, missing=lambda *args: zero)
    return total + (high - low) * both(nats), None

  prior = lambda process, x, mask: losses.prior(process, x, dtype, mask=mask)
  start = both(_each(prior, process, x_0, mask, missing=lambda *args: zero))
  edges = np.arange(terms + 1) * T // terms
  parts = (jnp.arange(terms), jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(edges[1:], jnp.int32))
  log_size = jnp.asarray(kind.log_sizes(x.shape[1]), dtype)[jnp.sum(mask.nodes, axis=1)]
  return jax.lax.scan(add, start, parts)[0] - log_size


def graph_diffusion(
  network: Any,
  kind: Graphs,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  *,
  schedule: schedules.Schedule | None = None,
  steps: int = 1000,
  edge_weight: float = 5.0,
  sampling_steps: int | None = None,
  terms: int | None = 64,
) -> Method:
  """Learns the types of nodes and edges by (D1), t uniform on 1/T .. 1.

  The mean is over each graph's nodes and pairs, and then over graphs; the authors' is over all nodes and pairs of a
  batch, which is the same where graphs are of one size.

  Args:
    network: a Flax module, `network.apply({"params": p}, nodes [B, N], edges [B, N, N], t [B], mask=mask, index=index,
      rngs={"dropout": key})` -> logits [B, N, types], [B, N, N, types]: `jaxgen.nn.graphs.transformer.DiGress`, or
      another equivariant one.
    kind: what graphs are made of.
    spec: the data's; examples are [N, N], see `Graphs`.
    optimizer: the network's optimizer.
    schedule: alpha(t) of (1); by default the authors', the squared cosine.
    steps: T.
    edge_weight: lambda.
    sampling_steps: of a sample; by default T.
    terms: draws of t for each evaluated graph; None: all T.

  `evaluate` gives "nll_nats", (D2). `sample(state, keys)` gives [N, n, n], of sizes drawn from p(N).

  Raises:
    UserError: the choices do not fit each other; graphs larger than the data's arrays; examples of another shape.
  """
  _check(kind, spec, steps, edge_weight, terms)
  most = spec.shape[0]
  process = processes(kind, schedules.squared_cosine() if schedule is None else schedule, steps)
  times = sampling.uniform_grid(steps if sampling_steps is None else sampling_steps)
  sampling.check(process.pairs, times)
  i, j = np.triu_indices(most, 1)

  def logits_with(params: Params, mask: Mask, **options: Any) -> Callable[[Tokens, Time], Tokens]:
    def logits(x: Tokens, t: Time) -> Tokens:
      edges = dense(x.pairs, most)
      nodes, edges = network.apply({"params": params}, x.nodes, edges, t, mask=mask.nodes, **options)
      return Tokens(*(wide(a).astype(t.dtype) for a in (nodes, edges[:, i, j])))

    return logits

  def predict_with(params: Params, mask: Mask) -> Predict:
    logits = logits_with(params, mask)
    return lambda x, t: _each(lambda process, out, x: posterior(process, out, x, t), process, logits(x, t), x)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    x, mask = encode(jnp.asarray(batch[spec.feature][:1]))
    args = (key, x.nodes, dense(x.pairs, most), jnp.zeros(1, float))
    (nodes, edges), variables = network.init_with_output(*args, mask=mask.nodes)
    expected = (most, len(kind.nodes)), (most, most, len(kind.pairs))
    for what, found, shape in zip(("nodes", "edges"), (nodes, edges), expected, strict=True):
      check_output(f"the network's output of {what}", found.shape[1:], shape, "change its numbers of types")
    return {"network": variables["params"]}, {}

  def cross_entropy(logits: Array, x: Array, mask: Bool[Array, "batch places"]) -> Nats:
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), x[..., None], axis=-1)[..., 0]
    return jnp.sum(nll, axis=1, where=mask) / jnp.maximum(jnp.sum(mask, axis=1), 1)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, dropout_key = jax.random.split(key)
    x_0, mask = encode(jnp.asarray(batch[spec.feature]))
    t_keys, x_keys = split(example_keys(noise_key, batch["index"]))
    t = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(t_keys).astype(float) / steps
    x_t = diffuse(process, x_0, t, x_keys)
    out = logits_with(params, mask, index=batch["index"], rngs={"dropout": dropout_key})(x_t, t)
    nodes, pairs = (cross_entropy(*args) for args in zip(out, x_0, mask, strict=True))
    metrics = {"nodes": jnp.mean(nodes), "edges": jnp.mean(pairs)}
    return metrics["nodes"] + edge_weight * metrics["edges"], (metrics, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Nats]:
    x, keys = jnp.asarray(batch[spec.feature]), example_keys(key, batch["index"])
    predict = predict_with(state.averaged(), encode(x)[1])
    return {"nll_nats": bound(kind, process, predict, x, keys, terms=terms, dtype=jnp.result_type(float))}

  def sample(state: State, keys: Key[Array, " n"]) -> Examples:
    size_keys, start_keys, step_keys = split(keys, 3)
    log_p = jnp.asarray(kind.log_sizes(most), float)
    size = jax.vmap(lambda key: jax.random.categorical(key, log_p))(size_keys)
    mask = there(size, most)
    predict = predict_with(state.averaged(), mask)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.int32), mask)
    start = lambda process, keys, zeros: sampling.start(process, keys, zeros.shape[1:])
    x = _each(start, process, Tokens(*split(start_keys)), zeros, missing=lambda keys, zeros: zeros)

    def step(x: Tokens, now: tuple) -> tuple[Tokens, None]:
      k, *ends = now
      t, s = (jnp.broadcast_to(end, len(keys)) for end in ends)

      def move(process: Process, predicted: Predicted, x: Array, keys: Array) -> Array:
        return categorical(keys, process.log_posterior(predicted.log_u, x, s, t))

      parts = predict(x, t), x, Tokens(*split(fold_in(step_keys, k)))
      return _each(move, process, *parts, missing=lambda predicted, x, keys: x), None

    ends = jnp.asarray(times, float)
    x = jax.lax.scan(step, x, (jnp.arange(len(times) - 1), ends[:-1], ends[1:]))[0]
    return decode(x, mask)

  def check(batch: Batch) -> None:
    check_graphs(kind, np.asarray(batch[spec.feature]))

  calls = len(times) - 1
  facts = {"A sample": f"{calls:,} network calls"}
  players = [("network", Player(loss, optimizer))]
  method = compose(init, players, evaluate=evaluate, sample=sample, facts=facts, check=check)
  return method._replace(network_calls=calls)


def _check(kind: Graphs, spec: Spec, steps: int, edge_weight: float, terms: int | None) -> None:
  """Raises a UserError if the choices do not fit together."""
  check_kind(kind, spec)
  if edge_weight < 0:
    raise UserError(f"the weight of edges in the loss is 0 or more, not {edge_weight:g}: change it")
  if steps < 1 or (terms is not None and not 1 <= terms <= steps):
    raise UserError(f"the bound has 1 to {steps} terms, not {terms}: change them or the steps")
