"""``hyperctl``: controls ``hypervisord`` from a shell, by its REST API only. One module a command."""
