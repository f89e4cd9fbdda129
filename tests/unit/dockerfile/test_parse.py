"""The whole of parsing: stages, spans, errors, hostile text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.dockerfile import instructions as ins
from imgbuild.dockerfile.parse import parse
from imgbuild.errors import DockerfileError, Span


def refuse(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text, "D")
    return caught.value


def only(text: str) -> ins.StageInstruction:
    (instruction,) = parse(f"FROM x\n{text}").stages[0].instructions
    return instruction


def test_stages_and_global_args() -> None:
    found = parse("# escape=`\nARG V=1\nFROM a AS Base\nRUN x\nFROM b\nUSER u\n", "D")
    assert (found.file, found.escape) == ("D", "`")
    assert found.directives == (("escape", "`"),)
    assert found.global_args == (ins.Arg(Span("D", 2, 2), (("V", "1"),), comments=("",)),)
    assert [stage.from_.name for stage in found.stages] == ["base", None]
    assert found.stages[0].instructions == (
        ins.Run(Span("D", 4, 4), ins.Command(("x",), shell=True)),
    )
    assert found.stages[1].instructions == (ins.User(Span("D", 6, 6), "u"),)


def test_bytes_survive() -> None:
    found = parse(b"FROM x\nENV a=\xff\xfe\xc3\xa9\nRUN \xe9 \\\n\xff\n")
    env, run = found.stages[0].instructions
    assert isinstance(env, ins.Env)
    assert isinstance(run, ins.Run)
    assert env.pairs[0][1].encode("utf-8", "surrogateescape") == b"\xff\xfe\xc3\xa9"
    assert run.command.args[0].encode("utf-8", "surrogateescape") == b"\xe9 \xff"


def test_text_is_not_touched_by_the_library() -> None:
    """dockerfile-parse replaces variables, trims lines and changes cases elsewhere."""
    run = only("run  echo $HOME ${x:-y}  'a  b'\\\n   c\t\\\n\n  d \n")
    assert isinstance(run, ins.Run)
    assert run.command.args == ("echo $HOME ${x:-y}  'a  b'   c\t  d",)


def test_a_byte_order_mark_is_dropped() -> None:
    found = parse(b"\xef\xbb\xbf# escape=`\r\nFROM x\r\n")
    assert found.escape == "`"
    assert found.source == "# escape=`\r\nFROM x\r\n"


@pytest.mark.parametrize(
    ("text", "message", "span"),
    [
        ("", "the Dockerfile cannot be empty", (1, 1)),
        ("# a\n\n", "file with no instructions", (2, 2)),
        ("ARG a\n\n", "dockerfile contains no stages to build", (2, 2)),
        ("RUN a\\\n b", "no build stage in current context", (1, 2)),
        ("FROM x\nRUN <<E\na\n", "unterminated heredoc", (2, 3)),
        ("FROM x\nFROM a b", "dockerfile parse error on line 2: FROM requires", (2, 2)),
        ("FROM x\nRUN a\nENV a", "ENV must have two arguments", (3, 3)),
        ("FROM x\n \x1c\n", "dockerfile parse error on line 2: unknown instruction: \x1c", (2, 2)),
        ("FROM x\n\\\n\n", "dockerfile parse error on line 2: unknown instruction: ", (2, 3)),
        ("# escape=`\n# check=a\n#escape=`\nFROM x", "only one escape parser directive", (3, 3)),
        ("FROM x\nRUN a\0b", "dockerfile parse error on line 2: the line holds a NUL", (2, 2)),
        ("FROM x\nCOPY --frm=a b c", "unknown flag: --frm (did you mean from?)", (2, 2)),
        ("FROM x\nHEALTHCHECK --retries=99999999999 CMD a", "value out of range", (2, 2)),
        ("FROM x\nHEALTHCHECK --retries=1_0 CMD a", "invalid syntax", (2, 2)),
        ("FROM x\nHEALTHCHECK --interval=-5s CMD a", "cannot be less than 1ms", (2, 2)),
        ("FROM x\nRUN --network=nne a", 'network mode "nne" (did you mean none?)', (2, 2)),
        ('FROM x\nRUN --mount=a\\"b c', "failed to parse csv mounts: parse error", (2, 2)),
        ("FROM x\nRUN --device=a,requird=1 c", "unexpected key 'requird' in", (2, 2)),
        ("FROM x\nRUN --device=a,required=x c", "invalid value for required: x", (2, 2)),
        ("FROM x\nRUN --device=a,b c", "invalid field 'b' must be a key=value pair", (2, 2)),
        ("FROM x\nonbuild from y", "FROM isn't allowed as an ONBUILD trigger", (2, 2)),
        ('FROM x\nRUN [["a"]]', "arrays must be comprised of strings only", (2, 2)),
        ("FROM x\nRUN " + "[" * 30000, "arrays must be comprised of strings only", (2, 2)),
        ("FROM x\nRUN [" + "1" * 9000 + "]", "arrays must be comprised of strings", (2, 2)),
    ],
)
def test_refusals(text: str, message: str, span: tuple[int, int]) -> None:
    problem = refuse(text)
    assert message in problem.message
    assert problem.span == Span("D", *span)
    assert problem.source == text


def test_utf16_is_told() -> None:
    problem = refuse("FROM x\n".encode("utf-16"))
    assert problem.hint == "save D as UTF-8 text"


def test_the_longest_line() -> None:
    assert parse("FROM x\nRUN " + "a" * 65531 + "\n")
    for line in ("RUN " + "a" * 65532, "RUN " + "é" * 32766):
        problem = refuse(f"FROM x\n{line}\nFROM a b\n")
        assert problem.message == "dockerfile line greater than max allowed size of 65535"
        assert problem.span == Span("D", 2, 2)


def test_errors_of_the_first_pass_come_first() -> None:
    assert refuse("FROM a b\nENV x\n").message == "ENV must have two arguments"


def test_hints_name_what_to_do() -> None:
    assert refuse("FROM x\nCOPY --nope a b").hint == (
        "its flags are --from, --chown, --chmod, --link, --parents, --exclude"
    )
    assert refuse("FROM x\nUSER --nope a").hint == "this instruction has no flags"
    assert refuse("FROM x\nRUN <<A <<B\nA\n").hint == "end it with a line that is just B"


@pytest.mark.parametrize("name", ["from", "chown", "chmod", "link", "parents"])
def test_each_flag_once(name: str) -> None:
    assert "duplicate flag" in refuse(f"FROM x\nCOPY --{name}=true --{name}=true a b").message


def test_json_is_gos() -> None:
    run = only('RUN ["\\ud800", "\\u00e9", "a\\/b"]')
    assert isinstance(run, ins.Run)
    assert run.command == ins.Command(("\N{REPLACEMENT CHARACTER}", "é", "a/b"), shell=False)
    for text in ('["a",]', "['a']", '["a"] b', "[NaN]", '["a\tb"]', '["\\x"]'):
        run = only(f"RUN {text}")
        assert isinstance(run, ins.Run)
        assert run.command == ins.Command((text,), shell=True)


def test_flags_lose_quotes_and_escapes() -> None:
    copy = only("COPY --chown=\"a b\" --chmod=u\\+x --exclude='*.o' --exclude=b -- --c d")
    assert isinstance(copy, ins.Copy)
    assert (copy.chown, copy.chmod, copy.exclude) == ("a b", "u+x", ("*.o", "b"))
    assert (copy.sources, copy.dest) == (("--c",), "d")


def test_an_empty_flag_is_no_flag() -> None:
    copy = only("COPY --from= --chown= a b")
    assert isinstance(copy, ins.Copy)
    assert (copy.from_, copy.chown) == (None, None)


def test_heredocs_of_copy() -> None:
    copy = only("COPY <<-A <<'B' f /d\n\t1 $x\n\t\tA\n2\nB\n")
    assert isinstance(copy, ins.Copy)
    assert copy.sources == ("f",)
    assert copy.heredocs == (
        ins.Heredoc("A", "1 $x\n", expand=True, chomp=True),
        ins.Heredoc("B", "2\n", expand=False, chomp=False),
    )
    assert copy.span == Span("Dockerfile", 2, 6)


def test_bodies_do_not_disturb_what_follows() -> None:
    text = (
        "FROM x\nRUN <<A\nunfinished \\\nA\nUSER 1\n"
        "RUN <<'#E'\nopen \\\n#E\nUSER 2\n"
        "RUN <<'E\\'\n\n# kept\nE\\\nUSER 3\n"
        "COPY <<A /a\n\\\n\nA\nUSER 4"
    )
    found = parse(text).stages[0].instructions
    assert [(i.user, i.span.first) for i in found if isinstance(i, ins.User)] == [
        ("1", 5),
        ("2", 9),
        ("3", 14),
        ("4", 19),
    ]
    assert [i.command.heredocs[0].content for i in found if isinstance(i, ins.Run)] == [
        "unfinished \\\n",
        "open \\\n",
        "\n# kept\n",
    ]


def test_crlf_in_a_body_is_kept() -> None:
    run = only("RUN <<E\r\na\r\nE\r\n")
    assert isinstance(run, ins.Run)
    assert run.command.args == ("<<E",)
    assert run.command.heredocs[0].content == "a\r\n"


@pytest.mark.parametrize(
    "line",
    ["CMD <<E", 'RUN ["<<E"]', "RUN '<<E'", "RUN a<<E", "RUN echo 'x <<E", "RUN <<<E", "USER <<E"],
)
def test_what_opens_no_heredoc(line: str) -> None:
    assert len(parse(f"FROM x\n{line}\nUSER u").stages[0].instructions) == 2


def test_descriptions() -> None:
    found = parse("# s the stage\nFROM x AS s\n# old\n#\n# a one\n\n# b two\nARG a b=1 c\n")
    assert found.stages[0].from_.comment == "the stage"
    (arg,) = found.stages[0].instructions
    assert isinstance(arg, ins.Arg)
    assert arg.comments == ("one", "two", "")
    assert arg.comment == "one"


def test_a_directive_is_no_description() -> None:
    assert parse("# check=skip=all\n# s stage\nFROM x AS s").stages[0].from_.comment == "stage"


def test_syntax_behind_a_shebang_is_found() -> None:
    assert parse("#!/bin/sh\n# syntax=a/b:1\nFROM x").directives == (("syntax", "a/b:1"),)
    assert parse("# syntax=a/b:1\nFROM x").directives == (("syntax", "a/b:1"),)
    assert parse("FROM x\n# syntax=a").directives == ()


def test_deep_onbuild() -> None:
    problem = refuse("FROM x\n" + "ONBUILD " * 8000 + "RUN a")
    assert "Chaining ONBUILD" in problem.message


WORDS = st.sampled_from(
    """FROM x|RUN a|COPY <<A /b|COPY a b|ENV a=b|LABEL 'a|ARG a|A|ONBUILD RUN <<A|# c|# escape=`|
