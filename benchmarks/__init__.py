"""What bounded gathering costs, with every tool that one might pick.

    pytest benchmarks                     short, for every change
    python -m benchmarks report           the comparison: tables and plots in one folder
    python -m benchmarks programs         whole programs: lines, cost, errors, Ctrl-C
    python -m benchmarks http-clients     what a request costs, by client
    python -m benchmarks goals            gatedcoro against the figures that it is to reach
    python -m benchmarks real             real work: HTTP, TLS, a database, Redis, and its goals
    python -m benchmarks instructions     instructions per item, against the stored baseline
    python -m benchmarks scaling          how the work grows with the number of items

Every comparison is made within one process (or, for memory, between fresh processes of one run), in
interleaved rounds; a wrong result ends the measurement.
"""
