"""What happens to snapshots, played by any user in a process of its own; results are JSON."""

import io
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from imgbuild.errors import DigestMismatchError, ImageError, ImgbuildError
from imgbuild.sandbox.spec import SandboxSpec
from tests.rootless.snapshots import OLD, Shelf, add_file, archive, info


def nothing_to_do(place: Path) -> dict[str, Any]:
    started = []
    shelf = Shelf(place)
    start = shelf.roots._start
    shelf.roots._start = lambda steps: started.append(1) or start(steps)  # type: ignore[func-returns-value]
    with shelf.roots:
        shelf.roots.unpack([])
    return {"started": bool(started), "left": os.listdir(shelf.steps)}


def twice(place: Path) -> dict[str, Any]:
    with Shelf(place) as shelf:
        layers = [shelf.base(), *(shelf.add(_one_file(f"f{n}", "x")) for n in range(2))]
        paths = shelf.roots.unpack([*layers, layers[0]])
        again = shelf.roots.unpack(layers)
        return {"opened": len(shelf.opened), "same": paths[:3] == again and paths[3] == paths[0]}


def depending_layers(place: Path) -> dict[str, Any]:
    def lower(tar: tarfile.TarFile) -> None:
        tar.addfile(info("tmp", tarfile.DIRTYPE, 0o1777))
        add_file(tar, "a", b"content")
        add_file(tar, "large", b"x" * 5_000_000)

    def upper(tar: tarfile.TarFile) -> None:
        add_file(tar, "tmp/new", b"content")
        link = info("b", tarfile.LNKTYPE)
        link.linkname = "a"
        tar.addfile(link)

    with Shelf(place) as shelf:
        layers = [shelf.base(), shelf.add(archive(lower)), shelf.add(archive(upper))]
        found = shelf.scan_layers(*layers)
        with shelf.roots.workspace(layers) as workspace:
            seen = shelf.run(workspace, "cat b; echo; cat tmp/new; echo")
            linked = workspace.open(b"b").read().decode()
        return {
            "linked": linked,
            "mode of a directory that the layer left out": int(found["tmp"][0], 8) & 0o7777,
            "seen by a command": seen,
        }


class _Failing(io.BytesIO):
    """A stream that gives all it has, then says that it was not what it should be."""

    def __init__(self, data: bytes, error: Exception) -> None:
        super().__init__(data)
        self._error = error

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            raise self._error
        return data


def bad_layers(place: Path) -> dict[str, Any]:
    good = _one_file("a", "content" * 100_000)
    bad: dict[str, Callable[[], BinaryIO]] = {
        "cut short": lambda: io.BytesIO(good[:300_000]),
        "not a tar": lambda: io.BytesIO(b"x" * 300_000),
        "wrong at its end": lambda: _Failing(good, DigestMismatchError("other content")),
        "disk error": lambda: _Failing(good[:300_000], OSError(5, "Input/output error")),
    }
    result: dict[str, Any] = {}
    for how, opener in bad.items():
        (place / how).mkdir()
        with Shelf(place / how) as shelf:
            layer = shelf.add(good)
            intact = shelf.open_layer
            shelf.open_layer = lambda _, opener=opener: opener()  # type: ignore[misc]
            error: Exception | None = None
            try:
                shelf.roots.unpack([layer])
            except (ImgbuildError, OSError) as caught:
                error = caught
            folder = shelf.trees / shelf.idmap.key
            result[how] = {
                "error": type(error).__name__,
                "message": str(error),
                "trees": [name for name in os.listdir(folder) if not name.endswith(".mark")],
            }
            shelf.open_layer = intact
            result[how]["again"] = (shelf.roots.unpack([layer])[0] / "a").exists()
    return result


def bad_layer_below(place: Path) -> str:
    with Shelf(place) as shelf:
        damaged = shelf.add(b"x" * 2000)
        uppers = [shelf.add(_one_file(f"tmp/{n}", str(n))) for n in range(8)]
        try:
            shelf.roots.unpack([damaged, *uppers])
        except ImgbuildError as error:
            layers = shelf.trees / shelf.idmap.key
            unfinished = [name for name in os.listdir(layers) if name.endswith(".new")]
            if not unfinished and "below" not in error.message:
                return "damaged"
            return f"{error.message} {unfinished}"
        return "no error"


def layer_twice(place: Path) -> str:
    with Shelf(place) as shelf:
        one, other = shelf.add(_one_file("f", "top\n")), shelf.add(_one_file("f", "middle\n"))
        with shelf.roots.workspace([shelf.base(), one, other, one]) as workspace:
            return shelf.run(workspace, "cat f")


def no_layers(place: Path) -> dict[str, Any]:
    with Shelf(place) as shelf, shelf.roots.workspace([]) as workspace:
        null = os.open("/dev/null", os.O_RDWR)
        status = workspace.run(
            SandboxSpec(("sh",), ()), stdin=null, stdout=null, stderr=null
        ).wait()
        os.close(null)
        _, entries = shelf.changes(workspace)
        return {"entries": [entry.path.decode() for entry in entries], "status": status}


