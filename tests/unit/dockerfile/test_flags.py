"""Flags: how they are cut off and checked."""

import pytest

from imgbuild.dockerfile.flags import BOOL, TEXT, TEXTS, cut_flags, read_flags
from imgbuild.errors import DockerfileError

KNOWN = {"one": TEXT, "many": TEXTS, "on": BOOL}


@pytest.mark.parametrize(
    ("text", "flags", "rest"),
    [
        ("", [], ""),
        ("a --b", [], "a --b"),
        ("--a  b", ["--a"], "b"),
        ("--a=1 --b='c d' e", ["--a=1", "--b=c d"], "e"),
        ('--a="x \\" y"z e', ['--a=x " yz'], "e"),
        ("--a=b\\ c d", ["--a=b c"], "d"),
        ("--a -- --b", ["--a"], " --b"),
        ("-- ", [], " "),
        ("--", [], ""),
        ("-a b", [], "-a b"),
        ('"--a" b', [], '"--a" b'),
        ("--a", ["--a"], ""),
        ("--a='b", ["--a=b"], ""),
        ("--a=b\\", ["--a=b"], ""),
        ("--''", [], ""),
        ("--a=\u20281", ["--a="], "1"),
    ],
)
def test_cut(text: str, flags: list[str], rest: str) -> None:
    assert cut_flags(text) == (flags, rest)


def test_values() -> None:
    found = read_flags(["--one=a=b", "--many=1", "--many=", "--on"], KNOWN)
    assert found == {"one": ["a=b"], "many": ["1", ""], "on": ["true"]}
    assert read_flags(["--on=FALSE"], KNOWN) == {"on": ["false"]}
    assert read_flags([], KNOWN) == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--none"], "unknown flag: --none (did you mean one?)"),
        (["--something"], "unknown flag: --something"),
        (["--"], "unknown flag: -- (did you mean on?)"),
        (["--one"], "missing a value on flag: --one"),
        (["--many"], "missing a value on flag: --many"),
        (["--on="], "missing a value on flag: --on"),
        (["--on=yes"], "expecting boolean value for flag --on, not: yes"),
        (["--one=1", "--one=2"], "duplicate flag specified: --one"),
        (["--on", "--on"], "duplicate flag specified: --on"),
    ],
)
def test_refusals(flags: list[str], message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        read_flags(flags, KNOWN)
    assert caught.value.message == message
