"""A set of inode numbers that stays small: file systems hand neighbouring numbers out in a row."""

_PER_PAGE = 1 << 12


class InodeSet:
    """Inode numbers of one file system, one bit each."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> None:
        page = self._pages.get(number // _PER_PAGE)
        if page is None:
            page = self._pages[number // _PER_PAGE] = bytearray(_PER_PAGE // 8)
        page[number % _PER_PAGE >> 3] |= 1 << (number & 7)

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number // _PER_PAGE)
        return page is not None and bool(page[number % _PER_PAGE >> 3] & 1 << (number & 7))
