"""`jaxgen benchmark`: its numbers agree with each other and with what is known of the program; errors are sentences."""

import io
import json
import re
import statistics
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny

from jaxgen import cli
from jaxgen.cli import benchmark
from jaxgen.core.errors import UserError
from jaxgen.engine.chips import data_sheet
from jaxgen.engine.config import load_config
from jaxgen.engine.program import Program
from jaxgen.show.benchmark import _headlines, page
from jaxgen.throughput import chips, document, measure, summary
from jaxgen.throughput.cases import Asked, plan
from jaxgen.throughput.peers import Peers

# Multiplications and additions of tiny's network for one example: 65 x 32 and 32 x 64 weights. Its gradient has the
# products with both layers' weights again, and with those of the second for what comes before it.
FORWARD = 2 * (65 * 32 + 32 * 64)
GRADIENT = 2 * FORWARD + 2 * 32 * 64


def command(*words, capsys, code=0):
  with pytest.raises(SystemExit) as end:
    cli.main([str(word) for word in words])
  found = capsys.readouterr()
  assert (end.value.code or 0) == code, found.out + found.err
  return found


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny.write(tmp_path_factory.mktemp("throughput"))


@pytest.fixture(scope="module")
def measured(config):
  """(the command's JSON file, its page, what it printed); at a batch of 32 memory does not suffice.

  Training finds that out from the device and sampling from XLA's plan.
  """
  words = ["benchmark", config, "--batch", "8,16,32", "--devices", 1, "--turns", 3, "--peers", "none"]
  files = [config.with_name("speed.json"), config.with_name("speed.html")]
  dispatch, sample, large = Program.dispatch, measure.Measure._sample, []

  def no_memory(program, state, raws, count):
    if raws["image"].shape[1] == 32:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8192 bytes.\nMore lines.")
    return dispatch(program, state, raws, count)

  def planned(self, case, *words):
    large[:] = [case.batch == 32]
    return sample(self, case, *words)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(measure, "TURN", 0.01)
    patch.setattr(Program, "dispatch", no_memory)
    patch.setattr(measure.Measure, "_sample", planned)
    patch.setattr(chips, "memory_limit", lambda devices: 1024 if large == [True] else 2**40)
    printed = []
    patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
    with pytest.raises(SystemExit) as end:
      cli.main([str(word) for word in [*words, "--json", files[0], "--page", files[1]]])
  assert not end.value.code, printed
  return json.loads(files[0].read_text()), files[1].read_text(), printed


def test_the_numbers_agree_with_each_other(measured):
  found, _, printed = measured
  assert found["finished"]
  assert found["unit"] == {"name": "images", "each": 1.0}
  assert found["data_sheet"] is None  # a CPU has none
  kinds = [(row["what"], row["batch"], row["status"]) for row in found["rows"]]
  assert kinds == [
    ("train", 8, "ok"), ("train", 16, "ok"), ("train", 32, "out of memory"),
    ("sample", 1, "ok"), ("sample", 8, "ok"), ("sample", 16, "ok"), ("sample", 32, "out of memory"),
  ]  # fmt: skip
  for row in found["rows"]:
    assert row["host_peak_bytes"] > 2**26
    if row["status"] != "ok":
      continue
    assert len(row["turns"]) == 3
    assert row["seconds"] == statistics.median(row["turns"]) > 0
    assert row["examples_per_second"] == pytest.approx(row["batch"] / row["seconds"])
    assert row["per_device"] == pytest.approx(row["per_second"] / row["devices"])
    assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / row["peak_flops"])
    assert row["mfu_data_sheet"] is None
    assert row["compile_seconds"] > 0
    assert row["planned_bytes"] > 0
    if row["what"] == "sample":
      assert (row["solver"], row["sampling_steps"], row["network_calls"]) == ("ddim", 3, 3)
      assert row["seconds_per_call"] == pytest.approx(row["seconds"] / 3)
    assert row["flops"] == row["batch"] * (GRADIENT if row["what"] == "train" else 3 * FORWARD)
  assert len({row["peak_flops"] for row in found["rows"] if row["status"] == "ok"}) == 1
  planned = [row["planned_bytes"] for row in found["rows"] if row["what"] == "sample" and row["status"] == "ok"]
  assert planned == sorted(planned)
  assert sum("images/s" in line for line in printed) == 5


def test_out_of_memory_is_a_row(measured):
  rows = [row for row in measured[0]["rows"] if row["status"] == "out of memory"]
  assert rows[0]["error"] == "RESOURCE_EXHAUSTED: Out of memory allocating 8192 bytes."
  assert re.fullmatch(r"the compiled program takes \d+ MiB a device, which has 0", rows[1]["error"])
  assert not any("seconds" in row for row in rows)


