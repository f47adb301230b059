"""Autoregressive networks of vectors: the parameters of each dimension depend on the dimensions before it.

    parameters = network.apply({"params": params}, x)       # x [B, *shape] of D values -> [B, D, outputs]
    step, carry = network.stepper(params, x)                # for sampling; only the shape of x [N, *shape] is used
    parameters, carry = step(carry, x, k)                   # of the k-th value, [N, outputs]

`step` is called for k = 0, 1, .., D - 1 with x [N, D] filled up to there. FVSBN and NADE model binary values, -1 and 1;
their papers' v is (x + 1) / 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.layers import Dtype, add_bias, matmul
from jaxgen.nn.blocks.rules import linear

Carry = Any
Step = Callable[[Carry, Array, Array], tuple[Array, Carry]]


def rerun(network: nn.Module, params: Any, x: Float[Array, "n *shape"], **options) -> tuple[Step, Carry]:
  """A step that evaluates the whole network for every value. It works for any network, at D times the cost."""
  shape = x.shape

  def step(carry: Carry, x: Float[Array, "n *rest"], k: Int[Array, ""]) -> tuple[Array, Carry]:
    parameters = network.apply({"params": params}, x.reshape(shape), **options)
    return jax.lax.dynamic_index_in_dim(parameters, k, axis=1, keepdims=False), carry

  return step, ()


def _flat(x: Float[Array, "b *shape"]) -> Float[Array, "b d"]:
  return x.reshape(x.shape[0], -1)


def _bits(x: Float[Array, "b *shape"]) -> Float[Array, "b d"]:
  return (_flat(x) + 1) / 2


def _before(v: Float[Array, "n d"], k: Int[Array, ""]) -> Float[Array, "n"]:
  """v_{k-1}, 0 for k = 0."""
  return jnp.where(k > 0, v[:, k - 1], 0)


class FVSBN(nn.Module):
  """Fully visible sigmoid belief network: every bit is a logistic regression on those before it.

  Neal 1992; Frey et al. 1996; Larochelle and Murray 2011, http://proceedings.mlr.press/v15/larochelle11a.html,
  section 4. logit p(v_d = 1 | v_<d) = b_d + sum_{e < d} W_ed v_e; the rest of W [D, D] is not used.
  """

  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch *shape"], index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch d 1"]:
    v = _bits(x)
    D = v.shape[1]
    W = self.param("W", nn.initializers.zeros, (D, D), self.param_dtype)
    b = self.param("b", nn.initializers.zeros, (D,), self.param_dtype)
    v, W, b = nn.dtypes.promote_dtype(v, W, b, dtype=self.dtype)
    return add_bias(matmul(v, jnp.triu(W, 1)), b)[..., None]

  def stepper(self, params: Any, x: Float[Array, "n *shape"]) -> tuple[Step, Carry]:
    """A step that keeps the sums so far: O(D) for each bit instead of O(D^2)."""
    W, b = (params[name].astype(self.dtype) for name in ("W", "b"))

    def step(s: Array, x: Array, k: Array) -> tuple[Array, Array]:
      s = s + _before(_bits(x).astype(s.dtype), k)[:, None] * W[k - 1]
      return s[:, k, None], s

    return step, jnp.broadcast_to(b, (x.shape[0], len(b)))


def _outputs(activation, a, V, b, scale):
  """A dimension's parameters [B, P] from its hidden units before the activation, a [B, H]; V [P, H]."""
  return activation(a * scale) @ V.T + b


def _scan(activation, a, v, W, V, b, scale):
  def body(a, inputs):
    v, W, *own = inputs
    return a + v[:, None] * W, _outputs(activation, a, *own)

  return jax.lax.scan(body, a, (v.T, W, V, b, scale))[1]


@dataclass(frozen=True)
class _Forwards:
  """The derivative of the outputs with respect to the arrays, as a linear map."""

  activation: Callable[[Array], Array]

  def __call__(self, arrays, tangents):
    return (jax.jvp(partial(_scan, self.activation), tuple(arrays), tuple(tangents))[1],)


