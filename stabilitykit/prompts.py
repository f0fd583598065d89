"""The prompts a run uses: our own short ones, or a file of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stabilitykit.errors import UsageError
from stabilitykit.text_lines import numbered_lines


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what kind it is of, for results that are set apart by kind."""

    text: str
    kind: str = "given"


DEFAULT_PROMPTS = (
    "The capital of France is",
    "def area(radius): return",
    "Seven plus five equals",
    "Once the rain had stopped, the children",
    "Die Antwort auf die Frage lautet",
)
"""One fact first, then code, arithmetic, a story and another language."""

GENERATION_PROMPTS = (
    Prompt("Rain begins with water that the sun lifts from the sea, and it", "answerable"),
    Prompt("In the treaty of 1871 Bavaria promised the dolphins of the Adriatic that", "false premise"),
    Prompt("The printing press changed how people in Europe shared knowledge, since", "answerable"),
    Prompt("The people who settled inside Mount Etna after 2010 spend their days", "false premise"),
    Prompt("Bread dough rises because the yeast in it", "answerable"),
    Prompt("When the Moon was painted green in 1998, the company that delivered the paint", "false premise"),
    Prompt("Blood flows through the chambers of the heart in this order: first", "answerable"),
    Prompt("At the opening of the Suez Canal the orchestra of cats played", "false premise"),
    Prompt("The seasons are opposite in the two hemispheres because", "answerable"),
    Prompt("The ice fishers of Lake Victoria, who lived on its sea ice until May 2021, used to", "false premise"),
)
"""What is continued when a generation is recorded: openings with a true continuation, and some that assume what is
false, in turn. None ends a sentence, so that a model that was taught to answer goes on writing. In bfloat16 the default
model writes the first five at near-ties."""

PASSAGE = """When a river leaves the mountains it slows down, and what it carried sinks to the ground. First the \
stones stay behind, then the gravel, then the sand. Only the finest clay reaches the sea, 300 or 400 kilometres \
further on. In this way, year after year, the river builds a plain that is almost level, and on the plain it moves \
its own bed.

"We never owned this field," the old man said. "The water lends it to us." He counted on his fingers: one flood in \
1954, one in 1978, two in 2002. Each time the house stood, each time the garden was somewhere else.

The rate can be estimated. If a layer of 2.5 mm settles in each of 40 floods, the ground has risen by 100 mm, about \
the width of a hand. In code:

    def rise(floods, layer=2.5):
        return floods * layer

Auf der Karte heißt der Ort „Neue Insel“, and those who live there call it simply \U0001f3dd.
"""
"""What the ready-made suite predicts word by word: prose, speech, numbers, code, and a line in two languages."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who a model is told to be before it is asked something; the one without a text is nobody in particular."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question in a role. The labels are fields of their own: no result is grouped by a part of a word."""

    kind: str
    role: str
    question: str
    text: str

    def place(self, number: int) -> dict[str, str | int]:
        """Return the columns that say which prompt a row is of."""
        return {"number": number, "kind": self.kind, "role": self.role, "question": self.question}


NO_ROLE = "no role"
"""The label of a question that is asked without a role."""

QUESTIONS = (
    Prompt("Which gas do plants take in to make sugar?", "factual"),
    Prompt("Which gas do stones take in to make honey?", "false premise"),
    Prompt("How many legs does a spider have?", "factual"),
    Prompt("How many legs does a rainbow have?", "false premise"),
    Prompt("Which river flows through Cairo?", "factual"),
    Prompt("Which river flows through the middle of the Sun?", "false premise"),
    Prompt("What is the square root of 81?", "factual"),
    Prompt("What is the square root of Thursday?", "false premise"),
    Prompt("Which metal is liquid at room temperature?", "factual"),
    Prompt("Which metal is afraid of the dark?", "false premise"),
    Prompt("What language is spoken in Brazil?", "factual"),
    Prompt("What language is spoken by the mountains of Norway?", "false premise"),
    Prompt("How many minutes are in three hours?", "factual"),
    Prompt("How many minutes are in a litre of milk?", "false premise"),
    Prompt("Which organ pumps blood through the body?", "factual"),
    Prompt("Which organ pumps blood through a bicycle?", "false premise"),
    Prompt("What is frozen water called?", "factual"),
    Prompt("What is frozen silence called?", "false premise"),
    Prompt("Which planet is known for its large rings?", "factual"),
    Prompt("Which planet is known for its large elephants?", "false premise"),
)
"""Ten questions with an answer, each before one that begins alike and assumes what is false."""

ROLES = (
    Role("teacher", "You are a primary school teacher."),
    Role("captain", "You are a retired sea captain."),
    Role("lawyer", "You are a tax lawyer."),
    Role("drummer", "You are a jazz drummer."),
)


def crossed(questions: Sequence[Prompt], roles: Sequence[Role]) -> tuple[Labelled, ...]:
    """Return each question without a role and then in each role, whose text stands before it.

    UsageError for no question, one that is no `Prompt`, a label without a letter, two equal ones, or `NO_ROLE`.
    """
    if isinstance(questions, str) or not questions or not all(isinstance(one, Prompt) for one in questions):
        raise UsageError('questions is a list of Prompt("text", "kind"), with at least one')
    if not all(isinstance(one, Role) for one in roles):
        raise UsageError('roles is a list of Role("name", "text"), empty for none')
    names = [NO_ROLE, *(role.name for role in roles)]
    for what, labels in (("question", [one.text for one in questions]), ("role", names)):
        if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise UsageError(f"each {what} needs a text of its own to be told apart, not {labels!r}")
    if not all(one.kind.strip() for one in questions):
        raise UsageError("each question needs a kind, such as factual")
    return tuple(
        Labelled(one.kind, role.name, one.text, f"{role.text} {one.text}".strip())
        for one in questions
        for role in (Role(NO_ROLE, ""), *roles)
    )


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a UTF-8 file, one a line; blank lines and lines that start with # are skipped.

    Blanks around a prompt are not part of it.
    """
    prompts = tuple(line for _, line in numbered_lines("prompts", path))
    if not prompts:
        raise UsageError(f"prompts file {path} holds no prompt; write one a line, # starts a comment")
    return prompts
