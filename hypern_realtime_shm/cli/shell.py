"""Completion for shells: completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Completion for bash, zsh, fish.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Prints what a shell needs to complete verbs, options, segments and channels.

    \b
    bash   eval "$(hypern-shm completion bash)"                in ~/.bashrc
    zsh    eval "$(hypern-shm completion zsh)"                 in ~/.zshrc
    fish   hypern-shm completion fish > ~/.config/fish/completions/hypern-shm.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "every choice is one of click's"
    click.echo(found(context.find_root().command, {}, "hypern-shm", "_HYPERN_SHM_COMPLETE").source())


def register(group: click.Group) -> None:
    """Adds the verb."""
    group.add_command(completion)
