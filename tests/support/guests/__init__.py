"""Guests for the tests: disks that boot, made by recipes of this package.

``guest.py`` is what a test gets, ``shelf.py`` where built disks are kept, ``fixtures.py`` the fixtures. The recipes:
``bootsectors.py`` (512 bytes without an operating system), ``debiantree.py`` and ``debian.py`` (a small Debian on
several layouts),
``windows.py`` (what looks like a Windows guest to virt-v2v).
"""
