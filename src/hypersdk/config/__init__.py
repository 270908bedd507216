"""Configuration files of all programs::

folders.py   folders by the XDG base directory specification
toml.py      reading a TOML file within limits, and checking its tables against a dataclass
values.py    types of values, for the annotations of keys
user.py      the user's config.toml; the keys of the daemon are in jobs/settings.py
"""
