"""Learning from masked pictures: MAE and SimMIM, whose networks are in `nn.selfsupervised.mae`."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.methods.selfsupervised.two_views import feature_norm
from jaxgen.nn.selfsupervised.mae import patchify, visible_patches

Patches = Float[Array, "batch patches values"]


def normalized(patches: Patches, eps: float = 1e-6) -> Patches:
  """Each patch with mean 0 and variance 1, with n - 1 in the variance's denominator, as in the authors' code.

  A prediction of 0 then has a loss of (n - 1) / n per value (up to eps): 767 / 768 for 16 x 16 x 3.
  """
  return (patches - patches.mean(-1, keepdims=True)) / jnp.sqrt(patches.var(-1, keepdims=True, ddof=1) + eps)


def reconstruction(
  predicted: Patches,
  mask: Float[Array, "batch patches"],
  target: Patches,
  normalize: bool = True,
  distance: Literal["squared", "absolute"] = "squared",
) -> Float[Array, "batch"]:
  """The mean distance per value of an example's masked patches, those with a mask of 1.

  As many patches of each example are masked, so that the mean over examples is that over all masked patches.
  """
  error = wide(predicted) - (normalized(target) if normalize else target)
  values = error**2 if distance == "squared" else jnp.abs(error)
  return jnp.sum(values.mean(-1) * mask, axis=-1) / jnp.sum(mask, axis=-1)


def masked_autoencoder(
  network: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  mask_ratio: float = 0.75,
  normalize: bool = True,
  distance: Literal["squared", "absolute"] = "squared",
) -> Method:
  """Predicts the patches that a network does not see: He et al. 2021, https://arxiv.org/abs/2111.06377.

  SimMIM, https://arxiv.org/abs/2111.09886, is `nn.selfsupervised.mae.SimMIM` with the absolute distance, a ratio of 0.6
  and no normalisation; its masks are of patches, where the paper's are of 32 x 32 pixels.

  The loss is the mean distance per value of the masked patches. `evaluate` gives it for each example, "masked_loss",
  with a mask drawn from the example's key, and "feature_norm". It does not sample.

  Args:
    network: called as (x [B, H, W, C], noise [B, T], mask_ratio, index) -> (predicted patches [B, T, P], mask [B, T]),
      with `features` and `backbone.patch`.
    spec: the data's.
    optimizer: optax's.
    mask_ratio: share of the patches that are masked.
    normalize: what is predicted are `normalized` patches.
    distance: of values, squared as in MAE or absolute as in SimMIM.

  Raises:
    UserError: the ratio masks no patch or leaves none, the patch does not divide the pictures, or it has one value,
      which cannot be normalised.
  """
  patch = network.backbone.patch
  height, width, channels = spec.shape
  if height % patch or width % patch:
    raise UserError(f"pictures of {height} x {width} do not divide into patches of {patch} x {patch}: choose another")
  if normalize and patch**2 * channels < 2:
    raise UserError("a patch of one value has no variance: use larger patches, or pixels that are not normalised")
  count = height * width // patch**2
  if visible_patches(count, mask_ratio) == count:
    raise UserError(f"a mask ratio of {mask_ratio:g} masks none of {count} patches, so nothing is learned: raise it")

  def noise(batch: Batch, key: Array) -> Float[Array, "batch patches"]:
    keys = example_keys(key, batch["index"])
    return jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1), (count,)))(keys)

  def of_examples(variables: Params, batch: Batch, key: Array, **options: Any) -> Float[Array, "batch"]:
    x = batch[spec.feature]
    predicted, mask = network.apply(variables, x, noise(batch, key), mask_ratio, **options)
    return reconstruction(predicted, mask, patchify(wide(x), patch), normalize, distance)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict[str, Any]]:
    check_batch(spec, batch)
    one = {name: batch[name][:1] for name in (spec.feature, "index")}
    variables = network.init(key, one[spec.feature], noise(one, key), mask_ratio)
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    options = dict(index=batch["index"], rngs={"dropout": key})
    return jnp.mean(of_examples({"params": params}, batch, key, **options)), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    found = {"masked_loss": of_examples({"params": state.averaged()}, batch, key)}
    return found | feature_norm(network, state, batch[spec.feature])

  return compose(init, [("network", Player(loss, optimizer))], evaluate=evaluate)
