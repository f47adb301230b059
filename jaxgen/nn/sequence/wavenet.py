"""WaveNet: van den Oord et al. 2016, https://arxiv.org/abs/1609.03499. Convolutions that see only the past.

    network = WaveNet(256, dilations=stacks(3, 10), conditions=(("speaker", 6),))
    logits = network.apply({"params": params}, tokens, speaker=speaker)       # of what follows each token
    step, carry = network.stepper(params, prompt, length, speaker=speaker)    # for `jaxgen.decoding`

Tokens are integers [B, T], such as mu-law's. A layer of dilation d is

    (W1)  z = tanh(W_f * x + V_f h) . sigmoid(W_g * x + V_g h)

their eq. 2 and section 2.5, with `*` a convolution of x_t, x_(t - d), x_(t - 2 d), ... and h the conditions, one-hot.
Dense layers of z are added to x, and to the skip connections' sum, from which two layers make the logits (Figure 4).
Before the first token there are zeros. All layers are one scan.

For a further token, a layer needs its own input at t and at k - 1 earlier times. Therefore the carry keeps each layer's
last (k - 1) d inputs in a ring, and a token costs one pass over the layers, whatever the sequence's length (Le Paine et
al. 2016, https://arxiv.org/abs/1611.09482).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Dense

Dtype = Any
Features = Float[Array, "batch tokens features"]


def stacks(count: int, layers: int) -> tuple[int, ...]:
  """Dilations 1, 2, 4, ... 2^(layers - 1), `count` times in a row: section 2.1."""
  return tuple(2**i for i in range(layers)) * count


def earlier(x: Features, steps: int | Int[Array, ""], most: int) -> Features:
  """x_(t - steps), with zeros before the first.

  Args:
    steps: by how much x is shifted; it may be traced.
    most: an upper limit of `steps`, known when the program is compiled.
  """
  padded = jnp.pad(x, ((0, 0), (most, 0), (0, 0)))
  return jax.lax.dynamic_slice_in_dim(padded, most - steps, x.shape[1], axis=1)


class Layer(nn.Module):
  """(W1), with its residual and skip connections.

  Attributes:
    most: the largest dilation of the network's layers.
  """

  kernel: int
  hidden: int
  skip: int
  most: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    carry: tuple[Features, Float[Array, "batch tokens skip"]],
    dilation: Int[Array, ""],
    shift: Float[Array, "batch 1 gates"],
    past: Float[Array, "batch tokens past"] | None,
  ) -> tuple[tuple[Features, Float[Array, "batch tokens skip"]], Features]:
    """One layer of the stack, for a scan over layers.

    Args:
      carry: x and the sum of the skip connections.
      dilation: d.
      shift: V_f h and V_g h, side by side.
      past: x_(t - (k - 1) d), ..., x_(t - d), side by side, when x does not hold them; None: x is a whole sequence.

    Returns:
      The next carry, and the layer's input x.
    """
    x, total = carry
    options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    if past is None:
      before = [earlier(x, j * dilation, (self.kernel - 1) * self.most) for j in range(self.kernel - 1, 0, -1)]
    else:
      before = [past]
    seen = jnp.concatenate([*before, x], axis=-1)
    f, g = jnp.split(Dense(2 * self.hidden, name="gates", **options)(seen) + shift, 2, axis=-1)
    z = jnp.tanh(f) * jax.nn.sigmoid(g)
    out = Dense(x.shape[-1] + self.skip, name="out", **options)(z)
    return (x + out[..., : x.shape[-1]], total + out[..., x.shape[-1] :]), x


class WaveNet(nn.Module):
  """The network.

  Attributes:
    vocabulary: number of tokens.
    dilations: the layers' dilations, from the first layer on.
    kernel: k, the number of taps of a convolution.
    features, hidden, skip: channels of x, of z, and of the skip connections.
    conditions: (name, number of classes) of each label on which the network is conditioned.
  """

  vocabulary: int = 256
  dilations: Sequence[int] = stacks(3, 10)
  kernel: int = 2
  features: int = 32
  hidden: int = 32
  skip: int = 128
  conditions: tuple[tuple[str, int], ...] = ()
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @property
  def receptive_field(self) -> int:
    """The number of tokens that a prediction depends on, including the last: 1 + the sum of (k - 1) d over all
    convolutions. The one before the layers has d = 1."""
    return 1 + (self.kernel - 1) * (1 + sum(self.dilations))

  def setup(self):
    check_sizes("WaveNet", 2, kernel=self.kernel)
    check_sizes("WaveNet", layers=len(self.dilations), dilations=self.dilations, features=self.features)
    check_sizes("WaveNet", hidden=self.hidden, skip=self.skip)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    self.first = Dense(self.features, **dtypes)
    axes = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=len(self.dilations))
    layers = nn.scan(Layer, in_axes=0, **axes)
    self.layers = layers(self.kernel, self.hidden, self.skip, max(self.dilations), **dtypes)
    self.head = [Dense(self.skip, **dtypes), Dense(self.vocabulary, **dtypes)]
    classes = sum(count for _, count in self.conditions)
    shape = (len(self.dilations), classes, 2 * self.hidden)
    self.condition = self.param("condition", nn.initializers.normal(0.1), shape, self.param_dtype)

  def __call__(
    self,
    tokens: Int[Array, "batch tokens"],
    index: Int[Array, "batch"] | None = None,
    **conditions: Int[Array, "batch"],
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    """Logits of the token after each token.

    Args:
      tokens: the tokens.
      index: not used; nothing is dropped.
      **conditions: labels of the examples by name.

    Raises:
      UserError: a token or a label is out of range (in a compiled program its logits are NaN), or a label is missing.
    """
    return self.from_one_hot(self.one_hot(tokens), **conditions)

  def from_one_hot(
    self, x: Float[Array, "batch tokens {self.vocabulary}"], **conditions: Int[Array, "batch"]
  ) -> Float[Array, "batch tokens {self.vocabulary}"]:
    x = jnp.pad(x, ((0, 0), (self.kernel - 1, 0), (0, 0)))
    return self.run(x, self.shifts(x.shape[0], **conditions))[0]

  def one_hot(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens {self.vocabulary}"]:
    return _one_hot("tokens", tokens, self.vocabulary, self.dtype)

  def shifts(self, batch: int, **conditions: Int[Array, "batch"]) -> Float[Array, "layers batch 1 gates"]:
    """V_f h and V_g h of every layer."""
    if conditions.keys() != dict(self.conditions).keys():
      wants = ", ".join(name for name, _ in self.conditions) or "nothing"
      raise UserError(
        f"this WaveNet is conditioned on {wants} of each example, and was given {', '.join(conditions) or 'nothing'}"
      )
    labels = [_one_hot(name, conditions[name], count, self.dtype) for name, count in self.conditions]
    h = jnp.concatenate([*labels, jnp.zeros((batch, 0), self.dtype)], axis=-1)
    return jnp.einsum("bc,lcg->lbg", h, self.condition.astype(self.dtype))[:, :, None]

  def run(
    self,
    x: Float[Array, "batch more {self.vocabulary}"],
    shifts: Float[Array, "layers batch 1 gates"],
    past: Float[Array, "layers batch tokens past"] | None = None,
  ) -> tuple[Float[Array, "batch tokens {self.vocabulary}"], Float[Array, "layers batch tokens features"]]:
    """Runs all layers.

    Args:
      x: one-hot tokens. The first k - 1 of them have no logits: they are the past of the others.
      shifts: see `shifts`.
      past: earlier inputs of the layers; None: x is a whole sequence.

    Returns:
      The logits, and the layers' inputs.
    """
    count = x.shape[1] - self.kernel + 1
    x = self.first(jnp.concatenate([x[:, j : j + count] for j in range(self.kernel)], axis=-1))
    carry = x, jnp.zeros((*x.shape[:2], self.skip), x.dtype)
    (_, total), inputs = self.layers(carry, jnp.asarray(self.dilations), shifts, past)
    for dense in self.head:
      total = dense(jax.nn.relu(total))
    return total, inputs

  @nn.nowrap
  def stepper(self, params: Any, prompt: Int[Array, "batch tokens"], length: int, **conditions: Int[Array, "batch"]):
    """(step, carry) for `jaxgen.decoding`, after the prompt. All examples are at the same position in their sequences.

    The carry has "position" [B], the number of tokens read; "tokens" [B, k - 1, V], the last of them, one-hot; and
    "rings" [B, slots, features], in which layer l has (k - 1) d_l slots and keeps its input at t in slot
    t mod (k - 1) d_l.
    """
    call = partial(self.apply, {"params": params})
    batch, read = prompt.shape
    sizes = (self.kernel - 1) * np.asarray(self.dilations)
    first = np.cumsum(sizes) - sizes  # each layer's first slot
    taps = np.arange(self.kernel - 1, 0, -1) * np.asarray(self.dilations)[:, None]  # [layers, k - 1], how long ago
    shifts = call(batch, method="shifts", **conditions)
    tokens = jnp.pad(call(prompt, method="one_hot"), ((0, 0), (self.kernel - 1, 0), (0, 0)))
    rings = jnp.zeros((batch, int(sizes.sum()), self.features), tokens.dtype)
    if read:
      _, inputs = call(tokens, shifts, method="run")
      kept = [(layer, t, first[layer] + t % n) for layer, n in enumerate(sizes) for t in range(max(0, read - n), read)]
      layer, t, slot = np.asarray(kept, np.int32).reshape(-1, 3).T
      rings = rings.at[:, slot].set(jnp.moveaxis(inputs[layer, :, t], 0, 1))
    position = jnp.full((batch,), read, jnp.int32)
    carry = {"position": position, "tokens": tokens[:, tokens.shape[1] - self.kernel + 1 :], "rings": rings}

    def step(carry, token: Int[Array, "batch"]):
      t, rings = carry["position"][0], carry["rings"]
      tokens = jnp.concatenate([carry["tokens"], call(token[:, None], method="one_hot")], axis=1)
      past = rings[:, first[:, None] + (t - taps) % sizes[:, None]]  # [B, layers, k - 1, features]
      past = jnp.moveaxis(past.reshape(len(token), len(sizes), 1, -1), 1, 0)
      logits, inputs = call(tokens, shifts, past, method="run")
      rings = rings.at[:, first + t % sizes].set(jnp.moveaxis(inputs[:, :, 0], 0, 1))
      return logits[:, 0], {"position": carry["position"] + 1, "tokens": tokens[:, 1:], "rings": rings}

    return step, carry


def _one_hot(name: str, labels: Int[Array, "*shape"], count: int, dtype: Dtype) -> Float[Array, "*shape {count}"]:
  if not isinstance(labels, jax.core.Tracer) and labels.size > 0:
    least, most = np.asarray(labels).min(), np.asarray(labels).max()
    if least < 0 or most >= count:
      raise UserError(f"{name} from {least} to {most}, and the network's are 0 to {count - 1}: change it or the data")
  known = (labels >= 0) & (labels < count)
  return jnp.where(known[..., None], jax.nn.one_hot(labels, count, dtype=dtype), jnp.nan)
