"""What the demo page shows of an answer, as HTML: everything that a visitor or a model wrote is escaped."""

from __future__ import annotations

from html import escape

from data_collection.questions.answers import parse_answer
from data_collection.questions.question import Question, is_correct
from inference.visible_text import clean, clean_line
from inference.visitors.streaming import MAX_ANSWER_CHARACTERS, Reply

MAX_NAME_CHARACTERS = 60
Texts = dict[str, str]  # the page's words in one language, by their names in demo_texts.yaml


def text_block(text: str) -> str:
    """A text of any script, hidden characters made visible, that cannot change the direction of what is around it."""
    return f'<div class="written" dir="auto">{escape(clean(text.strip(), MAX_ANSWER_CHARACTERS))}</div>'


def message(text: str, texts: Texts) -> str:
    """One line to the visitor, read aloud by a screen reader."""
    return f'<p class="message" role="alert" dir="{texts["direction"]}">{escape(text)}</p>' if text else ""


def panel(name: str, texts: Texts, body: str = "", *, is_busy: bool = False) -> str:
    """The place of one model: its name and, below, its answer."""
    shown = escape(clean_line(name, MAX_NAME_CHARACTERS))
    return (
        f'<section class="panel" dir="{texts["direction"]}" aria-busy="{str(is_busy).lower()}">'
        f'<h2 class="model"><bdi>{shown}</bdi></h2><div aria-live="polite">{body}</div></section>'
    )


def answer(name: str, reply: Reply, texts: Texts, limits: dict[str, int]) -> str:
    """The panel of a free question.

    Args:
        texts: the page's words in its language.
        limits: what the endings name: `limit` (tokens) and `seconds`.
    """
    is_busy = reply.ending is None
    waiting = f'<p class="soft">{escape(texts["preparing"])}</p>' if is_busy and not reply.text else ""
    return panel(name, texts, waiting + _written(reply) + _ending(reply, texts, limits), is_busy=is_busy)


def choice(
    name: str,
    reply: Reply,
    question: Question,
    right: tuple[str, ...],
    texts: Texts,
    limits: dict[str, int],
) -> str:
    """The panel of a multiple-choice question: a bar an option, the explanation, the answer that it ends with.

    Args:
        right: letters of the right options, empty where nobody knows them.
    """
    is_busy = reply.ending is None
    parts = []
    if reply.probabilities:
        parts.append(f"<h3>{escape(texts['probabilities'])}</h3>{_bars(reply.probabilities, question, right)}")
        parts.append(f'<p class="soft">{escape(texts["probabilities_note"])}</p>')
    elif not reply.has_probabilities:
        parts.append(f'<p class="soft">{escape(texts["no_probabilities"])}</p>')
    elif is_busy:
        parts.append(f'<p class="soft">{escape(texts["preparing"])}</p>')
    if reply.text:
        parts.append(f"<h3>{escape(texts['rationale'])}</h3>{_written(reply)}")
    parts.append(_ending(reply, texts, limits))
    if reply.text and not is_busy:
        read = parse_answer(reply.text, question.options)
        parts.append(_line(texts["read_answer"], ", ".join(read) if read else texts["none_read"], _mark(read, right)))
    if right and not is_busy:
        parts.append(_line(texts["right_answer"], ", ".join(right)))
    return panel(name, texts, "".join(parts), is_busy=is_busy)


def _written(reply: Reply) -> str:
    return text_block(reply.text) if reply.text.strip() else ""


def _ending(reply: Reply, texts: Texts, limits: dict[str, int]) -> str:
    if reply.ending in (None, "complete"):
        return ""
    key = "too_long_for_model" if reply.ending == "too_long" else f"ended_{reply.ending}"
    return f'<p class="ending">{escape(texts[key].format(**limits))}</p>'


def _mark(read: tuple[str, ...] | None, right: tuple[str, ...]) -> str:
    return "" if not (read and right) else " ✓" if is_correct(read, right) else " ✗"


def _line(label: str, value: str, mark: str = "") -> str:
    return f'<p class="result">{escape(label)} <strong>{escape(value)}{mark}</strong></p>'


def _bars(probabilities: dict[str, float], question: Question, right: tuple[str, ...]) -> str:
    best = max(probabilities, key=lambda letter: probabilities[letter])
    rows = []
    for letter, share in probabilities.items():
        look = f'class="option{" best" if letter == best else ""}"'
        mark = " ✓" if letter in right else ""
        rows.append(
            f'<li {look}><span class="letter">{letter}</span><span class="text" dir="auto">'
            f'{escape(clean(question.options[letter]))}{mark}</span><span class="share">{100 * share:.1f} %</span>'
            f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span></li>'
        )
    return f'<ul class="options">{"".join(rows)}</ul>'
