"""The pages on the structure name what is there, and Git's command lines stand in one room."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gittheta"
PAGE = (ROOT / "docs/architecture.md").read_text()
#: They start something else than Git: the user's own hook; a new Python, to see what a metric imports; sftp and ssh.
START_OTHERS = ("gittheta/cli/plumbing/hook.py", "gittheta/conformance/metrics.py", "gittheta/remotes/")
MOST_MODULES = 14
#: What the class of Git's command lines calls its methods.
COMMANDS = {"run", "attempt", "line", "show", "batch"}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of gittheta: its path from the top of the repository, and its syntax tree."""
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def packages() -> list[str]:
    """Every package of gittheta, as the list of rooms writes it."""
    return sorted(f"{path.parent.relative_to(ROOT).as_posix()}/" for path in PACKAGE.rglob("__init__.py"))


def rows(pattern: str) -> list[str]:
    """The first cells of the page's tables that look like this."""
    return re.findall(rf"^\| `({pattern})` \|", PAGE, re.MULTILINE)


def test_the_list_of_rooms_names_every_package_once() -> None:
    assert sorted(rows(r"gittheta/(?:\w+/)*")) == packages()


def test_the_list_of_modules_names_every_module_between_the_rooms() -> None:
    top = [f"gittheta/{path.name}" for path in PACKAGE.glob("*.py") if not path.name.startswith("__")]
    assert sorted(rows(r"gittheta/\w+\.py")) == sorted(top)


@pytest.mark.parametrize("room", packages())
def test_no_room_is_crowded(room: str) -> None:
    inside = [path.name for path in (ROOT / room).glob("*.py") if not path.name.startswith("__")]
    assert len(inside) <= MOST_MODULES, f"{room} wants to be two rooms: {sorted(inside)}"


# -- names: `flows/add/clean.clean` is a function of a module, `Format.split` a member of a class ----------------------


def names_in(body: list[ast.stmt]) -> set[str]:
    """What a module or a class defines."""
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def definitions() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """What each module defines, by its path without ``gittheta/`` and suffix; and what the classes of a name do."""
    in_module: dict[str, set[str]] = {}
    in_class: dict[str, set[str]] = defaultdict(set)
    for path, tree in modules():
        in_module[path.removeprefix("gittheta/").removesuffix(".py")] = names_in(tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                in_class[node.name] |= names_in(node.body)
    return in_module, in_class


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_name_on_the_page_exists(page: str) -> None:
    in_module, in_class = definitions()
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    code = set(re.findall(r"`([^`\n]+)`", text))
    places = [word for word in code if word.startswith("gittheta/")]
    missing = [place for place in places if not (ROOT / place).exists()]
    code = {word for word in code if not word.endswith((".py", ".md", ".safetensors", ".toml"))}
    in_modules = [found for word in code if (found := re.fullmatch(r"((?:\w+/)*\w+)\.(\w+)(?:\.(\w+))?", word))]
    for found in in_modules:
        module, name, member = found.groups()
        if module in in_class:  # Format.split, or a member of a member
            missing += [] if name in in_class[module] else [found[0]]
        elif module in in_module:
            whole = name in in_module[module] and (member is None or member in in_class[name])
            missing += [] if whole else [found[0]]
        elif "/" in module:
            missing.append(found[0])
    paths = [word for word in code if re.fullmatch(r"(?:\w+/)+\w+", word) and not word.startswith("gittheta/")]
    missing += [path for path in paths if path not in in_module]
    assert not missing
    assert len(in_modules) > 5, "the page is written otherwise than this test reads it"


# -- Git's command lines -----------------------------------------------------------------------------------------------


_STARTS = re.compile(r"subprocess|os\.(?:system|popen|fork|forkpty|posix_spawnp?|(?:exec|spawn)[a-z]+)")


def starts_processes(tree: ast.Module) -> Iterator[int]:
    """The lines on which a module imports what starts processes, or calls it."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"]
        if isinstance(node, ast.stmt | ast.expr) and any(_STARTS.fullmatch(name) for name in names):
            yield node.lineno


def calls_git(tree: ast.Module) -> Iterator[int]:
    """The lines on which a module runs a command on something called ``git``: ``repository.git.run(...)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in COMMANDS:
            owner = node.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", None)
            if name == "git":
                yield node.lineno


def outside_git() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the other rooms."""
    return ((path, tree) for path, tree in modules() if not path.startswith("gittheta/git/"))


def test_only_the_room_of_git_starts_processes() -> None:
    found = [f"{path}:{line}" for path, tree in outside_git() for line in starts_processes(tree)]
    assert [place for place in found if not place.startswith(START_OTHERS)] == []


def test_only_the_room_of_git_holds_command_lines() -> None:
    assert [f"{path}:{line}" for path, tree in outside_git() for line in calls_git(tree)] == []


def test_a_command_line_is_seen_wherever_it_stands() -> None:
    code = "workspace.repository.git.line('rev-parse')\ngit.run('add')\nother.run('x')\nself.git.attempt()\ngit.config"
    assert list(calls_git(ast.parse(code))) == [1, 2, 4]
    starting = "import subprocess\nfrom subprocess import run\nimport os\nos.execvp('git', [])\nos.path.join('a')"
    assert list(starts_processes(ast.parse(starting))) == [1, 2, 4]
