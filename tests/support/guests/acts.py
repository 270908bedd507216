"""Boot sectors that show one text and then do one thing, for tests of what a boot looks like from outside."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final, Literal

from tests.support.guests.bootsectors import DISK_BYTES, HERE, MEMORY_MB
from tests.support.guests.guest import Guest
from tests.support.tools import run_tool

Act = Literal["stay", "reboot", "power_off", "panic", "blank", "blue"]

_LAST: Final = ("power_off", "panic")
"""QEMU ends with these: what the guest sent before must have been read from its serial port."""
_ACTS: Final[dict[Act, str]] = {
    "stay": "",
    "reboot": "ljmp $0xffff, $0",  # the reset vector
    "power_off": "movw $0x604, %dx; movw $0x2000, %ax; outw %ax, %dx",  # ACPI S5 of q35: PM1a control block
    "panic": "movw $0x505, %dx; movb $1, %al; outb %al, %dx",  # QEMU's pvpanic device
    "blank": "movw $0x13, %ax; int $0x10",  # a graphics mode clears the screen
    "blue": """
        movw $0x13, %ax; int $0x10              # 320 x 200 in 256 colours; colour 1 is blue
        movw $0xa000, %ax; movw %ax, %es
        xorw %di, %di; movw $64000, %cx; movb $1, %al; rep stosb
        xorw %ax, %ax; movw %ax, %es
        movw $text, %si
2:      lodsb; testb %al, %al; jz 3f
        movb $0x0e, %ah; movw $15, %bx; int $0x10; jmp 2b
3:
        movw $0xa000, %ax; movw %ax, %es        # the letters have a black background: make it blue
        xorw %di, %di; movw $64000, %cx
4:      cmpb $0, %es:(%di); jne 5f
        movb $1, %es:(%di)
5:      incw %di; loop 4b
    """,
}


def acting_guest(folder: Path, text: str, act: Act = "stay") -> Guest:
    """A guest in ``folder`` that shows ``text`` on screen and COM1, and then does ``act``."""
    image = folder / f"{act}.raw"
    with tempfile.TemporaryDirectory() as work:
        source, code = Path(work) / "act.S", Path(work) / "act.o"
        source.write_text(f"""
.include "bios.inc"
        begin
        movw $text, %si
        call show_text
        movw ${18 if act in _LAST else 1}, %cx                          # ticks, 18 in a second
1:      call wait_tick
        loop 1b
        {_ACTS[act]}
9:      hlt
        jmp 9b
        routines
text:   .asciz "{text}"
        end
""")
        run_tool("as", "--32", "-I", HERE, "-o", code, source)
        run_tool("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", image, code)
    os.truncate(image, DISK_BYTES)
    image.chmod(0o640)
    return Guest(f"acting-{act}", (image,), "", MEMORY_MB)
