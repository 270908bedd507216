"""Configuration files, the same for all programs::

folders.py      where they are, by the XDG base directory specification
"""
