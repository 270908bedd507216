"""The programs: one module per command."""
