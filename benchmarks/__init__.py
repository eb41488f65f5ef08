"""What bounded gathering costs, with every tool that one might pick.

    pytest benchmarks                     short, for every change
    python -m benchmarks report           the comparison: tables and plots in one folder
    python -m benchmarks bars             gatedcoro against the figures that it set out to reach
    python -m benchmarks instructions     instructions per item, against the stored baseline

Every comparison is made within one process (or, for memory, between fresh processes of one run), in
interleaved rounds; a wrong result ends the measurement.
"""
