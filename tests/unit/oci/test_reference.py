import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import ImgbuildError, UsageError
from imgbuild.oci.digest import digest_bytes
from imgbuild.oci.reference import parse_reference

DIGEST = digest_bytes(b"")


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker.io/library/debian:latest", "debian:latest"),
        ("my-app:v1", "docker.io/library/my-app:v1", "my-app:v1"),
        ("me/app", "docker.io/me/app:latest", "me/app:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x", "ghcr.io/a/b/c:x"),
        (f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}", f"debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}", f"debian:12@{DIGEST}"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ],
)
def test_names_are_normalised(text: str, full: str, familiar: str) -> None:
    found = parse_reference(text)
    assert str(found) == full
    assert found.familiar == familiar
    assert parse_reference(full) == found
    assert parse_reference(familiar) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Debian", "must be lowercase"),
        ("debian:", "tag is malformed"),
        ("debian:a b", "tag is malformed"),
        ("a" * 64, "64-character hex"),
        ("", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("../etc/passwd", "invalid reference format"),
        ("x/" + "a" * 260, "longer than 255"),
        ("debian@sha256:abc", "invalid reference format"),
        ("debian@", "invalid reference format"),
        ("debian\n", "invalid reference format"),
    ],
)
def test_bad_names_are_the_callers_mistake(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_reference(text)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    try:
        found = parse_reference(text)
    except ImgbuildError:
        return
    assert parse_reference(str(found)) == found
    assert parse_reference(found.familiar) == found
