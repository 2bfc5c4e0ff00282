"""Short, simple stories for children, told from the templates in `plots/` and the lists in `words.py`.

A plot is a list of steps and a step a list of ways to tell it. `stories(seed)` never ends; the same seed tells the same
stories.
"""

import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from training import words as w
from training.grammar import Node, Telling, Word, an, parse, polish

T = TypeVar("T", str, tuple[str, ...])

PLOTS = Path(__file__).parent / "plots"
_TAGS = re.compile(r"((?: [@+][a-z0-9=]+)(?: [@+]?[a-z0-9=]+)*)$")


@dataclass
class Way:
    """One way to tell a step: what it needs, what it decides, its template."""

    node: Node
    needs: set[str] = field(default_factory=set)
    sets: dict[str, str] = field(default_factory=dict)


@dataclass
class Step:
    """A step of a plot."""

    ways: list[Way] = field(default_factory=list)
    optional: bool = False
    paragraph: bool = False


@dataclass
class Plot:
    """A kind of story: who is in it from the start, what it teaches, its steps."""

    cast: str
    lesson: str
    steps: list[Step]


def read_plot(text: str) -> Plot:
    """Parse a plot file; plots/README.md describes the format."""
    head, *blocks = re.split(r"\n\s*\n", text.strip())
    fields = dict(line.split(": ", 1) for line in head.splitlines() if not line.startswith("#"))
    return Plot(fields["cast"], fields["lesson"], [read_step(block) for block in blocks])


def read_step(block: str) -> Step:
    """Parse one step: a way a line, `?` for may be left out, `--` for may start a paragraph."""
    step = Step()
    for line in block.splitlines():
        if line in ("?", "--"):
            step.optional |= line == "?"
            step.paragraph |= line == "--"
            continue
        tags = _TAGS.search(line.rstrip())
        way = Way(parse(line.rstrip()[: tags.start()] if tags else line.rstrip()))
        mode = ""
        for tag in tags[1].split() if tags else ():
            mode, name = (tag[0], tag[1:]) if tag[0] in "@+" else (mode, tag)
            if mode == "@":
                way.needs.add(name)
            else:
                key, _, value = name.partition("=")
                way.sets[key] = value
        step.ways.append(way)
    return step


@cache
def plots() -> list[Plot]:
    """All plots, in the order of their file names."""
    return [read_plot(path.read_text(encoding="ascii")) for path in sorted(PLOTS.glob("*.plot"))]


@cache
def macros() -> dict[str, Node]:
    """The templates that the plots share."""
    lines: dict[str, list[str]] = {}
    for line in (PLOTS / "common.macros").read_text(encoding="ascii").splitlines():
        if line and not line.startswith("#"):
            name, body = line.split(" = ", 1)
            lines.setdefault(name, []).append(body)
    return {name: parse("|".join(bodies)) for name, bodies in lines.items()}


def pronouns(gender: str) -> dict[str, str]:
    """The pronoun fields of someone who is "he" or "she"."""
    him, his = ("him", "his") if gender == "he" else ("her", "her")
    return {"he": gender, "him": him, "his": his, "himself": him + "self"}


