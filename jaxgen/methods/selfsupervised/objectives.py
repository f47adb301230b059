"""The objectives of two views: each is a paper's, for `two_views.two_views`.

    two_views(Embedder(network, Head((2048, 128))), simclr(tau=0.5), spec=.., optimizer=..)

`z` is a projection and `p` a prediction, `a` and `b` are the two views. Losses are symmetric in the views, but for MoCo
v1 and v2, where the first view is the query.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.core.arrays import unit
from jaxgen.core.errors import UserError, check_decays
from jaxgen.methods.selfsupervised import losses
from jaxgen.methods.selfsupervised.two_views import Carried, Embeddings, Objective, toward_one
from jaxgen.nn.selfsupervised.heads import Embedding


def _temperature(*taus: float) -> None:
  for tau in taus:
    if not 0 < tau < math.inf:
      raise UserError(f"a temperature must be a finite number above 0, not {tau:g}: change it")


def _check_weights(*weights: float) -> None:
  for weight in weights:
    if not 0 <= weight < math.inf:
      raise UserError(f"a loss's weight must be a finite number of 0 or more, not {weight:g}: change it")


def simclr(tau: float = 0.5) -> Objective:
  """Both views in one batch, the NT-Xent loss over all examples of the mesh: Chen et al. 2020.

  https://arxiv.org/abs/2002.05709. v2, https://arxiv.org/abs/2006.10029, has a deeper projector, whose first layer is
  kept for fine-tuning.

  Raises:
    UserError: a temperature of 0 or less.
  """
  _temperature(tau)

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    a, b = views
    return losses.nt_xent(a.z, b.z, tau), carried

  return Objective(loss, jointly=True)


def barlow_twins(weight: float = 5e-3) -> Objective:
  """The views' cross-correlation becomes the identity: Zbontar et al. 2021, https://arxiv.org/abs/2103.03230.

  Args:
    weight: lambda.

  Raises:
    UserError: a negative weight, or one that is not finite.
  """
  _check_weights(weight)

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    a, b = views
    return losses.barlow_twins(a.z, b.z, weight), carried

  return Objective(loss)


def vicreg(weights: Sequence[float] = (25.0, 25.0, 1.0)) -> Objective:
  """Variance, invariance, covariance: Bardes et al. 2022, https://arxiv.org/abs/2105.04906.

  Args:
    weights: of invariance, variance and covariance.

  Raises:
    UserError: a negative weight, or one that is not finite.
  """
  _check_weights(*weights)

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    a, b = views
    return losses.vicreg(a.z, b.z, weights), carried

  return Objective(loss)


def simsiam(stop_gradient: bool = True) -> Objective:
  """A prediction of the other view's projection: Chen and He 2021, https://arxiv.org/abs/2011.10566, Algorithm 1.

  Args:
    stop_gradient: the projection that is predicted has no gradient. Without it, all embeddings become one (section
      4.1), which "effective_dimension" shows.
  """

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    (a, b), (c, d) = views, (targets if stop_gradient else views)
    return (losses.negative_cosine(a.p, d.z) + losses.negative_cosine(b.p, c.z)) / 2, carried

  return Objective(loss)


def byol(momentum: float = 0.996, steps: int | None = None) -> Objective:
  """A prediction of the target's projection of the other view: Grill et al. 2020, https://arxiv.org/abs/2006.07733.

  Args:
    momentum: tau of the paper, the share of the target that stays.
    steps: number of training steps, over which the momentum rises to 1; None: it does not.
  """
  check_decays([momentum])

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    (a, b), (c, d) = views, targets
    return losses.squared_distance(a.p, d.z) + losses.squared_distance(b.p, c.z), carried

  return Objective(loss, momentum=toward_one(momentum, steps) if steps else momentum)


def dino(
  momentum: float = 0.996,
  steps: int | None = None,
  *,
  tau: float = 0.1,
  teacher_tau: float | Callable[[Array], Array] = 0.04,
  center_momentum: float = 0.9,
) -> Objective:
  """A distribution over K prototypes like the teacher's of the other view: Caron et al. 2021.

  https://arxiv.org/abs/2104.14294, Algorithm 1, with two global views; the paper's local crops are not here, nor are
  the last layer's first epoch without updates.

  Args:
    momentum, steps: as in `byol`.
    tau: the student's temperature.
    teacher_tau: the teacher's, or a function of the number of steps; the paper's rises from 0.04 to 0.07.
    center_momentum: share of the teacher's centre that stays.
  """
  check_decays([momentum, center_momentum])
  _temperature(tau, *([] if callable(teacher_tau) else [teacher_tau]))

  def carried(key: Array, examples: int, like: Embedding) -> Carried:
    return {"center": jnp.zeros(like.z.shape[-1], jnp.promote_types(like.z.dtype, jnp.float32))}

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    at = teacher_tau(step) if callable(teacher_tau) else teacher_tau
    value = losses.self_distillation([v.z for v in views], [t.z for t in targets], carried["center"], tau, at)
    mean = jnp.concatenate([t.z for t in targets]).mean(0).astype(carried["center"].dtype)
    return value, {"center": center_momentum * carried["center"] + (1 - center_momentum) * mean}

  return Objective(loss, momentum=toward_one(momentum, steps) if steps else momentum, carried=carried)


def moco(tau: float = 0.07, momentum: float = 0.999, queue: int = 65_536, groups: int = 8) -> Objective:
  """Keys of a slow copy of the network, and a queue of earlier keys: He et al. 2020, https://arxiv.org/abs/1911.05722.

  v2 is a projector of two layers, blur, and tau = 0.2: https://arxiv.org/abs/2003.04297. The queue is in the buffers,
  `queue` and the next row `at`; a batch's keys go into it after its logits are computed, at every step.

  Batch statistics would tell a query's key from the queue's: only that key was normalised with the same batch. So
  queries and keys are normalised in groups, the keys in random order, as in section 3.3, where a group is a GPU. With a
  network without batch statistics, or to see the leak, groups=1.

  Args:
    tau: the temperature.
    momentum: m of the key network.
    queue: K, the number of negatives, a multiple of the batch's size.
    groups: the number of groups.

  Raises:
    UserError: a temperature of 0 or less, or a queue that the batch does not divide.
  """
  _temperature(tau)
  check_decays([momentum])

  def carried(key: Array, examples: int, like: Embedding) -> Carried:
    if queue < 1 or queue % examples:
      raise UserError(f"a queue of {queue} keys is no multiple of the batch's {examples}: choose another queue")
    keys = unit(jax.random.normal(key, (queue, like.z.shape[-1]), like.z.dtype))
    return {"queue": keys, "at": jnp.zeros((), jnp.int32)}

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    q, k = views[0].z, targets[1].z
    value = losses.info_nce(q, k, carried["queue"], tau)
    keys = unit(k).astype(carried["queue"].dtype)
    new = jax.lax.dynamic_update_slice_in_dim(carried["queue"], keys, carried["at"], axis=0)
    return value, {"queue": new, "at": (carried["at"] + len(k)) % queue}

  return Objective(loss, momentum=momentum, groups=groups, shuffled=True, carried=carried)


def moco_v3(tau: float = 0.2, momentum: float = 0.99, steps: int | None = None) -> Objective:
  """MoCo without a queue, with a predictor and both views as queries: Chen et al. 2021, Algorithm 1.

  https://arxiv.org/abs/2104.02057. Its negatives are from the same batch, so that common batch statistics leak nothing.

  Args:
    tau, momentum: as in `moco`.
    steps: number of training steps, over which the momentum rises to 1; None: it does not.
  """
  _temperature(tau)
  check_decays([momentum])

  def loss(views: Embeddings, targets: Embeddings, carried: Carried, step: Array):
    (a, b), (c, d) = views, targets
    return losses.info_nce_in_batch(a.p, d.z, tau) + losses.info_nce_in_batch(b.p, c.z, tau), carried

  return Objective(loss, momentum=toward_one(momentum, steps) if steps else momentum)
