"""The main job from the command line and from Python: build, build again, run, fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import validate
from tests.support.command import PROJECT, environment, imgbuild

QUICKSTART = PROJECT / "testdata" / "quickstart"
BASE = ("--build-context", "base=host://sh,ls,cat,python3")
pytestmark = pytest.mark.rootless


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the quick start's image."""
    path = tmp_path_factory.mktemp("main-job") / "store"
    imgbuild("-t", "my-python-image", *BASE, QUICKSTART, store=path)
    return path


def test_the_quick_start_greets(store: Path) -> None:
    done = imgbuild("run", "my-python-image", store=store)
    assert b"Hello from /app in an image that imgbuild made!" in done.stdout
    assert b"built as user 0 of the container" in done.stdout


def test_the_image_is_valid(store: Path) -> None:
    assert validate.image(store, "my-python-image") == []


def test_run_takes_a_command_and_keeps_its_status(store: Path) -> None:
    done = imgbuild("run", "my-python-image", "sh", "-c", "exit 7", store=store, check=False)
    assert done.returncode == 7


def test_run_passes_standard_input_through(store: Path) -> None:
    done = imgbuild("run", "my-python-image", "cat", store=store, stdin=b"through")
    assert done.stdout == b"through"


def test_run_changes_nothing_that_lasts(store: Path) -> None:
    imgbuild("run", "my-python-image", "sh", "-c", "echo x > /app/new", store=store)
    done = imgbuild("run", "my-python-image", "ls", "/app", store=store)
    assert b"new" not in done.stdout


def test_our_own_failure_in_run_is_125(store: Path) -> None:
    done = imgbuild("run", "no-such-image", store=store, check=False)
    assert done.returncode == 125
    assert b"no-such-image" in done.stderr


def test_an_empty_command_is_refused_before_anything_starts(store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM my-python-image\nENTRYPOINT []\nCMD [""]\n')
    imgbuild("-t", "empty", tmp_path, store=store)
    done = imgbuild("run", "empty", store=store, check=False)
    assert done.returncode == 125
    assert b"error: the command of docker.io/library/empty:latest is an empty text" in done.stderr
    assert imgbuild("run", "empty", "ls", "/app", store=store).stdout


def test_a_build_without_a_name_runs_by_its_digest(store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM my-python-image\nCMD ls /app\n")
    digest = imgbuild("-q", tmp_path, store=store).stdout.decode().strip()
    done = imgbuild("run", digest[:19], store=store)
    assert done.stdout == imgbuild("run", "my-python-image", "ls", "/app", store=store).stdout


_WATCH = """
import sys
started = []
forbidden = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "subprocess.Popen")
sys.addaudithook(lambda event, args: started.append(event) if event in forbidden else None)
from imgbuild.cli.main import main
status = main(sys.argv[1:])
heavy = [m for m in ("requests", "ssl", "cryptography", "rich", "ctypes") if m in sys.modules]
print({"status": status, "started": started, "heavy": heavy})
"""


def test_a_second_build_is_cached_and_starts_nothing(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WATCH, "-t", "my-python-image", "--progress=plain", *BASE]
        + [str(QUICKSTART)],
        capture_output=True,
        text=True,
        env=environment({"IMGBUILD_STORE": str(store)}),
    )
    assert done.stdout.strip() == "{'status': 0, 'started': [], 'heavy': []}", done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith("#")]
    verdicts = [line for line in steps if line.endswith("CACHED") or " DONE" in line]
    assert len(verdicts) >= 3
    assert all(line.endswith("CACHED") for line in verdicts)


def test_a_cached_build_has_the_same_digest(store: Path) -> None:
    first = imgbuild("-q", "-t", "again", *BASE, QUICKSTART, store=store).stdout
    second = imgbuild("-q", "-t", "again", *BASE, QUICKSTART, store=store).stdout
    assert first == second
    assert first.startswith(b"sha256:")


