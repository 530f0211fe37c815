"""The directive `command-line`: every command, from the parsers that the commands use."""

from __future__ import annotations

import argparse

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from interactgraph.cli import parser

_WIDTH = 88


class CommandLine(SphinxDirective):
    """A section for each command: what it does, its usage, its flags, its examples."""

    def run(self) -> list[nodes.Node]:
        """Writes the sections."""
        top = parser()
        (commands,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
        return [self._section(name, command) for name, command in commands.choices.items()]

    def _section(self, name: str, command: argparse.ArgumentParser) -> nodes.section:
        section = nodes.section(ids=[f"command-{name}"], names=[name])
        section += nodes.title("", name)
        self.state.document.note_implicit_target(section)
        section += nodes.paragraph("", command.description or "")
        section += _code(_usage(command), "text")
        for group in command._action_groups:
            shown = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
            if not shown:
                continue
            section += nodes.rubric("", (group.title or "").capitalize())
            if group.description:
                section += nodes.paragraph("", group.description)
            section += _flags(command, shown)
        if command.epilog:
            section += _code(command.epilog, "text")
        return section


def _usage(command: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(command.prog, width=_WIDTH)
    formatter.add_usage(command.usage, command._actions, command._mutually_exclusive_groups, "")
    return formatter.format_help().strip()


def _code(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def _flags(
    command: argparse.ArgumentParser, actions: list[argparse.Action]
) -> nodes.definition_list:
    listed = nodes.definition_list(classes=["command-line"])
    for action in actions:
        item = nodes.definition_list_item()
        formatter = command._get_formatter()
        item += nodes.term("", "", nodes.literal("", formatter._format_action_invocation(action)))
        text = formatter._expand_help(action) if action.help else ""
        if action.choices and "choices" not in text:
            text += f" ({', '.join(map(str, action.choices))})"
        item += nodes.definition("", nodes.paragraph("", text.strip()))
        listed += item
    return listed


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
