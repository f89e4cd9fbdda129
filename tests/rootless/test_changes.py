"""A layer of what a command did, on top of its base, is what the command left behind."""

import json
import random
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.support.users import Who, folder_of, python_as

pytestmark = pytest.mark.rootless

_W, _F, _D, _L, _H = "whiteout", "file", "dir", "symlink", "hardlink"

# What a command does in /work (its times do not change there unless said), and what its layer says.
CASES: dict[str, tuple[str, list[tuple[str, str]] | None]] = {
    "nothing": ("true", []),
    "read": ("cat a d/x >/dev/null; ls -lR . >/dev/null", []),
    "new file": ("echo new > n", [(_D, ""), (_F, "n")]),
    "removed file": ("rm a", [(_D, ""), (_W, "a")]),
    "removed tree": ("rm -r d", [(_D, ""), (_W, "d")]),
    "made and removed": ("echo x > n; rm n", [(_D, "")]),
    "opened for writing": ("true 3<> a; true 3<> d/sub/z", []),
    "same mode": ("chmod 644 a d/x; chmod 755 d d/sub", []),
    "other mode": ("chmod 4755 d/x", [(_D, ""), (_D, "d"), (_F, "d/x")]),
    "mode of a directory": ("chmod 700 d/sub", [(_D, ""), (_D, "d"), (_D, "d/sub")]),
    "appended": ("echo more >> e/v", [(_D, ""), (_D, "e"), (_F, "e/v")]),
    "removed and made again": (
        "rm -r d; mkdir d; echo x > d/n",
        [(_D, ""), (_D, "d"), (_F, "d/n"), (_W, "d/sub"), (_W, "d/x"), (_W, "d/y")],
    ),
    "made again with the same names": (
        "rm -r d; mkdir -p d/sub; echo x > d/sub/n",
        None,
    ),
    "emptied": ("rm -r d/*", [(_D, ""), (_D, "d"), (_W, "d/sub"), (_W, "d/x"), (_W, "d/y")]),
    "file to directory": ("rm a; mkdir a; echo x > a/n", [(_D, ""), (_D, "a"), (_F, "a/n")]),
    "directory to file": ("rm -r d; echo x > d", [(_D, ""), (_F, "d")]),
    "directory to link": ("rm -r d; ln -s e d", [(_D, ""), (_L, "d")]),
    "link to directory": ("rm link; mkdir link", [(_D, ""), (_D, "link")]),
    "other link": ("ln -sfn d/y link", [(_D, ""), (_L, "link")]),
    "moved file": ("mv a z", [(_D, ""), (_W, "a"), (_F, "z")]),
    "moved directory": ("mv e f", [(_D, ""), (_W, "e"), (_D, "f"), (_F, "f/v")]),
    "replaced by a move": ("echo x > n; mv n a", [(_D, ""), (_F, "a")]),
    "new hard links": (
        "echo x > m; ln m d/n; ln m l",
        [(_D, ""), (_D, "d"), (_F, "d/n"), (_H, "l"), (_H, "m")],
    ),
    "hard link to a base file": ("ln a l", [(_D, ""), (_F, "a"), (_H, "l")]),
    "one name of a base hard link": ("chmod 600 hard", [(_D, ""), (_F, "hard")]),
    "pipe": ("mkfifo p", [(_D, ""), ("fifo", "p")]),
    "other owners": (
        "ln -s x own; mkdir o; chown 5:6 d/x o || :; chown -h 65534:65535 own || :",
        None,
    ),
    "times": ("touch -d @5 d/x; touch -d @1000000001 e", None),
    "odd names": (
        "echo x > \"$(printf 'n\\377')\"; echo x > 'a b'; echo x > \"$(printf 'l\\nm')\"",
        None,
    ),
    "large sticky setgid": ("mkdir s; chmod 3777 s; echo x > s/n; chmod 2755 s/n", None),
}

_RUN = """
import json, sys
from pathlib import Path
from tests.rootless.snapshots import check
json.dump(check(Path(sys.argv[1]), json.loads(sys.argv[2])), sys.stdout)
"""


@pytest.fixture(scope="module", params=["self", "subids", "single"])
def who(request: pytest.FixtureRequest) -> Who:
    return cast(Who, request.param)


@pytest.fixture(scope="module")
def results(who: Who, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    scripts = {name: f"cd /work; {script}" for name, (script, _) in CASES.items()}
    with folder_of(who, tmp_path_factory.mktemp("changes")) as place:
        yield json.loads(python_as(who, _RUN, place, json.dumps(scripts), timeout=300).stdout)


@pytest.mark.parametrize("name", CASES)
def test_what_a_layer_says(results: dict[str, Any], name: str) -> None:
    result = results[name]
    expected = CASES[name][1]
    if expected is not None:
        here = [(kind, "work" + ("/" + path if path else "")) for kind, path in expected]
        told = [tuple(entry) for entry in result["entries"]]
        # Directories come when their time changed, too; only the outermost is always told.
        assert [e for e in told if e[0] != _D or e in here] == here
        assert {path for kind, path in told if kind == _D} <= {"work", *_parents(here)}
    assert result["unpacked"] == []
    assert result["kept"] == []
    assert result["view"] == []
    assert result["steady"]


def _parents(entries: list[tuple[str, str]]) -> set[str]:
    return {path for kind, path in entries if kind == _D}


def random_script(seed: int) -> str:
    """Write many small changes that lie on top of each other."""
    chance = random.Random(seed)
    names = ["a", "b", "hard", "link", "d", "e", "d/x", "d/sub", "d/sub/z", "d/sub/deep", "n"]
    names += ["d/n", "e/v", "e/n", "n/m", "d/sub/n", "empty", "empty/n"]
    forms = [
        "rm -rf {0}",
        "mkdir {0}",
        "mkdir -p {0}",
        "echo {1} > {0}",
        "echo more >> {0}",
        "mv {0} {1}",
        "ln {0} {1}",
        "ln -s {1} {0}",
        "chmod 75{2} {0}",
        "touch {0}",
        "touch -d @{2}00000000 {0}",
        "cp -P {0} {1}",
        "rmdir {0}",
    ]
    lines = []
    for _ in range(60):
        form = chance.choice(forms)
        lines.append(form.format(*chance.sample(names, 2), chance.randrange(8)))
    return "cd /work; " + "; ".join(f"{{ {line}; }} 2>/dev/null || :" for line in lines)


@pytest.fixture(scope="module")
def random_results(who: Who, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    scripts = {str(seed): random_script(seed) for seed in range(20)}
    with folder_of(who, tmp_path_factory.mktemp("random")) as place:
        yield json.loads(python_as(who, _RUN, place, json.dumps(scripts), timeout=300).stdout)


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_of_changes(random_results: dict[str, Any], seed: int) -> None:
    result = random_results[str(seed)]
    assert result["entries"]
    assert result["unpacked"] == []
    assert result["kept"] == []
    assert result["view"] == []
    assert result["steady"]
