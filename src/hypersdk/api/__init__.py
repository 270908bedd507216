"""The REST API: the only package that is async.

::

    server.py    sockets, TLS, deadlines of the connection          (uvicorn, h11)
    app.py       funnel > host > limits > who > idempotency > routes
      headers.py  limits.py  security.py  idempotency.py  problems.py
      routes/     one module per resource; they call jobs and access in threads
"""
