"""RAR archives of the fifth form, written by hand: what is in them is stored, not compressed."""

from zlib import crc32

SIGNATURE = b"Rar!\x1a\x07\x01\x00"
ARCHIVE, FILE, END = 1, 2, 5
HAS_EXTRA, HAS_DATA, HAS_CRC = 1, 2, 4


def number(value):
    """Seven bits a byte, the lowest first; the highest bit of a byte says that more follow."""
    digits = []
    while True:
        value, digit = divmod(value, 128)
        digits.append(digit | (128 if value else 0))
        if not value:
            return bytes(digits)


def block(kind, fields, extra=b"", content=None):
    sizes = (number(len(extra)) if extra else b"") + (
        b"" if content is None else number(len(content))
    )
    flags = (HAS_EXTRA if extra else 0) | (0 if content is None else HAS_DATA)
    header = number(kind) + number(flags) + sizes + fields + extra
    header = number(len(header)) + header
    return crc32(header).to_bytes(4, "little") + header + (content or b"")


def make_rar(path, files, links=()):
    """Args:
    files: content by name.
    links: where each leads, by name.
    """
    blocks = [SIGNATURE, block(ARCHIVE, number(0))]
    for name, content in files.items():
        blocks.append(block(FILE, _file(name, content), content=content))
    for name, target in dict(links).items():
        target = target.encode()
        record = number(5) + number(1) + number(0) + number(len(target)) + target
        blocks.append(block(FILE, _file(name, b""), number(len(record)) + record, b""))
    blocks.append(block(END, number(0)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(blocks))


def _file(name, content):
    stored, unix = 0, 1
    fields = [number(HAS_CRC), number(len(content)), number(0o100644)]
    fields += [crc32(content).to_bytes(4, "little"), number(stored), number(unix)]
    name = name.encode()
    return b"".join(fields) + number(len(name)) + name
