"""Guest conversion: the only package that runs virt-v2v-in-place and guestfish.

::

    ConversionRequest ──> convert_in_place ──> ConversionReport
                              │
        tools.py              which programs are installed, and what this virt-v2v can do
        acceleration.py       whether KVM works here
        arguments.py          virt-v2v's arguments, checked before it starts
        domainxml.py          the description of the guest that virt-v2v reads
        processgroup.py       runs a program so that nothing of it outlives this process
        messages.py           the program's messages: stages, warnings, errors with a code
        findings.py           what the program's log says about the guest
        fallback.py           adds the loader that a UEFI guest needs on new firmware, in a dialog with guestfish

Everything changes the disks in place: callers give overlays (``overlay.py``).
"""
