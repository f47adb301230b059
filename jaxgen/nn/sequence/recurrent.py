"""Recurrent networks: RNN, LSTM and GRU, in one direction or in both, stacked, over ragged batches.

Elman 1990, https://doi.org/10.1207/s15516709cog1402_1; Hochreiter and Schmidhuber 1997,
https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers et al. 2000,
https://doi.org/10.1162/089976600300015015; Cho et al. 2014, https://arxiv.org/abs/1406.1078. The gates, their order,
and both biases are those of torch.nn's RNN, LSTM and GRU, so that weights can be exchanged
(`jaxgen.interop.recurrent`).

A state is a tuple of arrays: (h,) for an RNN and a GRU, (h, c) for an LSTM.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Dropout, add_bias, matmul

Dtype = Any
Gates = Float[Array, "batch gates"]
State = tuple[Float[Array, "batch features"], ...]
States = tuple[Float[Array, "batch layers features"], ...]


def rnn(x: Gates, h: Gates, state: State) -> State:
  """h = tanh(x + h)."""
  return (jnp.tanh(x + h),)


def rnn_relu(x: Gates, h: Gates, state: State) -> State:
  """h = max(x + h, 0)."""
  return (jax.nn.relu(x + h),)


def lstm(x: Gates, h: Gates, state: State) -> State:
  """c = f c + i g, h = o tanh(c)."""
  i, f, g, o = jnp.split(x + h, 4, axis=-1)
  c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
  return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(x: Gates, h: Gates, state: State) -> State:
  """h = (1 - z) n + z h, with n = tanh(x_n + r h_n): the reset gate acts after the product with h, not before it."""
  (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(x, 3, axis=-1), jnp.split(h, 3, axis=-1)
  r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
  return ((1 - z) * jnp.tanh(x_n + r * h_n) + z * state[0],)


class Kind(NamedTuple):
  """A kind of recurrent cell.

  Attributes:
    gates: number of blocks in each projection.
    states: number of arrays in the state.
    update: (projection of the input, projection of h, state) -> the next state.
  """

  gates: int
  states: int
  update: Callable[[Array, Array, State], State]


CELLS = {"rnn": Kind(1, 1, rnn), "rnn_relu": Kind(1, 1, rnn_relu), "lstm": Kind(4, 2, lstm), "gru": Kind(3, 1, gru)}
CellName = Literal["rnn", "rnn_relu", "lstm", "gru"]


class Weights(NamedTuple):
  input: Float[Array, "inputs gates"]
  hidden: Float[Array, "features gates"]
  input_bias: Float[Array, "gates"]
  hidden_bias: Float[Array, "gates"]


class Cell(nn.Module):
  """A recurrent cell: one step of it, or one scan over a sequence. Weights start uniform in +-1 / sqrt(features).

  Raises:
    UserError: no features.
  """

  features: int
  kind: CellName = "lstm"
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  def __post_init__(self):
    check_sizes("a recurrent cell", features=self.features)
    super().__post_init__()

  @nn.compact
  def weights(self, inputs: int) -> Weights:
    gates, bound = CELLS[self.kind].gates * self.features, self.features**-0.5
    init = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
    shapes = dict(input=(inputs, gates), hidden=(self.features, gates), input_bias=(gates,), hidden_bias=(gates,))
    return Weights(**{name: self.param(name, init, shape, self.param_dtype) for name, shape in shapes.items()})

  @nn.nowrap
  def zeros(self, batch: int, dtype: Dtype = None) -> State:
    """The default state at the start of a sequence."""
    return (jnp.zeros((batch, self.features), self.dtype or dtype or self.param_dtype),) * CELLS[self.kind].states

  def __call__(self, x: Float[Array, "batch inputs"], state: State) -> State:
    """One step."""
    x, *rest = nn.dtypes.promote_dtype(x, *state, *self.weights(x.shape[-1]), dtype=self.dtype)
    state, w = tuple(rest[: len(state)]), Weights(*rest[len(state) :])
    return CELLS[self.kind].update(x @ w.input + w.input_bias, state[0] @ w.hidden + w.hidden_bias, state)

  def scan(
    self,
    x: Float[Array, "batch time inputs"],
    valid: Bool[Array, "batch time"],
    state: State,
    reverse: bool = False,
  ) -> tuple[Float[Array, "batch time {self.features}"], State]:
    """(h at every time, the last state). At times that are not valid the state does not change, and h is 0.

    Args:
      reverse: run from the last time to the first; as padding does not change the state, that is from the last valid
        time.
    """
    x, *rest = nn.dtypes.promote_dtype(x, *state, *self.weights(x.shape[-1]), dtype=self.dtype)
    state, w = tuple(rest[: len(state)]), Weights(*rest[len(state) :])
    # The part that does not depend on the state is one large product before the scan.
    projected = add_bias(matmul(x, w.input), w.input_bias)

    def step(state: State, at: tuple[Array, Array]):
      x, valid = at
      new = CELLS[self.kind].update(x, state[0] @ w.hidden + w.hidden_bias, state)
      state = tuple(jnp.where(valid, n, o) for n, o in zip(new, state, strict=True))
      return state, jnp.where(valid, state[0], jnp.zeros((), x.dtype))

    over = (projected.swapaxes(0, 1), valid.T[..., None])
    state, outputs = jax.lax.scan(step, state, over, reverse=reverse)
    return outputs.swapaxes(0, 1), state


def check_lengths(lengths: Int[Array, "batch"] | None, time: int) -> None:
  """Raises a UserError if lengths of sequences are outside 0 .. time. Traced lengths are not checked."""
  if lengths is None or isinstance(lengths, jax.core.Tracer) or not lengths.size:
    return
  least, most = np.asarray(lengths).min(), np.asarray(lengths).max()
  if least < 0 or most > time:
    raise UserError(f"sequences of lengths {least} to {most}, and the batch has room for 0 to {time}: change them")


class Recurrent(nn.Module):
  """Layers of recurrent cells. Each direction of each layer is one scan.

  Attributes:
    features: width of the state, in each direction.
    bidirectional: each layer has two directions. Its output is theirs side by side, forward first.
    dropout: dropout rate between layers.
  """

  features: int
  kind: CellName = "lstm"
  layers: int = 1
  bidirectional: bool = False
  dropout: float = 0.0
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch time inputs"],
    lengths: Int[Array, "batch"] | None = None,
    initial: States | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> tuple[Float[Array, "batch time outputs"], States]:
    """(h of the last layer at every time, the last state of every layer and direction).

    Args:
      lengths: valid times of each example, all by default. Behind them the output is 0.
      initial: the first state, by default zeros. Each array is [B, layers * directions, features], from the lowest
        layer on, forward before backward.
      index: positions in the global batch; with it there is dropout, from rngs={"dropout": key}.

    Raises:
      UserError: a length below 0 or beyond the times there are. In a compiled program it is as the nearest of these.
        No layers.
    """
    batch, time, _ = x.shape
    check_sizes("a recurrent network", layers=self.layers)
    check_lengths(lengths, time)
    valid = jnp.full((batch,), time) if lengths is None else lengths
    valid = jnp.arange(time) < valid[:, None]
    ways, final = ("forward", "backward") if self.bidirectional else ("forward",), []
    for layer in range(self.layers):
      x = Dropout(self.dropout)(x, index) if layer else x
      outputs = []
      for way in ways:
        cell = Cell(self.features, self.kind, self.dtype, self.param_dtype, name=f"{way}_{layer}")
        state = cell.zeros(batch, x.dtype) if initial is None else tuple(s[:, len(final)] for s in initial)
        output, state = cell.scan(x, valid, state, reverse=way == "backward")
        outputs.append(output)
        final.append(state)
      x = jnp.concatenate(outputs, axis=-1)
    return x, tuple(jnp.stack(s, axis=1) for s in zip(*final, strict=True))
