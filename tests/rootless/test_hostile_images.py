"""Images and Dockerfiles that aim at this machine: what they build stays inside, or is refused."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuild.errors import ImageError, ImgbuildError, SandboxError
from imgbuild.store.store import Store
from tests.unit.build.building import build

pytestmark = pytest.mark.rootless

BASE = {"base": "host://sh,ls,cat,id,mkdir,rm,ln,mkfifo,truncate,mv,mknod"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("hostile") / "store") as opened, opened.build_lock():
        yield opened


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "f").write_text("from the context")
    return path


@pytest.mark.parametrize(
    "command",
    [
        "rm -f /etc/passwd; mkfifo /etc/passwd",
        "ln -sf /proc/self/environ /etc/passwd",
        "ln -sf /dev/zero /etc/passwd",
        "ln -sf passwd /etc/passwd",
        "ln -sf ../../../../../../etc/passwd /etc/passwd; rm /etc/passwd",
        "rm /etc/passwd; mkdir /etc/passwd",
        "truncate -s 1T /etc/passwd",
        "mv /etc /e 2>/dev/null; ln -s /proc/self /etc; true",
        "echo foo:x:4294967295:99999999999::/: > /etc/passwd",
    ],
)
def test_accounts_are_read_as_data(store: Store, context: Path, command: str) -> None:
    text = f"FROM base\nRUN {command}\nUSER foo\nRUN id\n"
    with pytest.raises(ImageError):
        build(store, context, text, contexts=BASE, no_cache=True)


@pytest.mark.parametrize(
    ("account", "word"),
    [
        ("foo:x:5:5::/a\\0b:", "given"),
        ("foo:x:300000000:5::/:", "mapped"),
    ],
)
def test_accounts_that_cannot_be_are_refused(
    store: Store, context: Path, account: str, word: str
) -> None:
    shell = f"RUN printf '{account}\\n' > /etc/passwd\n"
    with pytest.raises(SandboxError, match=word):
        build(store, context, f"FROM base\n{shell}USER foo\nRUN id\n", contexts=BASE, no_cache=True)


@pytest.mark.parametrize(
    "lines",
    [
        "RUN ln -s {outside} /w\nWORKDIR /w/x\nRUN cat > f",
        "RUN ln -s ../../../../../..{outside} /w\nCOPY f /w/\nRUN ls /w",
        "RUN ln -s /../..{outside} /w\nADD f /w/x/f",
        "WORKDIR /../../..{outside}",
        "WORKDIR /proc/1/root{outside}\nRUN cat > f",
        "COPY f /proc/self/root{outside}/\nRUN id",
        "RUN ln -s /proc/self/fd/5 /w\nWORKDIR /w/x\nRUN id",
        "WORKDIR /proc/self/fd/7/../..{outside}\nRUN cat > f",
        "RUN rm /etc/hosts; ln -s {outside}/hosts /etc/hosts; true\nRUN echo x > /etc/hosts; true",
        "RUN rm -f /etc/resolv.conf; ln -s ../../../..{outside}/r /etc/resolv.conf; true\nRUN id",
    ],
)
def test_nothing_is_made_outside(store: Store, context: Path, lines: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    text = "FROM base\n" + lines.format(outside=outside) + "\n"
    with contextlib.suppress(ImgbuildError):
        build(store, context, text, contexts=BASE, no_cache=True)
    assert list(outside.iterdir()) == []


def test_directories_deeper_than_layers_can_be(store: Store, context: Path) -> None:
    deep = "RUN i=0; while [ $i -lt {} ]; do mkdir d && cd d; i=$((i+1)); done; echo x > f\n"
    build(store, context, "FROM base\n" + deep.format(700), contexts=BASE, no_cache=True)
    with pytest.raises(ImageError, match="too deep"):
        build(store, context, "FROM base\n" + deep.format(3000), contexts=BASE, no_cache=True)


def test_a_sparse_file_of_an_exabyte_is_refused_at_once(store: Store, context: Path) -> None:
    text = "FROM base\nRUN truncate -s 8T /s || truncate -s 4T /s\n"
    with pytest.raises(ImageError, match="larger than"):
        build(store, context, text, contexts=BASE, no_cache=True)
