"""The comparison of every tool that one might use instead.

works  <-  competitors  <-  cells  <-  figures  <-  summary, plots  <-  report

`report` plans and runs; a cell is measured in a process of its own by `cells`; `figures` holds what came of it, which `summary` and
`plots` show. A new tool is a row of competitors.py, a new kind of work a row of works.py.
"""
