"""Whole programs, written as people write them today and with gatedcoro: `python -m benchmarks programs`.

server  <-  cases  <-  child  <-  report

A program is a file `NAME_VARIANT.py`, complete, with nothing about measuring in it. Its `main(...)` does all of it; the function that
`cases` names does the work with a client or connection that stays open, as in a service. `server` is what they talk to, `cases` says what
each is given and what must come of it, `child` runs them in processes of its own, `report` asks for that and writes the tables.
"""
