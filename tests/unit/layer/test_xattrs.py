import pytest

from imgbuild.layer.xattrs import keep, to_v2, to_v3

V2 = bytes.fromhex("01000002 00200000 00000000 00000000 00000000")
V3 = bytes.fromhex("01000003 00200000 00000000 00000000 00000000 01000000")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("security.capability", True),
        ("user.mime_type", True),
        ("user.overlayish", True),
        ("user.overlay.opaque", False),
        ("user.overlay.redirect", False),
        ("user.overlay.overlay.opaque", False),
        ("user.imgbuild.owner", False),
        ("trusted.overlay.metacopy", False),
        ("trusted.anything", False),
        ("security.selinux", False),
        ("security.ima", False),
        ("system.posix_acl_access", False),
    ],
)
def test_which_attributes_belong_to_an_image(name: str, kept: bool) -> None:
    assert keep(name) is kept


def test_capabilities_lose_the_id_of_the_namespace() -> None:
    assert to_v2(V3) == V2
    assert to_v2(V2) == V2


def test_capabilities_gain_the_id_of_the_namespace() -> None:
    assert to_v3(V2, 1) == V3
    assert to_v3(V3, 0x70000000)[20:] == bytes.fromhex("00000070")


@pytest.mark.parametrize("value", [b"", b"short", b"x" * 20, b"x" * 24])
def test_values_of_no_known_form_are_left_alone(value: bytes) -> None:
    assert to_v2(value) == value
    assert to_v3(value, 1) == value
