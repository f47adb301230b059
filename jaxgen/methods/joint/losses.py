"""Contrastive losses of N pictures with features x_i and N texts with y_j, all of length 1, in nats per example.

With s = exp(`log_scale`), the inverse temperature, the logits are l_ij = s x_i . y_j + b.

    InfoNCE    L = 1/2 (CE(rows of l, i) + CE(columns of l, j)): CLIP, Radford et al. 2021,
               https://arxiv.org/abs/2103.00020, Figure 3; with label smoothing ALIGN, Jia et al. 2021,
               https://arxiv.org/abs/2102.05918, eqs. 1 and 2
    UniCL the targets of a picture are all texts with its label, in equal shares, and vice versa: Yang et
               al. 2022, https://arxiv.org/abs/2204.03610, eqs. 3 to 5, as Florence trains
    sigmoid    L = -1/N sum_ij log sigma(z_ij l_ij), z_ij = 1 for pairs and else -1: SigLIP, Zhai et al. 2023,
               https://arxiv.org/abs/2303.15343, eq. 1

A softmax needs all logits of a row and of a column: the texts are gathered on every device. The sigmoid does not: see
`sigmoid`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch
from jaxgen.nn.joint.dual import Joint

Features = Float[Array, "batch features"]
Scalar = Float[Array, ""]


Loss = Callable[[Joint, Batch], Scalar]  # (features of a batch, the batch) -> nats per example


def logits(joint: Joint) -> Float[Array, "batch batch"]:
  """l, each picture's row on the device of the picture."""
  l = jnp.exp(joint.log_scale) * (joint.image @ joint.text.T)
  return spread.over_batch(l if joint.bias is None else l + joint.bias)


def _both_ways(l: Float[Array, "batch batch"], targets: Float[Array, "batch batch"]) -> Scalar:
  """The mean of both cross-entropies with targets that are symmetric, whose rows sum to 1."""
  rows, columns = (optax.softmax_cross_entropy(x, targets).mean() for x in (l, l.T))
  return (rows + columns) / 2


def infonce(smoothing: float = 0.0) -> Loss:
  """InfoNCE over the global batch.

  Args:
    smoothing: share of the target that is spread over all texts, or pictures; ALIGN's is 0.1.

  Raises:
    UserError: smoothing outside [0, 1).
  """
  if not 0 <= smoothing < 1:
    raise UserError(f"smoothing lies in [0, 1), and this is {smoothing:g}: change it")

  def loss(joint: Joint, batch: Batch) -> Scalar:
    l = logits(joint)
    return _both_ways(l, optax.smooth_labels(jnp.eye(len(l), dtype=l.dtype), smoothing))

  return loss


def unicl() -> Loss:
  """UniCL: pairs, and pictures with labels, alike. It needs the batch's "label"."""

  def loss(joint: Joint, batch: Batch) -> Scalar:
    if "label" not in batch:
      raise UserError("UniCL learns from labels and this data has none: use data with a 'label', or CLIP's loss")
    l, label = logits(joint), batch["label"]
    alike = spread.over_batch((label[:, None] == label).astype(l.dtype))
    return _both_ways(l, alike / alike.sum(1, keepdims=True))

  return loss


def siglip() -> Loss:
  """SigLIP's sigmoid loss, in chunks over the devices."""

  def loss(joint: Joint, batch: Batch) -> Scalar:
    bias = jnp.zeros_like(joint.log_scale) if joint.bias is None else joint.bias
    return sigmoid(joint.image, joint.text, joint.log_scale, bias)

  return loss


# --- The sigmoid loss, chunk by chunk --------------------------------------------------------------------------------


def _chunk(image: Features, text: Features, log_scale: Scalar, bias: Scalar, own: Array | bool) -> Scalar:
  """-sum_ij log sigma(z_ij l_ij) of pictures with texts, which are either theirs, in order, or all non-matching."""
  l = jnp.exp(log_scale) * (image @ text.T) + bias
  return -jnp.sum(jax.nn.log_sigmoid(jnp.where(jnp.eye(len(l), dtype=bool) & own, l, -l)))


def _around(body: Callable, start: dict, ways: int, axes: tuple[str, ...]) -> dict:
  """body(step, carry) -> carry, for each device's texts in turn: `carry["passed"]` moves to the next device."""
  if ways == 1:
    return body(0, start)
  ring = [(i, (i + 1) % ways) for i in range(ways)]

  def turn(step, carry):
    carry = body(step, carry)
    return carry | {"passed": lax.ppermute(carry["passed"], axes, ring)}

  return lax.fori_loop(0, ways, turn, start)


def _value(ways: int, axes: tuple[str, ...], image, text, log_scale, bias) -> Scalar:
  def body(step, carry):
    return carry | {"sum": carry["sum"] + _chunk(image, carry["passed"], log_scale, bias, step == 0)}

  total = _around(body, {"sum": jnp.zeros((), image.dtype), "passed": text}, ways, axes)["sum"]
  return (lax.psum(total, axes) if ways > 1 else total) / (ways * len(image))


def _gradients(ways: int, axes: tuple[str, ...], image, text, log_scale, bias, cotangent) -> tuple:
  """The texts' gradients move around the ring with them, and are back at their device after the last step."""
  gradient = jax.grad(_chunk, argnums=(0, 1, 2, 3))

  def body(step, carry):
    chunk, of_chunk = carry["passed"]
    d_image, d_chunk, *scalars = gradient(image, chunk, log_scale, bias, step == 0)
    here = jax.tree.map(jnp.add, carry["here"], (d_image, *scalars))
    return {"here": here, "passed": (chunk, of_chunk + d_chunk)}

  zero = jnp.zeros((), image.dtype)
  start = {"here": (jnp.zeros_like(image), zero, zero), "passed": (text, jnp.zeros_like(text))}
  found = _around(body, start, ways, axes)
  (d_image, *scalars), (_, d_text) = found["here"], found["passed"]
  scalars = lax.psum(scalars, axes) if ways > 1 else scalars
  each = cotangent / (ways * len(image))
  return jax.tree.map(lambda g: g * each, (d_image, d_text, *scalars))


def _over_devices(function: Callable, image: Features, text: Features, *scalars: Scalar, out: tuple | str):
  """function(ways, axes, ...) with each device's pictures and texts; "batch" or "" names the sharded axis."""
  axes, ways = spread.batch_axes()
  if ways == 1 or len(image) % ways:
    return function(1, (), image, text, *scalars)
  place = {"batch": PartitionSpec(axes), "": PartitionSpec()}
  specs = (place["batch"],) * 2 + (place[""],) * len(scalars)
  outs = place[out] if isinstance(out, str) else tuple(place[name] for name in out)
  mapped = jax.shard_map(
    partial(function, ways, axes), in_specs=specs, out_specs=outs, axis_names=set(axes), check_vma=False
  )
  return mapped(image, text, *scalars)


@jax.custom_vjp
def sigmoid(image: Features, text: Features, log_scale: Scalar, bias: Scalar) -> Scalar:
  """SigLIP's loss, section 3.3: every device computes the logits of its pictures with one device's texts at a time.

  The texts go around the devices, in the loss and again in its gradient, which keeps nothing but the features: a
  device's memory does not grow with their number. Only reverse mode is supported.
  """
  return _over_devices(_value, image, text, log_scale, bias, out="")


def _forward(image, text, log_scale, bias):
  return sigmoid(image, text, log_scale, bias), (image, text, log_scale, bias)


def _backward(kept, cotangent):
  return _over_devices(_gradients, *kept, cotangent, out=("batch", "batch", "", ""))


sigmoid.defvjp(_forward, _backward)
