"""What the kernel says of the memory files that a process has mapped.

Knows: /proc. Does not know: what is in the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (?P<rights>\S{4}) \S+ \S+ (?P<inode>\d+)\s*(?P<path>.*)$")


@dataclass(frozen=True)
class MappedFile:
    """All mappings of one memory file in one process."""

    rights: set[str] = field(default_factory=set)
    inodes: set[int] = field(default_factory=set)
    bytes: dict[str, int] = field(default_factory=dict)
    """``Rss``, ``Pss`` and so on."""


def mapped(pid: int, name: str) -> MappedFile:
    """What process ``pid`` has mapped of memory files called ``name``."""
    found, ours = MappedFile(), False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if head := _HEAD.match(line):
            ours = head["path"].startswith(f"/memfd:{name} ")
            if ours:
                found.rights.add(head["rights"])
                found.inodes.add(int(head["inode"]))
        elif ours and line.endswith(" kB"):
            field_name, _, value = line.partition(":")
            found.bytes[field_name] = found.bytes.get(field_name, 0) + (int(value.split()[0]) << 10)
    return found
