import pytest

from imgbuild.errors import Span
from imgbuild.plan.fetching import redacted
from imgbuild.plan.gitref import GitRef
from imgbuild.plan.model import CopyStep, GitSource, UrlSource
from imgbuild.plan.render import render_plan, to_json
from tests.unit.plan.planning import error, plan, target

SUM = "sha256:" + "a" * 64


def add(line: str, env: str = "") -> CopyStep:
    step = target(f"FROM scratch\n{env}{line}\n").steps[-1]
    assert isinstance(step, CopyStep)
    return step


def test_urls_repositories_and_paths_stay_in_order() -> None:
    step = add("ADD ./a https://h/b $G c /d/", "ENV G=https://h/r.git?subdir=x#v1\n")
    git = GitRef("https://h/r.git", "r", "v1", subdir="x")
    assert step.sources == ("a", UrlSource("https://h/b"), GitSource(git), "c")
    assert step.created_by == "ADD ./a https://h/b https://h/r.git?subdir=x#v1 c /d/ # buildkit"
    assert step.dest == "/d/"


def test_the_checksum_of_a_url_is_expanded_and_kept() -> None:
    assert add("ADD --checksum=$S http://h/b /", f"ENV S={SUM}\n").sources == (
        UrlSource("http://h/b", SUM),
    )
    assert add("ADD --checksum=$NONE http://h/b /").sources == (UrlSource("http://h/b"),)


@pytest.mark.parametrize(
    ("flag", "unpack", "fetched"),
    [("", True, False), ("--unpack", True, True), ("--unpack=false", False, False)],
)
def test_what_is_fetched_is_unpacked_only_when_asked(
    flag: str, unpack: bool, fetched: bool
) -> None:
    step = add(f"ADD {flag} http://h/a.tar /")
    assert (step.unpack, step.unpack_fetched) == (unpack, fetched)
    assert not add(f"ADD {flag} a.tar /").unpack_fetched


@pytest.mark.parametrize(
    ("line", "keep", "checksum"),
    [
        ("ADD git@h:x /", False, ""),
        ("ADD --keep-git-dir git@h:x /", True, ""),
        ("ADD --keep-git-dir=false git@h:x /", False, ""),
        ("ADD git@h:x?keep-git-dir=true /", True, ""),
        ("ADD --keep-git-dir git@h:x?keep-git-dir /", True, ""),
        ("ADD --checksum=0a1b git@h:x /", False, "0a1b"),
        ("ADD git@h:x?checksum=0a1b /", False, "0a1b"),
    ],
)
def test_a_repository_with_its_flags(line: str, keep: bool, checksum: str) -> None:
    (source,) = add(line).sources
    assert isinstance(source, GitSource)
    assert (source.repository.remote, source.keep_git_dir, source.checksum) == (
        "git@h:x",
        keep,
        checksum,
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"ADD --checksum={SUM} a /", "checksum requires HTTP(S) or Git sources"),
        (f"ADD --checksum={SUM} http://h/a b /", "can't be specified for multiple sources"),
        ("ADD --checksum=abc http://h/a /", "invalid checksum digest format"),
        ("ADD --checksum=sha256: http://h/a /", "invalid checksum digest format"),
        ("ADD --checksum=:abc http://h/a /", "invalid checksum digest format"),
        ("ADD --checksum=sha256:abc http://h/a /", "invalid checksum digest length"),
        (f"ADD --checksum={SUM[:-1]}A http://h/a /", "invalid checksum digest format"),
        (f"ADD --checksum=md5:{'a' * 32} http://h/a /", "unsupported digest algorithm"),
        (f"ADD --checksum=sha512:{'a' * 128} http://h/a /", "unsupported digest algorithm"),
        ("ADD --keep-git-dir git@h:x?keep-git-dir=0 /", "inconsistent keep-git-dir"),
        ("ADD --checksum=ab git@h:x?commit=cd /", 'checksum mismatch "ab" != "cd"'),
        ("ADD git@h:x?nope=1 /", 'unexpected query "nope"'),
    ],
)
def test_what_is_wrong_is_told_with_its_place(line: str, message: str) -> None:
    found = error(f"FROM scratch\n{line}\n")
    assert message in found.message
    assert found.span == Span("Dockerfile", 2, 2)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x?q@", "https://xxxxx:xxxxx@h/x?q@"),
        ("https://token@h/x", "https://xxxxx@h/x"),
        ("https://u:a@b@h/x", "https://xxxxx:xxxxx@h/x"),
        ("ssh://git@h/x", "ssh://git@h/x"),
        ("ssh://git:p@h/x", "ssh://xxxxx:xxxxx@h/x"),
        ("git@h:x", "git@h:x"),
        ("https://h/x@y", "https://h/x@y"),
        ("a@b/c", "a@b/c"),
        ("https://h/x?u=http://a:b@c", "https://h/x?u=http://a:b@c"),
        ('[1/1] ADD ["http://a:b@c", "/"]', '[1/1] ADD ["http://xxxxx:xxxxx@c", "/"]'),
    ],
)
def test_names_and_passwords_are_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ADD https://u:p'w@h/x /", "ADD https://xxxxx:xxxxx@h/x /"),
        ('ADD https://u:p"w@h/x /', "ADD https://xxxxx:xxxxx@h/x /"),
        ('["https://u:p@h/","/"]', '["https://xxxxx:xxxxx@h/","/"]'),
        ('["https://h","x@y"]', '["https://h","x@y"]'),
        ("ARG U=https://u:p@h/x", "ARG U=https://xxxxx:xxxxx@h/x"),
        ("a (https://u:p@h)", "a (https://xxxxx:xxxxx@h)"),
    ],
)
def test_passwords_are_found_wherever_they_stand(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_plan_shows_what_is_fetched_without_passwords() -> None:
    line = f"ADD --unpack --checksum={SUM} https://u:secret@h/x /"
    built = plan(f"FROM scratch\n{line}\nADD --keep-git-dir https://u:secret@h/x.git#v1:d /y/\n")
    assert f"fetched https://xxxxx:xxxxx@h/x ({SUM})\n" in render_plan(built)
    assert "cloned https://xxxxx:xxxxx@h/x.git v1:d with .git\n" in render_plan(built)
    url, git = to_json(built)["stages"][0]["steps"]
    assert url["sources"] == [{"kind": "url", "url": "https://xxxxx:xxxxx@h/x", "checksum": SUM}]
    assert git["sources"][0]["remote"] == "https://xxxxx:xxxxx@h/x.git"
    assert url["unpack_fetched"]
    for step in built.stages[0].steps:
        assert "secret" not in step.created_by
    assert "secret" not in render_plan(built)
