r"""Guidance: wrappers of `denoise` that push samples towards a condition, or away from a worse model.

They work for any schedule and prediction, because they act on (x_0, eps), and their results still satisfy (1) of
`jaxgen.diffusion`. Let D be the better prediction (conditional, or of the main network) and D' the worse one
(unconditional, or of the guide), each of x_0 or eps. Then

    (G1)  D' + w (D - D') = D + (w - 1) (D - D')

Weight w = 1 gives the better prediction, bit for bit (some networks round differently in batches of other sizes), and
w = 0 the worse one. Ho and Salimans 2022 write 1 + w for our w. A weight may be traced, and there may be one for each
sample: another value compiles nothing. Several conditions may have a weight each: `chained`. t is [] or [N]. A flow
map's denoiser, which is told where its step leads, takes that time after t, and so does the guided one.

Results after (x_0, eps), such as a learned variance, are those of the better prediction. Clip the predicted x_0 after
guidance, with `clipped` (static thresholding) or `thresholded` (dynamic), not before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule

Weight = float | Float[Array, ""] | Float[Array, " n"]


def classifier_free(
  predict: Callable[..., tuple],
  schedule: Schedule,
  label: Any,
  no_label: Any,
  weight: Weight,
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
) -> Denoise:
  """Classifier-free guidance, (G1): Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, eq. 6.

  Both predictions are one call of the network on twice the batch. The two entries of a sample lie side by side, so that
  they stay on the sample's device.

  Args:
    predict: (x [2N, ...], t [] or [2N], label [2N, ...]) -> (x_0, eps, ...), arrays [2N, ...].
    label: the condition, an array [N, ...] or a tree of such arrays.
    no_label: what stands for no condition: a tree like `label`, of arrays [N, ...] or with fewer axes.
    weight: w of (G1).
    rescale: phi of Lin et al. 2023, https://arxiv.org/abs/2305.08891, section 3.4, from 0 to 1; the paper has 0.7. The
      guided x_0 is multiplied by a factor for each sample: 1 for rescale = 0, and for rescale = 1 the one that gives
      it the conditional x_0's standard deviation. Here x_0 is rescaled whatever the network predicts.
    interval: (low, high): guidance acts only if low < sigma / alpha <= high; elsewhere w = 1. Kynkäänniemi et al. 2024,
      https://arxiv.org/abs/2404.07724, eq. 6, who write sigma for sigma / alpha.

  Raises:
    UserError: rescale lies outside [0, 1], or low < high does not hold.
  """

  return _guided(_stacked(predict, [label, no_label]), schedule, [weight], rescale, interval)


def chained(
  predict: Callable[..., tuple],
  schedule: Schedule,
  told: Sequence[Any],
  weights: Float[Array, "n ..."],
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
) -> Denoise:
  """Guidance by K conditions, each with its weight; with D_k the prediction that is told the first k of them,

      (G2)  D_0 + w_1 (D_1 - D_0) + .. + w_K (D_K - D_{K-1})

  Two of them, a picture and a text, are InstructPix2Pix: Brooks et al. 2023, https://arxiv.org/abs/2211.09800, eq. 3.
  All weights 1 give D_K, bit for bit. The K + 1 predictions are one call of the network.

  Args:
    predict: (x [(K + 1) N, ...], t [] or [(K + 1) N], told [(K + 1) N, ...]) -> (x_0, eps, ...).
    told: K + 1 trees of arrays [N, ...], of what the network is told for D_0, .., D_K.
    weights: w_1, .., w_K of each sample.
    rescale, interval: as in `classifier_free`, with D_K in the conditional prediction's place.

  Raises:
    UserError: another number of weights; rescale lies outside [0, 1], or low < high does not hold.
  """
  if weights.ndim != 2 or weights.shape[1] != len(told) - 1:
    raise UserError(
      f"{len(told) - 1} conditions are guided by as many weights of each sample, [N, {len(told) - 1}], and these are "
      f"{list(weights.shape)}: change them"
    )
  return _guided(_stacked(predict, told[::-1]), schedule, list(weights.T[::-1]), rescale, interval)


def _stacked(predict: Callable[..., tuple], told: Sequence[Any]) -> Callable[..., list[tuple]]:
  """Predictions told each of these trees, the first [N, ...], by one call, in which a sample's lie side by side."""
  many = len(told)

  def each(x, t, *to):
    side = lambda first, *rest: jnp.stack([first, *(jnp.broadcast_to(a, first.shape) for a in rest)], 1)
    flat = lambda a: a.reshape(-1, *a.shape[2:])
    labels = jax.tree.map(lambda a, *rest: flat(side(jnp.asarray(a), *rest)), *told)
    repeated = [flat(side(*[v] * many)) if v.ndim else v for v in (x, t, *to)]
    found = predict(*repeated, labels)
    return [tuple(v[i::many] for v in found) for i in range(many)]

  return each


def autoguidance(
  main: Denoise,
  guide: Denoise,
  schedule: Schedule,
  weight: Weight,
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
) -> Denoise:
  """(G1) with a worse version of the model as guide: Karras et al. 2024, https://arxiv.org/abs/2406.02507, eq. 3.

  Args:
    main: the network, under its condition. It is called once.
    guide: a smaller or less trained network, under the same condition. It is called once.
    weight, rescale, interval: as in `classifier_free`.

  Raises:
    UserError: rescale lies outside [0, 1], or low < high does not hold.
  """
  return _guided(lambda x, *t: [main(x, *t), guide(x, *t)], schedule, [weight], rescale, interval)


