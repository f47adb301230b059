"""The report of run folders written here, read back with other libraries' parsers."""

import base64
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from jaxgen.core import files, pictures
from jaxgen.core.errors import UserError
from jaxgen.data import digits
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run
from jaxgen.show import curves, report, words

CONFIG = '''"""A <b>classifier</b> & more.

Paper: Someone 1998, https://example.org/paper?a=1&b=2, section 3.

    jaxgen train example.py

Expect: 98%
Cost: a minute
"""

import optax

from jaxgen import Experiment, data
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import ConvNet


def experiment(steps: int = 200, note: str = "", channels: tuple[int, ...] = (4,)) -> Experiment:
  method = classifier(ConvNet(10, channels), spec=data.digits().spec, optimizer=optax.adam(1e-3))
  return Experiment(method=method, data=data.digits(), steps=steps, batch_size=32)
'''

INFO = {
  "config": "example",
  "arguments": {"note": "<script>alert(1)</script>"},
  "seed": 3,
  "command": "jaxgen train example.py --note '<script>alert(1)</script>' --seed 3",
  "created": "2024-05-06T07:08:09+0000",
  "git": "0123456789abcdef+",
  "versions": {"python": "3.11.7", "jax": "0.10.2"},
  "devices": ["TPU v4"] * 8,
  "sessions": [{"from": 0, "to": 120, "seconds": 50.0}, {"from": 120, "to": 200, "seconds": 3700.0}],
  "parameters": {"generator": 12_345, "discriminator": 678},
}
VOID = {"meta", "img", "br", "wbr"}


class Page(html.parser.HTMLParser):
  """Checks that tags nest, and gathers the text and the tags."""

  def __init__(self, text):
    super().__init__()
    self.stack, self.tags, self.words = [], [], []
    self.feed(text)
    self.close()
    assert self.stack == []

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID:
      self.stack.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag

  def handle_data(self, data):
    if not {"style"} & set(self.stack):
      self.words.append(data)

  @property
  def text(self):
    return " ".join("".join(self.words).split())

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def make(tmp_path):
  """Writes a run's folder and its report, and reads that."""

  def make(rows=(), samples=None, grids=(), info=None):
    folder = Folder(tmp_path / "my_run")
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (tmp_path / "example.py").write_text(CONFIG)
    folder.write_info(INFO if info is None else info)
    for row in rows:
      folder.append_metrics(row)
    for step in grids:
      tiles = np.full((4, 8, 8, 1), step / 1000 - 1, np.float32)
      files.write(folder / "samples" / f"step_{step:08d}.png", pictures.png(pictures.grid(tiles)))
    if samples is not None:
      np.savez(folder / "samples" / "final.npz", samples=samples)
    run = Run(folder, load_config(tmp_path / "example.py"), INFO["arguments"], 3)
    path = report.write(run)
    assert path == folder / "report.html"
    assert [f.name for f in folder.path.iterdir() if f.name.startswith(".")] == []
    text = path.read_text(encoding="utf-8")
    return text, Page(text)

  return make


def training(steps=200, every=10, **more):
  for step in range(every, steps + 1, every):
    values = {"loss": 10 * 0.97**step + 0.01, "gradient_norm": 1.0, "skipped": 0, "steps_per_second": 4.0}
    yield {"step": step, "kind": "train", **values, **more}


def evaluation(step, **numbers):
  return {"step": step, "kind": "evaluate", **numbers}


