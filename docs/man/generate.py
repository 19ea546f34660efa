"""Writes the manual page from the verbs' own help: ``python docs/man/generate.py`` (``make man``).

Git answers ``git theta --help`` with ``man git-theta`` and never starts the program, so the page comes with the package.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from gittheta import errors
from gittheta.cli import TRACE
from gittheta.cli.app import app

PAGE = Path(__file__).with_name("git-theta.1")

_DESCRIPTION = """\
Plain Git commands work on checkpoints: git add, diff, merge and push see each tensor by itself, store each change in
its smallest lossless form, and send only what the other side lacks. The verbs below set that up, and do what plain Git
has no word for.

Set up once, then track the files that are checkpoints:

    git theta install
    git theta track '*.safetensors'
    git add .gitattributes model.safetensors
    git commit"""

_ENVIRONMENT = {TRACE: "If set to 1, every command says what is done and how long it takes, on standard error."}

_FILES = {
    ".git/theta/": "The local store: objects, and a cache of what is stored already.",
    ".gitattributes": "Which files are checkpoints (filter=theta), and per file how they are merged.",
    "theta.toml": "Rules for merges, shared with the repository.",
}


def page() -> str:
    """The whole page, as roff."""
    lines = ['.TH "GIT\\-THETA" "1" "" "gittheta" "Git Manual"']
    lines += _section("NAME", ["git\\-theta \\- Git for machine\\-learning models"])
    lines += _section("SYNOPSIS", [".B git theta", "[\\fI\\-v\\fR] \\fIVERB\\fR [\\fIARGUMENTS\\fR]"])
    lines += _section("DESCRIPTION", _paragraphs(_DESCRIPTION))
    lines += _section("OPTIONS", _options(app, click.Context(app, info_name="git theta")))
    lines += _section("VERBS", list(_verbs()))
    lines += _section("EXIT STATUS", list(_exit_codes()))
    lines += _section("ENVIRONMENT", _terms(_ENVIRONMENT))
    lines += _section("FILES", _terms(_FILES))
    lines += _section("SEE ALSO", ["\\fBgit\\fR(1), \\fBgitattributes\\fR(5), \\fBgithooks\\fR(5)"])
    return "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f'.SH "{title}"', *lines]


def _verbs() -> Iterator[str]:
    context = click.Context(app, info_name="git theta")
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        if command is None:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(command.collect_usage_pieces(inner))
        yield f'.SS "git theta {_escaped(name)} {_escaped(usage)}"'
        yield from _paragraphs(cleandoc(command.help or ""))
        yield from _options(command, inner)


def _options(command: click.Command, context: click.Context) -> list[str]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return _terms({name: meaning for name, meaning in filter(None, records) if meaning and name != "--help"})


def _exit_codes() -> Iterator[str]:
    yield from _terms({"0": "Success.", "1": "A conflict, or a failure not listed here.", "2": "A wrong command line."})
    kinds = (kind for kind in _kinds(errors.ThetaError) if kind.__module__ == errors.__name__)
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        yield from _terms({str(kind.exit_code): _plain((kind.__doc__ or "").split("\n")[0])})


def _kinds(kind: type[errors.ThetaError]) -> Iterator[type[errors.ThetaError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def _terms(entries: dict[str, str]) -> list[str]:
    """Words and what they mean, below one another."""
    lines: list[str] = []
    for term, meaning in entries.items():
        lines += [".TP", f"\\fB{_escaped(term)}\\fR", *_escaped(meaning).split("\n")]
    return lines


def _paragraphs(text: str) -> list[str]:
    """Paragraphs as running text; those that are indented, and those that click leaves alone, line by line."""
    lines: list[str] = []
    for paragraph in text.strip("\n").split("\n\n"):
        as_it_is = paragraph.startswith(("\b", "    "))
        body = [_escaped(line.removeprefix("    ")) for line in paragraph.removeprefix("\b\n").split("\n")]
        lines += [".PP", *([".nf", *body, ".fi"] if as_it_is else body)]
    return lines


def _plain(text: str) -> str:
    """The text of a docstring without its marks."""
    return re.sub(r"[*`]+", "", text)


def _escaped(text: str) -> str:
    """Text without meaning for roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> int:
    """Write the page; with ``--check``, only say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
