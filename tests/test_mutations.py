"""The script mutations.py can be run: its lines are of code that stands there, once, and of tests that there are."""

import conftest
import mutations
import pytest


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.fault)
def test_a_mutation_is_of_code_and_tests_that_stand_there(mutation):
  code = (conftest.REPOSITORY / "jaxgen" / mutation.file).read_text()
  assert code.count(mutation.before) == 1
  file, *selected = mutation.tests.split(" -k ")
  names = [line for line in (conftest.REPOSITORY / file).read_text().splitlines() if line.startswith("def test_")]
  assert any(word in name for word in selected or ["test_"] for name in names)
