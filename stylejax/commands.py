"""Commands beside the main one: what they share with it, and how their words are read."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import typer
import typer.main


class Answered(Exception):
    """The arguments asked for --help or --version and were answered."""


def _default(value: Any) -> str:
    """How a default is shown in --help."""
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def whole(text: Any) -> int:
    """A whole number, or typer's usage error."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number such as 100") from None


def number(text: Any) -> float:
    """A number, or typer's usage error."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number such as 0.5") from None


def option(
    names: str,
    text: str,
    default: Any = None,
    *,
    panel: str = "Picture",
    metavar: str | None = None,
    parser: Any = None,
) -> Any:
    """An option of a command, for ``Annotated``.

    Args:
      names: on the command line, e.g. ``"-o --output"``.
      text: what it means.
      default: shown behind that, if given; read off a preset, so that the two cannot differ.
      panel: of --help.
      metavar: what stands for its value; None goes by the parser.
      parser: makes a value of the word.
    """
    shown = "" if default is None else f" [dim](default: {_default(default)})[/dim]"
    return typer.Option(
        *names.split(),
        help=text + shown,
        show_default=False,
        rich_help_panel=panel,
        metavar=metavar or {whole: "N", number: "X"}.get(parser, "TEXT"),
        parser=parser,
    )


def sharing(
    command: Callable[..., Any],
    own: Callable[..., None],
    *,
    without: Collection[str],
    help: str,
    example: str,
) -> typer.Typer:
    """A command with the parameters of ``own`` and most of those of the main one.

    Args:
      command: the main one.
      own: a function whose parameters, defaults and annotations alone matter; they come first, and
        take the place of the main one's of the same names.
      without: the main one's parameters that make no sense here.
      help: one line.
      example: a line of the shell.

    Returns:
      An application for ``parse``, which then has every parameter of both; those in ``without``
      have the main one's defaults, and None where it has none.
    """
    mine, shared = (inspect.signature(f).parameters for f in (own, command))
    if unknown := set(without) - set(shared):
        raise ValueError(f"the main command has no {', '.join(sorted(unknown))} to leave out")
    taken = {name: p for name, p in shared.items() if name not in mine and name not in without}
    defaults = {
        name: None if p.default is p.empty else p.default
        for name, p in shared.items()
        if name not in ("context", "version")
    }

    def collect(context: typer.Context, **given: Any) -> dict[str, Any]:
        given.pop("version")
        return {**defaults, **given, "command": context.obj}

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*mine.values(), *taken.values())]
    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(help=help, epilog=f"Example: {example}", no_args_is_help=True)(collect)
    return app


def words(command: Callable[..., Any], given: dict[str, Any]) -> list[str]:
    """Options as they are written; those with the command's defaults, and its arguments, are not.

    Args:
      command: the main one.
      given: what ``parse`` made of some words.
    """
    app = typer.Typer()
    app.command()(command)
    defaults = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    said: list[str] = []
    for parameter in typer.main.get_command(app).params:
        name, value = parameter.name, given.get(parameter.name)
        if parameter.param_type_name != "option" or value is None or value == defaults.get(name):
            continue
        yes = next(word for word in parameter.opts if word.startswith("--"))
        if isinstance(value, bool):
            said.append(yes if value else parameter.secondary_opts[0])
        elif isinstance(value, list):
            said += [f"{yes}={item}" for item in value]
        else:
            said.append(f"{yes}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return said


def parse(app: typer.Typer, words: Sequence[str], *, name: str = "stylejax") -> dict[str, Any]:
    """The options of a command line by name, None where it is silent; nothing is checked yet.

    Args:
      app: the command.
      words: behind its name.
      name: of the command, ``stylejax texture`` for one.

    Raises:
      typer's usage error: an option that does not exist, a number that is none.
      Answered: there is nothing left to do.
    """
    said = [*name.split()[1:], *words]
    given = app(list(words), prog_name=name, obj=said, standalone_mode=False)
    if not isinstance(given, dict):
        raise Answered
    return given