def test_the_page_needs_nothing_else(measured):
  found, text, _ = measured
  assert text == page(found)
  assert not re.search(r"<script|<link|src=|url\((?!#)|@import", text)
  assert len(re.findall("<svg", text)) == 6  # rate, share and memory of both
  for row in found["rows"]:
    if row["status"] != "ok":
      assert f"out of memory: {row['error']}" in text
  best = max((row for row in found["rows"] if "per_second" in row and row["what"] == "train"), key=lambda r: r["mfu"])
  assert f"batch {best['batch']}, 1 device" in text


def fake(what="train", devices=1, batch=8, seconds=1.0, **changed):
  """A row as `Measure` gives it."""
  row = dict(what=what, dtype="float32", devices=devices, batch=batch, solver=None, sampling_steps=None, latency=False)
  row |= dict(status="ok", seconds=seconds, turns=[seconds], spread=0.0, network_calls=None, seconds_per_call=None)
  row |= dict(examples_per_second=batch / seconds, per_second=batch / seconds, per_device=batch / seconds / devices)
  row |= dict(flops=1e9, peak_flops=1e10, mfu=0.1 / seconds, mfu_data_sheet=None, planned_bytes=2**20)
  return row | dict(compile_seconds=1.0, device_peak_bytes=None, host_peak_bytes=2**20, load=0.5) | changed


def test_rows_of_the_same_devices_share_the_highest_peak():
  rows = [fake(), fake(peak_flops=4e10), fake(devices=2), fake(dtype="bfloat16"), {"status": "out of memory"}]
  summary.share_peaks(rows)
  assert [row["mfu"] for row in rows[:4]] == pytest.approx([0.025, 0.025, 0.1, 0.1])


def test_scaling_and_quality():
  rows = [fake(), fake(devices=2, batch=16, seconds=1.25), fake(devices=4, batch=8, seconds=0.5), fake(batch=16)]
  found = {(row["kind"], row["devices"]): row["efficiency"] for row in summary.scaling(rows)}
  # Twice the batch in 1.25 times the time; four devices that need half the time; two that need 1.25 times of one's.
  assert found == pytest.approx({("weak", 2): 0.8, ("strong", 4): 0.5, ("strong", 2): 0.4})
  rows = [fake("sample", solver="ddim", sampling_steps=5, batch=b, seconds=s) for b, s in ((8, 1), (16, 1), (64, 8))]
  judged = {("float32", "ddim", 5): {"frechet_100": 3.0, "frechet_100_floor": 1.5}}
  (found,) = summary.quality(rows, judged, 100)
  assert (found["batch"], found["quality"]) == (16, 0.5)
  assert found["seconds_per_1000"] == pytest.approx(62.5)
  assert found["seconds_per_quality"] == pytest.approx(125)


def test_results_are_kept_as_they_come(config):
  loaded = load_config(config)
  cases = plan(loaded, {}, Asked(what=("train",), batches=(8, 16), devices=(1, 2)), 8)
  kept = []

  def stopped(case, turns):
    if len(kept) == 3:
      raise KeyboardInterrupt
    return fake(devices=case.devices, batch=case.batch)

  begun = document.begin("tiny.py", loaded, loaded.defaults(), turns=2)
  with pytest.raises(KeyboardInterrupt):
    document.measure(begun, stopped, cases, keep=lambda found: kept.append(json.dumps(found)))
  assert [len(json.loads(text)["rows"]) for text in kept] == [1, 2, 3]
  last = json.loads(kept[-1])
  assert not last["finished"]
  assert [row["efficiency"] for row in last["scaling"]] == [0.5]  # the whole batch in the same time
  assert "still running" in page(last)
  assert "with 8 simulated devices" in page(last)
  assert "had other work" not in page(last)
  last["rows"][0]["load"] = 1000.0
  assert "had other work" in page(last)
  last["rows"][0] |= dict(peers={"torch eager": dict(turns=[3.0], seconds=3.0)}, against_best_peer=3.0)
  last["rows"][1] |= dict(peers={"diffusers": dict(error="there is no counterpart")})
  assert "3.00 times as fast" in page(last)
  assert "<p>there is no counterpart.</p>" in page(last)
  assert "too much other work" not in page(last)
  last["rows"][0]["against_best_peer"] = None
  assert "too much other work" in page(last)
  last["quality"] = [
    dict(dtype="float32", solver="ddim", sampling_steps=5, samples=9, frechet=2.0, quality=0.5)
    | dict(seconds_per_1000=1.0, seconds_per_quality=2.0)
  ]
  assert "Quality: Fréchet distance, training examples over samples" in page(last)


