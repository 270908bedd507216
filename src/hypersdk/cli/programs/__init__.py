"""What ``hyperctl`` and ``hypervisord`` have in common as programs: groups, flags in two spellings, the funnel, pages,
completion."""
