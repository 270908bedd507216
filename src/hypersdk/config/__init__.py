"""Configuration files, read in one way for all programs::

folders.py   where they are, by the XDG base directory specification
toml.py      a TOML file read within bounds; a table of it checked against a dataclass
values.py    what a key takes, as its annotation says
user.py      the user's config.toml; a daemon's keys are in jobs/settings.py
"""
