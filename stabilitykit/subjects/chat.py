"""How a question is put to a model: in its own chat template, or as plain text. Which of them is part of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stabilitykit.errors import UnsupportedError, UsageError
from stabilitykit.subjects.anatomy import Anatomy
from stabilitykit.subjects.prompt import token_ids

if TYPE_CHECKING:
    from stabilitykit.subjects.models import LoadedModel

FORMS = ("auto", "chat", "plain")
SAID = {"chat": "in the chat template", "plain": "as plain text"}
"""How a sentence says in which form was asked."""


def check_form(form: str) -> None:
    """Raise UsageError for a form that is none of `FORMS`."""
    if form not in FORMS:
        raise UsageError(f"form {form!r} is not one of {', '.join(FORMS)}")


def form_of(loaded: LoadedModel, form: str) -> str:
    """Return `chat` or `plain`; `auto` is `chat` where the tokenizer has a template.

    UnsupportedError for a model without a tokenizer, and for `chat` without a template.
    """
    if loaded.tokenizer is None:
        raise UnsupportedError(f"{loaded.spec} has no tokenizer, so it cannot be asked a question in words")
    template = getattr(loaded.tokenizer, "chat_template", None)
    if form == "chat" and not template:
        raise UnsupportedError(f"the tokenizer of {loaded.spec} has no chat template; ask with form='plain'")
    return form if form != "auto" else "chat" if template else "plain"


def question_ids(loaded: LoadedModel, anatomy: Anatomy, text: str, form: str) -> list[int]:
    """Return the checked ids of a text: as one turn of the user, up to where the answer begins, or as it is.

    Nothing is said in the system's name; what a template puts there by itself is the same for all texts.
    """
    if form == "plain":
        return token_ids(loaded, anatomy, text)
    tokenizer: Any = loaded.tokenizer
    turn = [{"role": "user", "content": text}]
    ids: Sequence[int] = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    return token_ids(loaded, anatomy, list(ids))
