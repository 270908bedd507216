"""What every connection needs, to vSphere, to a daemon and to whatever comes::

address.py      hosts and ports as text, loopback
certificate.py  whom to trust: TLS contexts, pins, fingerprints
knownhosts.py   fingerprints that the user accepted
proxy.py        HTTP proxies of the environment, and connecting through them
guard.py        addresses that a submitted job must not reach
"""
