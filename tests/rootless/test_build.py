"""RUN in a build: what the command sees, what the layer holds, and how it fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.errors import ImageError, Span, StepFailedError
from imgbuild.events import Event, StepFinished, StepOutput
from imgbuild.store.store import Store
from tests.support import validate
from tests.unit.build.building import build, config, content, members, names

pytestmark = pytest.mark.rootless

BASE = {"base": "host://sh,ls,cat,id,mkdir,rm,chmod,env,sleep"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("build") / "store") as opened, opened.build_lock():
        yield opened


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "f").write_text("from the context")
    return tmp_path


def output(events: list[Event], stream: str = "stdout") -> str:
    data = [e.data for e in events if isinstance(e, StepOutput) and e.stream == stream]
    return b"".join(data).decode()


def has_one_id(store: Store) -> bool:
    from imgbuild.build.rootfs import Rootfs
    from tests.unit.build.building import SEARCH_PATH

    return Rootfs(store, SEARCH_PATH).single_id


def run(store: Store, context: Path, *lines: str) -> str:
    """Return what the commands write."""
    events: list[Event] = []
    build(
        store, context, "\n".join(["FROM base", *lines, ""]),
        contexts=BASE, events=events.append, no_cache=True,
    )  # fmt: skip
    return output(events)


def test_a_layer_holds_what_the_command_changed(store: Store, context: Path) -> None:
    text = """\
FROM base
COPY f /app/f
WORKDIR /app
RUN cat f > g && mkdir -m 700 d && rm f
RUN ls > listing
COPY f /app/d/
"""
    built = build(store, context, text, contexts=BASE)
    store.names.tag("docker.io/library/x:latest", built.descriptor)
    assert validate.image(store.paths.root, "docker.io/library/x:latest") == []
    assert names(store, built, 3) == ["app", "app/d", "app/.wh.f", "app/g"]
    assert content(store, built, "app/g", 3) == b"from the context"
    assert content(store, built, "app/listing", 4) == b"d\ng\nlisting\n"
    assert {m.name: m.mode for m in members(store, built, 5)} == {
        "app": 0o755,
        "app/d": 0o700,
        "app/d/f": 0o644,
    }
    history = [h["created_by"] for h in config(store, built)["history"]]
    assert history[-2:] == ["RUN /bin/sh -c ls > listing # buildkit", "COPY f /app/d/ # buildkit"]


def test_a_second_build_starts_nothing(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "FROM base\nRUN echo 1 > /one\nCOPY f /f\nRUN echo 2 > /two\n"
    first = build(store, context, text, contexts=BASE)
    from imgbuild.build.rootfs import Rootfs

    def refuse(_self: Rootfs) -> None:
        raise AssertionError("a session was started")

    monkeypatch.setattr(Rootfs, "open", refuse)
    second = build(store, context, text, contexts=BASE)
    assert [step.verdict for step in second.steps] == ["cached"] * 4
    assert second.descriptor == first.descriptor


def test_only_what_comes_after_a_change_runs_again(store: Store, context: Path) -> None:
    text = "FROM base\nRUN echo before > /b\nCOPY f /changing\nRUN cat /changing > /after\n"
    build(store, context, text, contexts=BASE)
    (context / "f").write_text("changed")
    events: list[Event] = []
    built = build(store, context, text, contexts=BASE, events=events.append)
    verdicts = [e.verdict for e in events if isinstance(e, StepFinished)]
    assert verdicts == ["cached", "cached", "done", "done"]
    assert content(store, built, "after") == b"changed"


def test_environment_and_place(store: Store, context: Path) -> None:
    text = run(store, context, "ENV A=1", "ARG B=2", "WORKDIR /w", "RUN env; pwd; id -u")
    lines = text.splitlines()
    assert {"A=1", "B=2", "HOME=/root", "PWD=/w"} <= set(lines)
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)
    assert lines[-2:] == ["/w", "0"]
    assert not any(line.startswith(("SSH_", "DOCKER_", "IMGBUILD", "XDG")) for line in lines)


def test_the_user_of_a_run(store: Store, context: Path) -> None:
    lines = ("USER nobody", "RUN id -u; id -g; echo $HOME", "USER 7:8", "RUN id -u; id -g")
    assert run(store, context, *lines).split() == ["65534", "65534", "/nonexistent", "7", "8"]


def test_a_failing_command(store: Store, context: Path) -> None:
    events: list[Event] = []
    text = 'FROM base\nRUN echo out; echo "err" >&2; exit 3\n'
    with pytest.raises(StepFailedError) as caught:
        build(store, context, text, contexts=BASE, events=events.append)
    error = caught.value
    assert error.message == (
        r'process "/bin/sh -c echo out; echo \"err\" >&2; exit 3" '
        "did not complete successfully: exit code: 3"
    )
    assert (error.status, error.span and error.span.first, error.source) == (3, 2, text)
    assert sorted(error.output.split()) == [b"err", b"out"]
    assert (output(events), output(events, "stderr")) == ("out\n", "err\n")
    last = events[-1]
    assert isinstance(last, StepFinished)
    assert last.verdict == "failed"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("RUN sh -c 'kill -9 $$'; exit $?", 137),
        ('RUN ["/no/such/program"]', 127),
        ('RUN ["/etc"]', 126),
    ],
)
def test_ways_to_fail(store: Store, context: Path, command: str, status: int) -> None:
    with pytest.raises(StepFailedError) as caught:
        build(store, context, f"FROM base\n{command}\n", contexts=BASE)
    assert caught.value.status == status


def test_an_unknown_user(store: Store, context: Path) -> None:
    with pytest.raises(
        ImageError,
        match='process "/bin/sh -c id" did not complete successfully: '
        "unable to find user ghost: no matching entries in passwd file",
    ) as caught:
        build(store, context, "FROM base\nUSER ghost\nRUN id\n", contexts=BASE)
    assert caught.value.span is not None
    assert caught.value.span.first == 3


@pytest.mark.parametrize(
    "change", ["rm /etc/passwd /etc/group", "rm /etc/passwd; mkdir /etc/passwd"]
)
def test_an_image_without_accounts_runs_commands_as_root_and_as_numbers(
    store: Store, context: Path, change: str
) -> None:
    text = f"RUN {change}"
    assert run(store, context, text, "RUN id -u; echo $HOME") == "0\n/\n"
    with pytest.raises(ImageError, match="unable to find user ghost: no matching entries"):
        run(store, context, text, "USER ghost", "RUN id")


def test_output_is_never_clipped(store: Store, context: Path) -> None:
    count = 20000
    script = f"i=0; while [ $i -lt {count} ]; do echo line number $i; i=$((i+1)); done"
    assert run(store, context, f"RUN {script}").splitlines() == [
        f"line number {i}" for i in range(count)
    ]


def test_a_process_left_behind_ends_with_its_step(store: Store, context: Path) -> None:
    text = run(store, context, "RUN sleep 100 & echo started")
    assert text == "started\n"


def test_times_are_clamped_before_the_next_run_sees_them(store: Store, context: Path) -> None:
    text = "FROM base\nRUN echo 1 > /made\nRUN ls --time-style=+%s -l /made > /seen\n"
    built = build(store, context, text, contexts=BASE, clamp=1000)
    assert b" 1000 " in content(store, built, "seen")
    assert {m.mtime for m in members(store, built)} <= {1000}


def test_the_same_steps_give_the_same_image(context: Path, tmp_path: Path) -> None:
    digests = set()
    text = "FROM base\nRUN mkdir /d && echo x > /d/x\nCOPY f /d/\nRUN rm /d/x\n"
    for number in range(2):
        with Store.open(tmp_path / f"s{number}") as store, store.build_lock():
            digests.add(build(store, context, text, contexts=BASE, clamp=5).descriptor.digest)
    assert len(digests) == 1


def test_a_workdir_below_a_file_is_the_dockerfiles_fault(store: Store, context: Path) -> None:
    lines = ["FROM base", "WORKDIR /w/x", "RUN rm -r /w && id > /w", "RUN id", ""]
    with pytest.raises(StepFailedError, match="working directory") as caught:
        build(store, context, "\n".join(lines), contexts=BASE)
    assert caught.value.exit_code == 1
    assert caught.value.span == Span("Dockerfile", 4, 4)
    assert "WORKDIR" in str(caught.value.hint)


def test_users_that_a_run_makes_are_known_to_the_next(store: Store, context: Path) -> None:
    lines = (
        "RUN id -u",
        "RUN echo 'new:x:5:6::/home/new:' >> /etc/passwd",
        "USER new",
        "RUN id -u; echo $HOME",
        "USER 0",
        "RUN echo 'new:x:7:8::/other:' > /p2 && rm /etc/passwd && cat /p2 > /etc/passwd",
        "USER new",
        "RUN id -u; echo $HOME",
    )
    assert run(store, context, *lines).split() == ["0", "5", "/home/new", "7", "/other"]


def test_a_script_of_a_here_document_is_an_executable_file(store: Store, context: Path) -> None:
    text = """\
