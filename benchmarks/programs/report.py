"""`python -m benchmarks programs`: what each program costs, and what becomes of it on an error and on Ctrl-C, as tables."""

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import harness, parts
from ..harness import ROOT
from . import server as service
from .cases import OURS, PROGRAMS, Program, lines_of_code

OUTPUT = ROOT / "benchmarks" / "results"  # which git ignores
PART = "what the programs cost"
CHILD = ["benchmarks.programs.child"]
ATTEMPTS = 5  # to interrupt a program before its end
COMPLAINTS = (
    "was never awaited",
    "was never retrieved",
    "was destroyed but it is pending",
    "Unclosed",
    "ResourceWarning",
)

Measured = dict[str, Any]  # of one variant


@dataclass(frozen=True)
class Scale:
    rounds: harness.Rounds  # of timed runs
    stalls: harness.Rounds
    processes: int  # for memory, and for Ctrl-C
    goes_on: float  # seconds for which a service is watched after an error
    quick: bool

    def count(self, program: Program) -> int:
        return program.quick_count if self.quick else program.count

    def halfway(self, program: Program) -> int:
        return program.quick_halfway if self.quick else program.halfway


FULL = Scale(harness.Rounds(5, 5, paired=True), harness.Rounds(3, 3), processes=3, goes_on=2.0, quick=False)
QUICK = Scale(harness.Rounds(1, 1, paired=True), harness.Rounds(1, 1), processes=1, goes_on=0.5, quick=True)


# --- Measuring ----------------------------------------------------------------------------------------------------


def complaints(said: str) -> str:
    """What somebody who looks at standard error reads, beside the traceback of what has happened."""
    counts = {words: len(re.findall(words, said)) for words in COMPLAINTS}
    return ", ".join(f"{words} ({count:,})" for words, count in counts.items() if count) or "-"


class Asked:
    """Asks child processes about one program."""

    def __init__(self, program: Program, server: service.Server, scale: Scale) -> None:
        self.program, self.server, self.scale = program, server, scale

    def request(self, what: str, variants: list[str], folder: str = "", **more: Any) -> dict[str, Any]:
        return {
            "program": self.program.name,
            "what": what,
            "variants": variants,
            "url": self.server.url,
            "count": self.scale.count(self.program),
            "number": self.scale.halfway(self.program),
            "folder": folder,
            **more,
        }

    def in_turns(self, quantity: str, rounds: harness.Rounds, measured: dict[str, Measured]) -> None:
        request = self.request(quantity, list(measured), rounds=vars(rounds))
        for line in harness.asked(CHILD, request):
            if "failed" in line:
                raise harness.Failed(f"{self.program.name}_{line['tool']}: {line['failed']}")
            if "processor" in line:
                measured[line["tool"]].setdefault("processor", []).append(line["processor"])
            else:
                measured[line["tool"]].setdefault(quantity, []).append(line["sample"])

    def memory(self, variant: str) -> float:
        [line] = harness.asked(CHILD, self.request("memory", [variant]))
        growth: float = line["sample"]
        return growth

    def errors(self, measured: dict[str, Measured]) -> None:
        for line in harness.asked(CHILD, self.request("error", list(measured), goes_on=self.scale.goes_on)):
            if "said" in line:
                line["said"] = complaints(line["said"])
            measured[line.pop("tool")].setdefault("error", {}).update(line)

    def interrupt(self, variant: str) -> Measured:
        for _ in range(ATTEMPTS):
            if found := self._interrupt(variant):
                return found
        raise harness.Failed(f"{self.program.name}_{variant} always ends before the signal comes")

    def _interrupt(self, variant: str) -> Measured | None:
        """None if the program was faster than the signal."""
        number = self.scale.halfway(self.program)
        with tempfile.TemporaryDirectory() as folder:
            self.server.reset()  # or it would have reached the number already
            ended = harness.interrupted(
                CHILD,
                self.request("interrupt", [variant], folder),
                lambda process: self.program.wait_until(self.server, number, process),
            )
            if ended.status == 0:
                return None
            if "KeyboardInterrupt" not in ended.said:
                raise harness.Failed(f"{self.program.name}_{variant} was not interrupted: {ended.said[-300:]}")
            arguments = self.program.arguments(self.server, Path(folder), self.scale.count(self.program))
            found = {
                "seconds": ended.seconds,
                "after": self.server.counts()["after_mark"],
                "said": complaints(ended.said),
            }
            for line in ended.lines:
                found |= line
            return found | {"lost": self.program.lost(self.server, arguments)}


def measured(program: Program, server: service.Server, scale: Scale, variants: list[str]) -> dict[str, Measured]:
    found: dict[str, Measured] = {variant: {} for variant in variants}
    asked = Asked(program, server, scale)
    asked.in_turns("time", scale.rounds, found)
    asked.in_turns("stall", scale.stalls, found)
    asked.errors(found)
    for variant in variants:
        found[variant]["lines"] = lines_of_code(program.path(variant).read_text())
    for _ in range(scale.processes):
        for variant in variants:
            found[variant].setdefault("memory", []).append(asked.memory(variant))
            found[variant].setdefault("interrupts", []).append(asked.interrupt(variant))
    return found


