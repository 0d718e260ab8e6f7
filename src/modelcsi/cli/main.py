"""`modelcsi`: which command, with which flags, and what its end means.

Errors go to standard error: one line that says what and which, one that says what to do.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelcsi.cli.advice import advice
from modelcsi.errors import InvalidRequest, ModelCsiError

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

DONE, FAILED, WRONG_USAGE = 0, 1, 2
DEFAULT_CONFIG = Path("/etc/model-csi-driver/config.yaml")
FUSE_SERVER = "fuse-server"
_INTERRUPTED = 130

_DESCRIPTION = """\
Mount AI models, packaged as OCI artifacts, read-only into Kubernetes pods.

The driver (node, controller) runs in a cluster; the other commands are for people:
pack and push publish a model, pull and inspect look at one, status and cache tell
what this node's driver holds and does.
"""


_OF_PEOPLE = frozenset({"pack", "push", "pull", "inspect"})
"""Commands for which a file that cannot be used is an answer, not a bug."""

_COLLECTED_AFTER = 50_000
"""New objects between two collections. With Python's 700, a tar of 100,000 members has them walked again and again, although
they all live on: 0.3 s of 8 (measured)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    gc.set_threshold(_COLLECTED_AFTER)
    parser = _parser()
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # clean up as on Ctrl-C; the driver decides for itself
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        run: Callable[[argparse.Namespace], int] = options.run if options.command else _command_of_environment(parser)
        return run(options)
    except ModelCsiError as error:
        hint = advice(error.hint) if options.command in _OF_PEOPLE else error.hint
        return _report(error.message, hint, WRONG_USAGE if isinstance(error, InvalidRequest) else FAILED)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if options.command not in _OF_PEOPLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _report(f"{where}{error.strerror or error}", "", FAILED)


