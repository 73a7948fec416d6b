"""``gearhorn``: the subcommands, and what their errors come to.

Rules: data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 refused or failed; 2 a
wrong option; 3 done in part; 4 no job server, or no answer; 130 interrupted. ``check`` has those of
Nagios. Every refusal says what to do next.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

import gearhorn
from gearhorn.cli.commands.settings import common
from gearhorn.errors import GearhornError, NotConnected, RequestError, TimedOut, Unsure

FAILED, USAGE, PARTLY, NO_ANSWER, INTERRUPTED = 1, 2, 3, 4, 130
UNKNOWN = 3  # of Nagios

# name -> module and function; the line of help is there, so that ``--help`` imports nothing
_COMMANDS = {
    "publish": ("publish", "Publish a message, or many."),
    "ask": ("ask", "Publish a message and show what each host answers."),
    "listen": ("listen", "Show messages as they come, or run a command for each."),
    "subscribe": ("subscriptions", "Subscribe a client to a topic, or change its options."),
    "unsubscribe": ("subscriptions", "End a subscription."),
    "pause": ("subscriptions", "Deliver nothing of a durable subscription for a while."),
    "resume": ("subscriptions", "Deliver again."),
    "drain": ("subscriptions", "Discard what waits on the queue of a subscription, and end it."),
    "retain": ("subscriptions", "Set how long a topic keeps its messages."),
    "topics": ("topics", "List topics with their counts."),
    "show": ("topics", "Show one topic, or one subscription."),
    "members": ("topics", "List the workers."),
    "top": ("top", "Show the cluster, live."),
    "explain": ("explain", "Tell who would get a message, without publishing it."),
    "trace": ("explain", "Tell what became of one message at each subscription."),
    "log": ("log", "Read the log of a topic."),
    "parked": ("parked", "List, show, redrive or purge parked messages."),
    "doctor": ("doctor", "Look at everything, and say what to do about what is wrong."),
    "check": ("check", "Check something, for a monitoring system."),
    "bench": ("bench", "Measure what this cluster does."),
    "context": ("context", "Keep the addresses of several clusters."),
    "help": ("sheets", "Show cheat sheets: what to type for what is wanted."),
    "completion": ("completion", "Print what completes this command in a shell."),
}
_HINTS = {
    "bad_name": "Names have 1 to 255 bytes, without spaces or control characters.",
    "queue_taken": "Choose another client name, or unsubscribe the other pair first.",
    "unavailable": "Try again; if it stays so, look at the workers' log and their store.",
    "busy": "Try again later, or raise --max-foreground of the workers.",
    "too_large": "Send less, or raise --max-payload of the workers.",
    "unknown": "`gearhorn topics` lists the topics that there are.",
    "internal": "This is a fault in gearhorn: please report it with the workers' log.",
}


class Commands(click.Group):
    """The group of all subcommands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a subcommand, None where there is none of this name."""
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"gearhorn.cli.commands.{_COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of subcommands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(gearhorn.__version__, package_name="gearhorn", prog_name="gearhorn")
@common
def main() -> None:
    """Publish once over Gearman, and every subscribed host gets its own copy.

    Job servers are those of --server, else of the context, else of $GEARHORN_SERVERS, else this
    host's.
    """


def run(arguments: Sequence[str] | None = None) -> None:
    """What the installed command calls: run, and end the process with the right code.

    What could not be written stays in the stream's buffer, and Python ends with 120 where writing
    it once more fails at the very end: so it goes nowhere.
    """
    code = outcome(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not code and not isinstance(error, BrokenPipeError):
            click.echo(f"gearhorn: {error}", err=True)
            code = FAILED
    sys.exit(code)


# click would end the process by itself; here every way to fail has one place, and tests call it.
def outcome(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit code."""
    logging.basicConfig(format="gearhorn: %(message)s", level=logging.WARNING)
    _open_streams()
    try:
        result: Any = main(arguments, prog_name="gearhorn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        # 2 would be a critical state to a monitoring system
        return UNKNOWN if _is_check(error) else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit:
        return 0  # click's way to end where the reader of a pipe has gone
    except GearhornError as error:
        return _told(error)
    except UnicodeEncodeError:
        click.echo("gearhorn: an argument is not UTF-8", err=True)
        return USAGE
    except OverflowError:
        click.echo("gearhorn: a number is larger than any request may have", err=True)
        return USAGE
    except OSError as error:
        click.echo(f"gearhorn: {error}", err=True)
        return FAILED
    return result if isinstance(result, int) else 0


def _is_check(error: click.ClickException) -> bool:
    """Whether a wrong call was one of ``gearhorn check``."""
    context = getattr(error, "ctx", None)
    return context is not None and context.command_path.startswith("gearhorn check")


def _open_streams() -> None:
    """Put nothing in the place of standard streams that were closed, as by ``<&-``."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # in a locale without some letter
        sys.stdout.reconfigure(errors="backslashreplace")


def _told(error: GearhornError) -> int:
    """Say what a command failed with; return the exit code."""
    click.echo(f"gearhorn: {error}", err=True)
    if isinstance(error, RequestError):
        if error.code in _HINTS:
            click.echo(_HINTS[error.code], err=True)
        return FAILED
    if isinstance(error, NotConnected):
        click.echo("Name the job servers with --server, or in $GEARHORN_SERVERS.", err=True)
    elif isinstance(error, Unsure) and not isinstance(error, TimedOut):
        click.echo("It may have been carried out: look before you do it again.", err=True)
    return NO_ANSWER if isinstance(error, NotConnected | Unsure) else FAILED


if __name__ == "__main__":
    run()
