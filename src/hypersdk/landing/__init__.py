"""What happens to an export on its way to KVM: guest conversion, landing, proof, report, and their order."""
