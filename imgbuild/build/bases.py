"""Where FROM and COPY --from find images: --build-context, the local store, a registry."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from imgbuild.build.images import for_platform, load_image
from imgbuild.build.places import HOST, IMAGE, LAYOUT
from imgbuild.build.platforms import host_platform
from imgbuild.errors import ImageError, NameNotFoundError
from imgbuild.events import EventSink, Notice
from imgbuild.oci.codec import descriptor_from_json, descriptor_to_json
from imgbuild.oci.descriptor import Descriptor
from imgbuild.oci.manifest import Manifest, parse_manifest
from imgbuild.oci.platform import Platform
from imgbuild.oci.reference import Reference, parse_reference
from imgbuild.plan.fold import scratch_config
from imgbuild.plan.model import BaseImage
from imgbuild.store.store import Store
from imgbuild.transfer import copy_image

Pull = Callable[[Reference, Platform], Descriptor]
Describe = Callable[[str, Reference, Platform], BaseImage]


class Lookup(NamedTuple):
    """How bases are found.

    `contexts` is what --build-context maps; `pull` copies an image into the store and returns
    its descriptor; `always_pull` asks the registry even for what the store has. With `describe`, an image is only looked at, not pulled:
    its blobs need not be there.
    """

    store: Store
    contexts: Mapping[str, str]
    pull: Pull
    events: EventSink
    search_path: str
    always_pull: bool = False
    describe: Describe | None = None


class Bases:
    """Resolve names of images, each once; `fresh` holds the names that were not in the store."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._known: dict[tuple[str, Platform], BaseImage] = {}
        self.fresh: set[str] = set()

    def resolve(self, name: str, platform: Platform) -> BaseImage:
        """Return the image `name` for `platform`, in the store with all its blobs.

        A name that --build-context maps is given as it was mapped; the plan sees to that.
        Raises `ImageError`, `RegistryError`, `StoreError` or `UsageError`.
        """
        key = (name, platform)
        if key not in self._known:
            self._known[key] = self._resolve(name, platform)
        return self._known[key]

    def _resolve(self, name: str, platform: Platform) -> BaseImage:
        context = self._lookup.contexts.get(name, "")
        if context.startswith(LAYOUT):
            return self._from_layout(name, context, platform)
        if context.startswith(IMAGE):
            return self._by_name(name, context.removeprefix(IMAGE), platform)
        if context.startswith(HOST):
            return self._from_host(name, context.removeprefix(HOST), platform)
        return self._by_name(name, name, platform)

    def _by_name(self, name: str, text: str, platform: Platform) -> BaseImage:
        if text == "scratch":
            return BaseImage(name, None, scratch_config(platform), ())
        reference = parse_reference(text)
        store = self._lookup.store
        # What a digest names is the same everywhere.
        ask = self._lookup.always_pull and reference.digest is None
        if not ask and (found := self._stored(name, reference, platform)):
            return found
        if self._lookup.describe is not None:
            return self._lookup.describe(name, reference, platform)
        descriptor = self._lookup.pull(reference, platform)
        self.fresh.add(name)
        image = load_image(store.blobs, name, descriptor, platform)
        self._remember(reference, descriptor, platform)
        return image

    def _remember(self, reference: Reference, descriptor: Descriptor, platform: Platform) -> None:
        """Name a pulled image; a foreign one does not take the name from what runs here."""
        store, name = self._lookup.store, str(reference)
        store.cache.set_memo(
            _memo_key(name, platform), json.dumps(descriptor_to_json(descriptor), sort_keys=True)
        )
        if host_platform().matches(platform) or self._named(name) is None:
            # With its digest where it has one: the tag beside it may stand for another image by now.
            store.names.tag(name, descriptor)

    def _named(self, name: str) -> Descriptor | None:
        try:
            return self._lookup.store.names.resolve(name)
        except NameNotFoundError:
            return None

    def _stored(self, name: str, reference: Reference, platform: Platform) -> BaseImage | None:
        """Return the image by its name, else what was pulled by that name for this platform."""
        found = self._named(str(reference))
        if found is None:
            return None
        image = self._complete(name, found, platform)
        if image is None:
            return None
        own = image.config.platform
        if not own.architecture or own.matches(platform):
            return image
        memo = self._lookup.store.cache.memo(_memo_key(str(reference), platform))
        if memo is not None:
            pulled = descriptor_from_json(json.loads(memo), "base memo")
            if image := self._complete(name, pulled, platform):
                return image
        self._lookup.events(Notice(f"{name} in the store is for {own}; pulling for {platform}"))
        return None

    def _complete(self, name: str, found: Descriptor, platform: Platform) -> BaseImage | None:
        """Read an image of the store; None when it is not all there."""
        blobs = self._lookup.store.blobs
        if not blobs.exists(found):
            return None
        image = load_image(blobs, name, found, platform)
        complete = all(blobs.exists(layer.descriptor) for layer in image.layers)
        return image if complete else None

    def _from_layout(self, name: str, context: str, platform: Platform) -> BaseImage:
        from imgbuild.store.layout import OciLayout, split_location

        path, wanted = split_location(context)
        blobs = self._lookup.store.blobs
        layout = OciLayout(path)
        try:
            descriptor, _ = for_platform(layout, layout.resolve(wanted), platform)
            if not _is_complete(self._lookup.store, descriptor):
                copy_image(layout, blobs, descriptor, events=self._lookup.events)
                self.fresh.add(name)
        finally:
            layout.close()
        return load_image(blobs, name, descriptor, platform)

    def _from_host(self, name: str, programs: str, platform: Platform) -> BaseImage:
        from imgbuild.build.hostbase import host_image

        wanted = tuple(filter(None, (item.strip() for item in programs.split(","))))
        image, made = host_image(self._lookup.store, wanted, self._lookup.search_path)
        if made:
            self.fresh.add(name)
        if not image.config.platform.matches(platform):
            raise ImageError(
                f"host:// makes an image for {image.config.platform}, not for {platform}",
                hint="leave --platform out",
            )
        return replace(image, name=name)


def _memo_key(name: str, platform: Platform) -> str:
    return f"base {platform} {name}"


def _is_complete(store: Store, descriptor: Descriptor) -> bool:
    if not store.blobs.exists(descriptor):
        return False
    manifest = parse_manifest(store.blobs.read(descriptor.digest), descriptor.media_type)
    return isinstance(manifest, Manifest) and all(map(store.blobs.exists, manifest.children()))
