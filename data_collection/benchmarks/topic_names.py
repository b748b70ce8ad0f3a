"""The medical topics of questions, and reading one out of what a server wrote.

The 21 topics of the paper of MMedBench are not known to us. These are the subjects that MedMCQA gives its questions
(`subject_name`), without its "Unknown".
"""

from __future__ import annotations

import re

from data_collection.questions.question import Question

TOPICS = (
    "Anaesthesia", "Anatomy", "Biochemistry", "Dental", "ENT", "Forensic Medicine", "Gynaecology & Obstetrics",
    "Medicine", "Microbiology", "Ophthalmology", "Orthopaedics", "Pathology", "Pediatrics", "Pharmacology",
    "Physiology", "Psychiatry", "Radiology", "Skin", "Social & Preventive Medicine", "Surgery",
)  # fmt: skip
_BY_NAME = {name.casefold(): name for name in TOPICS}
_ANSWER = re.compile(r"(?:(\d{1,2})[.):]?)?\s*(.*?)[\s.]*", re.DOTALL)


def topic_text(question: Question) -> str:
    """What a topic is judged by: the question and its options, without letters."""
    return "\n".join([question.question, *question.options.values()])


def topic_prompt(question: Question) -> str:
    """What a server is asked, in English as the names are; the question stays in its language."""
    names = "\n".join(f"{number}. {name}" for number, name in enumerate(TOPICS, 1))
    return (
        f"Which subject does this question of a medical examination belong to?\n\n{topic_text(question)}\n\n"
        f"The subjects are:\n{names}\n\nAnswer with the name of the one subject that fits best and nothing else."
    )


def read_topic(text: str) -> str | None:
    """The one topic that a text is: its name, its number, or both where they agree; None for anything else.

    Marks around it and upper and lower case do not matter.
    """
    bare = text.strip().strip("*_\"'`“”# ").strip()
    found = _ANSWER.fullmatch(bare)
    number, name = (found[1], found[2].strip("*_\"'`“” ")) if found else (None, bare)
    numbered = TOPICS[int(number) - 1] if number and 1 <= int(number) <= len(TOPICS) else None
    named = _BY_NAME.get(" ".join(name.split()).casefold())
    if number and name:
        return named if named == numbered else None
    return numbered if number else named