def test_every_combination_is_a_case(config):
  asked = Asked(None, (8, 16), ("ddim", "heun"), (2, 4), ("float32", "bfloat16"), (1, 2))
  cases = plan(load_config(config), {"layers": (8,)}, asked, available=8)
  assert len(cases) == len(set(map(str, cases))) == 2 * (2 * 2 + 2 * 2 * 2 * 2 + 2 * 2)
  assert all(case.arguments["layers"] == (8,) for case in cases)
  assert {case.arguments["batch_size"] for case in cases if case.what == "train"} == {8, 16}
  assert [case.batch for case in cases if case.latency] == [1] * 8
  assert {(case.arguments["solver"], case.arguments["sampling_steps"]) for case in cases if case.solver} >= {
    ("ddim", 2), ("heun", 4),
  }  # fmt: skip


def test_devices_of_tensor_have_the_same_examples(config):
  """As for `train`: the batch is spread over fsdp and data alone. A sample alone is still asked of one device."""
  cases = plan(load_config(config), {}, Asked(batches=(1, 4), tensor=8), 8)
  assert [(case.what, case.batch, case.devices, case.latency) for case in cases] == [
    ("train", 1, 8, False), ("train", 4, 8, False),
    ("sample", 1, 1, True), ("sample", 1, 8, False), ("sample", 4, 8, False),
  ]  # fmt: skip
  rows = [fake("sample", 1, 1, 0.5, latency=True), fake("sample", 8, 1, 0.25)]
  (alone,) = [line for line in _headlines(rows, "images") if line["what"] == "Latency of one sample"]
  assert alone["value"] == "500 ms"