def test_a_changed_file_makes_only_its_step_anew(store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN echo one > /one\nCOPY file /\n")
    (tmp_path / "file").write_text("1")
    imgbuild("-t", "changing", *BASE, tmp_path, store=store)
    (tmp_path / "file").write_text("2")
    done = imgbuild("-t", "changing", "--progress=plain", *BASE, tmp_path, store=store)
    lines = done.stderr.decode().splitlines()
    verdicts = [line.split()[1] for line in lines if line.endswith("CACHED") or " DONE" in line]
    assert verdicts[-2:] == ["CACHED", "DONE"]


def test_no_cache_makes_every_step_anew(store: Path) -> None:
    done = imgbuild("-t", "anew", "--no-cache", "--progress=plain", *BASE, QUICKSTART, store=store)
    lines = done.stderr.decode().splitlines()
    verdicts = [line.split()[1] for line in lines if line.endswith("CACHED") or " DONE" in line]
    assert verdicts == ["CACHED", "DONE", "DONE", "DONE"]  # the first is FROM


def test_a_failing_run_says_what_and_where(store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN echo before; exit 3\n")
    done = imgbuild("-t", "failing", *BASE, tmp_path, store=store, check=False)
    text = done.stderr.decode()
    assert done.returncode == 1
    assert (
        'process "/bin/sh -c echo before; exit 3" did not complete successfully: exit code: 3'
        in text
    )
    assert "   2 | >>> RUN echo before; exit 3" in text
    listed = imgbuild("images", "--json", store=store).stdout
    assert "failing" not in listed.decode()


def test_the_library_builds_too_and_reports_steps(tmp_path: Path) -> None:
    import imgbuild as library

    seen: list[object] = []
    options = library.BuildOptions(
        context=QUICKSTART,
        tags=("from-python",),
        build_contexts={"base": "host://sh,python3"},
        store=tmp_path / "store",
        search_path="/usr/local/bin:/usr/bin:/bin",
    )
    result = library.build(options, events=seen.append)
    assert result.digest.startswith("sha256:")
    assert [step.verdict for step in result.steps][-3:] == ["done"] * 3
    assert all(step.seconds >= 0 for step in result.steps)
    assert len(result.layers) == 4
    assert seen
    again = library.build(
        QUICKSTART,
        tags=["from-python"],
        build_contexts={"base": "host://sh,python3"},
        store=tmp_path / "store",
        search_path="/usr/local/bin:/usr/bin:/bin",
    )
    assert again.digest == result.digest
    library.reset(store=tmp_path / "store")


def test_outputs_and_files(store: Path, tmp_path: Path) -> None:
    imgbuild(
        *("-t", "out", *BASE, QUICKSTART),
        *("--output", f"type=oci,dest={tmp_path / 'oci.tar'}"),
        *("--output", f"type=oci,tar=false,dest={tmp_path / 'layout'}"),
        *("--output", f"type=docker,dest={tmp_path / 'docker.tar'}"),
        *("--iidfile", tmp_path / "iid", "--metadata-file", tmp_path / "meta.json"),
        store=store,
    )
    assert validate.image(tmp_path / "layout", "docker.io/library/out:latest") == []
    details = json.loads(imgbuild("inspect", "out", store=store).stdout)
    metadata = json.loads((tmp_path / "meta.json").read_text())
    assert metadata["containerimage.digest"] == details["digest"]
    assert (tmp_path / "iid").read_text() == details["manifest"]["config"]["digest"]
    assert metadata["containerimage.config.digest"] == details["manifest"]["config"]["digest"]
    assert (tmp_path / "oci.tar").stat().st_size > 0
    assert (tmp_path / "docker.tar").stat().st_size > 0


def test_names_can_be_added_and_removed(store: Path) -> None:
    imgbuild("tag", "my-python-image", "other:1", store=store)
    assert b"other:1" in imgbuild("images", store=store).stdout
    imgbuild("rm", "other:1", store=store)
    assert b"other:1" not in imgbuild("images", store=store).stdout
    missing = imgbuild("rm", "other:1", store=store, check=False)
    assert missing.returncode == 4


def test_reset_empties_the_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    imgbuild("-t", "x", *BASE, QUICKSTART, store=store)
    imgbuild("reset", "--yes", store=store)
    kept = [
        p for p in store.rglob("*") if p.is_file() and "layers" in p.parts or "blobs" in p.parts
    ]
    assert [p for p in kept if p.is_file()] == []
    assert imgbuild("images", "--json", store=store).stdout.strip() == b"[]"


def test_the_network_can_be_shut_off(store: Path, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base\nRUN ls /sys/class/net > /net; cat /net\n")
    done = imgbuild("--network=none", "--progress=plain", *BASE, tmp_path, store=store)
    shown = [line.split()[-1] for line in done.stderr.decode().splitlines() if line[:1] == "#"]
    assert "lo" in shown
    assert "eth0" not in shown


def test_doctor_says_that_run_works(store: Path) -> None:
    done = imgbuild("doctor", store=store)
    assert b"tier A" in done.stdout
    assert b"network   " in done.stdout
    assert b"remedy" not in done.stdout, "what is taken is the best there is"
