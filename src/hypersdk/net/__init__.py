"""Network code shared by all connections, to vSphere and to the daemon::

address.py      hosts and ports as text, loopback
certificate.py  verification of certificates: TLS contexts, pins, fingerprints
knownhosts.py   fingerprints that the user accepted
proxy.py        HTTP proxies of the environment, and connecting through them
guard.py        addresses that a submitted job must not reach
"""
