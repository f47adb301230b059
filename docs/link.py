"""Sets the places of the links into the code in the pages of docs/: `python docs/link.py` after code has moved.

A link is [`name`](../FILE.py#L1), or [any words](../FILE.py#L1 "name"); its line is the one that defines the name.
Where FILE does not define it any more, the file of jaxgen/ that does takes its place.
"""

import pathlib
import re

FOLDER = pathlib.Path(__file__).parent
CODE = FOLDER.parent / "jaxgen"
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[\w/.]+\.py)#L\d+(?P<title> \"(?P<name>[^\"]+)\")?\)")
PAGES = tuple(sorted(page for page in FOLDER.glob("*.md") if LINK.search(page.read_text())))


def line_of(path: pathlib.Path, name: str) -> int | None:
  """The line that defines a function, class, field, constant or key of a table; None if none does."""
  word = re.escape(name)
  definition = re.compile(rf'^\s*(?:def {word}\b|class {word}\b|{word}(?::[^=]*)? = |{word}: |"{word}": )')
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if definition.match(line):
      return number
  return None


def place(path: str, name: str) -> tuple[str, int]:
  """(the file within the repository, the line) that defines a name, which once was in `path`.

  Raises:
    ValueError: no file does, or several do that are not called as `path` is.
  """
  if (FOLDER.parent / path).is_file() and (line := line_of(FOLDER.parent / path, name)):
    return path, line
  defined = re.compile(rf"^(?:def|class) {re.escape(name)}\b|^{re.escape(name)}(?::[^=\n]*)? = ", re.MULTILINE)
  files = [file for file in sorted(CODE.rglob("*.py")) if defined.search(file.read_text())]
  same = [file for file in files if file.name == pathlib.PurePath(path).name]
  if len(same or files) != 1:
    raise ValueError(f"{path} defines no {name}; others that do: {', '.join(map(str, files)) or 'none'}")
  file = (same or files)[0]
  return file.relative_to(FOLDER.parent).as_posix(), line_of(file, name)


def linked(page: str) -> str:
  """The page with the right files and line numbers."""

  def fix(match: re.Match) -> str:
    name = match["name"] or match["text"].strip("`").removesuffix("()")
    path, line = place(match["path"], name)
    return f"[{match['text']}](../{path}#L{line}{match['title'] or ''})"

  return LINK.sub(fix, page)


if __name__ == "__main__":
  for page in PAGES:
    page.write_text(linked(page.read_text()))
