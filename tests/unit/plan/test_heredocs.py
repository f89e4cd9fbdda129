"""Here-documents of RUN: what the shell gets, what the step is called."""

import pytest

from imgbuild.dockerfile.instructions import Copy
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError
from imgbuild.plan.heredocs import copied_documents
from imgbuild.plan.model import Document, RunStep
from tests.unit.plan.planning import error, target


def run(text: str) -> RunStep:
    return next(s for s in target(f"FROM debian\n{text}").steps if isinstance(s, RunStep))


@pytest.mark.parametrize(
    ("text", "command", "name"),
    [
        ("RUN <<EOF\necho $HOME\ntrue\nEOF\n", "echo $HOME\ntrue\n", "RUN <<EOF (echo $HOME...)"),
        ("RUN <<EOF\n\n  one  \n\nEOF\n", "\n  one  \n\n", "RUN <<EOF (one)"),
        ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF\n", "a\nb\n", "RUN <<-EOF (a...)"),
        ("RUN <<EOF\nEOF\n", "", "RUN <<EOF"),
        ("RUN <<EOF sh\na\nEOF\n", "<<EOF sh\na\nEOF", "RUN <<EOF sh"),
        (
            "RUN cat <<A && cat <<B\na\nA\n#!b\nB\n",
            "cat <<A && cat <<B\na\nA\n#!b\nB",
            "RUN cat <<A && cat <<B",
        ),
        ("RUN cat <<-A\n\ta\n\tA\n", "cat <<-A\n\ta\nA", "RUN cat <<-A"),
        (
            "RUN <<EOF\n # no script\n#!/x\nEOF\n",
            " # no script\n#!/x\n",
            "RUN <<EOF (# no script...)",
        ),
        ("RUN --network=none <<E\nx\nE\n", "x\n", "RUN --network=none <<E (x)"),
    ],
)
def test_what_the_shell_gets(text: str, command: str, name: str) -> None:
    step = run(text)
    assert step.argv == ("/bin/sh", "-c", command)
    assert step.script is None
    assert step.name == f"[2/2] {name}"
    assert step.created_by == f"RUN /bin/sh -c {command} # buildkit"


def test_a_script_is_a_file() -> None:
    step = run("SHELL [\"/x\"]\nRUN <<'my.py'\n#!/usr/bin/python3\nprint()\nmy.py\n")
    assert step.argv == ("/x", "/dev/pipes/my.py")
    assert step.script == Document("my.py", "#!/usr/bin/python3\nprint()\n")
    assert step.created_by == "RUN /x /dev/pipes/my.py # buildkit"
    assert step.name == "[2/2] RUN <<'my.py' (#!/usr/bin/python3...)"


def test_tabs_before_a_script_are_no_script() -> None:
    # BuildKit looks at the text as it stands.
    assert run("RUN <<-EOF\n\t#!/bin/x\n\tEOF\n").script is None
    assert run("RUN <<-EOF\n#!/bin/x\n\ty\n\tEOF\n").script == Document("EOF", "#!/bin/x\ny\n")


def test_triggers_keep_their_documents() -> None:
    text = "FROM debian AS one\nONBUILD RUN <<EOF\n#!/x\nEOF\nONBUILD COPY <<F /f\nf\nF\nFROM one\n"
    script, copied = target(text).steps
    assert isinstance(script, RunStep)
    assert script.script == Document("EOF", "#!/x\n")
    assert script.name == "[stage-1 1/2] ONBUILD RUN <<EOF (#!/x)"
    assert getattr(copied, "documents", None) == (Document("F", "f\n"),)


def test_a_script_has_to_have_the_name_of_a_file() -> None:
    with pytest.raises(DockerfileError):
        run("RUN <<a/b\n#!/x\na/b\n")
    found = error("FROM debian\nRUN <<a/b\n#!/x\na/b\n")
    assert found.span is not None
    assert run("RUN <<a/b\necho\na/b\n").argv[-1] == "echo\n"


def test_a_copied_document_may_have_a_name_that_is_no_utf_8() -> None:
    dockerfile = parse(b"FROM scratch\nCOPY <<\xff /x/\na\n\xff\n")
    (copy,) = dockerfile.stages[0].instructions
    assert isinstance(copy, Copy)
    (document,) = copied_documents(copy, {}.get)
    assert document == Document("\udcff", "a\n")