@dataclass(frozen=True)
class _Backwards:
  """The transpose, which runs the recurrence backwards: a_d = a_{d+1} - W_d v_d."""

  activation: Callable[[Array], Array]

  def __call__(self, arrays, cotangents):
    (d_outputs,), (a, v, W, V, b, scale) = cotangents, arrays

    def body(carry, inputs):
      a, da = carry  # a_{d+1} and the loss's gradient by it
      v, W, d_out, *own = inputs
      dv, dW = da @ W, v @ da
      a = a - v[:, None] * W
      _, pull = jax.vjp(lambda a, *own: _outputs(self.activation, a, *own), a, *own)
      d, *d_own = pull(d_out)
      return (a, da + d), (dv, dW, *d_own)

    # The recurrence's start must be as accurate as the recurrence: a TPU's float32 product by default is not.
    last = a + jnp.matmul(v, W, precision="highest", preferred_element_type=a.dtype)
    (_, da), (dv, dW, *d_own) = jax.lax.scan(
      body, (last, jnp.zeros_like(last)), (v.T, W, d_outputs, V, b, scale), reverse=True
    )
    return jax.tree.map(lambda d, x: d.astype(x.dtype), (da, dv.T, dW, *d_own), tuple(arrays))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _run(activation, a, v, W, V, b, scale):
  return _scan(activation, a, v, W, V, b, scale)


@_run.defjvp
def _run_jvp(activation, arrays, tangents):
  return _run(activation, *arrays), linear(_Forwards(activation), _Backwards(activation), arrays, tangents)[0]


def recurrence(
  activation: Callable[[Array], Array],
  a: Float[Array, "B H"],
  v: Float[Array, "B D"],
  W: Float[Array, "D H"],
  V: Float[Array, "D P H"],
  b: Float[Array, "D P"],
  scale: Float[Array, "D"],
) -> Float[Array, "B D P"]:
  """NADE's O(HD): outputs_d = V_d activation(scale_d a_d) + b_d with a_{d+1} = a_d + W_d v_d.

  The gradient runs the recurrence backwards, a_d = a_{d+1} - W_d v_d, like the paper's Algorithm 1. It keeps nothing of
  size B D H, and a step's arrays stay in the processor's cache: it takes a third of the time of JAX's own gradient. The
  sums are in float32 or wider.
  """
  return _run(activation, wide(a), v, W, V, b, scale).swapaxes(0, 1)


def _recurrent_stepper(activation, c, W, V, b, scale, v_of, n) -> tuple[Step, Carry]:
  """One step of `recurrence` for each value: O(H) instead of O(HD)."""

  def step(a: Array, x: Array, k: Array) -> tuple[Array, Array]:
    a = a + _before(v_of(x).astype(a.dtype), k)[:, None] * W[k - 1]
    return _outputs(activation, a, V[k], b[k], scale[k]), a

  return step, jnp.broadcast_to(c, (n, len(c)))


class NADE(nn.Module):
  """Neural autoregressive distribution estimator of bits.

  Larochelle and Murray 2011, http://proceedings.mlr.press/v15/larochelle11a.html, eq. 8 to 10: with sigmoid units
  h_d = sigma(c + sum_{e < d} W_e v_e), logit p(v_d = 1 | v_<d) = b_d + V_d h_d.

  Attributes:
    hidden: H; 500 in the paper.
    tied: V is W.
  """

  hidden: int = 500
  tied: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch *shape"], index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch d 1"]:
    check_sizes("NADE", hidden=self.hidden)
    v = _bits(x)
    D, normal = v.shape[1], nn.initializers.normal(0.01)
    params = {"W": self.param("W", normal, (D, self.hidden), self.param_dtype)}
    if not self.tied:
      params["V"] = self.param("V", normal, (D, self.hidden), self.param_dtype)
    params["b"] = self.param("b", nn.initializers.zeros, (D,), self.param_dtype)
    params["c"] = self.param("c", nn.initializers.zeros, (self.hidden,), self.param_dtype)
    c, *rest = self._arrays(params)
    return recurrence(nn.sigmoid, jnp.broadcast_to(c, (len(v), self.hidden)), v.astype(self.dtype), *rest)

  def _arrays(self, params: Any) -> tuple[Array, ...]:
    W, V, b, c = (params[name].astype(self.dtype) for name in ("W", "W" if self.tied else "V", "b", "c"))
    return c, W, V[:, None], b[:, None], jnp.ones(len(b), self.dtype)

  def stepper(self, params: Any, x: Float[Array, "n *shape"]) -> tuple[Step, Carry]:
    return _recurrent_stepper(nn.sigmoid, *self._arrays(params), _bits, len(x))


