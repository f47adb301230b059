"""Published weights of a language model and its tokenizer, imported and asked to go on with a prompt."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers.implementations import ByteLevelBPETokenizer

from jaxgen import cli
from jaxgen.data.sources import tokenizer

CONFIG = '''"""A tiny GPT-2 for tests."""

import optax
from jaxgen import Experiment
from jaxgen.data import text
from jaxgen.interop import gpt as layouts
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


def experiment(tokenizer: str = "", vocabulary: int = 260, prompt: str = "a", corpus: str = "no/such/text"):
  document = text.document(corpus, length=12, vocabulary=vocabulary, tokenizer=tokenizer)
  network = LanguageModel(vocabulary, gpt(4, 2, 1, 12))
  method = language(
    network, spec=document.spec, start=None, length=12, context=12, optimizer=optax.sgd(0.1), sampling=Sampling(0.01)
  )
  return Experiment(
    method=method,
    data=document,
    steps=1,
    batch_size=8,
    conditions=lambda i: {"prompt": text.encode_prompts(document.name, [prompt] * len(i))},
    render=text.render(document.name),
    layouts={"gpt2": layouts.gpt2(network, prefix="")},
    samples=2,
    sample_chunk=2,
  )
'''


def published(size: int) -> dict[str, np.ndarray]:
  """The tensors of the published "gpt2", of another size, whose blocks add nothing: the likeliest token is fixed."""
  rng = np.random.default_rng(0)
  tensor = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  block = {
    "ln_1.weight": tensor(4), "ln_1.bias": tensor(4),
    "attn.c_attn.weight": tensor(4, 12), "attn.c_attn.bias": tensor(12),
    "attn.c_proj.weight": np.zeros((4, 4), np.float32), "attn.c_proj.bias": np.zeros(4, np.float32),
    "ln_2.weight": tensor(4), "ln_2.bias": tensor(4), "mlp.c_fc.weight": tensor(4, 16), "mlp.c_fc.bias": tensor(16),
    "mlp.c_proj.weight": np.zeros((16, 4), np.float32), "mlp.c_proj.bias": np.zeros(4, np.float32),
    "attn.bias": np.ones((1, 1, 12, 12), np.float32),
  }  # fmt: skip
  whole = {"wte.weight": tensor(size, 4), "wpe.weight": tensor(12, 4), "ln_f.weight": tensor(4), "ln_f.bias": tensor(4)}
  return whole | {f"h.0.{name}": array for name, array in block.items()}


@pytest.fixture
def told(tmp_path, capfd):
  """(words of a command) -> (its exit status, what it said)."""

  def tell(*words):
    with pytest.raises(SystemExit) as end:
      cli.main([*map(str, words)])
    return end.value.code, "".join(capfd.readouterr())

  return tell


def test_a_file_of_weights_and_a_tokenizer_become_text(tmp_path, told):
  (tmp_path / "tiny_gpt.py").write_text(CONFIG)
  made = ByteLevelBPETokenizer()
  made.train_from_iterator(["a b c a b"], vocab_size=260, show_progress=False)
  made.save_model(str(tmp_path))
  size = tokenizer.opened(str(tmp_path)).get_vocab_size()
  tensors = published(size)
  save_file(tensors, tmp_path / "model.safetensors")
  words = ["--tokenizer", tmp_path, "--vocabulary", size, "--runs", tmp_path]
  code, said = told("import", tmp_path / "model.safetensors", tmp_path / "tiny_gpt.py", *words, "--name", "mine")
  assert code in (0, None), said
  code, said = told("sample", tmp_path / "mine", "--prompt", "a b", "--n", 1, "--out", tmp_path / "said.txt")
  assert code in (0, None), said
  text = (tmp_path / "said.txt").read_text()
  expected = list(made.encode("a b").ids)
  while len(expected) < 12:  # the whole network, where blocks add nothing
    x = (tensors["wte.weight"][expected[-1]] + tensors["wpe.weight"][len(expected) - 1]).astype(np.float64)
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * tensors["ln_f.weight"] + tensors["ln_f.bias"]
    expected.append(int(np.argmax(tensors["wte.weight"] @ x)))
  assert made.decode(expected) in text
  wrong = ["--tokenizer", tmp_path, "--vocabulary", size + 1, "--runs", tmp_path, "--name", "other"]
  code, said = told("import", tmp_path / "model.safetensors", tmp_path / "tiny_gpt.py", *wrong)
  assert code != 0
  assert "'wte.weight' is of shape" in said
