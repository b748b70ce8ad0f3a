"""The prompt: the one place that renders a question, for training and for asking alike.

The style's id and hash travel with the weights (`save_prompt`), and inference refuses weights that were taught another
prompt (`check_prompt`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from configs.errors import SettingsError
from configs.files import fingerprint, read_json, write_json
from data_collection.questions.question import Question

Kind = Literal["with_rationale", "answer_only"]
KINDS: tuple[Kind, ...] = ("with_rationale", "answer_only")
STYLE = "plain"
PROMPT_FILE = "prompt.json"
_RATIONALE, _ANSWER = "### Rationale:", "### Answer:"

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


def render_prompt(question: Question, kind: Kind) -> str:
    """The text a model is given. It ends where the completion begins, without a space after the marker."""
    with_rationale, answer_only = _INSTRUCTIONS[question.lang]
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    instruction, marker = (with_rationale, _RATIONALE) if kind == "with_rationale" else (answer_only, _ANSWER)
    return f"{instruction}\n\n{question.question}\n{options}\n\n{marker}"


def render_completion(question: Question, kind: Kind) -> str:
    """The text a model is taught to write after `render_prompt`, without the end token.

    Raises:
        ValueError: the question has no answer, or no rationale where one is to be taught.
    """
    if not question.answers:
        raise ValueError("the question has no answer")
    answer = f" {', '.join(question.answers)}"
    if kind == "answer_only":
        return answer
    if not question.rationale:
        raise ValueError("the question has no rationale")
    return f" {question.rationale}\n\n{_ANSWER}{answer}"


def prompt_record() -> dict[str, str]:
    """The style's id and a hash over all it can render: any change of wording changes it."""
    probes = [Question("probe", lang, "Q", {"A": "a", "B": "b"}, ("A", "B"), "R") for lang in _INSTRUCTIONS]
    texts = [[render_prompt(probe, kind), render_completion(probe, kind)] for probe in probes for kind in KINDS]
    return {"style": STYLE, "hash": fingerprint(texts)}


def save_prompt(folder: Path) -> None:
    """Write the style's record beside the weights."""
    write_json(folder / PROMPT_FILE, prompt_record())


def check_prompt(folder: Path) -> None:
    """Refuse weights that were taught another prompt. Weights without a record (base models) are free to be asked.

    Raises:
        SettingsError: the record beside the weights differs from ours.
    """
    path = folder / PROMPT_FILE
    if path.exists() and (saved := read_json(path)) != prompt_record():
        raise SettingsError(
            "the model was fine-tuned with another prompt than the one it would be asked with",
            where=path,
            found=saved,
            wanted=prompt_record(),
            todo="fine-tune again, or evaluate with the commit in the model's run.json",
        )
