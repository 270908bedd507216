# Prints a marker, then writes: with each tick the next of 1,024 sectors that lie 64 KiB apart, from 1 MiB on, is filled with a
# growing 32-bit number, which is printed as 8 hex digits after the write: behind '.' when the BIOS says that it is on the disk, else behind 'E'.
# There is no cache between guest and disk.
.include "bios.inc"
.set FIRST_SECTOR, 2048
.set STRIDE_SHIFT, 7                    # 128 sectors
.set PLACES, 1024
.set BUFFER, 0x9000
        begin
        movb    %dl, drive
        movw    $text, %si
        call    show_text
again:  incl    count
        movl    count, %eax
        movw    $BUFFER, %di
        movw    $128, %cx
        rep     stosl
        andl    $(PLACES - 1), %eax
        shll    $STRIDE_SHIFT, %eax
        addl    $FIRST_SECTOR, %eax
        movl    %eax, sector
        movw    $0x4300, %ax            # extended write
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        movb    $'E', %al
        jc      1f
        movb    $'.', %al
1:      call    show
        call    show_count
        call    wait_tick
        jmp     again

show_count:
        movl    count, %esi
        movw    $8, %cx
1:      roll    $4, %esi
        movw    %si, %ax
        andb    $15, %al
        cmpb    $10, %al
        jb      2f
        addb    $('a' - '0' - 10), %al
2:      addb    $'0', %al
        call    show
        loop    1b
        movb    $'\r', %al
        call    show
        movb    $'\n', %al
        jmp     show
        routines
text:   .asciz  "HYPERSDK-WRITER-OK\r\n"
        .balign 4
count:  .long   0
packet: .byte   16, 0                   # disk address packet: its size, sectors, buffer, first sector
        .word   1, BUFFER, 0
sector: .quad   0
drive:  .byte   0
        end
