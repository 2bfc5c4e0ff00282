"""Templates: `[a|b]` picks one, `{slot.field}` names a word of the story, `<macro>` expands a shared template.

A slot is filled on first use and kept for the whole story. `{Hero.he}` is `{hero.he}` with a capital. `a~` becomes
"a" or "an" by what follows. Sentence beginnings get their capital at the end, so templates may start in lower case.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence

# Text, a sequence of nodes, or a choice between nodes.
Node = tuple[str, "str | list[Node]"]
Word = Mapping[str, str | Sequence[str]]

_TOKEN = re.compile(r"[\[\]|]|\{[^}]*\}|<[a-z0-9-]+>|[^\[\]|{}<>]+")
_ARTICLE = re.compile(r"\b([aA])~ (?=(\w))")
_START = re.compile(r'(?:^|(?<=[.!?] )|(?<=\n)|(?<=\." )|(?<![^ \n])")([a-z])')


def parse(template: str) -> Node:
    """Turn a template into nodes. Raises ValueError where brackets don't match."""
    options: list[list[Node]] = [[]]
    stack: list[list[list[Node]]] = []
    if "".join(_TOKEN.findall(template)) != template:
        raise ValueError(f"stray bracket in template: {template!r}")
    for token in _TOKEN.findall(template):
        if token == "[":
            stack.append(options)
            options = [[]]
        elif token == "|":
            options.append([])
        elif token == "]":
            if not stack:
                raise ValueError(f"']' without '[' in template: {template!r}")
            choice: Node = ("choice", [("all", option) for option in options])
            options = stack.pop()
            options[-1].append(choice)
        elif token[0] == "{":
            options[-1].append(("slot", token[1:-1]))
        elif token[0] == "<":
            options[-1].append(("macro", token[1:-1]))
        else:
            options[-1].append(("text", token))
    if stack:
        raise ValueError(f"'[' without ']' in template: {template!r}")
    return ("choice", [("all", option) for option in options])


def an(noun: str) -> str:
    """The noun with its article."""
    return ("an " if noun[0] in "aeiouAEIOU" else "a ") + noun


def polish(text: str) -> str:
    """Articles, spaces and capitals of a finished text."""
    text = _ARTICLE.sub(lambda m: f"{m[1]}n " if m[2] in "aeiou" else f"{m[1]} ", text)
    text = re.sub(r" +([,.!?\n])", r"\1", re.sub(r" {2,}", " ", text)).strip()
    text = re.sub(r"\n +", "\n", text)
    return _START.sub(lambda m: m[0].upper(), text)


class Telling:
    """One story in the making: its dice and the words that its slots stand for."""

    def __init__(
        self, rng: random.Random, macros: Mapping[str, Node], cast: dict[str, Word], pick: Callable[[str], Word]
    ) -> None:
        self.rng, self.macros, self.words, self.pick = rng, macros, cast, pick

    def expand(self, node: Node) -> str:
        """The text of a node."""
        kind, body = node
        if isinstance(body, str):
            if kind == "text":
                return body
            return self.expand(self.macros[body]) if kind == "macro" else self.slot(body)
        if kind == "choice":
            return self.expand(body[int(self.rng.random() * len(body))])
        return "".join([self.expand(part) for part in body])

    def slot(self, name: str) -> str:
        """The word in a slot, `name` or `name.field`."""
        slot, _, field = name.partition(".")
        key = slot.lower()
        if key not in self.words:
            self.words[key] = self.pick(key)
        value = self.words[key][field]
        if not isinstance(value, str):
            value = value[int(self.rng.random() * len(value))]
        if "{" in value or "[" in value:
            value = self.expand(parse(value))
        return value[0].upper() + value[1:] if slot != key else value
