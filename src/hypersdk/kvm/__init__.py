"""The KVM side: starting an image in qemu to prove that it boots."""
