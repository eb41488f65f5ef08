"""The command line: `python -m benchmarks {report,bars,instructions,scaling}`."""

import argparse
import sys

from . import bars, cells, instructions, report, scaling


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(dest="command", required=True)
    report.add_arguments(commands.add_parser("report", help="the comparison: tables and plots in one folder"))
    bars.add_arguments(commands.add_parser("bars", help="gatedcoro against the figures that it set out to reach"))
    instructions.add_arguments(
        commands.add_parser("instructions", help="instructions per item, against the stored baseline")
    )
    scaling.add_arguments(commands.add_parser("scaling", help="how the work grows with the number of items"))
    commands.add_parser("cell", help="one cell of the report, as JSON (used by report)")
    options = parser.parse_args()
    if options.command == "report":
        return report.main(options)
    if options.command == "instructions":
        return instructions.main(options)
    if options.command == "scaling":
        return scaling.main(options)
    if options.command == "cell":
        return cells.main()
    return bars.main(options)


if __name__ == "__main__":
    sys.exit(main())
