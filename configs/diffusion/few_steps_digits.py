"""Samples of scikit-learn's 8x8 digits in one to eight network calls, by training.

Paper: MeanFlow: Geng et al. 2025, https://arxiv.org/abs/2505.13447; shortcut models: Frans et al. 2024,
https://arxiv.org/abs/2410.12557; sCM: Lu and Song 2024, https://arxiv.org/abs/2410.11081; progressive distillation:
Salimans and Ho 2022, https://arxiv.org/abs/2202.00512; DMD2 without its GAN: Yin et al. 2024,
https://arxiv.org/abs/2405.14867; reflow: Liu et al. 2022, https://arxiv.org/abs/2209.03003, section 2, distilled as in
InstaFlow, Liu et al. 2023, https://arxiv.org/abs/2309.06380. Consistency models are `consistency_digits`.

    jaxgen train few_steps_digits                       (MeanFlow; mean_flow_digits is another name)
    jaxgen train shortcut_digits
    jaxgen train scm_digits
    jaxgen train edm_digits
    jaxgen train scm_digits --teacher runs/edm_digits --name scm_distilled
    jaxgen train dmd_digits --teacher runs/edm_digits
    jaxgen train flow_matching_digits
    jaxgen train progressive_digits --teacher runs/edm_digits --sampling-steps 8 --name progressive_8
    jaxgen train progressive_digits --teacher runs/progressive_8 --sampling-steps 4 --name progressive_4
    jaxgen train reflow_digits --teacher runs/flow_matching_digits --name reflow_2
    jaxgen train reflow_digits --teacher runs/reflow_2 --name reflow_3
    jaxgen train reflow_digits --teacher runs/reflow_2 --distil True --name reflow_2_distilled

Of a run, `jaxgen evaluate RUN --sampling-steps 2` takes another number of calls; DMD's has one, and progressive
distillation's that of its training. `benchmarks/few_steps.py` makes a table of the runs.

Expect: not measured
Cost: not measured
"""

from typing import Literal, NamedTuple

from jaxgen import Experiment, UserError, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.grids import few_steps
from jaxgen.diffusion.solvers.flow_map import flow_map
from jaxgen.diffusion.times import c_noise, last, log_normal, thousandths, uniform
from jaxgen.evaluation.evaluators import frechet
from jaxgen.interop import runs
from jaxgen.methods.diffusion.dmd import dmd
from jaxgen.methods.diffusion.flow_maps import mean_flow, shortcut
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.progressive import progressive
from jaxgen.methods.diffusion.reflow import reflow
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.scm import clean, middle, scm
from jaxgen.methods.diffusion.teacher import Teacher, fits
from jaxgen.nn import UNet
from jaxgen.nn.unets.edm2 import LogVariance

SIGMA_DATA = 0.75


class Preset(NamedTuple):
  """A method's training.

  Attributes:
    teacher: the kind of its teacher; None: it has none.
    ema: decay of the averaged parameters.
    sampling_steps: network calls of a sample.
  """

  teacher: Literal["edm", "flow", "edm or none"] | None
  steps: int
  learning_rate: float
  ema: float
  sampling_steps: int


PRESETS = {
  "mean_flow": Preset(None, 4_000, 1e-3, 0.995, 1),
  "shortcut": Preset(None, 4_000, 1e-3, 0.995, 1),
  "scm": Preset("edm or none", 4_000, 5e-4, 0.995, 2),
  "progressive": Preset("edm", 1_000, 5e-4, 0.99, 8),
  "reflow": Preset("flow", 2_000, 1e-3, 0.99, 1),
  "dmd": Preset("edm", 1_000, 1e-4, 0.99, 1),
}
NAMES = {
  "mean_flow_digits": {"method": "mean_flow"},
  "shortcut_digits": {"method": "shortcut"},
  "scm_digits": {"method": "scm"},
  "progressive_digits": {"method": "progressive"},
  "reflow_digits": {"method": "reflow"},
  "dmd_digits": {"method": "dmd"},
}


