"""What BuildKit really builds, built again: layers, config, history, names of steps, errors.

The files are read in place; they are the observed output of buildkitd. The base image of those
builds is made again from the same parts, since its layers are not in the files.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from imgbuild.errors import ImgbuildError
from imgbuild.events import Event, StepStarted
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.options import STANDARD_PATH
from imgbuild.store.store import Store
from tests.support.roots import is_static
from tests.unit.build.building import build, config, members, uncompressed

VECTORS = Path(
    os.environ.get("IMGBUILD_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)
GOLDEN = VECTORS / "golden"
EPOCH = 1700000000
AMD64 = Platform("linux", "amd64")
BUSYBOX = shutil.which("busybox")
BASE_HISTORY = 5  # what golden/base/Dockerfile leaves

# What does not exist here yet; a case that starts to pass has to leave this list.
NOT_YET = {
    "platform-multi": "several platforms in one build",
    "multi-platform-onearch-flag": "several platforms in one build",
    "from-missing": "the error of a registry, which the tests of registries look at",
}
# BuildKit leaves what it mounts on in the layer of a RUN; nobody asked for it, so it is left out.
MOUNT_POINTS = {"dev", "proc", "sys"}
# What is not the same in every run of BuildKit, or names its own state.
VARYING = re.compile(r" of ref \S+:|@STATE@|@CTX@")


class Case(NamedTuple):
    name: str
    data: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.data["dockerfile"])

    @property
    def runs(self) -> bool:
        return re.search(r"^(ONBUILD )?RUN", self.text, re.MULTILINE) is not None

    @property
    def options(self) -> dict[str, Any]:
        opts = dict(self.data.get("opts", {}))
        arguments = {k.removeprefix("build-arg:"): v for k, v in opts.items() if "build-arg:" in k}
        if self.data.get("sde", True):
            arguments["SOURCE_DATE_EPOCH"] = str(EPOCH)
        return {
            "build_args": arguments,
            "labels": {k.removeprefix("label:"): v for k, v in opts.items() if "label:" in k},
            "target": opts.get("target"),
            "platform": parse_platform(opts.get("platform", "linux/amd64"), AMD64),
        }

    def contexts(self, context: Path) -> dict[str, str]:
        extra = " ".join(self.data.get("args", ())).replace("@CTX@", str(context))
        names = dict(re.findall(r"context:(\w+)=local:(\w+)", extra))
        return {
            name: found[1]
            for name, local in names.items()
            if (found := re.search(rf"--local {local}=(\S+)", extra))
        }


def cases() -> list[Any]:
    found = []
    for path in sorted(GOLDEN.glob("*.json")):
        case = Case(path.stem, json.loads(path.read_text()))
        if path.stem not in NOT_YET:
            marks = [pytest.mark.rootless] if case.runs else []
            found.append(pytest.param(case, id=path.stem, marks=marks))
    return found


CASES = cases()
pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors at {GOLDEN}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("golden") / "store") as opened, opened.build_lock():
        yield opened


@pytest.fixture(scope="module")
def busybox(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Put the base of these builds into the store and return its digest."""
    if BUSYBOX is None or not is_static(Path(BUSYBOX)):
        pytest.skip("cannot apply: this machine has no static busybox")
    root = tmp_path_factory.mktemp("busybox")
    for folder in ("bin", "etc", "tmp", "root", "home"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    for name in applets.stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("/bin/busybox")
    for name in ("passwd", "group"):
        shutil.copy(GOLDEN / "base" / name, root / "etc" / name)
    # As many lines of history as the real one has; what they say is not looked at.
    more = f"ENV PATH={STANDARD_PATH}\n" * (BASE_HISTORY - 2)
    built = build(store, root, f'FROM scratch\nCOPY . /\n{more}CMD ["sh"]\n', platform=AMD64)
    store.names.tag("docker.io/library/busybox:latest", built.descriptor)
    return str(built.descriptor.digest)


def write_files(context: Path, case: Case) -> None:
    (context / "Dockerfile").write_text(case.text)
    for name, value in (case.data.get("files") or {}).items():
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
        elif spec.get("busybox"):
            if BUSYBOX is None:
                pytest.skip("cannot apply: this machine has no static busybox")
            shutil.copy(BUSYBOX, path)
        elif "b64" in spec:
            path.write_bytes(base64.b64decode(spec["b64"]))
        else:
            path.write_text(spec["data"])
        path.chmod(spec.get("mode", 0o755 if path.is_dir() or "busybox" in spec else 0o644))


@pytest.mark.parametrize("case", CASES)
def test_builds_what_buildkit_builds(
    case: Case, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    digest = ""
    if re.search(r"^FROM (?!scratch)", case.text, re.MULTILINE):
        digest = request.getfixturevalue("busybox")
    write_files(tmp_path, case)
    events: list[Event] = []
    epoch = EPOCH if case.data.get("sde", True) else None

    def make() -> Any:
        return build(
            store, tmp_path, case.text, contexts=case.contexts(tmp_path), clamp=epoch,
            events=events.append, **case.options,
        )  # fmt: skip

    if case.data["exit"]:
        with pytest.raises(ImgbuildError) as caught:
            make()
        check_error(case, caught.value)
        return
    built = make()
    names = [event.name for event in events if isinstance(event, StepStarted)]
    assert names == wanted_steps(case, digest)
    check_config(case, config(store, built))
    golden = [entries(layer) for layer in case.data["image"].get("layers") or []]
    omitted = case.data["image"].get("base_layers_omitted", 0)
    own = range(len(built.layers) - len(golden), len(built.layers))
    assert own.start == (1 if omitted else 0)
    for number, wanted in zip(own, golden, strict=True):
        found = list(seen_entries(store, built, number))
        if case.name == "run-stubs":
            wanted = [entry for entry in wanted if entry[0] not in MOUNT_POINTS]  # noqa: PLW2901
        assert found == wanted
        assert all(m.mtime <= EPOCH for m in members(store, built, number)) or epoch is None


def wanted_steps(case: Case, digest: str) -> list[str]:
    own = [step for step in case.data["steps"] if not step.startswith(("[internal]", "[context "))]
    # The two halves of a --link are shown under one name.
    names = [name for name, _ in groupby(own)]
    return [re.sub("@sha256:[0-9a-f]{64}", f"@{digest}", name) for name in names]


def check_config(case: Case, found: dict[str, Any]) -> None:
    wanted = case.data["image"]["config"]
    for key in ("architecture", "os", "variant", "author", "config"):
        assert found.get(key) == wanted.get(key), key
    assert list(found["config"]) == list(wanted["config"]), "order of keys"
    if case.data.get("sde", True):
        assert found.get("created") == wanted.get("created")
    skipped = BASE_HISTORY if case.data["image"].get("base_layers_omitted") else 0
    history = (wanted.get("history") or [])[skipped:]
    own = (found.get("history") or [])[skipped:]
    if not case.data.get("sde", True):
        assert all("created" in entry for entry in own)
        history, own = map(without_times, (history, own))
    assert own == history


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "created"} for entry in history]