FROM base
RUN <<"my script"
#!/bin/sh -e
echo "$0"; ls -ld /dev/pipes /dev/pipes/*
(echo more >> "$0") 2>/dev/null || echo read-only
id -u
my script
USER 7
RUN <<EOF
#!/bin/sh
id -u
EOF
RUN <<EOF
ls /dev/pipes 2>/dev/null || echo gone
echo $HOME
EOF
""".replace('"my script"', "my.sh").replace("my script", "my.sh")
    user = "0" if has_one_id(store) else "7"
    text = text.replace("USER 7", f"USER {user}")
    events: list[Event] = []
    built = build(store, context, text, contexts=BASE, events=events.append, no_cache=True)
    lines = output(events).splitlines()
    assert lines[0] == "/dev/pipes/my.sh"
    assert [line.split()[0] for line in lines[1:3]] == ["drwxr-xr-x", "-rwxr-xr-x"]
    home = "/root" if user == "0" else "/"
    assert lines[3:] == ["read-only", "0", user, "gone", home]
    # Nothing of it stays in the layers.
    assert [names(store, built, n) for n in (-3, -2, -1)] == [[], [], []]


def test_a_linked_layer_is_there_for_the_next_command(store: Store, context: Path) -> None:
    (context / "sub").mkdir()
    (context / "sub/f").write_text("linked")
    found = run(store, context, "COPY --link --chown=5 sub /etc", "RUN cat /etc/f; ls -ldn /etc")
    assert found.startswith("linkeddrwxr-xr-x")
    # With one id, what a command sees is all its own; the layer keeps the owner.
    owner = "0" if has_one_id(store) else "5"
    assert found.split()[2:4] == [owner, owner]
