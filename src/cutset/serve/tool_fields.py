"""What a request says of tools: which there are, and whether one must be called."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from cutset.serve.api_errors import invalid

__all__ = ["MOST_TOOLS", "OfferedTool", "ToolUse", "read_tool", "read_tools"]

MOST_TOOLS = 128
MOST_SCHEMA = 256 << 10  # bytes of JSON, of one tool
MOST_SCHEMAS = 1 << 20  # of all
MOST_DEPTH = 64  # brackets within each other; templates get no more than 100
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
Choice = Literal["none", "auto", "required"]


@dataclass(frozen=True)
class OfferedTool:
    """A function that the model may call. `shown`: what the chat template gets, OpenAI's `{"type", "function"}`."""

    name: str
    parameters: dict[str, Any]  # the JSON schema of the arguments
    strict: bool
    shown: dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request. `called`: those that may be called, which `tool_choice` can restrict."""

    tools: tuple[OfferedTool, ...] = ()
    choice: Choice = "none"
    called: tuple[OfferedTool, ...] = ()
    parallel: bool = True
    named: bool = False  # the one that must be called was named
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the arguments, by the names of `called`

    @property
    def shown(self) -> list[dict[str, Any]] | None:
        """What the chat template gets: nothing where no tool may be called."""
        return [tool.shown for tool in self.tools] if self.choice != "none" else None


def read_tools(tools: Any, choice: Any, parallel: bool | None) -> ToolUse:
    """Raises ApiError that names what is wrong."""
    if tools is not None and not isinstance(tools, list):
        raise invalid(f"tools must be a list of tools, not {_kind(tools)}", "tools")
    if tools is not None and len(tools) > MOST_TOOLS:
        raise invalid(f"tools has {len(tools)} entries: give at most {MOST_TOOLS}", "tools")
    found: list[OfferedTool] = []
    total = 0
    for index, tool in enumerate(tools or ()):
        one, size = read_tool(tool, f"tools[{index}]")
        total += size
        if any(one.name == other.name for other in found):
            again = f"tools[{index}].function.name"
            raise invalid(f"{again} is {one.name!r} once more: give each tool a name of its own", again)
        found.append(one)
    if total > MOST_SCHEMAS:
        raise invalid(f"the tools have {total} bytes, more than {MOST_SCHEMAS} together: give fewer", "tools")
    how, called = _chosen(choice, found)
    schemas = {tool.name: tool.parameters for tool in called}
    named = isinstance(choice, dict) and choice.get("type") == "function"
    return ToolUse(tuple(found), how if found else "none", tuple(called), parallel is not False, named, schemas)


def read_tool(tool: Any, where: str) -> tuple[OfferedTool, int]:
    """A tool, and how many bytes it has as JSON. Raises ApiError."""
    if not isinstance(tool, dict):
        raise invalid(f'{where} must be an object {{"type": "function", "function": …}}, not {_kind(tool)}', where)
    if tool.get("type", "function") != "function":
        raise invalid(
            f"{where}.type {_short(tool['type'])} isn't supported by this server: give functions", f"{where}.type"
        )
    function, at = tool.get("function"), f"{where}.function"
    if not isinstance(function, dict):
        raise invalid(f"{at} must be an object with a name, not {_kind(function)}", at)
    name = function.get("name")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise invalid(
            f"{at}.name {_short(name)} can't be used: give 1 to 64 letters, digits, _ and -",
            f"{at}.name",
        )
    if not isinstance(function.get("description"), str | None):
        raise invalid(f"{at}.description must be a text, not {_kind(function['description'])}", f"{at}.description")
    strict = function.get("strict")
    if not isinstance(strict, bool | None):
        raise invalid(f"{at}.strict must be true or false, not {_kind(strict)}", f"{at}.strict")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise invalid(
            f"{at}.parameters must be a JSON schema of an object, not {_kind(parameters)}", f"{at}.parameters"
        )
    if parameters.get("type", "object") != "object":
        raise invalid(f'{at}.parameters must have the type "object": arguments are named', f"{at}.parameters")
    size = len(msgspec.json.encode(function))
    if size > MOST_SCHEMA:
        raise invalid(f"{at} has {size} bytes, more than {MOST_SCHEMA}: give a smaller schema", f"{at}.parameters")
    if _depth(function) > MOST_DEPTH:
        raise invalid(f"{at} is nested deeper than {MOST_DEPTH}: give a flatter schema", f"{at}.parameters")
    # `strict` says nothing to the model.
    kept = {key: value for key, value in function.items() if value is not None and key != "strict"}
    return OfferedTool(name, parameters, bool(strict), {"type": "function", "function": kept}), size


def _chosen(choice: Any, tools: list[OfferedTool]) -> tuple[Choice, list[OfferedTool]]:
    """How tools are called, and which."""
    if choice is None or choice == "auto":
        return "auto", tools
    if choice == "none":
        return "none", []
    if choice == "required":
        if not tools:
            raise invalid('tool_choice "required" needs tools: give some', "tool_choice")
        return "required", tools
    if isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        return "required", [_named(function.get("name") if isinstance(function, dict) else None, tools)]
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice.get("allowed_tools"), tools)
    raise invalid(
        f'tool_choice {_short(choice)} can\'t be used: give "none", "auto", "required" or '
        '{"type": "function", "function": {"name": …}}',
        "tool_choice",
    )


def _allowed(allowed: Any, tools: list[OfferedTool]) -> tuple[Choice, list[OfferedTool]]:
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    names = allowed.get("tools") if isinstance(allowed, dict) else None
    if mode not in ("auto", "required") or not isinstance(names, list) or not names:
        raise invalid('tool_choice.allowed_tools must have a mode, "auto" or "required", and tools', "tool_choice")
    if len(names) > MOST_TOOLS:
        raise invalid(f"tool_choice.allowed_tools has {len(names)} tools: give at most {MOST_TOOLS}", "tool_choice")
    found = []
    for one in names:
        function = one.get("function") if isinstance(one, dict) else None
        found.append(_named(function.get("name") if isinstance(function, dict) else None, tools))
    return mode, list({tool.name: tool for tool in found}.values())


def _named(name: Any, tools: list[OfferedTool]) -> OfferedTool:
    for tool in tools:
        if tool.name == name:
            return tool
    known = ", ".join(tool.name for tool in tools) or "none"
    raise invalid(f"tool_choice names {_short(name)}, which is none of the tools ({known:.300})", "tool_choice")


def _depth(value: Any) -> int:
    """Brackets within each other, counted without recursion and no further than needed."""
    depth, level = 0, [value]
    while level and depth <= MOST_DEPTH:
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
        depth += 1
    return depth


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return repr(shown if len(shown) <= 60 else shown[:57] + "...")
