"""Which stages a target needs; the others are never looked at, nor their images fetched."""

from collections.abc import Callable, Sequence

from imgbuild.errors import DockerfileError
from imgbuild.plan.graph import Graph, Node


def check_cycles(graph: Graph, source: str) -> None:
    """Raise `DockerfileError` when stages copy from each other in a circle, or one from itself."""
    done: set[int] = set()
    for start in graph.nodes:
        if start.index in done:
            continue
        # An explicit stack: stages may be more than Python's calls can be deep.
        done.add(start.index)
        path = [(start, iter(start.sources))]
        on_path = {start.index}
        while path:
            node, rest = path[-1]
            found = next(rest, None)
            if found is None:
                path.pop()
                on_path.discard(node.index)
            elif found in on_path:
                raise DockerfileError(
                    f"circular dependency detected on stage: {start.label}",
                    hint="a stage can only take files from stages before it",
                    span=node.sources[found],
                    source=source,
                )
            elif found not in done:
                done.add(found)
                on_path.add(found)
                path.append((graph.nodes[found], iter(graph.nodes[found].sources)))


def needed(graph: Graph, targets: Sequence[Node], expand: Callable[[Node], None]) -> list[Node]:
    """Return the stages that `targets` need, themselves included, in the order of the Dockerfile.

    `expand` is called once for each, bases before what builds on them, and may add to what a
    stage needs: the triggers of its base.
    """
    known: set[int] = set()
    while True:
        reached = _reached(graph, targets)
        fresh = sorted(reached - known)
        if not fresh:
            return [graph.nodes[index] for index in sorted(reached)]
        for index in fresh:
            expand(graph.nodes[index])
        known |= reached


def _reached(graph: Graph, targets: Sequence[Node]) -> set[int]:
    reached = {target.index for target in targets}
    waiting = list(targets)
    while waiting:
        for index in waiting.pop().needs():
            if index not in reached:
                reached.add(index)
                waiting.append(graph.nodes[index])
    return reached