RUN ["a"]|CMD []|HEALTHCHECK CMD a|SHELL ["a"]|RUN a \\|RUN <<-A <<"B"|\tA|B|\\|`|EXPOSE 80|
VOLUME [|RUN --mount=a b|USER|\xff|<<A|FROM x AS y|VOLUME a|""".replace("\n", "").split("|")
)


def check_points_into_its_source(problem: DockerfileError) -> None:
    assert problem.span is not None
    assert problem.source is not None
    lines = problem.source.count("\n") + 1
    assert 1 <= problem.span.first <= problem.span.last <= lines


def check_never_surprises(text: str | bytes) -> None:
    try:
        found = parse(text, "D")
    except DockerfileError as problem:
        check_points_into_its_source(problem)
        return
    covered: set[int] = set()
    every = [
        *found.global_args,
        *(i for stage in found.stages for i in (stage.from_, *stage.instructions)),
    ]
    for instruction in every:
        lines_of = set(range(instruction.span.first, instruction.span.last + 1))
        assert lines_of
        assert not covered & lines_of, "two instructions share a line"
        covered |= lines_of
    for number, line in enumerate(found.source.split("\n"), 1):
        if number not in covered:
            assert re.match(r"\s*(#|\Z)", line), f"line {number} was lost"


@given(st.binary(max_size=80))
def test_arbitrary_bytes(data: bytes) -> None:
    check_never_surprises(data)
    check_never_surprises(b"FROM x\n" + data)


@given(st.text(max_size=80))
def test_arbitrary_text(text: str) -> None:
    check_never_surprises(text)
    check_never_surprises("FROM x\n" + text)


@given(st.lists(WORDS, max_size=12), st.sampled_from(["\n", "\r\n", " \\\n", "\n\n"]))
def test_arbitrary_instructions(lines: list[str], between: str) -> None:
    check_never_surprises("FROM x\n" + between.join(lines))


@given(
    st.sampled_from(["RUN", "COPY", "ENV", "HEALTHCHECK", "ONBUILD", "VOLUME", "FROM", "ARG"]),
    st.text("ab$'\"\\`[]{}=-<, \t#1", max_size=30),
)
def test_arbitrary_arguments(name: str, rest: str) -> None:
    check_never_surprises(f"FROM x\n{name} {rest}\nA\n")
