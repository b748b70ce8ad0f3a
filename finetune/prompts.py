"""The prompt: the one place that renders a question, for training and for asking alike.

The style's id and a hash of what it renders travel with the weights (`save_prompt`), and inference refuses weights that
were taught another prompt (`check_prompt`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from configs.errors import SettingsError
from configs.files import fingerprint, read_json, write_json
from data_collection.questions.question import Question
from finetune.styles import PLAIN, Style, StyleName

Kind = Literal["with_rationale", "answer_only"]
KINDS: tuple[Kind, ...] = ("with_rationale", "answer_only")
# A cloze is never taught: the question without its options, whose texts are scored in the place of the answer.
PromptKind = Literal[Kind, "cloze"]
PROMPT_FILE = "prompt.json"
# Three Russian rows of MMedBench bring a heading of their own, one after the answer: "B. нет### Обоснование:".
_OWN_HEADING = re.compile(r"[^#\n]{0,20}#{2,6} ?[^#\n:：]{1,20}[:：]\s*")

# What is asked for, in the question's own language: (with rationale, answer only).
_INSTRUCTIONS: dict[str, tuple[str, str]] = {
    "en": (
        "Answer this medical question. First explain your reasoning, then give the letter of every right option.",
        "Answer this medical question. Give only the letter of every right option.",
    ),
    "zh": (
        "请回答下面的医学问题。先说明理由，再写出所有正确选项的字母。",
        "请回答下面的医学问题。只写出所有正确选项的字母。",
    ),
    "ja": (
        "次の医学の問題に答えなさい。まず理由を述べ、次に正しい選択肢の記号をすべて書きなさい。",
        "次の医学の問題に答えなさい。正しい選択肢の記号だけをすべて書きなさい。",
    ),
    "fr": (
        "Répondez à cette question de médecine. Justifiez d'abord, puis donnez la lettre de chaque option juste.",
        "Répondez à cette question de médecine. Donnez seulement la lettre de chaque option juste.",
    ),
    "ru": (
        "Ответьте на медицинский вопрос. Сначала дайте обоснование, затем букву каждого верного варианта.",
        "Ответьте на медицинский вопрос. Дайте только букву каждого верного варианта.",
    ),
    "es": (
        "Responda a esta pregunta de medicina. Primero razone, después dé la letra de cada opción correcta.",
        "Responda a esta pregunta de medicina. Dé solo la letra de cada opción correcta.",
    ),
    "ar": (
        "أجب عن هذا السؤال الطبي. اشرح تعليلك أولا، ثم اكتب حرف كل خيار صحيح.",
        "أجب عن هذا السؤال الطبي. اكتب فقط حرف كل خيار صحيح.",
    ),
    "hi": (
        "इस चिकित्सा प्रश्न का उत्तर दीजिए। पहले अपना तर्क समझाइए, फिर हर सही विकल्प का अक्षर लिखिए।",
        "इस चिकित्सा प्रश्न का उत्तर दीजिए। केवल हर सही विकल्प का अक्षर लिखिए।",
    ),
    "de": (
        "Beantworten Sie diese medizinische Frage. Begründen Sie zuerst, dann nennen Sie den Buchstaben jeder "
        "richtigen Antwort.",
        "Beantworten Sie diese medizinische Frage. Nennen Sie nur den Buchstaben jeder richtigen Antwort.",
    ),
}


def render_question(question: Question, kind: PromptKind, style: Style = PLAIN) -> str:
    """The user's words alone: what a server that has its own chat template is sent. A cloze is the question alone."""
    if kind == "cloze":
        return question.question
    options = style.option_gap.join(f"{letter}. {text}" for letter, text in question.options.items())
    instruction = _INSTRUCTIONS[question.lang][KINDS.index(kind)]
    return style.body.format(instruction=instruction, question=question.question, options=options)


def render_prompt(question: Question, kind: PromptKind, style: Style = PLAIN, examples: Sequence[Question] = ()) -> str:
    """The text a model is given, to which its tokenizer adds the start token if it has one.

    It ends where the completion begins, without a blank after the cue.

    Args:
        examples: questions with their answers, shown before it as the style teaches them (few-shot).

    Raises:
        ValueError: an example has no answer, or no rationale where one is to be shown.
    """
    return "".join(prompt_parts(question, kind, style, examples))


