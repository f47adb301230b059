"""Sets the line numbers of the links into the code in the pages of docs/: `python docs/link.py` after code has moved.

A link is [`name`](../FILE.py#L1), or [any words](../FILE.py#L1 "name"); its line is the one that defines the name.
"""

import pathlib
import re

FOLDER = pathlib.Path(__file__).parent
PAGES = tuple(FOLDER / name for name in ("adversarial.md", "diffusion.md", "energy.md"))
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>\.\./[\w/.]+\.py)#L\d+(?P<title> \"(?P<name>[^\"]+)\")?\)")


def line_of(path: pathlib.Path, name: str) -> int:
  """The line that defines a function, class, field, constant or key of a table.

  Raises:
    ValueError: none does.
  """
  word = re.escape(name)
  definition = re.compile(rf'^\s*(?:def {word}\b|class {word}\b|{word}(?::[^=]*)? = |{word}: |"{word}": )')
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if definition.match(line):
      return number
  raise ValueError(f"{path} defines no {name}")


def linked(page: str, folder: pathlib.Path) -> str:
  """The page with the right line numbers."""

  def fix(match: re.Match) -> str:
    name = match["name"] or match["text"].strip("`").removesuffix("()")
    number = line_of(folder / match["path"], name)
    return f"[{match['text']}]({match['path']}#L{number}{match['title'] or ''})"

  return LINK.sub(fix, page)


if __name__ == "__main__":
  for page in PAGES:
    page.write_text(linked(page.read_text(), FOLDER))
