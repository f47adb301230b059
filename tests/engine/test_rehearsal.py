"""What a run will need later is tried before its first step, by shapes."""

import inspect

import numpy as np
import pytest
import tiny

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.engine import loop as training
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.rehearsal import Rehearsal
from jaxgen.engine.run import Run

HEAD = "import numpy as np\nfrom jaxgen.evaluation.evaluators import frechet\n"


def run_of(folder, *changes, code="", **arguments):
  """A run of the tiny config, changed and with more code; the data class docstring stays first."""
  source = tiny.SOURCE.replace("from functools import partial\n", HEAD + "from functools import partial\n", 1) + code
  for old, new in changes:
    assert old in source
    source = source.replace(old, new)
  return Run(Folder(folder / "run"), load_config(tiny.write(folder, source=source)), arguments, 0)


def refused(run, match, error=UserError):
  """Fails unless training is refused before its folder is made; returns the error."""
  with pytest.raises(error, match=match) as caught:
    training.train(run, training.Progress(quiet=True))
  assert not run.folder.path.exists()
  return caught.value


EVALUATORS = "evaluators=(likelihood(),),"


def test_an_evaluator_that_cannot_work(tmp_path):
  code = '\ndef wrong(run):\n  return {"x": run.evaluate_split()["nll_nat"].mean()}\n'
  error = refused(run_of(tmp_path, (EVALUATORS, "evaluators=(wrong,),"), code=code), "nll_nat", KeyError)
  assert "the evaluator wrong was tried" in " ".join(error.__notes__)


def test_one_that_needs_values_is_tried_as_far_as_shapes_go(tmp_path):
  code = """
def far(run):
  total = jnp.sum(run.state.params["network"]["Dense_0"]["kernel"] @ np.ones((32, 3)))
  if total > 0 or float(total) < 1e9:
    return {"total": float(total), "samples": float(np.std(run.sample(3))), "step": run.step}

def short(run):
  return {"total": float(jnp.sum(run.state.params["network"]["Dense_0"]["kernel"] @ np.ones((31, 3))))}
"""
  run = run_of(tmp_path, (EVALUATORS, 'evaluators=(far,), best=("samples", "min"),'), code=code, steps=2)
  assert training.train(run, training.Progress(quiet=True))["step"] == 2
  wrong = run_of(tmp_path, (EVALUATORS, "evaluators=(short,),"), code=code)
  refused(Run(Folder(tmp_path / "other"), wrong.config, {}, 0), "32", TypeError)


def test_a_best_that_no_evaluator_gives(tmp_path):
  refused(
    run_of(tmp_path, (EVALUATORS, EVALUATORS + ' best=("test_bits", "min"),')), "best='test_bits' is none of test_"
  )
  refused(run_of(tmp_path, (EVALUATORS, 'evaluators=(), best=("test_bits", "min"),')), "there are no evaluators")
  refused(
    run_of(tmp_path, (EVALUATORS, 'evaluators=(frechet(),), best=("frechet_1438", "min"),')), "none of frechet_1437,"
  )


def test_a_best_that_is_neither_smallest_nor_largest(tmp_path):
  with pytest.raises(UserError, match=r"""best is \(metric, "min" or "max"\), not \('x', 'minimum'\)"""):
    run_of(tmp_path, (EVALUATORS, EVALUATORS + ' best=("x", "minimum"),'))


def test_a_judge_of_other_images_and_more_samples_than_there_are_examples(tmp_path):
  refused(run_of(tmp_path, (EVALUATORS, 'evaluators=(frechet(judge="runs/nothing"),),')), "runs/nothing is not a run")
  refused(run_of(tmp_path, (EVALUATORS, "evaluators=(frechet(2_000),),")), "has 1437 training examples")


def test_figures_conditions_and_what_shows_samples(tmp_path):
  change = lambda text: ("log_every=5,", f"log_every=5, {text},")
  code = '\ndef draw(run):\n  return {"a.txt": run.sample(3, label=np.zeros(2))}\n'
  refused(run_of(tmp_path, change("figures=(draw,)"), code=code), "condition 'label' has 2 values for 3 samples")
  refused(
    run_of(tmp_path, change("conditions=lambda i: {'label': i % 10}")), "is unconditional and has no condition label"
  )
  error = refused(run_of(tmp_path, change("render=lambda x, c: {'.txt': x.nothing}")), "nothing", AttributeError)
  assert "what shows them" in " ".join(error.__notes__)


def test_sizes_of_zero_are_named(tmp_path):
  refused(run_of(tmp_path, layers=(0,)), r"config tiny: layers=\(0,\) makes no program, for sizes are 1 or more")
  refused(
    Run(Folder(tmp_path / "run"), load_config("vqvae_digits"), {"prior_depth": 0}, 0),
    r"prior_depth=0 makes no program.*depth=0: it takes",
  )
  refused(Run(Folder(tmp_path / "run"), load_config("ddpm_digits"), {"channels": 0}, 0), "channels=0 makes no program")


@pytest.mark.parametrize(
  ("arguments", "options", "sentence"),
  [
    ({}, {"tensor": 2}, "^--tensor 2 cuts nothing of these networks"),
    ({"microbatches": 3}, {}, "^a batch of 16 examples does not divide into 3 equal parts: use a multiple of 3"),
    ({"widths": (0,)}, {}, r"widths=\(0,\).* makes no program.*a network has widths=\(0,\): it takes"),
    ({"widths": (1,)}, {}, r"^a network has widths=\(1,\): it takes 2 or more"),
  ],
)
def test_a_zero_is_not_named_for_what_has_another_cause(tmp_path, arguments, options, sentence):
  """A zero that is no size: of warm-up."""
  changes = [
    ("  batch_size: int = 16,", "  batch_size: int = 16,\n  warmup: int = 5,\n  microbatches: int = 1,"),
    ("  batch_size: int = 16,", "  widths: tuple[int, ...] = (2,),\n  batch_size: int = 16,"),
    ("    steps=steps,\n", "    steps=steps,\n    microbatches=microbatches,\n"),
    ("Net(layers, dtype)", "Net(layers, dtype, widths)"),
    ("  dtype: str\n\n", "  dtype: str\n  widths: tuple[int, ...]\n\n"),
    ("    dtypes = ", "    check_sizes('a network', least=2, widths=self.widths)\n    dtypes = "),
  ]
  run = run_of(tmp_path, *changes, code="\nfrom jaxgen.core.errors import check_sizes\n", warmup=0, **arguments)
  run = Run(run.folder, run.config, {"warmup": 0, **arguments}, 0, **options)
  refused(run, sentence)


def test_a_prompt_of_letters_that_the_text_has_not(tmp_path, capsys):
  """3,000 letters without a line feed, which is what the prompt is by default."""
  (tmp_path / "letters.txt").write_text("".join(np.random.default_rng(0).choice(list("abcde"), 3_000)))
  words = ["train", "transformer_shakespeare", "--corpus", tmp_path / "letters.txt", "--vocabulary", 5]
  with pytest.raises(SystemExit) as end:
    cli.main([*map(str, words), "--batch-size", "16", "--runs", str(tmp_path / "runs")])
  assert end.value.code == 1
  assert "'\\n' is none of the 5 characters" in capsys.readouterr().err
  assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["sample", "evaluate_split"])
def test_a_rehearsal_takes_what_a_run_takes(name):
  names = lambda kind: list(inspect.signature(getattr(kind, name)).parameters)
  assert names(Rehearsal) == names(Run)
