"""The examples of docs/python.md, run from top to bottom: what they print is in the document."""

import os
import pwd
import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imgbuild import Secret, build
from imgbuild.events import StepOutput
from tests.support.command import PROJECT

DOCUMENT = PROJECT / "docs" / "python.md"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in _FENCE.finditer(text)
    ]


def test_the_examples_of_the_python_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = blocks(DOCUMENT)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(next(b.text for b in found if b.language == "dockerfile"))
    (context / "app.py").write_text("print('hello')\n")
    monkeypatch.chdir(context)
    # The library reads no environment: the store is in the home of the password database.
    own = pwd.getpwuid(os.getuid())
    home = pwd.struct_passwd((*own[:5], str(tmp_path), own[6]))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: home)
    names: dict[str, Any] = {"__name__": "example"}
    examples = 0
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language != "python":
            continue
        code = compile("\n" * (block.line - 1) + block.text, str(DOCUMENT), "exec")
        exec(code, names)
        printed = _DIGEST.sub("sha256:…", capsys.readouterr().out)
        expected = after.text if after and after.language == "text" else ""
        assert printed == expected, f"docs/python.md:{block.line}"
        examples += 1
    assert examples > 5


def mount_examples() -> list[tuple[str, str]]:
    found = blocks(PROJECT / "docs" / "mounts.md")
    return [
        (block.text, after.text)
        for block, after in pairwise(found)
        if block.language == "dockerfile" and after.language == "text"
    ]


@pytest.mark.rootless
@pytest.mark.parametrize(("dockerfile", "printed"), mount_examples())
def test_the_examples_of_the_page_about_mounts(
    dockerfile: str, printed: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(dockerfile)
    (tmp_path / "app.txt").write_text("hello\n")
    events: list[object] = []
    build(
        tmp_path,
        store=tmp_path / "store",
        build_contexts={"busybox": "host://sh,cat,ls,mkdir,test"},
        secrets=(Secret("token", value=b"a-secret-token-1"),),
        events=events.append,
    )
    said = [event.data for event in events if isinstance(event, StepOutput)]
    lines = b"".join(said).decode().splitlines(keepends=True)
    assert "".join(line for line in lines if not line.startswith("ls:")) == printed


def test_every_public_function_is_in_the_table() -> None:
    import imgbuild

    table = "\n".join(line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `"))
    functions = [name for name in imgbuild.__all__ if name.islower()]
    assert [name for name in functions if f"`{name}(" not in table] == []


@pytest.mark.parametrize("page", sorted((PROJECT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
