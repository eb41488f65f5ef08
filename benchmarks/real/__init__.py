"""Real work: HTTP, TLS, a database, Redis, against servers of this machine, in processes and on cores of their own.

Each file imports from those before it: servers, works (which compare/cells.py knows), rows, report.
"""