def classifier(denoise: Denoise, schedule: Schedule, log_p: Callable[..., Array], scale: Weight = 1.0) -> Denoise:
  """Classifier guidance: eps - scale sigma grad log p(y | x_t); Dhariwal and Nichol 2021, Algorithm 2.

  https://arxiv.org/abs/2105.05233. With the exact classifier and scale 1 the unconditional denoiser becomes the exact
  conditional one. If alpha = 0, x_t says nothing of y, and the results of `denoise` are not changed.

  Args:
    log_p: (x [N, ...], t [] or [N]) -> log p(y_n | x_t = x_n), nats [N], for the labels y to sample. Each guided
      prediction calls it once, with its gradient.
  """

  def guided(x, t):
    x_0, eps, *more = denoise(x, t)
    alpha, sigma = per_example(schedule.alpha(t), x), per_example(schedule.sigma(t), x)
    gradient = jnp.where(alpha > 0, jax.grad(lambda x: jnp.sum(log_p(x, t)))(x), 0)
    push = per_example(jnp.asarray(scale, x.dtype), x) * gradient
    return x_0 + jnp.where(alpha > 0, sigma**2 / alpha, 0) * push, eps - sigma * push, *more

  return guided


def clipped(denoise: Denoise, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> Denoise:
  """Clips the predicted x_0 to the data's range [low, high], and computes eps from it by (1)."""

  def clip(x, t, *to):
    x_0, _, *more = denoise(x, t, *to)
    x_0 = x_0.clip(low, high)
    return x_0, (x - per_example(schedule.alpha(t), x) * x_0) / per_example(schedule.sigma(t), x), *more

  return clip


def thresholded(denoise: Denoise, schedule: Schedule, percentile: float) -> Denoise:
  """Dynamic thresholding: Saharia et al. 2022 (Imagen), https://arxiv.org/abs/2205.11487, section 2.3.

  s is the percentile of an example's |x_0| over all its entries, and at least 1. The predicted x_0 is clipped to
  [-s, s] and divided by s, and eps is computed from it by (1). Where |x_0| <= 1, and where s = 1, it is `clipped`.

  Args:
    percentile: in per cent, above 0 and at most 100.

  Raises:
    UserError: the percentile lies outside (0, 100].
  """
  check_percentile(percentile)

  def threshold(x, t, *to):
    x_0, _, *more = denoise(x, t, *to)
    s = jnp.percentile(jnp.abs(x_0), percentile, axis=tuple(range(1, x_0.ndim)), keepdims=True)
    s = jnp.maximum(s, 1)
    x_0 = x_0.clip(-s, s) / s
    return x_0, (x - per_example(schedule.alpha(t), x) * x_0) / per_example(schedule.sigma(t), x), *more

  return threshold


def check_percentile(percentile: float) -> None:
  """Raises a UserError unless the percentile of `thresholded` lies in (0, 100]."""
  if not 0 < percentile <= 100:
    raise UserError(
      f"a threshold is a percentile of |x_0|, above 0 and at most 100 per cent, not {percentile:g}: change it"
    )


def check(rescale: float, interval: tuple[float, float] | None) -> None:
  """Raises a UserError unless rescale lies in [0, 1] and the interval has low < high."""
  if not 0 <= rescale <= 1:
    raise UserError(f"guidance is rescaled by a fraction between 0 (not) and 1 (fully), not {rescale:g}: change it")
  if interval is not None and not 0 <= interval[0] < interval[1]:
    raise UserError(f"a guidance interval has 0 <= low < high, in sigma / alpha, not {interval}: change it")


def _guided(
  predictions: Callable[..., list[tuple]],
  schedule: Schedule,
  weights: Sequence[Weight],
  rescale: float,
  interval: tuple[float, float] | None,
) -> Denoise:
  """(G1) and (G2): D_K + (w_K - 1) (D_K - D_{K-1}) + .. + (w_1 - 1) (D_1 - D_0).

  Args:
    predictions: (x, t) -> D_K, .., D_0, from the best on, each (x_0, eps, ...).
    weights: w_K, .., w_1.
  """
  check(rescale, interval)

  def guided(x, t, *to):
    (x_0, eps, *more), *worse = predictions(x, t, *to)
    alpha, sigma = per_example(schedule.alpha(t), x), per_example(schedule.sigma(t), x)
    guided_x_0, guided_eps, plain, before = x_0, eps, True, (x_0, eps)
    for weight, after in zip(weights, worse, strict=True):
      w = per_example(jnp.asarray(weight, x.dtype), x)
      if interval is not None:
        r = sigma / alpha
        w = jnp.where((interval[0] < r) & (r <= interval[1]), w, 1)
      guided_x_0 = guided_x_0 + (w - 1) * (before[0] - after[0])
      guided_eps = guided_eps + (w - 1) * (before[1] - after[1])
      plain, before = (w == 1) & plain, after
    if rescale:
      std = lambda v: jnp.std(v, axis=range(1, v.ndim), keepdims=True)
      spread = std(guided_x_0)
      factor = jnp.where(spread > 0, 1 + rescale * (std(x_0) / spread - 1), 1)
      guided_eps = guided_eps + alpha / sigma * (1 - factor) * guided_x_0
      guided_x_0 = factor * guided_x_0
    # Not by arithmetic alone: it changes the sign of a zero, and fails if the worse prediction is not finite.
    return jnp.where(plain, x_0, guided_x_0), jnp.where(plain, eps, guided_eps), *more

  return guided
