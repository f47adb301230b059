"""What mkdocs does for the site beyond its own work: the first page, the reference, pages of the source.

The first page is the README. The reference has a page for each package of jaxgen, written from the docstrings.

The pages link to files of the repository as they lie on the disk, `../jaxgen/core/method.py#L54`. On the site such a
link leads to a page with that file's source, on which each line has an anchor. A link to a page outside docs/, such as
`../benchmarks/README.md`, leads to that page; a link to a folder is left as text.
"""

import pathlib
import posixpath
import re

from griffe import Extension, Object
from mkdocs.structure.files import File, Files
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = pathlib.Path(__file__).parent.parent
LINK = re.compile(r"(?<=\])\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?P<title> \"[^\"]*\")?\)")
NAMED = re.compile(r"\[(?P<text>[^\[\]]+)\]\((?P<path>[^)#\s:]+)\)")
CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
# Arguments of a docstring that share a line.
LISTED = re.compile(r"^  (?P<names>\w+(?:, \w+)+): (?P<what>.*(?:\n    +\S.*)*)", re.MULTILINE)
SOURCE = "source"  # where the site has the repository's files


def on_config(config):
  """Adds to the navigation the pages of docs/ that it does not name, and the reference."""
  named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
  last = next(iter(config.nav[-1].values()))
  last += [path.name for path in sorted(ROOT.glob("docs/*.md")) if path.name not in named]
  config.nav.append({"Reference": [{package: f"reference/{package}.md"} for package in packages()]})
  return config


def on_files(files: Files, config) -> Files:
  """Adds the pages that no file of docs/ holds."""
  add = lambda path, text: files.append(File.generated(config, path, content=text))
  add("index.md", relinked((ROOT / "README.md").read_text(), "", "index.md"))
  for package, modules in packages().items():
    add(f"reference/{package}.md", reference(package, modules))
  waiting = {path for modules in packages().values() for path in modules}
  for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
    waiting |= linked(page.read_text(), page.parent.relative_to(ROOT).as_posix())
  done = set()
  while waiting := waiting - done:
    path = min(waiting)
    done.add(path)
    file = ROOT / path
    if file.suffix == ".md":
      text, folder = file.read_text(), posixpath.dirname(path)
      waiting |= linked(text, folder)
      add(page_of(path), "---\nsearch: {exclude: true}\n---\n\n" + relinked(text, folder, page_of(path)))
    elif file.suffix == ".png":
      files.append(File.generated(config, page_of(path), content=file.read_bytes()))
    else:
      add(page_of(path), source_page(path, file.read_text()))
  return files


def on_page_markdown(markdown: str, page, **kwargs) -> str:
  """Sets the links of a page of docs/ that lead out of docs/."""
  if page.file.generated_by:
    return markdown
  return relinked(markdown, "docs", page.file.src_uri)


def target_of(path: str, folder: str) -> str:
  """What a link names, seen from the repository's root."""
  return posixpath.normpath(posixpath.join(folder, path))


def page_of(target: str) -> str:
  """Where the site has a file of the repository: the same place for docs/, else below `SOURCE`."""
  if target == "README.md":
    return "index.md"
  if target.startswith("docs/"):
    return target.removeprefix("docs/")
  return f"{SOURCE}/{target}" if target.endswith((".md", ".png")) else f"{SOURCE}/{target}.md"


def linked(text: str, folder: str) -> set[str]:
  """The files outside docs/ that a page in this folder links to, as paths from the repository's root."""
  targets = {target_of(match["path"], folder) for match in LINK.finditer(CODE.sub("", text))}
  return {t for t in targets if not t.startswith(("docs/", "README.md")) and (ROOT / t).is_file()}


def relinked(text: str, folder: str, page: str) -> str:
  """A page's text with its links as the site needs them.

  Args:
    folder: of the file, from which its links are meant.
    page: the page's place on the site.
  """

  def fix(match: re.Match) -> str:
    target = target_of(match["path"], folder)
    way = posixpath.relpath(page_of(target), posixpath.dirname(page) or ".")
    return f"({way}{match['anchor'] or ''}{match['title'] or ''})"

  without_folders = lambda match: match["text"] if (ROOT / target_of(match["path"], folder)).is_dir() else match[0]
  parts = CODE.split(text)
  parts[::2] = [LINK.sub(fix, NAMED.sub(without_folders, part)) for part in parts[::2]]
  return "".join(parts)


def packages() -> dict[str, list[str]]:
  """The packages and single modules of jaxgen, with the paths of the modules that have docstrings.

  The command line is left out: the README has its commands, and --help its flags.
  """
  found = {}
  for path in sorted((ROOT / "jaxgen").rglob("*.py"), key=lambda path: path.as_posix().replace("/__init__", "")):
    inside = path.relative_to(ROOT / "jaxgen")
    name = inside.parts[0].removesuffix(".py")
    if name not in ("cli", "__init__") and path.read_text().lstrip().startswith(('"""', 'r"""')):
      found.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
  return found


def reference(package: str, modules: list[str]) -> str:
  """A page of the reference. mkdocstrings puts the docstrings in the place of each line of `:::`."""
  parts = [f"# jaxgen.{package}"]
  for path in modules:
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    parts += [f"::: {name}", f"[Source of `{name}`](../{page_of(path)})"]
  return "\n\n".join(parts) + "\n"


def source_page(path: str, text: str) -> str:
  """A page with a file's text, each line of it with the anchor L and its number."""
  try:
    lexer = get_lexer_for_filename(path)
  except ClassNotFound:
    lexer = TextLexer()
  lexer.stripnl = False
  html = highlight(text, lexer, HtmlFormatter(nowrap=True)).splitlines()
  lines = "\n".join(f'<span id="L{number}" class="line">{line or " "}</span>' for number, line in enumerate(html, 1))
  front = "---\nsearch: {exclude: true}\nhide: [toc]\n---\n\n"
  return f'{front}# {path}\n\n<div class="highlight source"><pre><code>{lines}</code></pre></div>\n'.replace(
    "\n\n\n", "\n\n"
  )


class Docstrings(Extension):
  """Makes Markdown of docstrings, which are plain text."""

  def on_object(self, *, obj: Object, **kwargs) -> None:
    if obj.docstring is not None:
      obj.docstring.value = LISTED.sub(each_apart, plain(obj.docstring.value))


def each_apart(match: re.Match) -> str:
  """ "a, b: what" as "a: what" and "b: what", as the parser needs it."""
  return "\n".join(f"  {name}: {match['what']}" for name in match["names"].split(", "))


def plain(text: str) -> str:
  """Text in which "<" and "[" are no HTML and no links, and an indented paragraph is a block of code."""
  paragraphs = text.split("\n\n")
  for i, paragraph in enumerate(paragraphs):
    if all(line.startswith("  ") for line in paragraph.splitlines()):
      indent = "" if paragraph.startswith("    ") else "  "
      paragraphs[i] = "\n".join(indent + line for line in paragraph.splitlines())
    else:
      code_and_words = re.split(r"(`[^`]*`)", paragraph)
      words = (part.replace("<", "&lt;").replace("[", "\\[") for part in code_and_words[::2])
      code_and_words[::2] = words
      paragraphs[i] = "".join(code_and_words)
  return "\n\n".join(paragraphs)