def check_error(case: Case, error: ImgbuildError) -> None:
    words = case.data["error"].splitlines()[-1].removeprefix("error: failed to solve: ")
    head, *rest = VARYING.split(words)
    if not rest:
        assert error.message.startswith(words)
    else:
        # Which file it is stays; how BuildKit came there does not.
        assert error.message.startswith(head.partition(": ")[0])
        assert error.message.endswith(rest[-1].rpartition("/")[2].strip() or "")
    frame = case.data.get("frame", "").splitlines()
    marked = [int(line.split("|")[0]) for line in frame if "| >>>" in line]
    assert error.span is not None
    if marked:
        assert [error.span.first, error.span.last] == [marked[0], marked[-1]]
    assert error.source == case.text


Shown = tuple[Any, ...]


def entries(layer: Any) -> list[Shown]:
    found = layer["entries"] if isinstance(layer, dict) else layer
    return [
        (
            entry["name"].rstrip("/"),
            entry["type"],
            int(entry["mode"], 8),
            entry["uid"],
            entry["gid"],
            entry.get("size", 0),
            entry.get("linkname", ""),
            entry.get("sha256", "") if entry.get("size") else "",
            {k: v for k, v in entry.get("pax", {}).items() if "xattr" in k},
        )
        for entry in found
    ]


KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hardlink",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}


def seen_entries(store: Store, built: Any, number: int) -> Iterator[Shown]:
    data = uncompressed(store, built, number)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() and member.size else None
            yield (
                member.name,
                KINDS[member.type],
                member.mode,
                member.uid,
                member.gid,
                member.size,
                member.linkname,
                hashlib.sha256(content.read()).hexdigest() if content else "",
                {k: v for k, v in member.pax_headers.items() if "xattr" in k},
            )


def test_every_case_is_looked_at() -> None:
    assert len(CASES) + len(NOT_YET) == len(list(GOLDEN.glob("*.json")))
