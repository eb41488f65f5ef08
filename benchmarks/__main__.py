"""The command line: `python -m benchmarks {report,programs,http-clients,goals,real,shared,engines,planning,rates,instructions,scaling}`."""

import argparse
import sys

from . import engines, goals, http_clients, instructions, planning, rates, scaling, shared
from .compare import cells, report
from .programs import report as programs
from .real import report as real


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module, words in (
        ("report", report, "the comparison: tables and plots in one folder"),
        ("programs", programs, "whole programs: cost, errors, Ctrl-C"),
        ("http-clients", http_clients, "what a request costs by client, and what httpx's pool does"),
        ("goals", goals, "gatedcoro against the figures that it is to reach"),
        ("real", real, "real work against servers of this machine, and its goals"),
        ("shared", shared, "one limit over several processes, RedisLimit and PostgresLimit beside what else there is"),
        ("engines", engines, "work at a dask scheduler, through amap and through what dask has"),
        ("planning", planning, "what a shared limit asks of its server, by the number of processes; names in shards"),
        ("rates", rates, "a rate over several processes, by library"),
        ("instructions", instructions, "instructions per item, against the stored baseline"),
        ("scaling", scaling, "how the work grows with the number of items"),
    ):
        command = commands.add_parser(name, help=words, aliases=["bars"] if module is goals else [])
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    commands.add_parser("cell", help="one cell of a comparison, as JSON (used by report and goals)").set_defaults(
        main=lambda _options: cells.main()
    )
    options = parser.parse_args()
    status: int = options.main(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
