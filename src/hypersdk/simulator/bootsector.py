"""A boot sector that prints a marker on the screen and on the first serial port, once a second, for ever.

It uses only BIOS calls, so it runs in any PC that boots by BIOS, virtual or not::

            org  0x7c00
            cli                     ; no stack yet
            xor  ax, ax
            mov  ds, ax
            mov  ss, ax
            mov  sp, 0x7c00
            sti
            cld
            xor  dx, dx             ; COM1
            mov  ax, 0x00e3         ; serial init: 9600 baud, 8N1
            int  0x14
    again:  mov  si, message
    next:   lodsb
            test al, al
            jz   wait
            push ax
            mov  ah, 0x0e           ; teletype
            mov  bx, 0x0007
            int  0x10
            pop  ax
            mov  ah, 0x01           ; serial write
            xor  dx, dx
            int  0x14
            jmp  next
    wait:   mov  cx, 0x000f         ; 0x000f4240 microseconds: one second
            mov  dx, 0x4240
            mov  ah, 0x86
            int  0x15
            jmp  again
    message db   "HYPERSDK-BOOT-OK", 13, 10, 0
            times 510-($-$$) db 0
            dw   0xaa55
"""

from __future__ import annotations

from typing import Final

from hypersdk.units import SECTOR

MARKER: Final = "HYPERSDK-BOOT-OK"
_ORIGIN: Final = 0x7C00

_SETUP: Final = bytes.fromhex("fa 31c0 8ed8 8ed0 bc007c fb fc 31d2 b8e300 cd14")
_LOAD_MESSAGE: Final = 0xBE  # mov si, imm16
_PRINT: Final = bytes.fromhex("ac 84c0 7411 50 b40e bb0700 cd10 58 b401 31d2 cd14 ebea")
_WAIT: Final = bytes.fromhex("b90f00 ba4042 b486 cd15")
_JUMP: Final = 0xEB  # jmp rel8


def boot_sector() -> bytes:
    """The 512 bytes."""
    again = len(_SETUP)
    after_wait = again + 3 + len(_PRINT) + len(_WAIT) + 2
    load = bytes([_LOAD_MESSAGE]) + (_ORIGIN + after_wait).to_bytes(2, "little")
    back = bytes([_JUMP, (again - after_wait) & 0xFF])
    code = _SETUP + load + _PRINT + _WAIT + back + MARKER.encode() + b"\r\n\0"
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