def experiment(
  method: Literal[*PRESETS] = "mean_flow",
  teacher: str | None = None,
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  channels: int = 32,
  ema: float | None = None,
  sampling_steps: int | None = None,
  rollout_steps: int = 16,
  distil: bool = False,
) -> Experiment:
  """A U-Net learns to make digits in few calls. Flags that are not given are the method's.

  Args:
    method: the method that trains it.
    teacher: the folder of a run that it learns from: of `edm_digits` or a student of it for progressive distillation,
      of `edm_digits` for DMD and sCM (which learns from data without one), of `flow_matching_digits` or a student of it
      for reflow.
    channels: the network's width; the teacher's is 32.
    ema: decay of the averaged parameters.
    sampling_steps: network calls of a sample.
    rollout_steps: network calls of the teacher for each example of reflow.
    distil: reflow only learns the map of one step.
  """
  given = dict(steps=steps, learning_rate=learning_rate, ema=ema, sampling_steps=sampling_steps)
  p = PRESETS[method]._replace(**{name: value for name, value in given.items() if value is not None})
  if p.teacher != "edm or none" and (p.teacher is None) != (teacher is None):
    raise UserError(
      f"{method} {'has a teacher: --teacher RUN' if p.teacher else 'has no teacher: leave out --teacher'}"
    )
  if method == "dmd" and p.sampling_steps != 1:
    raise UserError(f"dmd makes a sample in one call, and was asked for {p.sampling_steps}: leave out --sampling-steps")
  digits, n = data.digits(), p.sampling_steps
  network = lambda width: UNet(width, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1)
  edm, flow = diffusion.edm(), diffusion.rectified_flow()
  optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=50, clip=1.0)

  def of_edm(calls: int | None = None) -> Teacher:
    frozen = runs.frozen(teacher, check=fits(edm, calls))
    return Teacher(network(32), frozen, predictions.edm(SIGMA_DATA), c_noise)

  def of_flow() -> Teacher:
    return Teacher(network(32), runs.frozen(teacher, check=fits(flow)), diffusion.PREDICTIONS["velocity"], thousandths)

  def halved():
    return progressive(network(channels), edm, digits.spec, optimizer, of_edm(2 * n), n, grid=few_steps)

  def straightened():
    times = last(flow) if distil else uniform(flow)
    return reflow(
      network(channels),
      flow,
      digits.spec,
      optimizer,
      of_flow(),
      rollout=Sampler(steps=rollout_steps),
      objective=Objective(diffusion.PREDICTIONS["velocity"], times=times, time_input=thousandths),
      sampler=Sampler(steps=n, clip=False),
    )

  def consistent():
    return scm(
      network(channels),
      digits.spec,
      optimizer,
      sigma_data=SIGMA_DATA,
      warmup=max(p.steps // 4, 1),
      uncertainty=LogVariance(),
      teacher=of_edm()._replace(schedule=edm) if teacher else None,
      start=channels == 32,
      sampler=Sampler(clean, middle(), n),
    )

  def matched():
    return dmd(
      network(channels),
      edm,
      digits.spec,
      optimizer,
      of_edm(),
      fake_optimizer=optimizers.adam(5 * p.learning_rate, clip=1.0),
      fake_updates=4,
      times=log_normal(edm, 0.0, 1.5),
      fake_times=log_normal(edm),
      weighting=weightings.edm(SIGMA_DATA),
    )

  mapped = dict(sampler=Sampler(flow_map, steps=n, clip=False))
  learned = {
    "mean_flow": lambda: mean_flow(network(channels), digits.spec, optimizer, **mapped),
    "shortcut": lambda: shortcut(network(channels), digits.spec, optimizer, **mapped),
    "scm": consistent,
    "progressive": halved,
    "reflow": straightened,
    "dmd": matched,
  }[method]()
  return Experiment(
    method=averaged(learned, {"network": p.ema}),
    data=digits,
    steps=p.steps,
    batch_size=batch_size,
    evaluators=(frechet(),),
    sample_every=500,
    checkpoint_every=500,
  )
