"""The parts that the few-step methods share: a teacher, and the networks' initialisation.

A teacher is a diffusion model that was trained before. It is the frozen entry "teacher" of `params`, read from a run
when the student's run begins, and saved with it. `interop.runs.frozen(RUN, check=halves(...))` also checks the run.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import Condition, Told, check_condition
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Frozen, Method, Params, State
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.diffusion import Prediction, Schedule, guidance
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.times import TimeInput, c_noise
from jaxgen.methods.diffusion.objective import LOG_VARIANCE, Examples, Model
from jaxgen.methods.diffusion.sampler import described

LEARNS = "The network"  # a fact of methods whose networks cannot be teachers: the kind of network
TEACHER = "teacher"


class Teacher(NamedTuple):
  """A diffusion model that a student learns from.

  Attributes:
    network: its network, whose time input is `time_input`, and whose condition is the student's.
    frozen: where its variables come from.
    prediction: its output.
    time_input: the number that tells it the time.
    schedule: its process; None: the student's.
    weight: of classifier-free guidance of its predictions, for a teacher that was trained with dropout of its
      condition; None: it is not guided.
  """

  network: Any
  frozen: Frozen
  prediction: Prediction
  time_input: TimeInput = c_noise
  schedule: Schedule | None = None
  weight: float | None = None

  def denoise(self, state: State, schedule: Schedule, condition: Condition, told: Told) -> Denoise:
    """Its predictions, guided if it has a weight.

    Args:
      schedule: the student's, which is used if the teacher has none.
      condition: the student's, whose "nothing" guidance uses.
      told: the condition's values, [B, ...].
    """
    schedule, params = self.schedule or schedule, state.params[TEACHER]["params"]
    model = Model(self.network, schedule, self.prediction, self.time_input)
    if self.weight is None:
      return model.denoise(params, told)
    predict = lambda x, t, told: model.predict(params, x, t, told)
    return guidance.classifier_free(predict, schedule, told, condition.absent(told), self.weight)

  def starting(self, *networks: str) -> dict[str, Frozen]:
    """The `frozen` of a method, in which these networks start from the teacher's parameters.

    The logarithm of a loss's size, if a student learns one, is its own.
    """
    return {TEACHER: self.frozen._replace(starts=networks, fresh=(LOG_VARIANCE,))}


def check_teacher(teacher: Teacher | None, condition: Condition) -> None:
  """Raises a UserError for a guided teacher where conditions are not dropped."""
  if teacher and teacher.weight is not None and not condition.dropout:
    raise UserError("a guided teacher was trained with dropout of its condition: give the student's a dropout, too")


def fits(schedule: Schedule, calls: int | None = None) -> Callable[[Method], None]:
  """A check of a teacher's method, for `interop.runs.frozen`.

  Args:
    schedule: the process that the student takes the teacher's to be.
    calls: network calls that the student takes the teacher to make for a sample; None: any.

  Returns:
    method -> None, which raises a UserError if its network is no diffusion model's, its process is another or its
      samples cost fewer calls.
  """

  def check(method: Method) -> None:
    if LEARNS in method.facts:
      raise UserError(f"the teacher's network is {method.facts[LEARNS]}, not a diffusion model's: take a run of one")
    found, wanted = method.facts.get("Process"), described(schedule)
    if found is not None and found != wanted:
      raise UserError(f"the teacher's process is another, whose {found}, and here {wanted}: take one of this process")
    most = method.network_calls
    if calls is not None and most is not None and calls > most:
      raise UserError(
        f"the student learns from {calls} network calls of its teacher, whose samples take {most}: ask for fewer steps"
      )

  return check


def initial(
  networks: Mapping[str, Any],
  spec: Spec,
  condition: Condition,
  teacher: Teacher | None = None,
  times: int | None = None,
) -> Callable[[Array, Batch], tuple[dict[str, Params], dict]]:
  """The `init` of a method of few calls: (key, batch) -> (params by network, the teacher's variables among them; {}).

  Args:
    networks: modules by name, each of which outputs an example.
    spec: of the data.
    condition: what they are told.
    teacher: the teacher, if there is one.
    times: how many times the networks are told, as an array [B, times]; None: one, [B].

  Raises:
    UserError: a network does not fit the condition. The result raises it for data or outputs of another shape.
  """
  check_teacher(teacher, condition)
  for network in networks.values():
    check_condition(condition, network)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    one = jax.tree.map(lambda x: x[:1], batch)
    x, told, params = one[spec.feature], condition.of(one), {}
    t = jnp.zeros((1,) if times is None else (1, times), x.dtype)
    for name, network in networks.items():
      output, variables = network.init_with_output(key, x, t, told)
      check_output("the network's output", output.shape[1:], spec.shape, "change its out_channels")
      params[name], key = variables["params"], jax.random.fold_in(key, 1)
    if teacher:
      params[TEACHER] = teacher.network.init(key, x, jnp.zeros(1, x.dtype), told)
    return params, {}

  return init


def beginning(condition: Condition, batch: Batch, key: Array) -> tuple[Told, Key[Array, " batch"], dict[str, Any]]:
  """The inputs of a loss: the condition's values, a key for each example, and the options of a network with dropout.

  Args:
    condition: some of whose values are dropped.
    batch: the examples.
    key: of the step.
  """
  noise_key, dropout_key, told_key = (jax.random.fold_in(key, stream) for stream in range(3))
  index = batch["index"]
  told = condition.dropped(condition.of(batch), example_keys(told_key, index))
  return told, example_keys(noise_key, index), dict(index=index, rngs={"dropout": dropout_key})


def first_order(schedule: Schedule, denoise: Denoise, x: Examples, t: Array, s: Array) -> Examples:
  """One DDIM step of each example, each from its t to its s, (14) without noise."""
  x_0, eps = denoise(x, t)[:2]
  at = schedule.at(s).like(x)
  return at.alpha * x_0 + at.sigma * eps


def carried(denoise: Denoise, theirs: Schedule, ours: Schedule) -> Denoise:
  """A denoiser of one process as a denoiser of another, between which x / alpha and sigma / alpha are the same.

  alpha is above 0 where it is called. Times beyond the first process's last one count as its last.
  """

  def on(x: Examples, t: Array) -> tuple[Examples, ...]:
    at = ours.at(t)
    there = jnp.minimum(theirs.time(at.log_snr), theirs.T)
    return denoise(x * per_example(theirs.alpha(there) / at.alpha, x), there)

  return on
