"""Images of this machine's own programs: what they hold, and that they hold still."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from imgbuild.build.elf import read_elf
from imgbuild.build.hostbase import LABEL, host_image
from imgbuild.build.hosttree import HostTree, find_program
from imgbuild.build.stack import LayerStack
from imgbuild.errors import UsageError
from imgbuild.snapshot.view import RootView
from imgbuild.store.store import Store
from tests.unit.build.building import SEARCH_PATH


def looked_into(
    store: Store, *programs: str, path: str = SEARCH_PATH
) -> tuple[RootView, dict[str, str]]:
    image, _ = host_image(store, programs, path)
    return LayerStack(store).view(image.layers), dict(image.config.run.env)


def test_a_shell_and_what_it_loads(store: Store) -> None:
    view, env = looked_into(store, "sh", "ls")
    real = view.resolve(b"bin/sh")
    entry = view.lstat(real)
    assert entry is not None
    assert (entry.type, entry.mode & 0o111, entry.uid, entry.gid) == ("file", 0o111, 0, 0)
    elf = read_elf("/" + real.decode())
    assert elf is not None
    if elf.interpreter:
        loader = view.lstat(view.resolve(elf.interpreter.encode()))
        assert loader is not None
        assert loader.type == "file"
    names = {path.rpartition(b"/")[2].decode() for path, _ in view.walk(b"")}
    assert set(elf.needed) <= names
    assert env["PATH"] == SEARCH_PATH
    tmp = view.lstat(b"tmp")
    assert tmp is not None
    assert tmp.mode == 0o1777
    assert {(e.uid, e.gid) for _, e in view.walk(b"")} == {(0, 0)}
    assert not any(e.mode & 0o6000 for _, e in view.walk(b""))
    with view.open(b"etc/passwd") as stream:
        assert stream.read().startswith(b"root:x:0:0:root:/root:")
    view.close()


def test_the_same_files_give_the_same_image(store: Store, tmp_path: Path) -> None:
    first, made = host_image(store, ("sh",), SEARCH_PATH)
    assert made
    again, made = host_image(store, ("sh",), SEARCH_PATH)
    assert not made
    with Store.open(tmp_path / "other") as other:
        elsewhere, _ = host_image(other, ("sh",), SEARCH_PATH)
    assert first.digest == again.digest == elsewhere.digest
    assert first.config.run.labels[LABEL] == "host"


def test_a_changed_program_is_another_image(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mine"
    shutil.copy(os.path.realpath("/bin/sh"), program)
    path = f"{folder}:{SEARCH_PATH}"
    first, _ = host_image(store, ("mine",), path)
    program.unlink()
    shutil.copy(os.path.realpath(shutil.which("ls") or "/bin/ls"), program)
    second, made = host_image(store, ("mine",), path)
    assert made
    assert first.digest != second.digest
    view = LayerStack(store).view(second.layers)
    link = view.lstat(b"usr/local/bin/mine")
    assert link is not None
    assert link.linkname == os.fsencode(program)


def test_python_brings_its_library_and_no_more(store: Store) -> None:
    python = Path(os.path.realpath(sys.executable))
    view, env = looked_into(store, "sh", "python3", path=f"{python.parent}:{SEARCH_PATH}")
    paths = {path for path, _ in view.walk(b"")}
    library = os.fsencode(os.path.dirname(os.__file__)).strip(b"/")
    assert library + b"/os.py" in paths
    assert library + b"/json/decoder.py" in paths
    assert not any(b"site-packages" in p or b"__pycache__" in p or b"/test/" in p for p in paths)
    assert env["PYTHONDONTWRITEBYTECODE"] == "1"
    size = sum(entry.size for _, entry in view.walk(b""))
    assert size < 120 << 20


def test_a_virtual_environment_leads_to_the_real_installation(store: Store, tmp_path: Path) -> None:
    venv = tmp_path / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python3").symlink_to(sys.executable)
    view, _ = looked_into(store, "python3", path=f"{venv}:{SEARCH_PATH}")
    real = os.path.realpath(sys.executable)
    assert view.resolve(b"usr/local/bin/python3") == os.fsencode(real).strip(b"/")
    assert view.lstat(os.fsencode(venv).strip(b"/")) is None


def test_scripts_bring_their_interpreter(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "hello"
    script.write_text("#!/usr/bin/env sh\necho hello\n")
    script.chmod(0o755)
    view, _ = looked_into(store, str(script))
    assert view.lstat(view.resolve(b"usr/bin/env")) is not None
    assert view.lstat(view.resolve(b"bin/sh")) is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-program", "there is no program no-such-program"),
        ("./relative", "neither a name nor an absolute path"),
        ("/etc/passwd", "there is no program"),
    ],
)
def test_programs_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_program(name, SEARCH_PATH)


def test_no_programs_at_all(store: Store) -> None:
    with pytest.raises(UsageError, match="names no programs"):
        host_image(store, (), SEARCH_PATH)


def test_a_damaged_program(store: Store, tmp_path: Path) -> None:
    for data in (b"\x7fELF", b"\x7fELF" + b"\xff" * 200, b"no program at all"):
        broken = tmp_path / "broken"
        broken.write_bytes(data)
        broken.chmod(0o755)
        with pytest.raises(UsageError, match="neither an ELF program nor a script"):
            HostTree().add_program(str(broken), SEARCH_PATH)
    assert list(store.paths.staging.iterdir()) == []


def test_nothing_is_read_again_while_nothing_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    host_image(store, ("sh",), SEARCH_PATH)

    def refuse(*_: object) -> None:
        raise AssertionError("a program was read")

    monkeypatch.setattr(HostTree, "add_program", refuse)
    assert host_image(store, ("sh",), SEARCH_PATH)[1] is False


def test_a_version_managers_shim_is_passed_over(tmp_path: Path) -> None:
    for folder in ("shims", "real"):
        (tmp_path / folder).mkdir()
    shim, real = tmp_path / "shims/python3", tmp_path / "real/python3"
    shim.write_text("#!/bin/sh\nexec manager python3\n")
    shim.chmod(0o755)
    real.write_bytes(Path(sys.executable).read_bytes())
    real.chmod(0o755)
    assert find_program("python3", f"{shim.parent}:{real.parent}") == str(real)
    assert find_program("python3", str(shim.parent)) == sys.executable
    shim.rename(shim.with_name("tool"))
    assert find_program("tool", str(shim.parent)) == str(shim.with_name("tool"))
