"""The README's first command, whole: what it promises of the samples."""

import re

import pytest
from test_processes import process


@pytest.mark.nightly
@pytest.mark.processes(1)
def test_the_main_job_draws_digits_as_close_to_the_test_digits_as_the_training_digits_are(tmp_path):
  """Takes three minutes on two cores. The samples' Fréchet distance is at most 1.25 times the training digits' own."""
  out = process("train", "ddpm_digits", "--runs", tmp_path, timeout=1800).stdout
  assert float(re.search(r"frechet_1437_ratio\s+(\S+)", out)[1]) <= 1.25
  assert len(list((tmp_path / "ddpm_digits" / "samples").glob("step_*.png"))) == 4
  report = (tmp_path / "ddpm_digits" / "report.html").read_text()
  assert "Are the samples copies?" in report
