"""What BuildKit really builds, for every golden case that runs no command: layers, config, history.

The files are read in place; they are the observed output of buildkitd.
"""

import base64
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imgbuild.errors import ImgbuildError
from imgbuild.oci.platform import Platform
from imgbuild.store.store import Store
from tests.unit.build.building import build, config, content, members

VECTORS = Path(os.environ.get("IMGBUILD_VECTORS", Path(__file__).parents[4] / "shared" / "vectors"))
GOLDEN = VECTORS / "golden"
EPOCH = 1700000000
AMD64 = Platform("linux", "amd64")
# What imgbuild does not do yet, and says so.
UNSUPPORTED = "is not supported yet"
# Errors say more, or name the path; the words of BuildKit must be in them.
VARYING = ("ref ", "@STATE@", "@CTX@")


def usable(case: dict[str, Any]) -> bool:
    text = case["dockerfile"]
    simple = not case.get("opts") and not case.get("args") and not case.get("attrs")
    needs_base = any(
        line.split()[0].upper() == "FROM" and "scratch" not in line
        for line in text.splitlines()
        if line.split()
    )
    return (
        simple
        and not case.get("env")
        and not case.get("exporter")
        and case.get("sde", True)
        and not needs_base
        and "\nRUN" not in text
    )


def cases() -> list[Any]:
    found = []
    for path in sorted(GOLDEN.glob("*.json")) if GOLDEN.is_dir() else []:
        case = json.loads(path.read_text())
        if "dockerfile" in case and usable(case):
            found.append(pytest.param(case, id=path.stem))
    return found


def write_files(context: Path, case: dict[str, Any]) -> None:
    (context / "Dockerfile").write_text(case["dockerfile"])
    for name, value in (case.get("files") or {}).items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        spec = {"data": value} if isinstance(value, str) else value
        if "symlink" in spec:
            path.symlink_to(spec["symlink"])
            continue
        if "hardlink" in spec:
            path.hardlink_to(context / spec["hardlink"])
        elif spec.get("dir"):
            path.mkdir(exist_ok=True)
        elif "b64" in spec:
            path.write_bytes(base64.b64decode(spec["b64"]))
        else:
            path.write_text(spec["data"])
        path.chmod(spec.get("mode", 0o755 if path.is_dir() else 0o644))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="no vectors here")
def test_there_are_cases() -> None:
    assert len(cases()) > 20


@pytest.mark.parametrize("case", cases())
def test_builds_what_buildkit_builds(case: dict[str, Any], store: Store, context: Path) -> None:
    write_files(context, case)
    failed: ImgbuildError | None = None
    try:
        built = build(store, context, case["dockerfile"], clamp=EPOCH, platform=AMD64)
    except ImgbuildError as error:
        failed = error
    if failed is not None:
        if UNSUPPORTED in failed.message:
            pytest.skip(f"cannot apply: {failed.message}")
        assert case["exit"] != 0, failed.message
        assert failed.span is not None
        check_error(case["error"], failed.message)
        return
    assert case["exit"] == 0, case.get("error")
    image = case["image"]
    assert config(store, built)["config"] == image["config"]["config"]
    assert config(store, built).get("history") == image["config"]["history"]
    assert config(store, built).get("created") == image["config"]["created"]
    golden = image.get("layers") or []
    assert len(built.layers) == len(golden)
    for number, layer in enumerate(golden):
        wanted = layer["entries"] if isinstance(layer, dict) else layer
        assert [seen(m) for m in members(store, built, number)] == [known(e) for e in wanted]
        for entry in wanted:
            if "data" in entry and entry["size"]:
                assert content(store, built, entry["name"], number) == entry["data"].encode()


def check_error(golden: str, message: str) -> None:
    words = golden.splitlines()[-1].removeprefix("error: failed to solve: ")
    if not any(mark in words for mark in VARYING):
        assert message.startswith(words)
        return
    head = words.partition(" ")[0]
    assert message.startswith(head)
    if words.endswith("not found"):
        assert message.endswith(words.rpartition('": ')[0].rpartition(" ")[2] + '": not found')


def known(entry: dict[str, Any]) -> tuple[Any, ...]:
    return (
        entry["name"].rstrip("/"),
        entry["type"],
        int(entry["mode"], 8),
        entry["uid"],
        entry["gid"],
        entry.get("size", 0),
        entry.get("linkname", ""),
    )


def seen(member: tarfile.TarInfo) -> tuple[Any, ...]:
    kinds = {
        tarfile.REGTYPE: "file",
        tarfile.DIRTYPE: "dir",
        tarfile.SYMTYPE: "symlink",
        tarfile.LNKTYPE: "hardlink",
    }
    assert member.mtime <= EPOCH
    return (
        member.name,
        kinds[member.type],
        member.mode,
        member.uid,
        member.gid,
        member.size,
        member.linkname,
    )