def keep(place: Path) -> dict[str, Any]:
    with Shelf(place) as shelf:
        base = shelf.base()
        with shelf.roots.workspace([base]) as workspace:
            shelf.run(workspace, "echo kept > work/n; rm work/a")
            layer, _ = shelf.changes(workspace, clamp=OLD, settle=True)
            workspace.keep(layer.diff_id)
        shelf.opened.clear()
        with shelf.roots.workspace([base, layer]) as workspace:
            seen = shelf.run(workspace, "cat work/n; test ! -e work/a")
            times = {
                row[3] for path, row in shelf.scan_layers(base, layer).items() if path == "work/n"
            }
        return {"opened after keeping": shelf.opened, "seen": seen, "times": sorted(times)}


def reserved_name(place: Path) -> str:
    with Shelf(place) as shelf, shelf.roots.workspace([shelf.base()]) as workspace:
        shelf.run(workspace, "echo x > work/.wh.a")
        try:
            shelf.changes(workspace)
        except ImageError as error:
            return error.message
        return "no error"


def open_files(place: Path) -> dict[str, Any]:
    with Shelf(place) as shelf, shelf.roots.workspace([shelf.base()]) as workspace:
        script = "printf new > n; mkdir real; printf inside > real/passwd; ln -s ../../../real out; mkfifo p"
        shelf.run(workspace, script)
        result: dict[str, Any] = {
            "file": workspace.open(b"n").read().decode(),
            "link out of the root": workspace.open(b"out/passwd").read().decode(),
            "refused": [],
        }
        for path in (b"work", b"p", b"missing"):
            try:
                workspace.open(path)
            except ImgbuildError as error:
                result["refused"].append(type(error).__name__)
        return result


def many_steps(place: Path) -> dict[str, Any]:
    uppers = set()
    before = _mounts()
    with Shelf(place) as shelf:
        layer = shelf.base()
        for _ in range(20):
            with shelf.roots.workspace([layer]) as workspace:
                shelf.run(workspace, "echo x > n")
                uppers.add(workspace.rootfs.upper)
                shelf.changes(workspace)
    return {
        "uppers": len(uppers),
        "steps left": os.listdir(shelf.steps),
        "mounts": _mounts() - before,
    }


def remove(place: Path) -> list[str]:
    with Shelf(place) as shelf:
        shelf.roots.unpack([shelf.base()])
        shelf.roots.remove_trees(shelf.trees, shelf.steps, place / "missing")
        return [*os.listdir(shelf.trees), *os.listdir(shelf.steps)]


def stale(place: Path) -> dict[str, Any]:
    with Shelf(place) as shelf:
        layer = shelf.base()
        shelf.roots.unpack([layer])
        mark = shelf.trees / shelf.idmap.key / f"{layer.diff_id.encoded}.mark"
        mark.write_text("another boot")
        shelf.roots._trees._whole.clear()
        shelf.opened.clear()
        with shelf.roots.workspace([layer]) as workspace:
            content = workspace.open(b"work/a").read().decode()
        for request in shelf.roots._background:
            request.join()
        left = [name for name in os.listdir(mark.parent) if ".old" in name]
        return {"opened": len(shelf.opened), "content": content, "left": len(left)}


def contend(place: Path) -> int:
    # The folder is shared: made once, by whoever comes first.
    shelf = Shelf(place)
    layer = shelf.add(_one_file("a", "x" * 3_000_000))
    shelf.roots.unpack([layer])
    shelf.roots.close()
    return len(shelf.opened)


def stall_unpacking(place: Path) -> None:
    class Stalling(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2_000_000:
                _stall(place)
            return super().read(65536)

    shelf = Shelf(place)
    shelf.open_layer = lambda layer: Stalling(shelf.tars[layer.diff_id])
    shelf.roots.unpack([shelf.add(_one_file("work/a", "x" * 5_000_000))])


def stall_running(place: Path) -> None:
    shelf = Shelf(place)
    with shelf.roots.workspace([shelf.base()]) as workspace:
        reader, writer = os.pipe()
        script = "trap '' TERM INT; echo x > n; echo ready; sleep 1000"
        spec = SandboxSpec(("/bin/sh", "-c", script), (("PATH", "/bin"),))
        workspace.run(spec, stdin=reader, stdout=writer, stderr=writer)
        os.read(reader, 1)
        _stall(place)


def stall_changing(place: Path) -> None:
    shelf = Shelf(place)
    with shelf.roots.workspace([shelf.base()]) as workspace:
        shelf.run(workspace, "dd if=/dev/zero of=n bs=1M count=20 2>/dev/null")
        workspace.changes(lambda _: _stall(place), lambda _: None)


def after_a_kill(place: Path) -> dict[str, Any]:
    import shutil

    shutil.rmtree(place / "base", ignore_errors=True)
    with Shelf(place) as shelf:
        shelf.abandoned = list(shelf.steps.iterdir())
        with shelf.roots.workspace([shelf.base()]) as workspace:
            shelf.run(workspace, "test ! -e n")
            seen = workspace.open(b"work/a").read().decode()
        for request in shelf.roots._background:
            request.join()
        names = os.listdir(shelf.trees / shelf.idmap.key)
    return {
        "steps left": os.listdir(shelf.steps),
        "unfinished": [name for name in names if name.endswith(".new")],
        "seen": seen,
    }


def _stall(place: Path) -> None:
    (place / "stalled").touch()
    time.sleep(1000)


def _one_file(name: str, text: str) -> bytes:
    return archive(lambda tar: add_file(tar, name, text.encode()))


def _mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())
