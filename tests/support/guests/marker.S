# Prints the marker about once a second, for ever.
.include "bios.inc"
        begin
again:  movw    $text, %si
        call    show_text
        movw    $18, %cx
1:      call    wait_tick
        loop    1b
        jmp     again
        routines
text:   .asciz  "HYPERSDK-BOOT-OK\r\n"
        end
