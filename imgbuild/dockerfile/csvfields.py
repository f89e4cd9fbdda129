"""One line of comma separated values, as `--mount` and `--device` are written."""


def csv_fields(line: str) -> list[str]:
    """Split one line into its fields; raises `ValueError` in the words of Go's encoding/csv."""
    if not line:
        raise ValueError("EOF")
    fields, at = [], 0
    while True:
        field, at = _quoted_field(line, at) if line[at : at + 1] == '"' else _plain_field(line, at)
        fields.append(field)
        if at >= len(line):
            return fields
        at += 1  # the comma


def csv_pairs(line: str) -> list[tuple[str, str]]:
    """Split one line into keys, in lower case, and values; of a key alone the value is empty."""
    pairs = (field.partition("=") for field in csv_fields(line))
    return [(key.lower(), value) for key, _, value in pairs]


def _plain_field(line: str, at: int) -> tuple[str, int]:
    end = line.find(",", at)
    end = len(line) if end < 0 else end
    mark = line.find('"', at, end)
    if mark >= 0:
        raise _wrong(line, mark, 'bare " in non-quoted-field')
    return line[at:end], end


def _quoted_field(line: str, start: int) -> tuple[str, int]:
    parts, at = [], start + 1
    while True:
        end = line.find('"', at)
        if end < 0:
            raise _wrong(line, len(line) - 1, 'extraneous or missing " in quoted-field')
        parts.append(line[at:end])
        at = end + 1
        if line[at : at + 1] != '"':
            break
        parts.append('"')
        at += 1
    if at < len(line) and line[at] != ",":
        raise _wrong(line, end, 'extraneous or missing " in quoted-field')
    return "".join(parts), at


def _wrong(line: str, at: int, what: str) -> ValueError:
    column = len(line[:at].encode("utf-8", "surrogatepass")) + 1
    return ValueError(f"parse error on line 1, column {column}: {what}")
