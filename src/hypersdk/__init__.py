"""HyperSDK: takes virtual machines out of VMware vSphere and lands them on KVM, in one pass."""

__version__ = "0.1.0"
