"""Random builds of COPY and ADD: a context, what the image has already, and one to four instructions."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.support.random_trees import FOLDERS, PLAIN_NAMES, Thing, Things, lay, pack, trees

ACCOUNTS = {
    "etc": Thing("dir", 0o755),
    "etc/passwd": Thing("file", 0o644, data=b"root:x:0:0::/:\nbob:x:71:72::/:\n"),
    "etc/group": Thing("file", 0o644, data=b"root:x:0:\nbob:x:72:\ncrew:x:73:bob\n"),
}
_DOCUMENT = "<<END"


@dataclass(frozen=True)
class Instruction:
    """One COPY or ADD; `document` is a here-document among its sources."""

    verb: str
    flags: tuple[str, ...]
    sources: tuple[str, ...]
    dest: str
    document: str = ""

    def __str__(self) -> str:
        head = " ".join((self.verb, *self.flags))
        words = (*self.sources, self.dest)
        if self.document:
            return f"{head} {' '.join((*self.sources, _DOCUMENT, self.dest))}\n{self.document}END"
        if any(set(word) & set(' "') for word in words):
            return f"{head} {json.dumps(words, ensure_ascii=False)}"
        return f"{head} {' '.join(words)}"


@dataclass(frozen=True)
class Case:
    """A build: `base` and `other` are stages, made by ADD from tars of the context."""

    context: Things
    archive: Things
    compression: str
    base: Things
    other: Things
    ignore: tuple[str, ...]
    workdir: str
    instructions: tuple[Instruction, ...]

    @property
    def dockerfile(self) -> str:
        stages = "FROM scratch AS other\nADD zz/other.tar /\nFROM scratch\nADD zz/base.tar /\n"
        workdir = f"WORKDIR {self.workdir}\n" if self.workdir else ""
        return stages + workdir + "".join(f"{line}\n" for line in self.instructions)

    def flags(self, name: str) -> set[str]:
        """Return the values that a flag has in any of the instructions."""
        start = f"--{name}="
        flags = [flag for one in self.instructions for flag in one.flags]
        return {flag.removeprefix(start) for flag in flags if flag.startswith(start)}

    def write(self, root: Path) -> None:
        """Write the context with its Dockerfile to an empty directory."""
        lay(self.context, root)
        (root / "zz").mkdir()
        (root / "zz" / "base.tar").write_bytes(pack({**ACCOUNTS, **self.base}))
        (root / "zz" / "other.tar").write_bytes(pack({**ACCOUNTS, **self.other}))
        (root / "arch").write_bytes(
            pack({"r": Thing("dir", 0o750), **self.archive}, self.compression)
        )
        if self.ignore:
            (root / ".dockerignore").write_text("\n".join((*self.ignore, "!zz", "!arch")) + "\n")
        (root / "Dockerfile").write_text(self.dockerfile, errors="surrogateescape")

    def __str__(self) -> str:
        out = [self.dockerfile]
        for name in ("context", "archive", "base", "other"):
            out.append(f"{name}:")
            out += [f"  {path!r}: {thing}" for path, thing in getattr(self, name).items()]
        out.append(f"arch is {self.compression or 'plain'}, ignore: {self.ignore}")
        return "\n".join(out)


@st.composite
def cases(draw: st.DrawFn, features: Collection[str]) -> Case:
    """Draw a case that a builder with these features can be asked to build."""
    special = ("fifo",) if "fifo" in features else ()
    context = draw(trees(special=(*special, "socket"), most=8))
    other = draw(trees(names=PLAIN_NAMES, special=special))
    number = draw(st.integers(1, 4))
    return Case(
        context,
        archive=draw(trees(names=PLAIN_NAMES, most=5)),
        compression=draw(st.sampled_from(("", "gz", "bz2", "xz"))),
        base=draw(trees(names=PLAIN_NAMES, most=5)),
        other=other,
        ignore=draw(_ignored(context)) if draw(st.integers(0, 3)) == 0 else (),
        workdir=draw(st.sampled_from(("", "", "/a", "/w/v", "b"))),
        instructions=tuple(draw(instructions(context, other, features)) for _ in range(number)),
    )


def _ignored(context: Things) -> st.SearchStrategy[tuple[str, ...]]:
    line = st.sampled_from(
        (
            "*",
            "a",
            "b",
            "*/a",
            "**/b",
            "*.txt",
            "**/*.txt",
            "a/*",
            "!a",
            "!a/b",
            "!**/a",
            "!b",
            "?",
            "[ab]",
            "/c",
            "d/",
            "a/b/*",
            "!*.txt",
            "**",
            "# x",
            "c/..",
            ".",
        )  # fmt: skip
    )
    return st.lists(line, min_size=1, max_size=3).map(tuple)


@st.composite
def instructions(
    draw: st.DrawFn, context: Things, other: Things, features: Collection[str]
) -> Instruction:
    verb = draw(st.sampled_from(("COPY", "COPY", "COPY", "ADD")))
    staged = verb == "COPY" and draw(st.integers(0, 3)) == 0
    flags = ["--from=other"] if staged else []
    flags += draw(_flags(features, verb))
    document = ""
    if "heredoc" in features and not staged and draw(st.integers(0, 9)) == 0:
        document = draw(st.sampled_from(("", "hello\n", "two\nlines\n")))
    sources = draw(
        st.lists(_source(other if staged else context, verb), min_size=1, max_size=3).map(tuple)
    )
    if document:
        sources = tuple(word for word in sources if " " not in word)
    dest = draw(_dest())
    if (len(sources) > 1 or "*" in sources[0] or "?" in sources[0]) and draw(
        st.integers(0, 5)
    ) != 3:
        dest = dest.rstrip("/") + "/"
    return Instruction(verb, tuple(flags), sources, dest, document)


@st.composite
def _flags(draw: st.DrawFn, features: Collection[str], verb: str) -> list[str]:
    flags = []
    if draw(st.integers(0, 3)) == 0 and ("archive-chown" in features or verb == "COPY"):
        owner = draw(st.sampled_from(("1:2", "7", "0:5", "bob", "bob:crew", "bob:5", "6:crew")))
        flags.append(f"--chown={owner}")
    if "chmod" in features and draw(st.integers(0, 3)) == 0:
        modes = ["600", "0755", "4711", "1777", "2750"]
        modes += ["u+x", "go-rwx", "u=rwX,go=rX", "a+s", "g=u"] if "symbolic" in features else []
        flags.append(f"--chmod={draw(st.sampled_from(modes))}")
    if "link" in features and draw(st.integers(0, 4)) == 0:
        flags.append("--link")
    if "exclude" in features and draw(st.integers(0, 3)) == 0:
        pattern = draw(st.sampled_from(("a", "*.txt", "**/a", "b/*", "*", "!a", "c/a")))
        flags.append(f"--exclude={pattern}")
    if "parents" in features and verb == "COPY" and draw(st.integers(0, 3)) == 0:
        flags.append("--parents")
    return flags


def _source(tree: Things, verb: str) -> st.SearchStrategy[str]:
    """Draw a source: what is not there stops a build, so it is drawn seldom."""
    folders = {path for path, thing in tree.items() if thing.type == "dir"}
    wild = ["*", "a*", "?", "[ab]", "*/*", "*.txt", "[^a]", "*/a", "[!b]*", "\\\\*"]
    wild += [f"{top}/{rest}" for top in ("a", "b") if top in folders for rest in ("*", "?", "*/a")]
    # Many a symlink points nowhere.
    exact = [path for path, thing in tree.items() if path.isascii() and thing.type != "symlink"]
    exact += [path for path, thing in tree.items() if thing.link in tree][:1]
    choices = [st.sampled_from(wild), st.sampled_from((".", "/", "./", "*/.."))]
    if exact:
        path = st.sampled_from(exact).map(_escaped)
        choices += [path, path, path, path.map("/{}".format), path.map("{}/../*".format)]
        choices += [path.map("{}/".format), path.map("../{}".format), path.map("./{}/.".format)]
    if verb == "ADD":
        choices += [st.just("arch")] * 2
    often = st.one_of(choices)
    seldom = st.sampled_from(
        ("missing", "a", "b", "a/b", "a/./b", "c/d/*", "**/a", "a/**", "d/../a")
    )
    # Not at an end of the range: Hypothesis likes those.
    return st.integers(0, 20).flatmap(lambda number: seldom if number == 11 else often)


def _escaped(path: str) -> str:
    """Return a pattern of a Dockerfile that means a path alone.

    Escapes mean something in patterns only, and a word is unescaped before it is one.
    """
    return path.translate({ord(c): f"[{c}]" for c in "*?["} | {ord("\\"): "[" + "\\" * 4 + "]"})


def _dest() -> st.SearchStrategy[str]:
    folders = st.sampled_from([name for name in PLAIN_NAMES if name in FOLDERS])
    path = st.lists(folders, min_size=1, max_size=3).map("/".join)
    fixed = ("/", ".", "./", "/b/../c/", "/new/deep/", "/t1", "/t2/", "/t3/x", "/a.txt", "d", "/.h")
    return st.one_of(
        st.sampled_from(fixed),
        path,
        path.map("{}/".format),
        path.map("/{}/".format),
        path.map("/{}/new".format),
        path.map("{}/a.txt".format),
    )