# --- Tables -------------------------------------------------------------------------------------------------------


TEXTS = ("the caller gets", "afterwards", "on standard error")


def _figure(samples: list[float], scale: float = 1.0, digits: int = 2) -> str:
    return f"{statistics.median(samples) * scale:,.{digits}f}"


def _ratio(found: dict[str, Measured], variant: str, quantity: str) -> str:
    if variant == OURS or OURS not in found:
        return ""
    samples = {name: found[name][quantity] for name in (variant, OURS)}
    return f" ({harness.ratio(variant, OURS)(samples):.2f}x)"


def tables(program: Program, found: dict[str, Measured], scale: Scale) -> str:
    costs, errors, interrupts = [], [], []
    for variant, of in found.items():
        title = program.variants[variant]
        title = f"**{title}**" if variant == OURS else title
        name = f"[{title}](../benchmarks/programs/{program.path(variant).name})"
        costs.append(
            [
                name,
                str(of["lines"]),
                _figure(of["time"]) + _ratio(found, variant, "time"),
                _figure(of["processor"]) + _ratio(found, variant, "processor"),
                _figure(of["memory"], 1e-6, 1),
                f"{min(of['stall']) * 1e3:,.0f}",  # what other processes take can only add to it
            ]
        )
        error = of["error"]
        errors.append(
            [
                title,
                error["told"],
                f"{error['running']:,}",
                f"{error['gone_on']:,}",
                error["lost"] or "-",
                error["said"],
            ]
        )
        last = of["interrupts"][-1]
        interrupts.append(
            [
                title,
                _figure([one["seconds"] for one in of["interrupts"]]),
                f"{max(one['running'] for one in of['interrupts']):,}",
                "-" if program.name == "import" else f"{max(one['after'] for one in of['interrupts']):,}",
                last["lost"] or "-",
                last["said"],
            ]
        )
    halfway = scale.halfway(program)
    place = f"chunk {halfway:,}" if program.name == "import" else f"request {halfway:,}"
    return "\n".join(
        [
            f"### {program.title}\n",
            f"{scale.count(program):,} {program.items}, {program.at_once(OURS)} at once.\n",
            parts.table(["", "lines", "time, s", "processor time, s", "memory, MB", "longest stall, ms"], costs),
            f"An error at {place}, in a service that keeps its client or connection open:\n",
            parts.table(
                [
                    "",
                    "the caller gets",
                    "Tasks left",
                    f"{program.counts} after it",
                    "afterwards",
                    "on standard error",
                ],
                errors,
                TEXTS,
            ),
            f"Ctrl-C at {place}:\n",
            parts.table(
                ["", "ends after, s", "Tasks left by `main`", "requests after it", "afterwards", "on standard error"],
                interrupts,
                TEXTS,
            ),
        ]
    )


def written(results: Measured) -> str:
    scale = QUICK if results["quick"] else FULL
    shown = [tables(PROGRAMS[name], found, scale) for name, found in results["programs"].items()]
    return "\n".join([results["made"], *shown])


# --- The command --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="half a minute: small, and each once")
    parser.add_argument("--only", action="append", choices=list(PROGRAMS), help="only these programs (repeatable)")
    names = sorted({variant for program in PROGRAMS.values() for variant in program.variants})
    parser.add_argument("--variant", action="append", choices=names, help="only these variants (repeatable)")
    parser.add_argument("--output", metavar="FOLDER", default=str(OUTPUT), help="benchmarks/results/")
    parser.add_argument("--redraw", action="store_true", help="do not measure: write programs.md of programs.json anew")
    parser.add_argument("--docs", action="store_true", help="also write the tables into docs/programs.md")


def main(options: argparse.Namespace) -> int:
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if options.redraw:
        results = harness.stored(output / "programs.json")
    else:
        command = ["programs", *["--quick"] * options.quick]
        command += [f"--only {name}" for name in options.only or []]
        command += [f"--variant {name}" for name in options.variant or []]
        packages = {package for program in PROGRAMS.values() for package in program.needs}
        results = {
            "made": parts.made(" ".join(command), packages),
            "quick": options.quick,
            "programs": {},
        }
        with service.running() as server:
            for name in options.only or PROGRAMS:
                program = PROGRAMS[name]
                if absent := program.missing():
                    print(f"{name}: {absent}", file=sys.stderr)
                    continue
                variants = [variant for variant in program.variants if variant in (options.variant or program.variants)]
                if not variants:
                    continue
                scale = QUICK if options.quick else FULL
                results["programs"][name] = measured(program, server, scale, variants)
                (output / "programs.json").write_text(json.dumps(results, indent=1))
    (output / "programs.md").write_text(written(results))
    print(written(results))
    if options.docs:
        parts.write(parts.PROGRAMS, PART, written(results))
    return 0
