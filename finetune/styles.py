"""Prompt styles: the layouts in which a question is asked and answered.

`plain` is for base models, `chat` takes the turns of the model's own chat template, and `published` has the headings
and the answer of the published MMedLM checkpoints (with our instructions, in the question's language).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from configs.errors import SettingsError

StyleName = Literal["plain", "chat", "published"]
STYLES: tuple[StyleName, ...] = ("plain", "chat", "published")
# Templates that print today's date would make another prompt of every day; Llama 3.1's own default is this one.
_DATE = "26 Jul 2024"
_FIXED_DATE = "{% macro strftime_now(format) %}" + _DATE + "{% endmacro %}"
_USER, _ANSWER = "USER-TURN-5E0C", "ANSWER-TURN-B71D"


@dataclass(frozen=True)
class Style:
    """One layout. A prompt is `before` + `body` + `after` + the cue of its kind; a completion begins with `lead`.

    Attributes:
        name: the id that travels with weights.
        body: the user's words, with the places {instruction}, {question} and {options}.
        option_gap: what stands between two options.
        before, after: what stands around the user's words.
        answered: what stands in the place of `after` where the answer is there already, in an example.
        cues: what a prompt ends with: (with rationale, answer only).
        lead: what stands between the prompt and the model's first word.
        answer_cue: what stands between rationale and answer.
        between: what stands between an example's answer and the next question of a few-shot prompt.
        choice: the answer, with {} in the place of its letters.
        letter_gap: what stands between two letters.
        end: the token that ends an answer; the tokenizer's own end token when empty.
        response_cue: what ends a user's turn of a conversation where there is no chat template.
    """

    name: StyleName
    body: str = "{instruction}\n\n{question}\n{options}"
    option_gap: str = "\n"
    before: str = ""
    after: str = ""
    answered: str = ""
    cues: tuple[str, str] = ("\n\n### Rationale:", "\n\n### Answer:")
    lead: str = " "
    answer_cue: str = "\n\n### Answer: "
    between: str = "\n\n"
    choice: str = "{}"
    letter_gap: str = ", "
    end: str = ""
    response_cue: str = "\n\n### Response:"

    def end_token_id(self, tokenizer: Any) -> int:
        """The id of the token that ends an answer."""
        return tokenizer.convert_tokens_to_ids(self.end) if self.end else tokenizer.eos_token_id


PLAIN = Style("plain")
PUBLISHED = Style(
    "published",
    body="### Instruction:\n{instruction}\n\n### Input:\n###Question: {question} ###Options: {options}",
    option_gap=" ",
    cues=("\n\n### Response:###Rationale:", "\n\n### Response:###Answer:"),
    answer_cue="\n###Answer: ",
    choice="OPTION {} IS CORRECT.",
    letter_gap=",",
)


def find_style(name: StyleName, tokenizer: Any) -> Style:
    """The style of a name; `chat` is read off the tokenizer's template.

    Raises:
        SettingsError: chat is asked for and the tokenizer has no template, or one that leaves text out.
    """
    return {"plain": PLAIN, "published": PUBLISHED}.get(name) or chat_style(tokenizer)


def chat_style(tokenizer: Any) -> Style:
    """The style of a tokenizer's own chat template, thinking off: what the template puts around a user's turn, before
    an answer, and the token with which it ends one.

    Raises:
        SettingsError: there is no template, or the user's or the assistant's words do not come out of it unchanged.
    """
    user = {"role": "user", "content": _USER}
    answer = {"role": "assistant", "content": _ANSWER}
    asked = apply_template(tokenizer, [user], asking=True)
    answered = apply_template(tokenizer, [user, answer], asking=False)
    before, found_user, after = asked.partition(_USER)
    said, found_answer, rest = answered.partition(_ANSWER)
    # What ends an answer and begins the user's next turn; a template may close the last turn in another way.
    asked_again = apply_template(tokenizer, [user, answer, user], asking=True)
    shown, _, later = asked_again.partition(_ANSWER)
    between = later.partition(_USER)[0]
    if not (found_user and found_answer):
        raise SettingsError(
            "the chat template leaves out what is said",
            where=tokenizer.name_or_path,
            found=answered,
            wanted="the words of the user's and of the assistant's turn, unchanged",
            todo="--prompt_style plain, or another chat_template.jinja in the model's folder",
        )
    # A template may put a blank before the answer; one that opens a thought for asking alone has nothing there.
    lead = said[len(asked) :] if said.startswith(asked) else ""
    return Style(
        "chat",
        before=without_start(before, tokenizer),
        after=after,
        # Qwen 3 opens and closes a thought before the answer that it is asked for, and not before earlier ones.
        answered=shown.partition(_USER)[2].removesuffix(lead),
        cues=("", ""),
        lead=lead,
        between=between,
        end=first_special(rest, tokenizer) or "",
    )


def apply_template(tokenizer: Any, messages: list[dict[str, str]], *, asking: bool) -> str:
    """The text of a conversation in the tokenizer's chat template, thinking off and the date fixed.

    Raises:
        SettingsError: there is no template, or it refuses the conversation.
    """
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise SettingsError(
            "the model has no chat template",
            where=tokenizer.name_or_path,
            wanted="a chat_template in its tokenizer's files",
            todo="--prompt_style plain, which is for base models",
        )
    template = tokenizer.get_chat_template()
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=_FIXED_DATE + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=asking,
            enable_thinking=False,
            date_string=_DATE,
        )
    except TemplateError as error:
        raise SettingsError(
            "the chat template refuses a conversation",
            where=tokenizer.name_or_path,
            found=error,
            wanted="roles " + ", ".join(message["role"] for message in messages),
            todo="--prompt_style plain, or leave such conversations out",
        ) from None
    # DeepSeek R1 and its like open a thought whatever they are told: it is closed as Qwen 3's template closes it.
    opened = text.rstrip()
    return f"{opened}\n\n</think>\n\n" if asking and opened.endswith("<think>") else text


def first_special(text: str, tokenizer: Any) -> str | None:
    """The first special token in a text, or None."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = (tokenizer.added_tokens_decoder.get(token) for token in ids)
    return next((token.content for token in tokens if token is not None and token.special), None)


def without_start(text: str, tokenizer: Any) -> str:
    """The text without the start token that the tokenizer puts before every text itself: two would be one too many."""
    start = tokenizer.bos_token
    added = start is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(start) if added else text