class Words:
    """Picks the words of one story, no word twice, no kind of animal twice."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.used: set[str] = set()
        self.noun_for: set[str] = set()  # "he" or "she" once "the boy" or "the girl" can only mean one
        self.hero_is_child = rng.random() < 0.55
        self.named = rng.random() < 0.72

    def fresh(self, options: Sequence[T]) -> T:
        """One that this story has not used, as told by its first word or field."""
        while True:
            option = self.rng.choice(options)
            key = option if isinstance(option, str) else option[0]
            if key not in self.used or self.rng.random() < 0.02:
                self.used.add(key)
                return option

    def child(self, gender: str) -> Word:
        """A girl or a boy."""
        name = self.fresh(w.GIRLS if gender == "she" else w.BOYS)
        noun, look = ("girl" if gender == "she" else "boy"), self.rng.choice(w.LOOKS)
        trait = self.rng.choice([word for word in w.LOOKS if word not in ("little", "small", "young")])
        intro = (f"{an(look)} {noun} named {name}", f"{an(look)} {noun} named {name}", f"a {noun} named {name}")
        refs = [name] * 8
        if gender not in self.noun_for and self.rng.random() < 0.5:
            refs += [f"the {noun}", f"the {look} {noun}"]
        self.noun_for.add(gender)
        plain = (f"{an(trait)} little {noun}", f"{an(trait)} {noun}")
        first = (name, name, name, intro[0])
        fields = {"": refs, "intro": intro, "full": name, "first": first, "name": name, "call": name, "plain": plain}
        return {**fields, **pronouns(gender), "hand": "hand"}

    def animal(self) -> Word:
        """An animal that talks."""
        gender = self.rng.choice(("he", "she"))
        kind, hand = self.fresh(w.ANIMALS)
        look = self.rng.choice(w.LOOKS)
        trait = self.rng.choice([word for word in w.LOOKS if word not in ("little", "small", "young")])
        common = {**pronouns(gender), "hand": hand}
        if not self.named:
            the, a = f"the {look} {kind}", f"{an(look)} {kind}"
            title = f"{look} {kind}".title()
            fields = {"": (the, the, the, f"the {kind}"), "intro": a, "full": the, "first": (a, the, the)}
            return {**fields, **common, "name": title, "call": f"little {kind}", "plain": f"very {trait}"}
        name = self.fresh(w.SHE_PETS if gender == "she" else w.HE_PETS)
        intro = (f"{an(look)} {kind} named {name}", f"{an(look)} {kind} named {name}", f"{an(kind)} named {name}")
        full = f"{name} the {kind}"
        refs = (*[name] * 7, f"the {kind}", f"the {look} {kind}")
        fields = {"": refs, "intro": intro, "full": full, "first": (full, intro[0], full)}
        plain = (f"{an(trait)} little {kind}", f"{an(trait)} {kind}")
        return {**fields, **common, "name": name, "call": name, "plain": plain}

    def hero(self) -> Word:
        """Who the story is about."""
        return self.child(self.rng.choice(("he", "she"))) if self.hero_is_child else self.animal()

    def friend(self) -> Word:
        """Someone of the hero's world; seldom a child of the same sex, which pronouns could not tell apart."""
        if self.rng.random() > (0.75 if self.hero_is_child else 0.08):
            return self.animal()
        other = "she" if "he" in self.noun_for else "he"
        return self.child(other if self.rng.random() < 0.8 else self.rng.choice(("he", "she")))

    def grown(self) -> Word:
        """Someone of the hero's family."""
        noun, gender, call = self.fresh(w.FAMILY)
        owned = f"{{hero.his}} {noun}"
        as_name = call in ("Mom", "Dad", "Grandma", "Grandpa") and self.rng.random() < 0.5
        return {"": call if as_name else owned, "first": owned, "bare": noun, "call": call, **pronouns(gender)}

    def wise(self) -> Word:
        """Someone old, kind or clever."""
        noun, gender, call = self.fresh(w.WISE)
        return {"": f"the {noun}", "first": an(noun), "call": call, **pronouns(gender)}

    def guide(self) -> Word:
        """Someone who knows what to do."""
        return self.grown() if self.rng.random() < 0.55 else self.wise()

    def thing(self, nouns: list[str]) -> Word:
        """Something with a color."""
        noun = self.fresh(nouns)
        color = self.rng.choice([word for word in w.COLORS if word != noun])
        return {"": f"{color} {noun}", "a": f"{an(color)} {noun}", "bare": noun, "color": color}

    def dish(self) -> Word:
        """Something to cook and what goes in."""
        noun, *parts = self.fresh(w.DISHES)
        one, two, three, four = self.rng.sample(parts, 4)
        return {"": noun, "a": an(noun), "bare": noun, "one": one, "two": two, "three": three, "four": four}

    def pick(self, slot: str) -> Word:
        """The word for a slot: `spot2` is another spot."""
        kind = slot.rstrip("0123456789")
        match kind:
            case "friend" | "stranger":
                return self.friend()
            case "grown" | "wise" | "guide" | "dish":
                return {"grown": self.grown, "wise": self.wise, "guide": self.guide, "dish": self.dish}[kind]()
            case "toy" | "thing":
                return self.thing(w.TOYS if kind == "toy" else w.BELONGINGS)
            case "food" | "small" | "gift" | "fragile":
                noun = self.fresh({"food": w.FOODS, "small": w.SMALL, "gift": w.GIFTS, "fragile": w.FRAGILE}[kind])
                return {"": noun, "a": an(noun), "bare": noun}
            case "home":
                return {"": self.fresh(w.CHILD_HOMES if self.hero_is_child else w.ANIMAL_HOMES)}
            case "spot":
                return {"": self.fresh(w.SPOTS)}
            case "place":
                name, where = self.fresh(w.PLACES)
                return {"": f"the {name}", "in": f"{where} the {name}", "to": f"to the {name}"}
        table, fields = {
            "hobby": (w.HOBBIES, ("", "ing", "past")),
            "skill": (w.SKILLS, ("", "ing", "past", "fails")),
            "fear": (w.FEARS, ("", "shows", "truth")),
            "project": (w.PROJECTS, ("bare", "of", "fails", "needs")),
            "plant": (w.PLANTS, ("bare", "looks", "gives")),
            "find": (w.FINDS, ("bare", "in")),
            "wish": (w.WISHES, ("", "then")),
            "forbid": (w.FORBIDDEN, ("", "then", "feel")),
        }[kind]
        row = dict(zip(fields, self.fresh(table), strict=True))
        return row | {"a": an(row["bare"])} if "bare" in row else row


def tell(rng: random.Random, plot: Plot) -> str:
    """One story of a plot."""
    words = Words(rng)
    flags = {rng.choice(("solo", "duo")) if plot.cast == "any" else plot.cast}
    cast: dict[str, Word] = {"hero": words.hero()}
    if "duo" in flags:
        cast["friend"] = words.friend()
    cast["lesson"] = {"": plot.lesson}
    telling = Telling(rng, macros(), cast, words.pick)
    parts: list[str] = []
    for step in plot.steps:
        ways = [way for way in step.ways if way.needs <= flags]
        if not ways or (step.optional and rng.random() < 0.3):
            continue
        way = rng.choice(ways)
        for key, value in way.sets.items():
            if value:
                cast[value] = cast.get(value) or words.pick(value)
                cast[key] = cast[value]
            flags.add(key)
        parts.append("\n\n" if step.paragraph and rng.random() < 0.65 else " ")
        parts.append(telling.expand(way.node))
    if rng.random() < 0.1:
        parts.append(" The end.")
    return polish("".join(parts))


def stories(seed: int) -> Iterator[str]:
    """Stories without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield tell(rng, rng.choice(plots()))


def main() -> None:
    """Print some stories: `python -m training.stories [COUNT [SEED]]`."""
    count, seed = (int(argument) for argument in [*sys.argv[1:3], *("5", "0")[len(sys.argv) - 1 :]])
    for _, story in zip(range(count), stories(seed), strict=False):
        print(story, end="\n\n-----\n\n")


if __name__ == "__main__":
    main()
