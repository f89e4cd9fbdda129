"""The text of a Dockerfile to typed instructions: the part's face.

The order of checks is BuildKit's: the whole file is cut up first, then each instruction is read.
"""

from imgbuild.dockerfile.directives import detect_syntax, read_directives
from imgbuild.dockerfile.instructions import Arg, Dockerfile, From, StageInstruction, StageText
from imgbuild.dockerfile.nodes import Node, read_nodes
from imgbuild.dockerfile.readers import read_instruction
from imgbuild.dockerfile.source import Source, read_source
from imgbuild.errors import DockerfileError, Span


def parse(text: str | bytes, file: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile; raises `DockerfileError`, in BuildKit's words where it has some.

    Bytes that are no UTF-8 survive in the result as lone surrogates. `file` is for messages only.
    """
    source = read_source(text, file)
    if not source.lines:
        raise source.error(
            "the Dockerfile cannot be empty", 1, hint="a Dockerfile starts with FROM"
        )
    directives = read_directives(source)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[StageInstruction]]] = []
    for node in read_nodes(source, directives):
        instruction = _read(source, node)
        if isinstance(instruction, From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, Arg):
            global_args.append(instruction)
        else:
            raise source.error(
                "no build stage in current context",
                node.first,
                node.last,
                hint=f"put a FROM before the first {node.keyword}",
            )
    if not stages:
        raise source.error(
            "dockerfile contains no stages to build", len(source.lines), hint="add a FROM"
        )
    found = directives.found
    if "syntax" not in dict(found) and (syntax := detect_syntax(source.text)):
        found = (*found, ("syntax", syntax))
    return Dockerfile(
        file=file,
        source=source.text,
        escape=directives.escape,
        global_args=tuple(global_args),
        stages=tuple(StageText(from_, tuple(body)) for from_, body in stages),
        directives=found,
    )


def _read(source: Source, node: Node) -> From | StageInstruction:
    try:
        return read_instruction(node, Span(source.file, node.first, node.last))
    except DockerfileError as problem:
        raise source.error(
            f"dockerfile parse error on line {node.first}: {problem.message}",
            node.first,
            node.last,
            problem.hint,
        ) from None
