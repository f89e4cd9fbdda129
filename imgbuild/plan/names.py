"""Which --build-context stands for a name."""

from collections.abc import Iterable

from imgbuild.errors import ImgbuildError
from imgbuild.oci.platform import Platform, parse_platform
from imgbuild.oci.reference import parse_reference

# Names that no context takes the place of.
RESERVED = frozenset({"scratch", "context"})


class ContextNames:
    """The names that were given: `NAME`, or `NAME::PLATFORM` for one platform alone.

    `build_platform` completes what a platform leaves out.
    """

    def __init__(self, names: Iterable[str], build_platform: Platform) -> None:
        self._found: dict[tuple[str, str], str] = {}
        for given in sorted(names):
            name, _, platform = given.partition("::")
            if platform:
                platform = str(parse_platform(platform, build_platform))
            self._found[_key(name), platform] = given

    def find(self, name: str, platform: Platform) -> str | None:
        """Return what stands for the image or stage `name`, as it was given."""
        if not self._found or name.lower() in RESERVED:
            return None
        key = _key(name)
        return self._found.get((key, str(platform))) or self._found.get((key, ""))


def _key(name: str) -> str:
    """Return how names compare: as short as docker writes them, `:latest` left out."""
    try:
        return parse_reference(name).familiar.removesuffix(":latest")
    except ImgbuildError:
        return name.lower()
