"""What commands say about owners reaches the layer, whoever builds: root, a user, one with one id."""

import json
from typing import Any

import pytest

from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

# Commands whose layers must be the same, bit for bit; they start in /work of the test's base.
SAME = {
    "chown": "chown 3:4 a; chown 5 d; chgrp 6 d/x; chown -R 7:8 e; chmod 4755 a; chmod 2750 d",
    "bits": "chmod 6755 a; chown 3 a; chmod 4644 b; chown :3 b; chmod 7777 d; chown 1:1 d",
    "symlinks": "chown -h 3:4 link; ln -s nowhere new; chown -h 5:6 new; chown 9:9 link; mv new n2",
    "hard links": "ln a a2; chown 3:4 a2; chown 5:6 hard; rm b; mv hard elsewhere",
    "moves": "chown 3:4 a d/x; mv a a2; mv d/x d/sub/x2; mkdir n; chown 5:6 n; mv n n2; touch n2/f",
    "FIFOs": "mkfifo p q; chown 3:4 p; ln p p2; chmod 600 q",
    "archive": "tar -xf /owned.tar; ls -l",
    "copies": "mkdir c; chown 3:4 c; cp -a e c/; cp a c/a; chown -R 5:6 c/e",
    "set-group-ID": (
        "mkdir -m 2775 s; chown 0:50 s; chmod 2775 s; mkdir -p s/b/c; touch s/f; ln -s f s/l; "
        "mkfifo s/p; touch s/mine; chown 7:0 s/mine; chown 8:50 s/f; mkdir s/out; chmod g-s s/out; touch s/out/f"
    ),
    "back to root": "chown 3:4 a d; chown 0:0 a d; chown 5:5 b; rm b; echo x > b",
    "replaced": "chown 3:4 a; echo new > n; mv n a; chown 5:6 e/v; cp e/v e/w; cat a > e/v",
    "in place": "chown 3:4 a; sed -i s/content/x/ a; chmod 600 a",
    "lower owners": "sed -i s/o/0/ /owned/file; mv /owned/link /owned/l2; echo x >> /owned/two; chmod 700 /owned",
    "lower owner taken": "chown 0:0 /owned/file; chown -h 0:0 /owned/link; chown 4:2 /owned",
    "lower replaced": "rm /owned/file; echo x > /owned/file; rm /owned/link; ln -s x /owned/link",
    "unchanged": "chown 0:0 a d e/v; chown 3:4 /owned/file; chown -h 5:6 /owned/link",
    "apt copied": "cp -a /etc/apt /copied; chmod 755 /etc/apt/apt.conf.d/*; ls /etc/apt >/dev/null",
    "apt removed": "rm /etc/apt/apt.conf.d/*; rm -r /etc/apt; mkdir -p /etc/apt/apt.conf.d",
    "apt emptied": "rm /etc/apt/apt.conf.d/*; ls -A /etc/apt/apt.conf.d; echo x > /etc/apt/apt.conf.d/y",
}
# The same for a command that runs as 1000:1001.
SAME_AS_USER = {
    "new": "mkdir mine/d; echo x > mine/f; ln -s f mine/l; mkfifo mine/p; cp -a mine/f mine/g",
    "own": "echo x >> mine/old; chmod 600 mine/old; mv mine/old mine/o2; rm -rf mine/folder",
    "given": "chown 1000:1001 mine/old; chown -R 1000 mine; touch mine/old",
    "group": "touch mine/f mine/shared/f; mkdir mine/shared/d; chgrp 1001 mine/f",
}

