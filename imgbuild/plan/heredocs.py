"""Here-documents of RUN, COPY and ADD: what they mean to the shell, and to the layer.

Source of the rules: BuildKit's dispatchRun and dispatchCopy (dockerfile2llb).
"""

from dataclasses import replace
from typing import NamedTuple

from imgbuild.dockerfile.heredoc import chomp, parse_opener
from imgbuild.dockerfile.instructions import Add, Command, Copy
from imgbuild.dockerfile.quoting import quote
from imgbuild.dockerfile.source import BLANKS
from imgbuild.dockerfile.words import Lookup, expand_heredoc
from imgbuild.errors import DockerfileError
from imgbuild.plan.model import SCRIPTS, Document


class ShellText(NamedTuple):
    """A RUN with here-documents as the shell gets it.

    `script` is to be found at `SCRIPTS`; `summary` is what the name of the step tells of a
    document that is the whole command, else empty.
    """

    command: Command
    script: Document | None
    summary: str


def shell_text(command: Command) -> ShellText:
    """Return what the shell runs: one document alone is the command, others go to the shell."""
    if not command.heredocs:
        return ShellText(command, None, "")
    text = " ".join(command.args)
    first = command.heredocs[0]
    if not command.shell or parse_opener(text) is None:
        for document in command.heredocs:
            text += f"\n{document.content}{document.name}"
        return ShellText(replace(command, args=(text,)), None, "")
    summary = _summary(first.content)
    content = chomp(first).content
    if not first.content.startswith("#!"):
        return ShellText(replace(command, args=(content,)), None, summary)
    script = Document(_file_name(first.name, "RUN"), content)
    return ShellText(replace(command, args=(f"{SCRIPTS}/{script.name}",)), script, summary)


def copied_documents(instruction: Copy | Add, lookup: Lookup) -> tuple[Document, ...]:
    """Return the files that the here-documents of a COPY or ADD are, with variables filled in.

    Raises `DockerfileError` for a name that no file can have.
    """
    name = "COPY" if isinstance(instruction, Copy) else "ADD"
    return tuple(
        Document(
            _file_name(document.name, name),
            expand_heredoc(document.content, lookup).text if document.expand else document.content,
        )
        for document in instruction.heredocs
    )


def _file_name(name: str, instruction: str) -> str:
    size = len(name.encode("utf-8", "surrogateescape"))
    if not name or "/" in name or "\0" in name or name in {".", ".."} or size > 255:
        raise DockerfileError(
            f"{instruction} cannot make a file called {quote(name)} of a here-document",
            hint="the word behind << is the file's name: let it have no slash",
        )
    return name


def _summary(content: str) -> str:
    first, more, _ = content.replace("\r\n", "\n").strip(BLANKS).partition("\n")
    return f"{first}..." if more else first
