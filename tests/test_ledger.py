"""Papers' numbers and ours: reproduced, kept, and shown without mixing units."""

import json
import statistics

import pytest
import tiny

from jaxgen import cli, ledger
from jaxgen.core.errors import UserError
from jaxgen.data import ahead
from jaxgen.engine import rehearsal
from jaxgen.engine.catalogue import configs_in
from jaxgen.engine.config import load_config
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.progress import Progress
from jaxgen.engine.run import load

PUBLISHED = """
    published=(
      Published("Nobody 2020", "Table 1", "test_bits_per_dim_17_levels", 3.0, "it is | tiny"),
      Published("Nobody 2020", "Table 2", "test_nll_nats_17_levels", 1e9),
    ),
"""
SOURCE = (
  tiny.SOURCE.replace("    log_every=5,\n", PUBLISHED.lstrip("\n") + "    log_every=5,\n")
  .replace(
    "from jaxgen import Experiment", "from jaxgen.engine.experiment import Published\nfrom jaxgen import Experiment"
  )
  .replace("steps: int = 30", "steps: int = 4")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Lines of a tiny config, two seeds."""
  folder = tmp_path_factory.mktemp("ledger")
  config = load_config(tiny.write(folder, source=SOURCE))
  rehearse, rehearsed = rehearsal._rehearse, []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rehearsal, "_rehearse", lambda run: [rehearsed.append(run.seed), rehearse(run)][1])
    lines = ledger.reproduce(config, {"learning_rate": 2e-3}, seeds=2, runs=folder / "runs", progress=Progress(True))
  assert rehearsed == [0, 1]  # each run once
  ledger.append(folder / "ledger.jsonl", lines)
  return folder


def test_a_line_says_all_of_its_origin(folder):
  lines = ledger.read(folder / "ledger.jsonl")
  assert [line["table"] for line in lines] == ["Table 1", "Table 2"]
  runs = [load(folder / "runs" / f"tiny_seed{seed}") for seed in (0, 1)]
  found = [run.evaluate() for run in runs]
  for line in lines:
    values = [numbers[line["metric"]] for numbers in found]
    assert line["values"] == pytest.approx(values, rel=1e-6)
    assert line["mean"] == pytest.approx(statistics.fmean(values))
    assert line["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert line["standard_error"] == pytest.approx(found[1][line["metric"] + "_se"])
    assert line["state_hashes"] == [state_hash(run.state) for run in runs]
    assert line["arguments"] == {"learning_rate": 2e-3}
    assert line["seconds"] > 0
    assert line["versions"]["jax"]
    assert line["devices"]


def test_a_run_that_was_finished_is_not_trained_again(folder):
  config, before = load_config(folder / "tiny.py"), ledger.read(folder / "ledger.jsonl")
  again = ledger.reproduce(config, {"learning_rate": 2e-3}, seeds=2, runs=folder / "runs", progress=Progress(True))
  assert [{**line, "git": None, "date": None} for line in again] == [
    {**line, "git": None, "date": None} for line in before
  ]
  ledger.append(folder / "ledger.jsonl", again)
  assert len(ledger.read(folder / "ledger.jsonl")) == 2  # the later ones count


def test_workers_read_as_many_as_for_train(folder, tmp_path, monkeypatch):
  given = []

  def stop(run):
    given.append(run.workers)
    raise UserError("far enough")

  monkeypatch.setattr(rehearsal, "rehearse", stop)
  monkeypatch.setattr(ahead, "of_machine", lambda: 5)
  for words in ([], ["--workers", "3"]):
    with pytest.raises(SystemExit):
      cli.main(["reproduce", str(folder / "tiny.py"), "--runs", str(tmp_path), *words])
  assert given == [5, 3]


def test_it_is_shown_by_unit(folder, capsys):
  with pytest.raises(SystemExit) as done:
    cli.main(["ledger", "--ledger", str(folder / "ledger.jsonl"), "--out", str(folder / "ledger.md")])
  assert done.value.code in (0, None)
  text = (folder / "ledger.md").read_text()
  titles = [line for line in text.splitlines() if line.startswith("## ") and line != "## Not run here"]
  assert titles == ["## digits: test_bits_per_dim_17_levels", "## digits: test_nll_nats_17_levels"]
  rows = [line for line in text.splitlines() if line.startswith("| tiny --learning-rate 0.002")]
  assert len(rows) == 2
  assert "falls short. it is \\| tiny" in rows[0]  # bits are not near 3 after 4 steps
  assert "falls short" not in rows[1]
  with pytest.raises(SystemExit):
    cli.main(["ledger", "--ledger", str(folder / "ledger.jsonl")])
  assert "Nobody 2020, Table 1" in " ".join(capsys.readouterr().out.split())


def test_showing_it_runs_no_config_of_the_working_directory(folder, tmp_path, monkeypatch, capsys):
  """Nor do `list` and an unknown name; one that is asked for does run."""
  monkeypatch.chdir(tmp_path)
  source = SOURCE.replace("Nobody", "Somebody") + "\nimport pathlib\npathlib.Path('was_run').touch()\n"
  (tmp_path / "configs").mkdir()
  tiny.write(tmp_path / "configs", "tempting", source)
  for words in (["ledger", "--ledger", str(folder / "ledger.jsonl")], ["list"], ["train", "temptin"]):
    with pytest.raises(SystemExit):
      cli.main(words)
  captured = capsys.readouterr()
  assert "perhaps you meant 'tempting'" in captured.err
  assert "tempting" in captured.out
  assert "Somebody" not in captured.out
  assert not (tmp_path / "was_run").exists()
  load_config("tempting")
  assert (tmp_path / "was_run").exists()


def test_what_is_close():
  line = lambda metric, mean, published: {"metric": metric, "mean": mean, "published": published}
  assert ledger.close(line("test_nll_nats_2_levels", 89.7, 88.86))
  assert not ledger.close(line("test_nll_nats_2_levels", 89.9, 88.86))
  assert ledger.close(line("test_bits_per_dim_256_levels", 2.94, 2.92))
  assert not ledger.close(line("test_bits_per_dim_256_levels", 2.96, 2.92))
  assert ledger.close(line("test_bits_per_dim_256_levels", 2.5, 2.92))
  assert ledger.close(line("test_bleu", 41.0, 40.0))
  assert not ledger.close(line("test_bleu", 39.0, 40.0))


def test_the_best_is_reported_where_the_paper_does(tmp_path):
  """Largest is best here, so that it is not the last."""
  best = 'evaluate_every=2,\n    best=("test_bits_per_dim_17_levels", "max"),\n    log_every=5,'
  source = SOURCE.replace("log_every=5,", best).replace('"it is | tiny")', '"it is | tiny", best=True)')
  config = load_config(tiny.write(tmp_path, source=source))
  lines = ledger.reproduce(config, {}, seeds=1, runs=tmp_path / "runs", progress=Progress(True))
  folder = load(tmp_path / "runs" / "tiny_seed0").folder
  of_best, of_last = folder.evaluation(2), folder.evaluation(4)
  assert of_best["test_bits_per_dim_17_levels"] > of_last["test_bits_per_dim_17_levels"]
  assert lines[0]["mean"] == of_best["test_bits_per_dim_17_levels"]
  assert lines[1]["mean"] == of_last["test_nll_nats_17_levels"]
  assert "best evaluation" in ledger.cells(lines[0])[4]
  without = load_config(tiny.write(tmp_path, source=source.replace('best=("test_bits', "#")))
  with pytest.raises(UserError, match="has a published number of the best evaluation but keeps no best checkpoint"):
    ledger.reproduce(without, {}, seeds=1, runs=tmp_path / "runs")
  other = load_config(tiny.write(tmp_path, "misnamed", SOURCE.replace('"test_nll_nats_17_levels"', '"test_nll"')))
  with pytest.raises(UserError, match="names test_nll as published, but its evaluators do not give it"):
    ledger.reproduce(other, {}, seeds=1, runs=tmp_path / "misnamed")
  assert not (tmp_path / "misnamed").exists()


def test_what_cannot_be_reproduced(tmp_path):
  with pytest.raises(UserError, match="names no published number"):
    ledger.reproduce(load_config(tiny.write(tmp_path)), {}, seeds=1, runs=tmp_path)
  config = load_config(tiny.write(tmp_path, "other", SOURCE))
  with pytest.raises(UserError, match="at least 1 seed"):
    ledger.reproduce(config, {}, seeds=0, runs=tmp_path)
  with pytest.raises(UserError, match="there is no ledger"):
    ledger.read(tmp_path / "nothing.jsonl")
  (tmp_path / "damaged.jsonl").write_text(json.dumps({"config": "x"}) + "\n")
  with pytest.raises(UserError, match="is not a ledger"):
    ledger.read(tmp_path / "damaged.jsonl")


def test_configs_that_were_not_run_are_listed(folder):
  """By all their names: each number that no line has."""
  changed = SOURCE.replace("Cost: seconds", "Cost: a year").replace(
    'levels", 3.0', 'levels", 3.0 if steps < 9 else 2.0'
  )
  (folder / "waiting.py").write_text(changed + 'NAMES = {"waiting_longer": {"steps": 9}}\n')
  waiting = ledger.not_run(ledger.read(folder / "ledger.jsonl"), [x for x in configs_in(folder) if not x.family])
  assert waiting == [
    ("waiting_longer", "Nobody 2020, Table 1: 2", "test_bits_per_dim_17_levels", "a year"),
  ]


@pytest.mark.parametrize(
  ("text", "kept"),
  [
    ("/home/me/data/tiny.txt", "tiny.txt"),
    (["/home/me/a", "b/c"], ["a", "b/c"]),
    ("data/tiny.txt", "data/tiny.txt"),
    ("to be and/or not", "to be and/or not"),
    (0.5, 0.5),
  ],
)
def test_a_line_does_not_say_where_files_lay(text, kept):
  assert ledger._without_places(text) == kept


@pytest.mark.parametrize(
  ("title", "kept"),
  [
    ("text:chars:/home/me/tiny.txt", "text:chars:tiny.txt"),
    ("text:chars:data/tiny.txt", "text:chars:tiny.txt"),
    ("tfds:mnist, binarized anew at every use", "tfds:mnist, binarized anew at every use"),
    ("digits", "digits"),
  ],
)
def test_one_data_set_has_one_title_wherever_its_file_lies(title, kept):
  assert ledger._without_place(title) == kept
