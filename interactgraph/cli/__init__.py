"""The command line. Only the command that runs imports anything heavy."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import InteractGraphError, InteractGraphWarning
from . import ablate, build, codes, compare, demo, export, info, modules, report, run, supernodes
from .config import with_config

__all__ = ["main", "parser"]

_COMMANDS = (demo, run, build, modules, export, report, info, ablate, compare, codes, supernodes)

_EXAMPLES = """examples:
  interactgraph demo
  interactgraph run model.py:net data.py:loader --layers input 0 2 4 -o results
  interactgraph run hf:sentence-transformers/all-MiniLM-L6-v2 --text lines.txt --layers residual
  interactgraph build model.py:net data.py:loader --layers input 0 2 4 -o graph.safetensors
  interactgraph modules graph.safetensors -o modules.json
  interactgraph export graph.safetensors graph.gexf --modules modules.json --top-k 2000
  interactgraph report graph.safetensors -m modules.json -o report.html
  interactgraph ablate graph.safetensors model.py:net data.py:loader --modules modules.json
  interactgraph codes model.py:net data.py:loader --layers 1 3 -o codes.json
  interactgraph supernodes graph.json -o grouped.json

MODEL and DATA are path/to/file.py:name or package.module:name, an object or a function without
arguments; MODEL may also be a .pt2 program, or hf:NAME_OR_FOLDER for a transformer. DATA is a
re-iterable of batches (a DataLoader, a list) or one tensor of samples; for a transformer, --text
names a file whose lines are the samples."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(
        prog="interactgraph",
        description="Finds the modules of a trained neural network.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"interactgraph {__version__}")
    commands = top.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for module in _COMMANDS:
        command = module.add(commands)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("--config", metavar="RUN.toml", help="a file that holds any flag")
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        command.set_defaults(execute=module.execute)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0, 1 for what the user can mend, 2 for usage, 130 when interrupted.
    """
    top = parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = top.parse_args(with_config(arguments))
    except InteractGraphError as error:
        return _fail(error)
    if options.command is None:
        top.print_help()
        return 2
    if argv is None:
        signal.signal(signal.SIGTERM, _terminate)  # so that temporary files are removed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InteractGraphWarning)  # commands print the notes
            options.execute(options)
    except KeyboardInterrupt:
        print("interactgraph: interrupted; no unfinished file is left", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has had enough; its exit is no error of ours.
        sys.stderr.close()
        return 0
    except Exception as error:
        if options.debug:
            raise
        return _fail(error)
    return 0


def _fail(error: Exception) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, InteractGraphError):
        text = f"{type(error).__name__}: {text} (run again with --debug for the traceback)"
    print(f"interactgraph: {text}", file=sys.stderr)
    return 1


def _terminate(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