_RUN = """
import io, json, os, sys, tarfile
from pathlib import Path
from imgbuild.sandbox.spec import SandboxSpec
from tests.rootless.snapshots import ENV, OLD, Shelf, archive, info, add_file

def owned(info, uid, gid):
    info.uid, info.gid = uid, gid
    return info

def link(name, text, uid, gid):
    made = owned(info(name, tarfile.SYMTYPE), uid, gid)
    made.linkname = text
    return made

def fill(tar):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as small:
        small.addfile(owned(info("t", tarfile.DIRTYPE, 0o2755), 7, 8))
        small.addfile(link("t/link", "x", 11, 12))
        small.addfile(owned(info("t/f", tarfile.REGTYPE), 9, 10))
        small.addfile(owned(info("t/suid", tarfile.REGTYPE, 0o4755), 13, 14))
    tar.addfile(info("etc/apt/apt.conf.d", tarfile.DIRTYPE, 0o755))
    add_file(tar, "etc/apt/apt.conf.d/image", b"of the image")
    add_file(tar, "owned.tar", inner.getvalue())
    tar.addfile(owned(info("owned", tarfile.DIRTYPE, 0o755), 1, 2))
    for name in ("owned/file", "owned/two"):
        made = owned(info(name, tarfile.REGTYPE), 3, 4)
        made.size = 5
        tar.addfile(made, io.BytesIO(b"owned"))
    tar.addfile(link("owned/link", "file", 5, 6))
    tar.addfile(owned(info("work/mine", tarfile.DIRTYPE, 0o755), 1000, 1001))
    tar.addfile(owned(info("work/mine/old", tarfile.REGTYPE), 1000, 1001))
    tar.addfile(owned(info("work/mine/folder", tarfile.DIRTYPE, 0o755), 1000, 1001))
    tar.addfile(owned(info("work/mine/shared", tarfile.DIRTYPE, 0o2775), 1000, 1001))

def run(shelf, layers, script, uid, gid):
    with shelf.roots.workspace(layers) as workspace:
        reader, writer = os.pipe()
        spec = SandboxSpec(("/bin/sh", "-euc", script), ENV, cwd="/work", uid=uid, gid=gid)
        running = workspace.run(spec, stdin=writer, stdout=writer, stderr=writer)
        os.close(writer)
        with open(reader, "rb") as stream:
            said = stream.read().decode()
        status = running.wait()
        layer, entries = shelf.changes(workspace, clamp=OLD, settle=True)
        told = [[e.path.decode(), e.type, oct(e.mode), e.uid, e.gid, e.rdev, e.mtime, e.size] for e in entries]
        return layer, {"status": status, "said": said, "entries": told, "digest": layer.diff_id}

with Shelf(Path(sys.argv[1])) as shelf:
    layers = [shelf.base(), shelf.add(archive(fill))]
    results = {}
    for name, (script, uid, gid) in json.loads(sys.argv[2]).items():
        layer, results[name] = run(shelf, layers, script, uid, gid)
        # A later command on top of that, which touches all of it.
        again = "chmod -R u+s /work; find /owned -exec touch -h -d @1 {} +"
        _, results[name + " again"] = run(shelf, [*layers, layer], again, 0, 0)
    print(json.dumps(results))
"""

_Results = dict[str, dict[str, Any]]


def _played(who: Who, factory: pytest.TempPathFactory) -> _Results:
    cases = {name: (script, 0, 0) for name, script in SAME.items()}
    cases |= {name: (script, 1000, 1001) for name, script in SAME_AS_USER.items()}
    with folder_of(who, factory.mktemp("owners")) as place:
        played = python_as(who, _RUN, place, json.dumps(cases), timeout=300).stdout
    results: _Results = json.loads(played)
    return results


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> _Results:
    return _played("subids", tmp_path_factory)


@pytest.fixture(scope="module", params=["self", "single"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Results:
    return _played(request.param, tmp_path_factory)


@pytest.mark.parametrize("again", ["", " again"])
@pytest.mark.parametrize("name", [*SAME, *SAME_AS_USER])
def test_layers_are_the_same(found: _Results, expected: _Results, name: str, again: str) -> None:
    assert expected[name + again]["status"] == 0, expected[name + again]["said"]
    assert found[name + again]["status"] == 0, found[name + again]["said"]
    assert found[name + again]["entries"] == expected[name + again]["entries"]
    assert found[name + again]["digest"] == expected[name + again]["digest"]