def _report(message: str, hint: str, status: int) -> int:
    print(f"modelcsi: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return status


class _Version(argparse.Action):
    """Reads the package's metadata only when asked: that takes longer than the start of a server."""

    def __call__(self, parser: argparse.ArgumentParser, *_arguments: object) -> None:
        from importlib.metadata import version

        print(f"modelcsi {version('model-csi-driver')}")
        parser.exit()


def _command_of_environment(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """`modelcsi --config FILE` with X_CSI_MODE: how deployments of the upstream driver start it."""
    from modelcsi.config.environment import Mode, read_environment

    mode = read_environment().mode
    if mode is None:
        parser.error("name a command, or set X_CSI_MODE to node or controller")
    return _node if mode is Mode.NODE else _controller


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="modelcsi", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    _add_driver_flags(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_driver_commands(commands)
    _add_model_commands(commands)
    _add_node_commands(commands)
    return parser


def _command(
    commands: _Commands, name: str, run: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text.partition("\n")[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_driver_flags(parser: argparse.ArgumentParser, *, default: object = None) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default or DEFAULT_CONFIG,
        help=f"configuration (default: {DEFAULT_CONFIG})",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=default,
        help="wins over log_level of the file",
    )


def _add_driver_commands(commands: _Commands) -> None:
    node = _command(
        commands, "node", _node, "run the driver of one node: the CSI Identity, Node and Controller services"
    )
    controller = _command(
        commands, "controller", _controller, "run the CSI Controller service, for the external-provisioner"
    )
    fuse = _command(
        commands,
        "fuse",
        _fuse,
        "keep this node's lazy volumes alive: hold their FUSE connections, start and watch the servers\n\n"
        "Runs beside `modelcsi node` and outlives it. On SIGHUP it replaces its own program and the servers, and readers\n"
        "of the volumes notice nothing. Where the driver starts it itself (fuse.holder: managed), nobody else has to.",
    )
    for parser in (node, controller, fuse):
        _add_driver_flags(parser, default=argparse.SUPPRESS)
    server = commands.add_parser(FUSE_SERVER)  # internal, so without a line in the help
    server.set_defaults(run=_fuse_server)
    server.add_argument("--adapter", choices=("passthrough", "pyfuse3"), required=True)
    server.add_argument("--link-fd", type=int, required=True)
    server.add_argument("--root-dir", type=Path, required=True)
    server.add_argument("--verify", default="range")
    server.add_argument("--read-timeout", type=float, default=300.0)
    server.add_argument("--log-level", default="info")
    fuse.add_argument("--until-idle", action="store_true", help="end some seconds after the last volume")
    fuse.add_argument("--settled", help=argparse.SUPPRESS)  # these three it gives itself when it replaces its program
    fuse.add_argument("--reads-again", action="store_true", help=argparse.SUPPRESS)
    fuse.add_argument("--resume", type=int, help=argparse.SUPPRESS)


def _add_model_commands(commands: _Commands) -> None:
    pack = _command(
        commands,
        "pack",
        _pack,
        "package a model's directory as a ModelPack artifact\n\n"
        "Writes an OCI image layout beside DIR (or to --output), or with --push straight to the registry.\n"
        "One layer per file; what a file is (weight, weight.config, code, doc, dataset) is told by its name.\n"
        "Links inside DIR are followed, links that leave it are refused; .git, .cache and the like are left out.\n\n"
        "The same files and modes give the same digest, whatever their times: in the artifact every file is of 1970.\n"
        "With SOURCE_DATE_EPOCH (seconds since 1970) they are of that time, and the artifact says it was made then.",
    )
    pack.add_argument("directory", type=Path, metavar="DIR", help="the model: config.json, *.safetensors, tokenizer …")
    pack.add_argument("reference", metavar="REF", help="registry/repository:tag")
    pack.add_argument(
        "--format",
        choices=("raw", "tar", "tar+gzip", "tar+zstd"),
        default="raw",
        help="of the layers (default: raw, which mounts fastest)",
    )
    pack.add_argument(
        "--keep-times", action="store_true", help="keep the files' times, none later than SOURCE_DATE_EPOCH"
    )
    pack.add_argument("--push", action="store_true", help="push it to the registry of REF")
    pack.add_argument(
        "--output",
        type=Path,
        metavar="LAYOUT",
        help="directory of the OCI image layout (default: DIR.oci; with --push: none is kept)",
    )
    push = _command(
        commands,
        "push",
        _push,
        "push a packed model to its registry\n\n"
        "What the registry has already is not sent again; a push that was interrupted goes on when it is started again.\n"
        "Credentials are those of the docker config. Needs oras: pip install 'model-csi-driver[pack]'.",
    )
    push.add_argument("layout", type=Path, metavar="LAYOUT", help="what `modelcsi pack` wrote")
    push.add_argument("reference", metavar="REF", help="registry/repository:tag")
    pull = _command(
        commands,
        "pull",
        _pull,
        "pull a model into a directory, verified\n\nAn interrupted pull goes on where it was when it is started again.",
    )
    pull.add_argument("reference", metavar="REF", help="registry/repository:tag, or @sha256:…")
    pull.add_argument("directory", type=Path, metavar="DIR", help="new or empty, such as a mounted volume")
    pull.add_argument(
        "--layout",
        choices=("files", "huggingface-hub"),
        default="files",
        help="how DIR is arranged: as the artifact, or as a cache of the Hugging Face Hub (HF_HUB_CACHE)",
    )
    pull.add_argument(
        "--model-name", default="", metavar="ORG/NAME", help="in that cache (default: the end of the reference's path)"
    )
    inspect = _command(
        commands,
        "inspect",
        _inspect,
        "show what a reference means: kind, producer, model, files, digests\n\n"
        "With the flags that choose files: what a pull with them would download. Tars are read to list their files\n"
        "while that takes at most 8 MiB; with --files they all are.",
    )
    inspect.add_argument("reference", metavar="REF", help="registry/repository:tag, or @sha256:…")
    inspect.add_argument("--files", action="store_true", help="read every tar, however large, to list its files")
    for parser in (pull, inspect):
        _add_selection_flags(parser)
    for parser in (push, pull, inspect, pack):
        parser.add_argument(
            "--docker-config",
            type=Path,
            metavar="DIR",
            help="directory of config.json (default: $DOCKER_CONFIG or ~/.docker)",
        )
        parser.add_argument("--registry-config", type=Path, metavar="DIR", help="containerd-style certs.d directory")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_selection_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "which files", "PATTERNS: gitignore patterns, a JSON array or separated by commas"
    )
    group.add_argument("--include", default="", metavar="PATTERNS", help="only files whose full paths match")
    group.add_argument("--exclude", default="", metavar="PATTERNS", help="without files whose full paths match")
    group.add_argument("--sub-path", default="", metavar="DIR", help="only this directory, as the root")
    group.add_argument("--exclude-model-weights", action="store_true", help="leave the weights out")
    group.add_argument(
        "--exclude-file-patterns", default="", metavar="JSON", help='leave base names out, such as ["*.bin"]'
    )


def _add_node_commands(commands: _Commands) -> None:
    status = _command(commands, "status", _status, "what this node's driver pulls and mounts now")
    cache = _command(commands, "cache", _cache, "what this node's store holds")
    actions = cache.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = actions.add_parser("ls", help="the artifacts, least recently used first")
    du = actions.add_parser("du", help="the space they take")
    verify = actions.add_parser("verify", help="hash everything again, and remove what is damaged and unused")
    verify.add_argument("digest", nargs="?", metavar="DIGEST", help="of one artifact (default: all)")
    prune = actions.add_parser("prune", help="remove what no volume uses")
    prune.add_argument(
        "--keep", metavar="SIZE", default="0", help="leave so much of it, such as 100GiB (default: nothing)"
    )
    for parser in (status, ls, du, verify, prune):
        parser.add_argument(
            "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="names the store (root_dir)"
        )
        parser.add_argument("--root-dir", type=Path, metavar="DIR", help="the store, instead of the configuration's")
        parser.add_argument("--json", action="store_true", help="print JSON")


def _node(options: argparse.Namespace) -> int:
    from modelcsi.cli.node import run_node

    return run_node(options.config, options.log_level)


def _controller(options: argparse.Namespace) -> int:
    from modelcsi.cli.controller import run_controller

    return run_controller(options.config, options.log_level)


def _fuse(options: argparse.Namespace) -> int:
    from modelcsi.cli.fuse import run_fuse

    return run_fuse(options)


def _fuse_server(options: argparse.Namespace) -> int:
    from modelcsi.cli.fuse import run_fuse_server

    return run_fuse_server(options)


def _pack(options: argparse.Namespace) -> int:
    from modelcsi.cli.pack import run_pack

    return run_pack(options)


def _push(options: argparse.Namespace) -> int:
    from modelcsi.cli.pack import run_push

    return run_push(options)


def _pull(options: argparse.Namespace) -> int:
    from modelcsi.cli.pull import run_pull

    return run_pull(options)


def _inspect(options: argparse.Namespace) -> int:
    from modelcsi.cli.inspect import run_inspect

    return run_inspect(options)


def _status(options: argparse.Namespace) -> int:
    from modelcsi.cli.cache import run_status

    return run_status(options)


def _cache(options: argparse.Namespace) -> int:
    from modelcsi.cli.cache import run_cache

    return run_cache(options)


if __name__ == "__main__":
    sys.exit(main())
