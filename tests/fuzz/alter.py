"""Contents that are nearly right: a valid one with a few changes."""

import json
from random import Random
from typing import Any

MOST_CHANGES = 4
MOST_BYTES_CHANGED = 64

ODD_BYTES = (
    b"", b"\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"-1", b"0", b"1e308", b"-1e308",
    b"1e999", b"nan", b"inf", b"99999999999999999999", b"\n", b"\r", b" ", b'"', b"'", b"<", b"{", b"[[[[",
    b".", b"..", b"/", b"../../x", b"\\", b"\xc3\x28", b"\xef\xbb\xbf",
)  # fmt: skip

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"),
    "", "x", "\0", "..", "/", "\ud800", [], {}, [[]], [None], [0], {"x": 0},
)  # fmt: skip


def alter(content: bytes, words: tuple[bytes, ...], random: Random) -> bytes:
    """Change a content in a few places; JSON mostly so that it stays JSON.

    Args:
        content: what is changed.
        words: that its format knows.
        random: decides where and how.
    """
    for _ in range(random.randint(1, MOST_CHANGES)):
        altered = _altered_json(content, random) if random.random() < 0.7 else None
        content = _altered_bytes(content, words, random) if altered is None else altered
    return content


def _altered_bytes(content: bytes, words: tuple[bytes, ...], random: Random) -> bytes:
    start = random.randint(0, len(content))
    stop = min(len(content), start + random.choice((0, 1, 1, 4, random.randint(0, MOST_BYTES_CHANGED))))
    match random.randrange(5):
        case 0:  # other bytes
            between = bytes(random.randrange(256) for _ in range(stop - start))
        case 1:  # none, or cut off
            between, stop = b"", random.choice((stop, stop, len(content)))
        case 2:  # again, or often
            between = content[start:stop] * random.choice((2, 2, 2, 200))
        case 3:
            between = random.choice(ODD_BYTES)
        case _:
            between = random.choice(words or ODD_BYTES)
    return content[:start] + between + content[stop:]


def _altered_json(content: bytes, random: Random) -> bytes | None:
    """With one value replaced, removed or added; None where it is no JSON."""
    first, content = (content[:1], content[1:]) if content[1:2] == b"{" else (b"", content)
    if content[:1] not in (b"{", b"["):
        return None
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return None
    root: dict[str, Any] = {"root": tree}
    holder: Any = root
    key: Any = "root"
    while isinstance(holder[key], dict | list) and holder[key] and random.random() < 0.8:
        holder = holder[key]
        key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    match random.randrange(4):
        case 0 if holder is not root:
            del holder[key]
        case 1 if holder is not root and isinstance(holder, dict):
            holder[random.choice(("", "x", "__class__"))] = random.choice(ODD_VALUES)
        case 2:
            holder[key] = [holder[key]]
        case _:
            holder[key] = random.choice(ODD_VALUES)
    return first + json.dumps(root["root"]).encode()
