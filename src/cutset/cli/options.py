"""Flags that several commands share. Those of settings are made from the table in cutset.config."""

from __future__ import annotations

import argparse

from cutset.config import OPTIONS, Option, Settings, load_settings

__all__ = ["add_json", "add_settings", "settings_from"]


def add_settings(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds a flag for each of these settings, or for all without names. Values are checked by `settings_from`."""
    group = parser.add_argument_group("settings", "also CUTSET_… variables and cutset.toml; see `cutset config`")
    for name in names or OPTIONS:
        option = OPTIONS[name]
        default = option.default
        shown = ("yes" if default else "no") if isinstance(default, bool) else default
        text = option.help if default is None else f"{option.help} (default {shown})"
        if option.kind is bool:
            group.add_argument(option.flag, dest=_dest(name), action=argparse.BooleanOptionalAction, help=text)
        else:
            group.add_argument(option.flag, dest=_dest(name), metavar=_metavar(option), help=text)


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings in force: these flags over environment over file over defaults. Raises `ConfigError`."""
    return load_settings({name: getattr(args, _dest(name), None) for name in OPTIONS})


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--json FILE`, which is `args.json` (None without); write it with `cutset.files.write_json`."""
    parser.add_argument("--json", metavar="FILE", help=f"write {what} to FILE as JSON")


def _dest(name: str) -> str:
    return f"settings.{name}"  # the dot keeps clear of a command's own arguments


def _metavar(option: Option) -> str:
    if option.choices:
        return "|".join(option.choices)
    return "N" if option.kind is int else "FILE"
