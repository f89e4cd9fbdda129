"""Texts that COPY and ADD take, whatever they are: no error but the one that is meant."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from imgbuild.errors import DockerfileError
from imgbuild.plan.chmod import apply_changes, parse_changes
from imgbuild.plan.copying import parse_mode, split_parents
from imgbuild.plan.gitref import parse_git_ref

MODES = st.text("ugoarwxXst+-=,", min_size=1, max_size=12)


@given(MODES | st.text(min_size=1, max_size=6), st.integers(0, 0o7777), st.booleans())
def test_modes_stay_modes(text: str, mode: int, is_dir: bool) -> None:
    with contextlib.suppress(DockerfileError):
        found = parse_mode(text)
        if isinstance(found, str):
            found = apply_changes(parse_changes(found), mode, is_dir=is_dir)
        assert 0 <= found <= 0o7777


@given(st.sampled_from(["+x", "a=rx", "u=rwX,go=rX", "o=", "g=u", "ug+s"]), st.integers(0, 0o7777))
def test_most_modes_settle_at_once(text: str, mode: int) -> None:
    changes = parse_changes(text)
    once = apply_changes(changes, mode, is_dir=True)
    assert apply_changes(changes, once, is_dir=True) == once


URLS = st.text("htps:/git@.#?&=%2cx[]- ", max_size=24) | st.text(max_size=12)


@given(st.sampled_from(["", "https://", "git@h:", "ssh://", "github.com/", "git://"]), URLS)
def test_references_are_read_or_refused(start: str, text: str) -> None:
    with contextlib.suppress(DockerfileError):
        found = parse_git_ref(start + text)
        assert found is None or found.remote


@given(st.text("ab./*", min_size=1, max_size=14))
def test_parents_stay_inside_the_root(text: str) -> None:
    roots, pivots = split_parents((text,))
    for path in (*roots, *pivots):
        assert not path.startswith("/")
        assert ".." not in path.split("/")