def test_a_whole_run(make):
  rng = np.random.default_rng(0)
  samples = rng.uniform(-1, 1, (40, 8, 8, 1)).astype(np.float32)
  rows = [*training()]
  for step, d in ((100, 9.0), (200, 1.5)):
    rows.append(
      evaluation(
        step,
        test_bits_per_dim_17_levels=2.34567,
        test_bits_per_dim_17_levels_se=0.0123,
        test_nll_nats_17_levels=104.0,
        test_nll_nats_17_levels_se=0.5,
        test_examples=360.0,
        frechet_1437=d,
        frechet_1437_floor=1.25,
        frechet_1437_ratio=d / 1.25,
      )
    )
  text, page = make(rows, samples, grids=(50, 100, 150, 200))
  for expected in (
    "my_run",
    "A <b>classifier</b> & more",
    "Finished 200 steps".replace(" ", ""),
    "Numbers at step 200",
    "2.346 ± 0.012",
    "104.00 ± 0.50",
    "1.200",
    "Samples at step 200",
    "Are the samples copies?",
    "all 1,437 training examples",
    "360 real test examples",
    "the 32 nearest pairs",
    "generator 12,345, discriminator 678 (together 13,023)",
    "8 × TPU v4",
    "1 h 2 min",
    "0123456789abcdef with changes that are not committed",
    "python 3.11.7, jax 0.10.2",
    "jaxgen train example.py --note '<script>alert(1)</script>' --seed 3",
    "0 to 120 in 50 s, 120 to 200 in 1 h 1 min",
    "def experiment(steps: int = 200",
  ):
    assert expected in page.text or expected in page.text.replace(" ", ""), expected
  assert "_se" not in page.text
  assert len(page.all("img")) == 1 + 4 + 32  # the last grid, all grids, pairs
  labels = [svg["aria-label"] for svg in page.all("svg")]
  assert labels == [
    "share of images",
    "loss (log scale)",
    "gradient_norm",
    "test_bits_per_dim_17_levels",
    "frechet_1437",
  ]


def test_it_is_one_file_without_scripts_that_needs_nothing_else(make):
  samples = np.zeros((4, 8, 8, 1), np.float32)
  text, page = make([*training(), evaluation(200, test_accuracy=0.5)], samples, grids=(100, 200))
  assert not page.all("script")
  assert not page.all("link")
  for image in page.all("img"):
    assert image["alt"]
    data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
    with Image.open(io.BytesIO(data)) as decoded:
      assert decoded.size == (int(image["width"]), int(image["height"]))
  assert [a["href"] for a in page.all("a")] == ["https://example.org/paper?a=1&b=2"]
  outside = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"')\s]+)""", text))
  assert outside == {"https://example.org/paper?a=1&amp;b=2"}
  identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
  assert len(identifiers) == len(set(identifiers))
  assert set(re.findall(r"[\"(]#([\w-]+)", text)) <= set(identifiers)


def test_sounds_texts_and_what_figures_drew_are_shown(make, tmp_path):
  contents = {
    "samples/step_00000200.txt": b"To be & not",
    "samples/step_00000200.wav": b"RIFF",
    "samples/step_00000200.webp": pictures.animation(np.zeros((1, 3, 4, 6, 1), np.float32), 8.0, scale=5),
    "figures/a_b.txt": b"x",
  }
  for name, value in contents.items():
    files.write(tmp_path / "my_run" / name, value)
  files.write(tmp_path / "my_run" / "figures" / "step_00000200", b"")
  _, page = make([*training()])
  assert "To be & not" in page.text
  assert "Figuresabx" in page.text.replace(" ", "")
  assert base64.b64decode(page.all("audio")[0]["src"].removeprefix("data:audio/wav;base64,")) == b"RIFF"
  (clip,) = (image for image in page.all("img") if image["src"].startswith("data:image/webp"))
  assert (clip["width"], clip["height"]) == ("30", "20")
  assert base64.b64decode(clip["src"].partition(",")[2]) == contents["samples/step_00000200.webp"]


def test_figures_are_drawings_that_fit_the_page(make):
  text, page = make([*training(accuracy=0.5)])
  drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
  assert len(drawings) == 3
  for drawing in drawings:
    root = ElementTree.fromstring(drawing)
    assert "width" not in root.attrib  # the page's style gives it
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    words = [e for e in root.iter() if e.tag.endswith("}text")]
    assert "step" in ["".join(e.itertext()) for e in words]
    assert len(words) >= 6
    assert curves.INK not in drawing
    assert "currentColor" in drawing


def test_the_first_and_last_of_many_grids(make):
  grids = range(10, 310, 10)
  text, page = make([*training(300)], grids=grids)
  captions = re.findall(r"<figcaption>step ([\d,]+)</figcaption>", text)
  assert len(captions) == report.GRIDS
  assert (captions[0], captions[-1]) == ("10", "300")
  assert "22 more" in page.text


