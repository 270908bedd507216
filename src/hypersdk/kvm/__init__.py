"""The KVM side: qemu as a process, to prove that an image boots."""
