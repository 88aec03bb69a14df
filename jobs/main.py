"""The `gpa` command: what there is, and how every command ends.

Exit codes: 0 done; 1 failed, with one line that says what and what to do; 2 wrong usage; 3 finished, but
some items failed; 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

# The commands in the order of the flow: module with a click command `command`, and its line in the help.
# Written out so that `gpa --help` imports no command, and none of what commands import.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "sample": ("jobs.data.sample", "Sample candidate videos for every prompt."),
    "import": ("jobs.data.import_videos", "Bring in videos that were made elsewhere."),
    "score": ("jobs.data.score", "Score the 3D consistency of every candidate."),
    "pair": ("jobs.data.pair", "Rank candidates and write preference pairs."),
    "run": ("jobs.data.run", "Sample, score and pair as one flow."),
    "train-dpo": ("jobs.training.command", "Train a LoRA adapter on the pairs by DPO."),
    "align": ("jobs.align.command", "Rounds of all stages, each from the adapter of the last."),
    "evaluate": ("jobs.evaluate.command", "Compare the base model with adapters on held-out prompts."),
    "ablate": ("jobs.ablate.command", "Train several recipes on one run and compare them."),
    "report": ("jobs.reporting.command", "Write a page to look at a run and judge its pairs."),
    "compact": ("jobs.data.compact", "Merge the small shards of a run into few."),
    "query": ("jobs.data.query", "Ask the tables of a run in SQL."),
    "export": ("jobs.data.export", "Write the pairs as a folder for the Hugging Face Hub."),
    "doctor": ("jobs.doctor.command", "Check this machine, its software and the weights."),
    "demo": ("jobs.world.demo", "Run the whole loop on the embedded world, and print what it changed."),
    "bench": ("jobs.bench.command", "Measure the models and rewards that come with gpa."),
    "convert-videoreward": (
        "jobs.evaluate.convert_videoreward",
        "Make safe weights of the judge VideoReward.",
    ),
    "pretrain-world": ("jobs.world.pretrain", "Train the models of the embedded world from scratch."),
}
_FAILED = 1
PARTIAL = 3


def named_command(name: str) -> click.Command:
    """Import one command of the table."""
    command: click.Command = importlib.import_module(COMMANDS[name][0]).command
    return command


class _LazyGroup(click.Group):
    """A group that imports a command when it is called, and turns errors meant for the user into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the flow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        return named_command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; of one that there is not, say which it may have meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], COMMANDS) or get_close_matches(args[0], COMMANDS, 1, 0.5)
            meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{meant}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; map what it raises to a line on stderr and an exit code."""
        from pipeline.engine.warm import kept_warm
        from rewards.errors import RewardError
        from storage.errors import UserError

        stopped_by = _listen()
        try:
            # A command that gives others, such as demo, has one Ray and one set of workers for all.
            with kept_warm():
                return super().invoke(ctx)
        except (UserError, RewardError) as error:
            code = _signal_code(error)
            click.echo(str(error) if code else f"error: {error}", err=True)
            ctx.exit(code or _FAILED)
        except OSError as error:
            # A name that is too long, a place that may not be looked at: what it is, and not from where.
            if error.filename is None:
                raise
            logging.getLogger(__name__).info("%s", error, exc_info=True)
            place = os.fsdecode(error.filename)
            click.echo(f"error: {place} cannot be used ({error.strerror}): check the path", err=True)
            ctx.exit(_FAILED)
        except (KeyboardInterrupt, click.Abort):
            number = stopped_by[0] if stopped_by else signal.SIGINT
            click.echo(f"stopped by {signal.Signals(number).name}; the same command continues", err=True)
            ctx.exit(128 + number)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A RUN is one directory that holds everything a run makes. Commands are resumable: "
    "the same command again does only what is missing.",
)
@click.version_option(package_name="geometric-preference-alignment", prog_name="gpa")
@click.option("-v", "--verbose", is_flag=True, help="Log more to stderr.")
def cli(verbose: bool) -> None:
    """Align video diffusion models with preferences derived from 3D geometry.

    Sample candidates, score their 3D consistency, pair them, train an adapter:

    \b
      gpa sample RUN  ->  gpa score RUN  ->  gpa pair RUN  ->  gpa train-dpo RUN
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # It is imported with peft for models that are quantised, and warns of a kernel that no command here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def main() -> None:
    """The entry point of the `gpa` script."""
    if sys.getfilesystemencoding() != "utf-8":
        # Names of files are UTF-8, whatever the locale of a batch job says of them; workers inherit it.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    _own_packages_first()
    # Read when torch is imported. Spinning OpenMP threads slow a busy machine down twentyfold (measured: 20 s
    # for a training step of 1 s); sleeping ones cost an idle machine next to nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # A console of another encoding, or a name that is none, costs a character and not the command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli()


def _own_packages_first() -> None:
    """Have `trainer` and the others be those of gpa, whatever files lie where the command is started.

    `python -m` looks there first. Ends the process where something else still hides one.
    """
    root = Path(__file__).resolve().parent.parent
    if sys.path and Path(sys.path[0]).resolve() == Path.cwd() != root:
        del sys.path[0]
    for name in ("storage", "rewards", "pipeline", "trainer"):
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found != root / name / "__init__.py":
            click.echo(
                f"error: {found or name} hides the package {name} of gpa: start it as $(which gpa), and "
                "leave that folder out of PYTHONPATH",
                err=True,
            )
            sys.exit(_FAILED)


def _listen() -> list[int]:
    """Make SIGTERM end a command as Ctrl-C does; the list returned will hold the signal that did.

    A second signal ends the process at once: what it leaves is what a kill leaves, and the same command
    continues.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)
    except ValueError:
        # Not in the main thread (a test, a notebook): signals stay with whoever has them.
        return received
    return received


def _signal_code(error: Exception) -> int | None:
    """128 + signal when the trainer says that a signal ended it after a whole step."""
    name = getattr(error, "signal_name", None)
    return 128 + signal.Signals[name] if name else None


if __name__ == "__main__":
    main()
