"""Programs of a hundred bytes that make given system calls: attacks without a compiler.

A program makes its calls one after the other. The first that fails ends it with that errno as its
status; else it ends with status 0.
"""

import os
import struct
from typing import Final

MACHINE: Final = os.uname().machine
SUPPORTED: Final = MACHINE == "x86_64"

LAST: Final = "last"  # as an argument: what the call before returned

Argument = int | bytes | str
Call = tuple[int, *tuple[Argument, ...]]

_BASE = 0x400000
_HEADERS_64 = 64 + 56
_HEADERS_32 = 52 + 32


def program(*calls: Call) -> bytes:
    """Assemble for x86_64; numbers with 0x40000000 set are those of x32."""
    size = len(_code_64(calls, 0)[0])
    code, data = _code_64(calls, _BASE + _HEADERS_64 + size)
    body = code + data
    total = _HEADERS_64 + len(body)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        _BASE + _HEADERS_64,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, total, total, 0x1000)
    return header + segment + body


def program_32(number: int, *arguments: int) -> bytes:
    """Assemble one call for i386, made through int 0x80."""
    registers = b"\xbb\xb9\xba\xbe\xbf"  # mov ebx, ecx, edx, esi, edi
    code = b"\xb8" + struct.pack("<I", number)
    for opcode, value in zip(registers, arguments, strict=False):
        code += bytes([opcode]) + struct.pack("<I", value & 0xFFFFFFFF)
    # int 0x80; test eax,eax; jns +4; neg eax; jmp +2; xor eax,eax; mov ebx,eax; mov eax,1; int 0x80
    code += b"\xcd\x80\x85\xc0\x79\x04\xf7\xd8\xeb\x02\x31\xc0\x89\xc3\xb8\x01\0\0\0\xcd\x80"
    total = _HEADERS_32 + len(code)
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        b"\x7fELF\x01\x01\x01",
        2,
        3,
        1,
        _BASE + _HEADERS_32,
        52,
        0,
        0,
        52,
        32,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIIIIIII", 1, 0, _BASE, _BASE, total, total, 7, 0x1000)
    return header + segment + code


def _code_64(calls: tuple[Call, ...], data_at: int) -> tuple[bytes, bytes]:
    # mov rdi, rsi, rdx, r10, r8, r9 from 64 bits; and from r12
    immediate = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
    from_last = (
        b"\x4c\x89\xe7",
        b"\x4c\x89\xe6",
        b"\x4c\x89\xe2",
        b"\x4d\x89\xe2",
        b"\x4d\x89\xe0",
        b"\x4d\x89\xe1",
    )
    code, data = b"", b""
    for number, *arguments in calls:
        for position, argument in enumerate(arguments):
            if argument == LAST:
                code += from_last[position]
                continue
            value = argument
            if isinstance(argument, bytes):
                value = data_at + len(data)
                data += argument + b"\0"
            assert isinstance(value, int)
            code += immediate[position] + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
        # mov rax, number; syscall; test rax,rax; jns +14; neg rax; mov rdi,rax; mov eax,60; syscall
        code += b"\x48\xb8" + struct.pack("<Q", number) + b"\x0f\x05"
        code += b"\x48\x85\xc0\x79\x0d\x48\xf7\xd8\x48\x89\xc7\xb8\x3c\0\0\0\x0f\x05"
        code += b"\x49\x89\xc4"  # mov r12, rax
    return code + b"\x31\xff\xb8\x3c\0\0\0\x0f\x05", data
