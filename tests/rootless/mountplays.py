"""What RUN --mount must do, each a function of a stage to play on; played as several users."""

import base64
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from imgbuild.build.cachemounts import CacheMounts
from imgbuild.build.engine import Built
from imgbuild.build.rootfs import Rootfs
from imgbuild.errors import ImgbuildError, SecretInLayerError
from imgbuild.events import Event, StepFinished, StepOutput
from imgbuild.options import RunOptions, Secret, SshAgent
from imgbuild.store.store import Store
from tests.unit.build.building import SEARCH_PATH, build, content, members, names

BASE = "host://sh,ls,cat,id,mkdir,rm,chmod,env,sleep,stat,mv,ln,touch,base64"
VALUE = b"s3cret-value-of-a-token"
PLAYS: dict[str, "Callable[[Stage], object]"] = {}


class Stage:
    """A store and a context; `run` builds and gives what the commands wrote."""

    def __init__(self, place: Path) -> None:
        self.store = Store.open(place / "store")
        self.place = place
        self.context = place / "context"
        self.context.mkdir(exist_ok=True)
        self.events: list[Event] = []
        self.rootfs = Rootfs(self.store, SEARCH_PATH)
        self.single = self.rootfs.single_id
        self.built: Built | None = None

    def build(self, *lines: str, **options: Any) -> Built:
        self.events.clear()
        text = "\n".join([*lines, ""])
        if not text.startswith("FROM"):
            text = f"FROM base\n{text}"
        contexts = {"base": BASE, **options.pop("contexts", {})}
        with self.store.build_lock():
            built = build(
                self.store, self.context, text, contexts=contexts, events=self.events.append,
                **options,
            )  # fmt: skip
        self.built = built
        return built

    def run(self, *lines: str, **options: Any) -> str:
        self.build(*lines, **options)
        return self.output

    @property
    def output(self) -> str:
        data = [event.data for event in self.events if isinstance(event, StepOutput)]
        return b"".join(data).decode()

    @property
    def verdicts(self) -> list[str]:
        return [event.verdict for event in self.events if isinstance(event, StepFinished)]

    def names(self, number: int = -1) -> list[str]:
        assert self.built is not None
        return names(self.store, self.built, number)

    def fails(self, *lines: str, **options: Any) -> ImgbuildError:
        try:
            self.build(*lines, **options)
        except ImgbuildError as error:
            return error
        raise AssertionError(f"it did not fail: {self.output}")

    def close(self) -> None:
        with self.rootfs.open() as roots:
            roots.remove_trees(self.store.paths.trees, self.store.paths.cache_mounts)
        self.store.close()


def play(function: Callable[[Stage], object]) -> Callable[[Stage], object]:
    PLAYS[function.__name__] = function
    return function


def same(found: Any, expected: Any) -> None:
    assert found == expected, f"found {found!r}, expected {expected!r}"