def prompt_parts(question: Question, kind: PromptKind, style: Style, examples: Sequence[Question] = ()) -> list[str]:
    """The text of `render_prompt` in parts: the style's turns, and what is said in them, one after the other."""
    cue = style.cues[0 if kind == "with_rationale" else 1]
    parts, frame = [], style.before
    for example in examples:
        asked, said = render_question(example, kind, style), render_completion(example, kind, style)
        parts += [frame, asked, style.answered + cue, said]
        frame = style.between
    return [*parts, frame, render_question(question, kind, style), style.after + cue]


def render_completion(question: Question, kind: PromptKind, style: Style = PLAIN) -> str:
    """The text a model is taught to write after `render_prompt`, without the end token; of a cloze, which is not
    taught, the right options' texts.

    Raises:
        ValueError: the question has no answer, or no rationale where one is to be taught.
    """
    if not question.answers:
        raise ValueError("the question has no answer")
    if kind == "cloze":
        return style.lead + ", ".join(question.options[letter] for letter in question.answers)
    answer = style.choice.format(style.letter_gap.join(question.answers))
    if kind == "answer_only":
        return style.lead + answer
    rationale = question.rationale
    if own := _OWN_HEADING.match(rationale):
        rationale = rationale[own.end() :]
    if not rationale:
        raise ValueError("the question has no rationale")
    return style.lead + rationale + style.answer_cue + answer


def render_options(question: Question, style: Style = PLAIN, *, as_text: bool) -> dict[str, str]:
    """Letter of each option to what is scored as its answer: its text, behind the prompt of a cloze, or its letter as
    `render_completion` teaches it, behind that of answer_only."""
    if as_text:
        return {letter: style.lead + text for letter, text in question.options.items()}
    return {letter: style.lead + style.choice.format(letter) for letter in question.options}


def prompt_record(style: Style = PLAIN, languages: Iterable[str] = tuple(_INSTRUCTIONS)) -> dict[str, Any]:
    """The style's id, the languages that are meant, and a hash over all that the style renders in them.

    Any change of wording in these languages, of layout, of the chat template's turns or of the end token changes the
    hash; a language more in the table does not.
    """
    languages = sorted(languages)
    probes = [Question("probe", lang, "Q", {"A": "a", "B": "b"}, ("A", "B"), "R") for lang in languages]
    rendered = [
        [render_prompt(probe, kind, style), render_completion(probe, kind, style)] for probe in probes for kind in KINDS
    ]
    return {"style": style.name, "languages": languages, "hash": fingerprint([rendered, style.end])}


def save_prompt(folder: Path, style: Style = PLAIN, languages: Iterable[str] = tuple(_INSTRUCTIONS)) -> None:
    """Write the record of the style and the languages that were taught beside the weights."""
    write_json(folder / PROMPT_FILE, prompt_record(style, languages))


def beside(weights: Path, name: str) -> Path | None:
    """A file of the weights' folder; for a checkpoint, which has none of its own, of the run's folder."""
    folders = [weights, weights.parent] if weights.name.startswith("checkpoint-") else [weights]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def taught_style(folder: Path) -> StyleName | None:
    """The name of the style that the weights in a folder were taught; None for weights without a record."""
    path = beside(folder, PROMPT_FILE)
    return read_json(path)["style"] if path else None


def check_prompt(folder: Path, style: Style = PLAIN) -> None:
    """Refuse weights that were taught another prompt, in the languages they were taught in.

    Weights without a record (base models) are free to be asked, and so are languages that were not taught.

    Raises:
        SettingsError: the record beside the weights differs from ours.
    """
    path = beside(folder, PROMPT_FILE)
    if not path:
        return
    saved = read_json(path)
    known = [lang for lang in saved.get("languages", ()) if lang in _INSTRUCTIONS]
    if saved != (ours := prompt_record(style, known)):
        raise SettingsError(
            "the model was fine-tuned with another prompt than the one it would be asked with",
            where=path,
            found=saved,
            wanted=ours,
            todo=f"ask in the style it was taught ({saved.get('style')}), fine-tune again, or evaluate with the commit "
            "in the model's run.json",
        )
