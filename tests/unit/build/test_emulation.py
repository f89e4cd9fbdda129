"""Which architectures run here: the patterns of binfmt_misc, and the error before a build starts."""

from pathlib import Path

import pytest

from imgbuild.build.emulation import can_run, check_runnable, elf_header, parse_handler
from imgbuild.errors import DockerfileError, Span
from imgbuild.oci.platform import Platform
from tests.unit.plan.planning import image, plan

HOST = Platform("linux", "amd64")
ARM = Platform("linux", "arm64")
# As Debian's qemu-user-static registers them.
AARCH64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""
S390X = """enabled
interpreter /usr/libexec/qemu-binfmt/s390x-binfmt-P
flags: POCF
offset 0
magic 7f454c4602020100000000000000000000020016
mask ffffffffffffff00fffffffffffffffffffeffff
"""
PYTHON = "enabled\ninterpreter /usr/bin/python3\nflags: F\nextension .py\n"


def binfmt(tmp_path: Path, status: str = "enabled", **handlers: str) -> Path:
    (tmp_path / "status").write_text(f"{status}\n")
    (tmp_path / "register").write_text("")
    for name, text in handlers.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("architecture", ["amd64", "386"])
def test_what_the_processor_runs(architecture: str, tmp_path: Path) -> None:
    assert can_run(Platform("linux", architecture), HOST, binfmt(tmp_path))
    assert can_run(Platform("linux", "arm", "v7"), ARM, binfmt(tmp_path))


def test_a_handler_decides(tmp_path: Path) -> None:
    folder = binfmt(tmp_path, aarch64=AARCH64, s390x=S390X, python=PYTHON)
    runs = [a for a in ("arm64", "s390x", "arm", "ppc64le", "riscv64", "pdp11") if can(a, folder)]
    assert runs == ["arm64", "s390x"]
    assert not can_run(Platform("windows", "amd64"), HOST, folder)


def can(architecture: str, folder: Path) -> bool:
    return can_run(Platform("linux", architecture), HOST, folder)


@pytest.mark.parametrize(
    "text",
    [
        AARCH64.replace("enabled", "disabled"),
        # Without F the interpreter is looked for in the image.
        AARCH64.replace("POCF", "POC"),
        AARCH64.replace("magic 7f", "magic xx"),
        AARCH64.replace("b700\n", "b701\n", 1),
        "enabled\n",
        "",
    ],
)
def test_handlers_that_do_not_count(text: str, tmp_path: Path) -> None:
    assert not can("arm64", binfmt(tmp_path, aarch64=text))


def test_all_handlers_can_be_off(tmp_path: Path) -> None:
    assert not can("arm64", binfmt(tmp_path, "disabled", aarch64=AARCH64))


def test_where_binfmt_misc_is_not_mounted_the_kernel_is_asked(tmp_path: Path) -> None:
    # Something that no kernel runs, and no package registers.
    other = Platform("linux", "mips64")
    assert can_run(other, HOST, tmp_path / "none") is can_run(other, HOST)


def test_a_mask_leaves_bytes_out() -> None:
    handler = parse_handler("enabled\nflags: F\noffset 16\nmagic 0200b7\nmask fe00ff\n")
    header = elf_header("arm64")
    assert header is not None
    assert handler.takes(header)
    assert not handler.takes(header[:18])
    assert not handler.takes(elf_header("amd64") or b"")


def test_a_run_that_cannot_run_is_told_beforehand(tmp_path: Path) -> None:
    text = "FROM debian AS build\nENV A=1\nRUN true\nFROM scratch\nCOPY --from=build /a /\n"
    images = {"debian": image("debian", platform=ARM)}
    built = plan(text, images, platform=ARM, build_platform=HOST)
    with pytest.raises(DockerfileError) as caught:
        check_runnable(built, HOST, text, binfmt(tmp_path))
    found = caught.value
    assert found.message.startswith("[build 2/2] RUN true: the image is for linux/arm64")
    assert "qemu-user-static" in (found.hint or "")
    assert (found.span, found.source) == (Span("Dockerfile", 3, 3), text)
    check_runnable(built, HOST, text, binfmt(tmp_path, aarch64=AARCH64))
    check_runnable(built, ARM, text, binfmt(tmp_path))


def test_what_has_no_run_needs_no_emulator(tmp_path: Path) -> None:
    images = {"debian": image("debian", platform=ARM), "tools": image("tools")}
    text = """\
        FROM --platform=$BUILDPLATFORM tools AS build
        RUN true
        FROM debian
        COPY --from=build /a /
        """
    built = plan(text, images, platform=ARM, build_platform=HOST)
    check_runnable(built, HOST, text, binfmt(tmp_path))


def test_what_scratch_runs_is_not_known_before(tmp_path: Path) -> None:
    text = 'FROM scratch\nCOPY a /\nRUN ["/a"]\n'
    built = plan(text, platform=ARM, build_platform=HOST)
    check_runnable(built, HOST, text, binfmt(tmp_path))


def test_other_systems_have_no_emulator(tmp_path: Path) -> None:
    windows = Platform("windows", "amd64")
    text = "FROM debian\nRUN dir\n"
    built = plan(text, {"debian": image("debian", platform=windows)}, platform=windows)
    with pytest.raises(DockerfileError, match="windows/amd64") as caught:
        check_runnable(built, HOST, text, binfmt(tmp_path))
    assert caught.value.hint == "only images for linux can have a RUN"