def test_pairs_show_each_sample_beside_what_is_nearest(make):
  data = digits()
  levels = data.source("train").gather(np.array([10, 20, 30]))["image"]
  train = (levels / 8 - 1).astype(np.float32)
  samples = train.copy()
  samples[1, 0, 0, 0] += 0.5
  text, page = make([*training()], samples)
  assert re.findall(r"<figcaption>(\d\.\d\d)</figcaption>", text) == ["0.00", "0.00", "0.50"]
  last = base64.b64decode(page.all("img")[-1]["src"].split(",")[1])
  picture = np.asarray(Image.open(io.BytesIO(last)))
  scale = pictures.enlargement(8, 8)
  np.testing.assert_array_equal(picture[::scale, : 8 * scale : scale], pictures.to_uint8(samples)[1, ..., 0])
  np.testing.assert_array_equal(picture[::scale, -8 * scale :: scale], pictures.to_uint8(train)[1, ..., 0])
  assert "100% of the samples are nearer" in page.text


def test_a_method_without_samples(make):
  text, page = make([*training(), evaluation(200, test_accuracy=0.978, test_accuracy_se=0.0077, test_examples=360.0)])
  assert "0.9780 ± 0.0077" in page.text
  assert "Samples" not in page.text
  assert "copies" not in page.text
  assert not page.all("img")


def test_a_run_that_has_only_begun(make):
  info = {k: v for k, v in INFO.items() if k != "parameters"} | {"sessions": [], "git": None}
  text, page = make(info=info)
  assert "0 of 200 steps" in page.text
  assert "not been evaluated yet" in page.text
  assert "not run from a git checkout" in page.text
  assert not page.all("svg")
  text, page = make([*training(50)], info=info)
  assert "50 of 200 steps" in page.text


def test_numbers_that_are_not_finite(make):
  rows = [*training(100), *training(120, 5, loss=float("nan")), evaluation(100, frechet_9=float("nan"), a=float("inf"))]
  text, page = make(rows)
  assert "not finite" in page.text
  assert "loss" in [svg["aria-label"].split()[0] for svg in page.all("svg")]
  text, page = make([{"step": 1, "kind": "train", "loss": float("nan")}])
  assert Page(text)


def test_skipped_updates_are_said(make):
  text, page = make([*training(20, 10, skipped=3)])
  assert "6, whose loss, gradient or change was not finite" in page.text


@pytest.mark.parametrize("bad", [b"", b"not an archive", b"PK\x03\x04 cut short", None, "nan", "other shape"])
def test_samples_that_cannot_be_shown_are_left_out(make, tmp_path, bad):
  samples = {"nan": np.full((3, 8, 8, 1), np.nan, np.float32), "other shape": np.zeros((3, 5), np.float32)}
  if isinstance(bad, str):
    text, page = make([*training()], samples[bad])
  else:
    (tmp_path / "my_run" / "samples").mkdir(parents=True)
    if bad is not None:
      (tmp_path / "my_run" / "samples" / "final.npz").write_bytes(bad)
    text, page = make([*training()])
  assert "copies" not in page.text
  assert page.all("svg")


def test_writing_again_gives_the_same_bytes(make):
  first, _ = make([*training()], np.zeros((2, 8, 8, 1), np.float32))
  second, _ = make([], np.zeros((2, 8, 8, 1), np.float32))
  assert first == second


def test_a_folder_that_is_no_run(tmp_path):
  (tmp_path / "example.py").write_text(CONFIG)
  run = Run(Folder(tmp_path / "nothing"), load_config(tmp_path / "example.py"), {}, 0)
  with pytest.raises(UserError, match="not a run"):
    report.write(run)


@pytest.mark.parametrize(
  ("value", "error", "shown"),
  [
    (2.34567, 0.0123, "2.346 ± 0.012"),
    (1234.5, 67.8, "1,234 ± 68"),
    (0.5, 0.0, "0.5000"),
    (1e-7, 2e-8, "1.00e-07 ± 2.0e-08"),
  ],
)
def test_values_are_rounded_to_their_error(value, error, shown):
  assert words.with_error(value, error) == shown


@pytest.mark.parametrize(
  ("value", "shown"),
  [(360.0, "360"), (1.3, "1.300"), (0.00012345, "1.234e-04"), (123456.7, "123,457"), (12.3456, "12.35")],
)
def test_values_have_four_digits(value, shown):
  assert words.number(value) == shown


def test_curves_of_many_points_are_thinned(make):
  text, page = make([*training(30_000, 1)])
  assert len(text) < 400_000
  assert json.dumps(page.all("svg"))
