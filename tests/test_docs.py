"""What the pages say is so: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import codeop
import importlib
import re
from pathlib import Path

import pytest

import hookpool
from hookpool import errors
from tests.helpers import ROOT, run_as, run_python

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])

#: A fenced Python block, with the comment line before it, if any.
BLOCK = re.compile(r"(?:<!-- (?P<note>.*?) -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S)

#: `make X`: as inline code, or at the start of a line in a console block.
COMMAND = re.compile(r"(?:`|^\$ )make ([a-z][a-z-]*)", re.M)

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks() -> list[object]:
    """Every Python block of every page; `<!-- not run: why -->` before one leaves it out."""
    return [
        pytest.param(
            match["code"], id=f"{name_of(page)}:{1 + text[: match.start()].count(chr(10))}"
        )
        for page in PAGES
        for text in [page.read_text()]
        for match in BLOCK.finditer(text)
        if not (match["note"] or "").startswith("not run: ")
    ]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("code", blocks())
def test_a_block_of_code_runs_and_prints_what_it_says(code: str):
    printed = run_as("file", code)
    if said := re.findall(r"# -> (.*)", code):
        assert printed.splitlines() == said


@pytest.mark.parametrize("code", blocks())
def test_a_block_of_code_can_be_typed_at_a_prompt(code: str):
    """An empty line ends a block there, and a block ends with an empty line only."""
    typed: list[str] = []
    for line in [*code.splitlines(), ""]:
        typed.append(line)
        # As the interactive interpreter takes it: None while it waits for more.
        if codeop.compile_command("\n".join(typed), "<stdin>", "single") is not None:
            typed.clear()
    assert typed == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_named_exists(page: Path):
    assert set(COMMAND.findall(page.read_text())) <= targets()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_project_leads_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


def test_every_documented_target_does_something():
    """`make` lists what has a `##`; each of those is declared phony and has a recipe or needs."""
    text = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z][a-z-]*):[^#\n]*## ", text, re.M))
    phony = set(re.findall(r"\.PHONY: ((?:.*\\\n)*.*)", text)[0].replace("\\\n", " ").split())
    assert listed <= phony
    assert phony <= targets()


def test_the_readme_opens_with_what_it_is_the_three_uses_and_the_two_commands():
    opening = (ROOT / "README.md").read_text().partition("\n## ")[0]
    assert opening.count("```python") == 3
    assert {"demo", "test"} <= set(COMMAND.findall(opening))


def test_every_public_name_is_in_the_reference():
    """The errors are listed by their module; `make docs` fails for a name that is not there."""
    text = (ROOT / "docs" / "reference.md").read_text()
    listed = set(re.findall(r"^\.\. auto(?:class|function):: hookpool\.(\w+)$", text, re.M))
    assert listed == set(hookpool.__all__) - set(errors.__all__)


def test_every_public_method_of_the_executor_is_in_the_reference():
    text = (ROOT / "docs" / "reference.md").read_text()
    [members] = re.findall(r"hookpool\.HookPoolExecutor\n   :members: (.*)", text)
    methods = {
        name
        for kind in hookpool.HookPoolExecutor.__mro__
        if kind.__module__ == "hookpool.executor"
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_")
    }
    assert set(members.split(", ")) == methods


@pytest.mark.parametrize("module", ["context", "executor", "joblib", "managers"])
def test_every_public_name_of_a_module_for_users_is_in_the_reference(module: str):
    """The names of `hookpool.reduction` that are for users are those of the package."""
    if module == "joblib":
        pytest.importorskip("joblib")
    text = (ROOT / "docs" / "reference.md").read_text()
    full = f"hookpool.{module}"
    listed = set(re.findall(rf"^\.\. auto(?:class|function):: {full}\.(\w+)$", text, re.M))
    whole = re.findall(rf"automodule:: {full}\n   :members:(.*)", text)
    public = set(importlib.import_module(full).__all__) - set(hookpool.__all__)
    if whole == [""]:
        return  # all of them, by Sphinx
    for members in whole:
        listed |= set(members.strip().split(", "))
    assert public <= listed


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(ROOT.glob("hookpool/*.py")) if ">>> " in path.read_text()],
    ids=lambda path: path.stem,
)
def test_the_examples_in_docstrings_do_what_they_say(path: Path):
    source = f"import doctest, hookpool.{path.stem} as m; print(*doctest.testmod(m))"
    failed, tried = run_python("-c", source).split()[-2:]
    assert int(failed) == 0 < int(tried)


def test_every_example_is_named_by_a_page():
    text = "".join(page.read_text() for page in PAGES)
    for example in (ROOT / "docs" / "examples").glob("*.[pi]*"):
        assert f"examples/{example.name}" in text