class RNADE(nn.Module):
  """Real-valued NADE: Uria et al. 2013, https://arxiv.org/abs/1306.0186.

  h_d = max(0, rho_d a_d) with a_d = c + sum_{e < d} W_e x_e, and the parameters of x_d's mixture (logits, means,
  logarithms of standard deviations) are linear in h_d. Give it data of about unit scale.

  Attributes:
    outputs: number of parameters of one value, 3 for each Gaussian of the mixture.
    hidden: H; in the paper 50 for tables and 512 for patches of images.
  """

  outputs: int
  hidden: int = 512
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch *shape"], index: Int[Array, "batch"] | None = None
  ) -> Float[Array, "batch d {self.outputs}"]:
    check_sizes("RNADE", outputs=self.outputs, hidden=self.hidden)
    x = _flat(x)
    D, normal = x.shape[1], nn.initializers.normal
    params = {
      "W": self.param("W", normal(D**-0.5), (D, self.hidden), self.param_dtype),
      "V": self.param("V", normal(self.hidden**-0.5), (D, self.outputs, self.hidden), self.param_dtype),
      # The means of a mixture must differ: otherwise its components would stay equal.
      "b": self.param("b", normal(0.5), (D, self.outputs), self.param_dtype),
      "c": self.param("c", normal(0.5), (self.hidden,), self.param_dtype),
      "rho": self.param("rho", nn.initializers.ones, (D,), self.param_dtype),
    }
    c, *rest = self._arrays(params)
    return recurrence(nn.relu, jnp.broadcast_to(c, (len(x), self.hidden)), x.astype(self.dtype), *rest)

  def _arrays(self, params: Any) -> tuple[Array, ...]:
    return tuple(params[name].astype(self.dtype) for name in ("c", "W", "V", "b", "rho"))

  def stepper(self, params: Any, x: Float[Array, "n *shape"]) -> tuple[Step, Carry]:
    return _recurrent_stepper(nn.relu, *self._arrays(params), _flat, len(x))


