"""What the three programs share: groups of commands, flags, error handling, manual pages, completion."""
