"""The child's parts that need no namespace: how it starts, its limits, its request loop."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import imgbuild
from imgbuild.sandbox import launch
from imgbuild.sandbox.child import overlay, serve, stubs, syscalls, wire
from imgbuild.sandbox.child.failure import Failed, naming

_FOLDER = str(Path(imgbuild.__file__).parent.parent)


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; sys.path.append({_FOLDER!r}); {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-SI", "-c", code], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_first_half_of_the_start_imports_little() -> None:
    code = launch._CODE.replace("namespace.main()", "print(*sys.modules)")
    done = subprocess.run(
        [sys.executable, "-SI", "-c", code, f"{_FOLDER}/imgbuild"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "imgbuild.sandbox.child.namespace" in loaded
    assert not loaded & {"typing", "socket", "json", "enum", "re", "contextlib", "dataclasses"}


def test_the_second_half_imports_nothing_of_the_rest() -> None:
    loaded = _modules_after(
        "import imgbuild.sandbox.child.boot, imgbuild.sandbox.child.zygote, imgbuild.sandbox.child.trial"
    )
    own = {name for name in loaded if name.startswith("imgbuild.")}
    assert all(
        n.startswith(("imgbuild.sandbox", "imgbuild.inroot", "imgbuild.recorded")) for n in own
    )
    assert not loaded & {"subprocess", "threading", "dataclasses", "inspect", "logging"}


def test_failures_are_named() -> None:
    with pytest.raises(Failed) as caught, naming("operation"):
        os.rmdir("/absent/x")
    assert caught.value.to_json() == {
        "op": "operation",
        "errno": 2,
        "message": "No such file or directory",
    }
    with pytest.raises(ZeroDivisionError), naming("operation"):
        _ = 1 / 0


def test_calls_name_themselves() -> None:
    with pytest.raises(OSError, match="umount2: "):
        syscalls.umount(b"/absent/mount")
    with pytest.raises(OSError, match="not supported"):
        syscalls.call("no such call")


def test_too_many_layers_for_an_old_kernel_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("unshare", "set_propagation"):
        monkeypatch.setattr(syscalls, name, lambda _: None)
    lowers = [os.fsencode(tmp_path)] * 300
    with pytest.raises(OSError, match="cannot stack 300 layers"):
        overlay.by_path(lowers, None, None)


@pytest.mark.parametrize("link", [b"loop", b"./loop", b"/loop"])
def test_stubs_do_not_chase_links_for_ever(tmp_path: Path, link: bytes) -> None:
    os.symlink(link, os.fsencode(tmp_path) + b"/loop")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    with pytest.raises(OSError):
        stubs.Stubs(root).ensure([(b"loop", False)])
    os.symlink(b"x/../" * 10 + b"away", os.fsencode(tmp_path) + b"/away")
    with pytest.raises(OSError):
        stubs.Stubs(root).ensure([(b"away", False)])
    os.close(root)


def test_stubs_of_dangling_links_are_made_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # and back: the folder changes
    root_path = tmp_path / "root"
    (root_path / "etc").mkdir(parents=True)
    (root_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub.conf")
    (root_path / "etc/hosts").symlink_to(tmp_path / "outside")
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY)
    made = stubs.Stubs(root)
    made.ensure([(b"etc/resolv.conf", False), (b"etc/hosts", False), (b"proc", True)])
    assert (root_path / "run/systemd/resolve/stub.conf").is_file()
    assert not (tmp_path / "outside").exists()
    made.remove()
    assert sorted(os.listdir(root_path)) == ["etc"]
    os.close(root)


def test_stubs_that_were_used_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    made = stubs.Stubs(root)
    made.ensure([(b"a/file", False), (b"b/folder", True), (b"c", True)])
    (tmp_path / "a/file").write_text("used")
    (tmp_path / "b/folder/x").touch()
    made.remove()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    os.close(root)


def test_requests_are_answered_in_their_own_processes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = """
import os, socket, sys
sys.path.append(sys.argv[2])
from imgbuild.sandbox.child import serve
def pid(params, fds):
    return {"pid": os.getpid(), "read": [os.read(fd, 9).decode() for fd in fds]}
serve.serve(socket.socket(fileno=int(sys.argv[1])), {"pid": pid, "die": lambda p, f: os._exit(3)})
"""
    command = [sys.executable, "-SI", "-c", code, str(theirs.fileno()), _FOLDER]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        reading, writing = os.pipe()
        os.write(writing, b"hello")
        wire.send(ours, {"id": 1, "verb": "pid", "params": {}}, [reading])
        first = wire.receive(ours)
        wire.send(ours, {"id": 2, "verb": "pid", "params": {}})
        second = wire.receive(ours)
        wire.send(ours, {"id": 3, "verb": "die", "params": {}})
        third = wire.receive(ours)
        wire.send(ours, {"id": 4, "verb": "absent", "params": {}})
        fourth = wire.receive(ours)
        ours.shutdown(socket.SHUT_RDWR)
        assert process.wait(10) == 0
        os.close(reading)
        os.close(writing)
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    assert first[0]["result"]["read"] == ["hello"]
    assert len({first[0]["result"]["pid"], second[0]["result"]["pid"], process.pid}) == 3
    assert "status 3" in third[0]["error"]["message"]
    assert fourth[0]["error"]["kind"] == "KeyError"


def test_errors_are_described_with_their_hints() -> None:
    class WithHint(Exception):
        message = "what"
        hint = "do"

    assert serve.describe(WithHint()) == {"kind": "WithHint", "message": "what", "hint": "do"}
    described = serve.describe(OSError(28, "full"))
    assert (described["kind"], described["errno"]) == ("OSError", 28)
    assert serve.describe(Failed("overlay", "no", 1))["op"] == "overlay"
