"""``hypervisord``: the daemon. Its parent process, the processes that it starts, and what an administrator does to its
state."""