def test_a_run_is_restored_in_the_parts_that_are_asked_for(config, tmp_path, monkeypatch, capsys):
  """What is measured, and what is judged; on the devices that are asked for."""
  command("train", config, "--runs", tmp_path, "--steps", 2, capsys=capsys)
  found, table = [], lambda state: jax.tree.leaves(state.params)[-1]  # a kernel of 32 x 64
  monkeypatch.setattr(
    benchmark, "frechet", lambda count: lambda run: found.append(table(run.state)) or dict.fromkeys("ab", 1.0)
  )
  monkeypatch.setattr(measure, "_kept", lambda state: found.append(table(state)))
  monkeypatch.setattr(
    measure.Measure, "row", lambda self, case, turns: fake("sample", 4, solver="ddim", sampling_steps=3)
  )
  monkeypatch.setattr(summary, "quality", lambda *_: [dict(quality=1.0, seconds_per_quality=1.0)])
  words = ["--what", "sample", "--devices", 4, "--quality", 8, "--peers", "none"]
  command("benchmark", tmp_path / "tiny", *words, "--fsdp", 4, capsys=capsys)
  for kernel in found:
    assert len(kernel.sharding.device_set) == 4
    assert {part.data.size for part in kernel.addressable_shards} == {32 * 64 // 4}
  assert len(found) == 2
  assert (
    "--tensor 2 cuts nothing"
    in command("benchmark", tmp_path / "tiny", *words, "--tensor", 2, capsys=capsys, code=1).err
  )


@pytest.mark.parametrize(
  ("words", "sentence"),
  [
    (["--solver", "dimm"], "--solver dimm is none of ancestral, ddim, .*: perhaps ddim"),
    (["--batch", "12"], "a batch of 12 does not divide over the 8 devices: use a multiple of 8, such as 16"),
    (["--batch", "8,0"], "--batch 8,0: give whole numbers from 1 with commas between them"),
    (["--batch", "8,8"], "--batch 8,8: give different values"),
    (["--what", "trian"], "--what trian is none of train, sample: perhaps train"),
    (["--dtype", "float8"], "--dtype float8 is none of float32, bfloat16"),
    (["--devices", "1,16"], "--devices 16: there are 8"),
    (
      ["--devices", "2,3", "--batch", "6", "--fsdp", "2"],
      "--fsdp 2 does not divide the 3 devices: say which with --dev",
    ),
    (["--batch", "6", "--tensor", "2"], "a batch of 6 does not divide over the 4 groups of devices"),
    (["--sampling-steps", "1", "--solver", "dpmpp_2m"], "takes 2 steps or more, not 1"),
    (["--turns", "0"], "--turns must be 1 or more"),
    (["--quality", "9"], "--quality 9 needs a run, but tiny is a config: train it first"),
    (["--peers", "eagre"], "--peers eagre is none of eager, compiled, none"),
    (["--json", "speed.txt"], "--json speed.txt: .* must end in .json"),
    (["--page", "no/speed.html"], "--page no/speed.html: there is no folder no"),
  ],
)
def test_wrong_flags_are_one_sentence(config, words, sentence, capsys, monkeypatch):
  monkeypatch.setattr(measure.Measure, "row", lambda *_: pytest.fail("something was measured"))
  err = command("benchmark", config, *words, capsys=capsys, code=1).err
  lines = [line for line in err.splitlines() if line.startswith("jaxgen: error: ")]
  assert len(lines) == 1, err
  assert re.search(sentence, lines[0])
  assert "Traceback" not in err


def test_a_config_without_such_a_flag_or_samples_says_so(capsys):
  for name, words, sentence in (
    ("ddpm_digits", ["--dtype", "bfloat16"], "config ddpm_digits has no flag for --dtype bfloat16"),
    ("backbone_digits", ["--solver", "ddim"], "config backbone_digits does not generate samples"),
    ("backbone_digits", ["--what", "sample"], "config backbone_digits does not generate samples: use --what train"),
  ):
    if "--solver" in words:
      words = [*words, "--what", "sample"]
    assert sentence in command("benchmark", name, *words, capsys=capsys, code=1).err
  with pytest.raises(SystemExit):
    cli.main(["benchmark", "vae_digits", "--solver", "ddim"])
  assert "config vae_digits has no flag --solver" in capsys.readouterr().err


@pytest.mark.processes(2)
def test_a_competitor_has_the_networks_shape_and_takes_turns(config, tmp_path):
  from jaxgen.throughput import peers

  digits = load_config("ddpm_digits")
  experiment = digits.build(channels=8, sampling_steps=4)
  case = plan(digits, {"channels": 8}, Asked(("sample",), (4,), devices=(1,)), 8)[-1]
  job = peers.job(experiment, case, 1, experiment.method.network_calls)
  assert (job["channels"], job["multipliers"], job["image"], job["sampling_steps"]) == (8, [1, 1], [8, 8, 1], 4)
  tiny_job = peers.job(load_config(config).build(), case, 1, 3)
  assert tiny_job == "diffusers has no counterpart of Net here: only jaxgen.nn.UNet has one"
  assert "one device" in peers.job(experiment, plan(digits, {}, Asked(("train",), (4,), devices=(2,)), 8)[0], 1, None)
  worker = tmp_path / "worker.py"  # speaks as worker_torch.py does; the compiled one dies in its second turn
  worker.write_text("""
import json, sys
job, turns = json.loads(sys.argv[1]), 0
print(json.dumps({"first_call": 1.0}), flush=True)
for line in sys.stdin:
  turns += 1
  if job["compiled"] and turns == 2:
    sys.exit(7)
  print(json.dumps({"seconds": 4.0 * turns} if line.strip() == "go" else {"peak_memory": 5}), flush=True)
""")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(peers, "WORKER", worker)
    others = peers.Peers(("eager", "compiled"), job, sys.executable)
    for _ in range(3):
      others.turn()
    found = others.close()
  assert found["torch eager"] == dict(turns=[1.0, 2.0, 3.0], seconds=2.0, first_call=1.0, peak_memory=5)  # of a call
  assert found["torch compiled"]["error"] == "its process ended with code 7"
  assert peers.against([0.5, 0.5, 0.5], found) == 4.0
  assert peers.against([0.5], found) == 2.0  # the one that ended has one turn
  assert peers.chosen(("none",), None) == ()
  with pytest.raises(UserError, match="--peers nine is none of eager, compiled, none"):
    peers.chosen(("nine",), None)


def test_data_sheets_are_found_by_the_names_that_jax_gives():
  tflops = lambda kind: data_sheet(kind).bfloat16 / 1e12
  kinds = ["NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200"]
  assert list(map(tflops, kinds)) == [312, 989, 756, 989]
  kinds = ["TPU v4", "TPU v5 lite", "TPU v5e", "TPU v5", "TPU v5p", "TPU v6 lite", "TPU v6e"]
  assert list(map(tflops, kinds)) == [275, 197, 197, 459, 459, 918, 918]
  assert data_sheet("cpu") is None


def test_memory_and_peaks_are_of_this_machine():
  devices = jax.devices()
  limit = chips.memory_limit(devices[:1])
  assert limit is None or 2**20 < chips.memory_limit(devices) <= limit
  assert chips.peak_memory(devices) is None  # a CPU does not say
  block = np.ones(2**24)  # 128 MiB
  assert chips.host_peak() >= block.nbytes
  assert [chips.is_busy(load * chips.cores()) for load in (1.0, 2.0)] == [False, True]
  assert 1e8 < chips.matmul_peak(devices[:1], "float32") < 1e14


def test_a_line_that_is_no_answer_is_an_error_of_the_row():
  peers = Peers.__new__(Peers)
  peers.processes = {
    "torch eager": SimpleNamespace(stdout=io.StringIO('A new version is there!\n[1]\n{"seconds": 2}\n'))
  }
  answers = [peers._answer("torch eager") for _ in range(3)]
  assert answers == [
    {"error": "its process printed 'A new version is there!'"},
    {"error": "its process printed '[1]'"},
    {"seconds": 2},
  ]
