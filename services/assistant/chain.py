"""What the assistant says: a Markov chain over the project's own documentation. It understands nothing.

Behind every two words comes, by chance, one of those that stand behind these two somewhere in the text. The same
question has the same answer: chance begins with it.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import final

DOCUMENTATION = Path(__file__).parents[2] / "docs"

NOT_PROSE = re.compile(r"^```.*?^```|^(?:[|#]| {4}).*?$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
SENTENCE_END = (".", "!", "?")


def read_documentation(directory: Path = DOCUMENTATION) -> str:
    """Read the prose of all Markdown files below a directory."""
    return "\n".join(prose(path.read_text(encoding="utf-8")) for path in sorted(directory.rglob("*.md")))


def prose(markdown: str) -> str:
    """Leave out code, tables, headings and marks: what can be read aloud is left."""
    return LINK.sub(r"\1", NOT_PROSE.sub("", markdown)).replace("**", "").replace("`", "")


@final
class Chain:
    """Which words stand behind which two.

    Args:
        text: Some prose, with three words at least.
        least: Words after which an answer ends with its sentence.
        most: Words that an answer has in any case no more of.

    Raises:
        ValueError: The text is too short.
    """

    def __init__(self, text: str, least: int = 25, most: int = 80) -> None:
        words = text.split()
        self._least, self._most = least, most
        self._behind: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for one, two, three in zip(words, words[1:], words[2:], strict=False):
            self._behind[one, two].append(three)
        if not self._behind:
            raise ValueError(f"a chain needs a text of three words or more, not {text!r}")
        self._beginnings = [pair for pair in self._behind if pair[0][0].isupper()] or list(self._behind)

    def tokens(self, prompt: str) -> Iterator[str]:
        """Make up an answer, which begins with a word of the question if it can."""
        chance = Random(prompt)  # noqa: S311 - no secrets here
        asked = set(re.findall(r"\w{4,}", prompt.lower()))
        fitting = [pair for pair in self._beginnings if asked & {word.lower().strip(".,:;") for word in pair}]
        one, two = chance.choice(fitting or self._beginnings)
        yield one
        yield f" {two}"
        for count in range(3, self._most + 1):
            following = self._behind.get((one, two))
            if following is None:
                return
            one, two = two, chance.choice(following)
            yield f" {two}"
            if count >= self._least and two.endswith(SENTENCE_END):
                return
