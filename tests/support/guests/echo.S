# Prints a marker once, then sends each letter that comes on COM1 back with its case changed. It looks 18 times a second and
# takes all that has come.
.include "bios.inc"
        begin
        movw    $text, %si
        call    show_text
next:   movw    $LINE_STATUS, %dx
        inb     %dx, %al
        testb   $RECEIVED, %al
        jz      idle
        movw    $COM1, %dx
        inb     %dx, %al
        xorb    $0x20, %al
        call    show
        jmp     next
idle:   call    wait_tick
        jmp     next
        routines
text:   .asciz  "HYPERSDK-ECHO-OK\r\n"
        end