def has(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, f"no {part!r} in {text!r}"


# --- bind


@play
def a_context_is_shown_read_only(stage: Stage) -> None:
    (stage.context / "d").mkdir()
    (stage.context / "d/f").write_text("text")
    (stage.context / "d/link").symlink_to("f")
    (stage.context / "hidden").write_text("x")
    (stage.context / ".dockerignore").write_text("hidden\n")
    (stage.context / "d/f").chmod(0o640)
    text = stage.run(
        "RUN --mount=target=/all,source=. ls -A /all; stat -c '%u %g %a' /all/d/f; cat /all/d/link",
        "RUN --mount=source=d,target=/d ls /d; ! touch /d/new; ! rm /d/f; exit 0",
        "RUN --mount=source=d/f,target=/one cat /one; ! echo x > /one",
        "RUN --mount=source=d/link,target=/one cat /one; test -L /one || echo file",
    )
    lines = text.splitlines()
    same(lines[:3], [".dockerignore", "d", "0 0 640"])
    has(text, "text", "Read-only file system", "file\n")
    for number in (1, 2, 3, 4):
        same(stage.names(number), [])


@play
def what_is_written_to_a_bind_is_thrown_away(stage: Stage) -> None:
    (stage.context / "f").write_text("mine")
    text = stage.run(
        "FROM base AS tools",
        "RUN mkdir /t && echo tool > /t/x && chmod 700 /t",
        "FROM base",
        "RUN --mount=target=/c,rw echo changed > /c/f; touch /c/new; cat /c/f",
        "RUN --mount=target=/c,rw cat /c/f; ls /c",
        "RUN --mount=from=tools,source=/t,target=/t,rw echo y > /t/y; rm /t/x; ls /t",
        "RUN --mount=from=tools,source=/t,target=/t ls /t; stat -c %a /t",
        "RUN --mount=from=tools,source=/t/x,target=/x,rw echo z >> /x; cat /x",
    )
    has(text, "changed\nminef\n", "y\nx\n700\ntool\nz\n")
    same((stage.context / "f").read_text(), "mine")
    same([stage.names(n) for n in range(1, 6)], [[]] * 5)


@play
def stages_images_and_contexts_are_shown(stage: Stage) -> None:
    (stage.place / "named").mkdir()
    (stage.place / "named/n").write_text("named\n")
    owner = "0" if stage.single else "7"
    text = (
        stage.run(
            "FROM base AS tools",
            "RUN mkdir -p /opt/a /data && echo tool > /data/x && ln -s /data /opt/a/link",
            f"COPY --chown={owner} f /data/owned",
            "FROM scratch AS empty",
            "FROM base",
            "RUN --mount=from=tools,source=/opt/a/link,target=/t cat /t/x; stat -c %u /t/owned",
            "RUN --mount=from=0,source=/data/x,target=/y cat /y",
            "RUN --mount=from=tools,target=/t ls /t/data; test -d /t/proc || echo no-proc",
            "RUN --mount=from=named,target=/n cat /n/n; ls /n",
            "RUN --mount=from=other,source=usr,target=/u ls -d /u/bin",
            "RUN --mount=from=empty,target=/e ls -A /e; ! touch /e/x; stat -c %a /e",
            "RUN --mount=from=scratch,target=/e,rw touch /e/x; ls -A /e",
            contexts={"named": str(stage.place / "named"), "other": "host://ls"},
        )
        if (stage.context / "f").write_text("f")
        else ""
    )
    has(text, f"tool\n{owner}\ntool\nowned\nx\n", "named\nn\n/u/bin\n", "755\nx\n")
    for number in range(1, 8):
        same(stage.names(number), [])


@play
def content_decides_about_the_cache(stage: Stage) -> None:
    (stage.context / "f").write_text("one")
    (stage.context / "other").write_text("x")
    lines = ("RUN --mount=source=f,target=/f cat /f > /copied",)
    stage.build(*lines)
    (stage.context / "other").write_text("y")
    os.utime(stage.context / "f", (1, 1))
    stage.build(*lines)
    same(stage.verdicts[-1], "cached")
    (stage.context / "f").write_text("two")
    built = stage.build(*lines)
    same(stage.verdicts[-1], "done")
    same(content(stage.store, built, "copied"), b"two")
    stages = (
        "FROM base AS a",
        "RUN echo {} > /x",
        "FROM base",
        "RUN --mount=from=a,source=x,target=/x cat /x",
    )
    for text, verdict in (("1", "done"), ("1", "cached"), ("2", "done")):
        stage.build(*(line.format(text) for line in stages))
        same(stage.verdicts[-1], verdict)


@play
def what_is_not_there_is_told(stage: Stage) -> None:
    found = stage.fails("RUN --mount=source=absent,target=/x true")
    has(found.message, '"/absent": not found')
    same(found.span and found.span.first, 2)
    found = stage.fails(
        "FROM base AS a", "FROM base", "RUN --mount=from=a,source=/no,target=/x true"
    )
    has(found.message, '"/no": not found')
    (stage.context / "[x]*").write_text("odd")
    same(stage.run("RUN --mount=source=[x]*,target=/x cat /x"), "odd")


# --- cache


@play
def caches_last_and_are_in_no_layer(stage: Stage) -> None:
    lines = ("ARG N", "RUN --mount=type=cache,target=/c echo $N >> /c/log; cat /c/log")
    same(stage.run(*lines, build_args={"N": "1"}), "1\n")
    same(stage.run(*lines, build_args={"N": "2"}), "1\n2\n")
    same(stage.names(), [])
    text = stage.run(
        "RUN --mount=type=cache,id=/c,target=/elsewhere,ro cat /elsewhere/log; ! touch /elsewhere/x"
    )
    has(text, "1\n2\n", "Read-only")
    same(stage.run(*lines, build_args={"N": "3"}, no_cache=True), "3\n")
    same(stage.run(*lines, build_args={"N": "4"}), "3\n4\n")
    same(stage.run(*lines, build_args={"N": "5", "BUILDKIT_CACHE_MOUNT_NS": "x"}), "5\n")


@play
def a_new_cache_has_the_owner_that_was_asked_for(stage: Stage) -> None:
    mount = "type=cache,target=/c,mode=0751,uid=7,gid=8"
    # With one id, what a command sees as the owner is whoever it is itself.
    owner = "0 0" if stage.single else "7 8"
    same(stage.run(f"RUN --mount={mount} stat -c '%a %u %g' /c"), f"751 {owner}\n")
    same(stage.run("RUN --mount=type=cache,target=/d stat -c '%a %u %g' /d"), "755 0 0\n")
    same(stage.run("USER 7:8", f"RUN --mount={mount} touch /c/mine; ls /c"), "mine\n")
    if not stage.single:
        found = stage.fails("RUN --mount=type=cache,target=/e,uid=4294967294 true")
        has(found.message, "a mount cannot belong to 4294967294:0")


@play
def a_cache_can_start_with_files_of_a_stage(stage: Stage) -> None:
    mount = "type=cache,target=/c,from=seed,source=/s"
    lines = ("FROM base AS seed", "RUN mkdir /s && echo seed > /s/f", "FROM base")
    line = f"RUN --mount={mount} echo $N >> /c/f; cat /c/f"
    same(stage.run(*lines, "ARG N=1", line), "seed\n1\n")
    same(stage.run(*lines, "ARG N=2", line), "seed\n1\n2\n")
    other = (lines[0], "RUN mkdir /s && echo other > /s/f", lines[2])
    same(stage.run(*other, "ARG N=3", line), "other\n3\n")


@play
def one_cache_can_be_mounted_twice(stage: Stage) -> None:
    for sharing in ("shared", "private", "locked"):
        mounts = " ".join(
            f"--mount=type=cache,id=two-{sharing},target=/{n},sharing={sharing}" for n in "ab"
        )
        same(stage.run(f"RUN {mounts} echo {sharing} > /a/x; cat /b/x"), f"{sharing}\n")


@play
def links_in_a_cache_lead_nowhere(stage: Stage) -> None:
    (stage.place / "outside").mkdir()
    (stage.place / "outside/f").write_text("outside")
    stage.run(
        "RUN --mount=type=cache,target=/c ln -s / /c/root; ln -s /etc/made /c/dangling;"
        f" ln -s {stage.place}/outside /c/out; ln -s ../../../../../../../../.. /c/up"
    )
    cache = "--mount=type=cache,target=/c"
    for name in ("out", "root/etc", "up/etc", "dangling"):
        found = stage.fails(f"RUN --mount=type=cache,id=/c,source={name},target=/x ls /x")
        has(found.message, "/x")
    # A target through a link of the cache: where it leads is in the root, or nowhere.
    for name in ("dangling/x", "root/new", "up/new2"):
        found = stage.fails(f"RUN {cache} --mount=type=tmpfs,target=/c/{name} ls /c")
        has(found.message, "cannot be mounted")
    same(os.listdir(stage.place / "outside"), ["f"])
    same(
        stage.run(f"RUN {cache} --mount=type=tmpfs,target=/c/root/tmp touch /tmp/gone; ls /tmp"),
        "gone\n",
    )
    same(stage.names(), [])


# --- tmpfs, nesting, traces


@play
def memory_is_gone_with_the_step(stage: Stage) -> None:
    text = stage.run(
        "RUN --mount=type=tmpfs,target=/t,size=128m cat /proc/mounts; touch /t/x; stat -c %a /t",
        "RUN ! ls /t",
    )
    has(text, " /t tmpfs rw,nosuid,nodev", "size=131072k", "1777\n")
    same(stage.names(1), [])
    same(stage.names(2), [])


@play
def mounts_can_be_in_each_other(stage: Stage) -> None:
    (stage.context / "f").write_text("context")
    text = stage.run(
        "RUN --mount=source=f,target=/a/b/c/f --mount=type=tmpfs,target=/a/b"
        " --mount=type=cache,target=/a cat /a/b/c/f; ls /a /a/b",
        "RUN --mount=type=cache,target=/a ls /a",
        "RUN --mount=type=tmpfs,target=/dev/deep/t --mount=source=f,target=/dev/deep/f cat /dev/deep/f; ls /dev/deep",
    )
    same(text, "context/a:\nb\n\n/a/b:\nc\nb\ncontextf\nt\n")
    same([stage.names(n) for n in (1, 2, 3)], [[], [], []])
    found = stage.fails("RUN --mount=target=/ro --mount=type=tmpfs,target=/ro/sub true")
    has(found.message, "/ro/sub: Read-only file system")


@play
def targets_leave_no_trace(stage: Stage) -> None:
    stage.build(
        "RUN mkdir -p /d/real && ln -s /d/real /link && ln -s ../../../../d/none /d/dangling"
        " && touch -d @5000 /d/real /d",
        "RUN --mount=type=tmpfs,target=/link/a/b --mount=type=tmpfs,target=/d/dangling"
        " --mount=type=secret,id=s,target=/d/real/../file --mount=type=tmpfs,target=/../../d/up true",
        secrets=[Secret("s", value=VALUE)],
    )
    assert stage.built is not None
    found = {m.name: m.mtime for m in members(stage.store, stage.built, 2)}
    same(found, {})
    found = {m.name: m.mtime for m in members(stage.store, stage.built, 1)}
    same((found["d"], found["d/real"]), (5000, 5000))


@play
def commands_may_move_and_remove_around_mounts(stage: Stage) -> None:
    stage.build(
        "RUN --mount=type=secret,id=s mv /run /moved; test -s /moved/secrets/s; ls /moved/secrets",
        "RUN --mount=type=tmpfs,target=/x/y ! rm -r /x; ! mv /x/y /z; mv /x /w; touch /w/kept",
        "RUN --mount=type=tmpfs,target=/p/q/r mkdir /p/q/own; mv /p/q /other; mkdir -p /p/q/r; touch /p/q/r/f",
        secrets=[Secret("s", value=VALUE)],
    )
    assert not any("secrets/s" in name for name in stage.names(1)), stage.names(1)
    same(stage.names(2), ["w", "w/kept"])
    same(stage.names(3), ["other", "other/own", "p", "p/q", "p/q/r", "p/q/r/f"])


@play
def targets_of_another_kind_are_refused(stage: Stage) -> None:
    (stage.context / "f").write_text("x")
    found = stage.fails("RUN --mount=source=f,target=/tmp true")
    has(found.message, "cannot be mounted", "/tmp")
    found = stage.fails("RUN --mount=type=tmpfs,target=/etc/passwd true")
    has(found.message, "/etc/passwd")
    same(found.span and found.span.first, 2)


# --- secrets


@play
def secrets_are_files_and_variables(stage: Stage) -> None:
    given = [Secret("s", value=VALUE), Secret("t", value=b"other-value\n")]
    text = stage.run(
        "RUN --mount=type=secret,id=s stat -c '%a %u %g %n' /run/secrets/s; base64 /run/secrets/s",
        "RUN --mount=type=secret,id=s,env=S test ! -e /run/secrets; echo ${#S}",
        "RUN --mount=type=secret,id=s,env=S,target=/k --mount=type=secret,id=t base64 /k; ls /run/secrets; echo ${#S}",
        "RUN --mount=type=secret,id=absent --mount=type=secret,id=absent,env=A ! ls /run/secrets; echo ${A-unset}",
        "RUN --mount=type=secret,id=s,mode=0440 stat -c %a /run/secrets/s; ! echo x > /run/secrets/s",
        secrets=given,
    )
    value = VALUE.decode()
    encoded = base64.b64encode(VALUE).decode()  # what is written as it is would be masked
    has(
        text,
        f"400 0 0 /run/secrets/s\n{encoded}\n",
        f"\n{len(value)}\n{encoded}\nt\n{len(value)}\n",
        "unset\n440\n",
    )
    for number in range(1, 6):
        same(stage.names(number), [])
    same(
        stage.run(
            "ENV S=mine", "RUN --mount=type=secret,id=s,env=S test $S = " + value, secrets=given
        ),
        "",
    )
    lines = (
        "USER 7:8",
        "RUN --mount=type=secret,id=s,uid=7,gid=8 stat -c '%a %u' /run/secrets/s; base64 /run/secrets/s",
    )
    has(stage.run(*lines, secrets=given), "400 7\n", encoded)
    if not stage.single:  # with one id, all files are everybody's own
        refused = "RUN --mount=type=secret,id=s ! cat /run/secrets/s"
        has(stage.run("USER 7", refused, secrets=given), "denied")
        found = stage.fails("RUN --mount=type=secret,id=s,uid=4294967294 true", secrets=given)
        has(found.message, "4294967294, the owner of a secret, cannot be used")


@play
def missing_secrets_and_agents_are_told(stage: Stage) -> None:
    found = stage.fails("RUN --mount=type=secret,id=nope,required true")
    same(found.message, "secret nope: not found")
    has(str(found.hint), "--secret id=nope,src=FILE")
    found = stage.fails("RUN --mount=type=ssh,required true")
    same(found.message, 'no SSH key "default" forwarded from the client')
    same(
        stage.run("RUN --mount=type=ssh echo $SSH_AUTH_SOCK; ! ls $SSH_AUTH_SOCK").splitlines()[0],
        "/run/buildkit/ssh_agent.0",
    )


@play
def values_of_secrets_are_in_no_key(stage: Stage) -> None:
    line = "RUN --mount=type=secret,id=s cat /run/secrets/s"
    stage.build(line, secrets=[Secret("s", value=b"first-value")])
    stage.build(line, secrets=[Secret("s", value=b"second-value")])
    same(stage.verdicts[-1], "cached")
    stored = b"".join(
        path.read_bytes() for path in stage.store.paths.root.rglob("*")
        if path.is_file() and os.access(path, os.R_OK)
    )  # fmt: skip
    assert b"first-value" not in stored, "a value is in the store"


@play
def a_layer_with_a_secret_is_refused(stage: Stage) -> None:
    secrets = [Secret("s", value=VALUE + b"\n")]
    mount = "--mount=type=secret,id=s"
    cases = {
        "mkdir /d; cat /run/secrets/s > /d/leak": "in /d/leak",
        "base64 -w0 /run/secrets/s > /enc": "in base64: in /enc",
        "printf 'u:%s' \"$(cat /run/secrets/s)\" | base64 -w0 > /auth": "in base64: in /auth",
        'ln -s "$(cat /run/secrets/s)" /link': "among the names",
    }
    for command, where in cases.items():
        line = f"RUN {mount} {command}"
        found = stage.fails(line, secrets=secrets)
        assert isinstance(found, SecretInLayerError), found
        has(found.message, "the value of the secret s", where)
        assert VALUE.decode() not in found.message + str(found.hint)
        same(found.span and found.span.first, 2)
        stage.fails(line, secrets=secrets)  # nothing was kept
    built = stage.build(
        f"RUN {mount} cat /run/secrets/s > /leak", secrets=secrets,
        run=RunOptions(allow_secret_in_layer=True),
    )  # fmt: skip
    same(content(stage.store, built, "leak"), VALUE + b"\n")
    same(stage.run(f"RUN {mount} cat /run/secrets/s > /x; rm /x", secrets=secrets), "")


@play
def a_secret_is_found_wherever_it_comes_back(stage: Stage) -> None:
    secrets = [Secret("s", value=VALUE)]
    stage.build(
        "RUN --mount=type=secret,id=s --mount=type=cache,target=/c cat /run/secrets/s > /c/kept",
        secrets=secrets,
    )
    found = stage.fails(
        "RUN --mount=type=secret,id=s cat /run/secrets/s",
        "RUN --mount=type=cache,target=/c cat /c/kept > /leak",
        secrets=secrets,
    )
    has(found.message, "in /leak")
    (stage.context / "f").write_bytes(b"x" * (1 << 20) + VALUE + b"y")
    found = stage.fails(
        "RUN --mount=type=secret,id=s true && cat /run/secrets/s >/dev/null",
        "COPY f /f",
        secrets=secrets,
    )
    has(found.message, "in /f")


# --- ssh


class _Agent:
    """Answers each line with itself, turned around."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data[::-1])

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink()


@play
def agents_can_be_talked_to(stage: Stage) -> None:
    agent = _Agent(stage.place / "agent")
    try:
        owner = "0" if stage.single else "7"
        talk = (
            "import os, socket\n"
            "ends = [socket.socket(socket.AF_UNIX) for _ in range(5)]\n"
            "for end in ends: end.connect(os.environ['SSH_AUTH_SOCK'])\n"
            "for n, end in enumerate(ends): end.sendall(b'%d-abc' % n)\n"
            "print([end.recv(100) for end in ends])\n"
        )
        (stage.context / "talk.py").write_text(talk)
        mount = f"--mount=type=ssh,mode=0600,uid={owner}"
        text = stage.run(
            f"USER {owner}",
            f"RUN {mount} stat -c '%F %a %u' $SSH_AUTH_SOCK",
            f"RUN {mount} --mount=target=/c python3 /c/talk.py",
            contexts={"base": f"{BASE},python3"},
            ssh=[SshAgent("default", (agent.path,))],
        )
        has(text, f"socket 600 {owner}\n")
        has(text, str([b"cba-%d" % n for n in range(5)]))
        same(stage.names(2), [])
    finally:
        agent.close()


# --- for people


@play
def caches_can_be_listed_moved_and_removed(stage: Stage) -> None:
    stage.run(
        "RUN --mount=type=cache,id=one,target=/c mkdir /c/dev; echo text > /c/dev/f; chmod 600 /c/dev/f",
        "RUN --mount=type=cache,id=two,target=/c,mode=0700 ln -s x /c/link",
    )
    with stage.rootfs.open() as roots:
        caches = CacheMounts(
            stage.store.paths.cache_mounts / roots.session.tier.idmap.key, lambda: roots
        )
        known = {one.id: one for one in caches.list()}
        assert {"one", "two"} <= set(known)
        assert known["one"].size > 0
        assert not known["one"].in_use
        tar = stage.place / "one.tar"
        with tar.open("wb") as stream:
            caches.export("one", stream)
        with tar.open("rb") as stream:
            caches.import_("three", stream)
        same(
            stage.run(
                "RUN --mount=type=cache,id=three,target=/t cat /t/dev/f; stat -c %a /t/dev/f"
            ),
            "text\n600\n",
        )
        with tar.open("rb") as stream:
            caches.import_("two", stream)
        same(stage.run("RUN --mount=type=cache,id=two,target=/t ls /t"), "dev\n")
        caches.remove(["one", "three"])
        assert {"one", "three"}.isdisjoint(one.id for one in caches.list())
        with caches.using([]):
            pass
        caches.remove_all()
        same(caches.list(), [])
    same(stage.run("RUN --mount=type=cache,id=two,target=/t ls /t"), "")


def main(place: Path, wanted: list[str]) -> None:
    """Play; print what failed and why."""
    import traceback

    results = {}
    for number, name in enumerate(wanted):
        folder = place / str(number)
        folder.mkdir()
        stage = Stage(folder)
        try:
            PLAYS[name](stage)
        except BaseException:
            results[name] = traceback.format_exc() + stage.output
        else:
            results[name] = ""
        stage.close()
    json.dump(results, sys.stdout)