class MADE(nn.Module):
  """Masked autoencoder: Germain et al. 2015, https://arxiv.org/abs/1502.03509. A feed-forward network whose weights are
  masked so that the outputs of dimension d depend only on the dimensions before it in some order.

  Every unit has a degree. That of a dimension is its place in the order, 1 to D. A hidden unit sees units of the layer
  below whose degrees are at most its own (eq. 12 of the paper); an output sees units of lower degree (eq. 13). Thus the
  same weights make a different model for each choice of degrees. The network has `members` such choices.

  Attributes:
    outputs: number of parameters of one value.
    hidden: widths of the hidden layers.
    members: number of masks, each with its own draw of hidden degrees (connectivity-agnostic training, section 4.2).
    shuffle: also draw an order for each mask (order-agnostic training, section 4.1); otherwise the order is the natural
      one.
    seed: seed of the draws.
  """

  outputs: int
  hidden: tuple[int, ...] = (500,)
  members: int = 1
  shuffle: bool = False
  seed: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def degrees(self, D: int) -> list[Int[np.ndarray, "members units"]]:
    """The degrees of the dimensions, 1 to D, and of each hidden layer's units, which are at most D - 1."""
    rng = np.random.default_rng(self.seed)
    natural = np.tile(np.arange(1, D + 1), (self.members, 1))
    layers = [rng.permuted(natural, axis=1) if self.shuffle else natural]
    for width in self.hidden:
      low = layers[-1].min(axis=1, keepdims=True)
      layers.append(rng.integers(low, max(D, 2), (self.members, width)))  # with D = 1 all degrees are 1
    return layers

  def order(self, member: Int[Array, "n"], D: int) -> Int[Array, "n {D}"]:
    """The dimensions of these members in their order."""
    return jnp.asarray(np.argsort(self.degrees(D)[0], axis=1))[member]

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch *shape"],
    member: Int[Array, ""] | int = 0,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch d {self.outputs}"]:
    check_sizes("MADE", outputs=self.outputs, layers=len(self.hidden), hidden=self.hidden, members=self.members)
    h = _flat(x).astype(self.dtype)
    D = h.shape[1]
    degrees = [jnp.asarray(m)[member] for m in self.degrees(D)]
    for i, (width, below, above) in enumerate(zip(self.hidden, degrees, degrees[1:], strict=False)):
      W, b = self._layer(f"hidden_{i}", h.shape[1], width)
      h = nn.relu(add_bias(matmul(h, W * (above >= below[:, None])), b))
    V, c = self._layer("out", h.shape[1], D * self.outputs)
    sees = jnp.repeat(degrees[0] > degrees[-1][:, None], self.outputs, axis=1)
    return add_bias(matmul(h, V * sees), c).reshape(len(h), D, self.outputs)

  def _layer(self, name: str, below: int, width: int) -> tuple[Array, Array]:
    # On average half of a layer's weights are masked; the others start with a larger variance to make up for it.
    kernel = self.param(f"{name}_kernel", nn.initializers.variance_scaling(2.0, "fan_in", "normal"), (below, width),
                        self.param_dtype)  # fmt: skip
    bias = self.param(f"{name}_bias", nn.initializers.zeros, (width,), self.param_dtype)
    return kernel.astype(self.dtype), bias.astype(self.dtype)

  def stepper(
    self, params: Any, x: Float[Array, "n *shape"], member: Int[Array, "n"] | None = None
  ) -> tuple[Step, Carry]:
    """A step that keeps the first hidden layer's sums: O(H) for each value with one hidden layer, like NADE, and O(H^2)
    with more.

    The k-th value is that of dimension order(member)[:, k].
    """
    n, D = len(x), x[0].size
    member = jnp.zeros(n, jnp.int32) if member is None else member
    degrees, order = [jnp.asarray(m)[member] for m in self.degrees(D)], self.order(member, D)
    weights = {name: p.astype(self.dtype) for name, p in params.items()}
    every = jnp.arange(n)

    def step(a: Array, x: Array, k: Array) -> tuple[Array, Array]:
      last = order[:, k - 1]
      value = jnp.where(k > 0, _flat(x)[every, last], 0).astype(a.dtype)
      a = a + value[:, None] * weights["hidden_0_kernel"][last] * (degrees[1] >= k)
      h = nn.relu(a)
      for i, (below, above) in enumerate(zip(degrees[1:], degrees[2:], strict=False), 1):
        seen = h[:, :, None] * (above[:, None] >= below[:, :, None])
        # each example n has a mask of its own: units i of the layer below, o of this one
        h = nn.relu(jnp.einsum("nio,io->no", seen, weights[f"hidden_{i}_kernel"]) + weights[f"hidden_{i}_bias"])
      d = order[:, k]
      V = weights["out_kernel"].reshape(-1, D, self.outputs)[:, d]  # [H, n, P]
      h = h * (degrees[-1] <= k)
      # hidden units h of each example n, whose next dimension's parameters p these are
      return jnp.einsum("nh,hnp->np", h, V) + weights["out_bias"].reshape(D, self.outputs)[d], a

    return step, jnp.broadcast_to(weights["hidden_0_bias"], (n, self.hidden[0]))
