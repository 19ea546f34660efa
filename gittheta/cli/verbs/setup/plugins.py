"""``git theta plugins``."""

from __future__ import annotations

import click

from gittheta.registry import Registry


@click.command()
def plugins() -> None:
    """Which formats, encodings, merge methods, metrics and remotes are installed, and where each comes from."""
    registry = Registry()
    for plugin in sorted(registry.all(), key=lambda plugin: (plugin.kind, plugin.name)):
        click.echo(f"{plugin.kind:<10} {plugin.name:<20} {plugin.distribution:<20} {plugin.target}")
    for clash in registry.clashes():
        outcome = "the latter is used" if clash.holder else "neither is used until one is uninstalled"
        click.echo(f"gittheta: warning: {clash}; {outcome}", err=True)
