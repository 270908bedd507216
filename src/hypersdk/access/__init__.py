"""Authentication, authorization, and the secrets that the daemon stores.

::

    access.py      login; first start
      users  tokens  logins  lockout  audit        rows of the database
    vault.py       sealing (keys.py: where the key is), references env: file: vault:
    endpoints.py   registered servers; kinds/: one module per kind of server
"""
