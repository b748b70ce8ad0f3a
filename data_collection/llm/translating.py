"""The work of translate.py: questions into other languages, each translated back and compared with what it was.

The translation is asked for in the target language, the back-translation in the source's, without the original. Both
are compared with the original by their numbers, units, names and negations (`faithfulness`), the back-translation also
by chrF (Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation"), which needs no words and so treats
all scripts alike.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from configs import records
from configs.errors import FailedItems, MissingInputError
from configs.files import fingerprint
from configs.languages import language
from configs.progress import Progress, log
from data_collection.llm.asking import LATER_TEMPERATURE, Attempts, ask_until_good, model_of_finished, sampling
from data_collection.llm.faithfulness import changed, words
from data_collection.llm.replies import CUT, REFUSAL, in_language, refuses
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.mmedbench import Split
from data_collection.questions.question import LETTERS, Question
from data_collection.questions.question_files import QuestionFiles, write_questions

_JOURNAL = "attempts.jsonl"
# Of two questions that have nothing to do with each other 95 of 100 are below .41, in Chinese and Japanese below .20
# (README); how alike good translations are is not measured.
MIN_SIMILARITY_SPACED, MIN_SIMILARITY_UNSPACED = 0.45, 0.2
_QUESTION, _RATIONALE = "question", "rationale"
_PART = re.compile(rf"^\W*\[({_QUESTION}|{_RATIONALE}|[{LETTERS}])\](?:\*\*)?[^\S\n]*", re.MULTILINE)

# What is asked, in the language that is translated into.
_INSTRUCTIONS = {
    "en": (
        "Translate this medical exam question into English. Keep the marks in square brackets as they are, each at the "
        "beginning of its line, and keep numbers, units, names of drugs and negations exactly. Do not answer the "
        "question. Write only the translation."
    ),
    "zh": (
        "请把这道医学考题翻译成中文。方括号里的标记保持不变，各自放在行首；数字、单位、药名和否定词必须准确保留。"
        "不要回答问题，只写译文。"
    ),
    "ja": (
        "この医学の試験問題を日本語に訳してください。角括弧の印はそのまま行頭に残し、数値、単位、薬の名前、否定は"
        "正確に保ってください。問題には答えず、訳だけを書いてください。"
    ),
    "fr": (
        "Traduisez en français cette question d'examen de médecine. Gardez telles quelles les marques entre crochets, "
        "chacune au début de sa ligne, et conservez exactement les nombres, les unités, les noms de médicaments et les "
        "négations. Ne répondez pas à la question. N'écrivez que la traduction."
    ),
    "ru": (
        "Переведите этот медицинский экзаменационный вопрос на русский язык. Пометки в квадратных скобках оставьте без "
        "изменений, каждую в начале её строки; числа, единицы, названия лекарств и отрицания сохраните точно. Не "
        "отвечайте на вопрос. Напишите только перевод."
    ),
    "es": (
        "Traduzca al español esta pregunta de examen de medicina. Deje como están las marcas entre corchetes, cada una "
        "al principio de su línea, y conserve con exactitud los números, las unidades, los nombres de fármacos y las "
        "negaciones. No conteste la pregunta. Escriba solo la traducción."
    ),
    "ar": (
        "ترجم سؤال الامتحان الطبي هذا إلى العربية. اترك العلامات التي بين الأقواس المربعة كما هي، كل واحدة في أول "
        "سطرها، واحتفظ بالأرقام والوحدات وأسماء الأدوية والنفي بدقة. لا تجب عن السؤال. اكتب الترجمة فقط."
    ),
    "hi": (
        "इस चिकित्सा परीक्षा प्रश्न का हिन्दी में अनुवाद कीजिए। वर्गाकार कोष्ठकों के चिह्न ज्यों के त्यों, अपनी पंक्ति के आरम्भ में "
        "रखिए, और संख्याएँ, इकाइयाँ, दवाओं के नाम तथा निषेध ठीक वैसे ही रखिए। प्रश्न का उत्तर मत दीजिए। केवल अनुवाद लिखिए।"
    ),
    "de": (
        "Übersetzen Sie diese medizinische Prüfungsfrage ins Deutsche. Lassen Sie die Zeichen in eckigen Klammern, wie "
        "sie sind, jedes am Anfang seiner Zeile, und behalten Sie Zahlen, Einheiten, Namen von Arzneimitteln und "
        "Verneinungen genau bei. Beantworten Sie die Frage nicht. Schreiben Sie nur die Übersetzung."
    ),
}


def parts_of(question: Question) -> dict[str, str]:
    """What is translated of a question, by its mark: question, option letters, rationale where there is one."""
    rationale = {_RATIONALE: question.rationale} if question.rationale else {}
    return {_QUESTION: question.question, **question.options, **rationale}


def read_parts(text: str) -> dict[str, str]:
    """The parts of a text with marks; of a mark that occurs again, the first."""
    marks = list(_PART.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    parts: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=False):  # of no mark there is an end
        parts.setdefault(mark[1], text[mark.end() : end].strip())
    return parts


def similarity(text: str, source: str) -> float:
    """chrF of a text against its source, 0 to 1: character n-grams of 1 to 6, recall counted twice (beta 2)."""
    return _chrf().sentence_score(text, [source]).score / 100


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()


@dataclass(frozen=True)
class Translated:
    """A question and a language to translate it to (`asking.Item` of two steps: there and back)."""

    split: Split
    question: Question
    lang: str
    max_new_tokens: int
    min_similarity: float | None = None

    @property
    def id(self) -> str:
        return f"{self.question.id}>{self.lang}"

    def request(self, attempt: int, earlier: list[Any]) -> Request:
        parts, lang = (earlier[0], self.question.lang) if earlier else (parts_of(self.question), self.lang)
        marked = "\n".join(f"[{mark}] {text}" for mark, text in parts.items())
        message = {"role": "user", "content": f"{_INSTRUCTIONS[lang]}\n\n{marked}"}
        return Request(self.id, [message], self.max_new_tokens, sampling(attempt))

    def check(self, text: str, hit_limit: bool, earlier: list[Any]) -> tuple[Any, str]:
        # The back-translation is compared with the original: what was lost on the way there shows in it as well.
        lang = self.question.lang if earlier else self.lang
        wanted, found = parts_of(self.question), read_parts(text)
        problem = reply_problem(text, hit_limit, found, wanted, lang)
        for mark in () if problem else wanted:
            lost = changed(found[mark], lang, wanted[mark], self.question.lang, polarity=mark != _RATIONALE)
            if lost:
                problem = f"{lost} ([{mark}])"
                break
        if not earlier or problem:
            return found, problem and (f"translated back: {problem}" if earlier else problem)
        score = similarity("\n".join(found[mark] for mark in wanted), "\n".join(wanted.values()))
        least = self.min_similarity
        if least is None:
            least = MIN_SIMILARITY_SPACED if language(lang).spaced else MIN_SIMILARITY_UNSPACED
        low = f"translated back: not alike (chrF {score:.2f})" if score < least else ""
        return {"parts": found, "chrf": round(score, 4)}, low

    def made(self, results: list[Any], model: str) -> Question:
        """The translated question, with where it comes from."""
        parts = results[0]
        origin = {
            "original_id": self.question.id,
            "original_language": self.question.lang,
            "translation_model": model,
            "back_translation_chrf": results[1]["chrf"],
        }
        return replace(
            self.question,
            id=self.id,
            lang=self.lang,
            question=parts[_QUESTION],
            options={letter: parts[letter] for letter in self.question.options},
            rationale=parts.get(_RATIONALE, "") if self.question.rationale else "",
            human_checked=False,
            human_check_passed=False,
            meta={**self.question.meta, **origin},
        )


def reply_problem(text: str, hit_limit: bool, found: dict[str, str], wanted: dict[str, str], lang: str) -> str:
    """What is wrong with a translation before its meaning is looked at, or ""."""
    if hit_limit:
        return CUT
    if refuses(text) and _QUESTION not in found:
        return REFUSAL
    missing = [mark for mark in wanted if not found.get(mark)]
    if missing:
        return f"without [{missing[0]}]"
    if added := found.keys() - wanted.keys():
        return f"with [{min(added)}], which the question does not have"
    if not in_language("\n".join(found.values()), lang):
        return "in another language"
    return ""


def translate_questions(settings: Any, server_settings: ServerSettings) -> int:
    """Translate, check, translate again, write; returns the exit code (5: some questions have no good translation)."""
    failed = FailedItems()
    questions = QuestionFiles(settings.input, settings.languages, failed, settings.output_dir)
    targets = list(dict.fromkeys(language(name).code for name in settings.to))
    model = model_of_finished(settings.output_dir, server_settings.server_model)
    server = None if model else Server(server_settings)
    model = model or server.model
    identity = {
        "questions": questions.identity,
        "to": targets,
        "prompts": fingerprint([_INSTRUCTIONS, LATER_TEMPERATURE]),
        "checks": fingerprint([MIN_SIMILARITY_SPACED, MIN_SIMILARITY_UNSPACED, words()]),
        **server_settings.identity(model),
        **{name: getattr(settings, name) for name in ("max_new_tokens", "max_attempts", "min_similarity")},
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    server = server or Server(server_settings)

    def wanted() -> Iterator[Translated]:
        for split, question in questions.read():
            for lang in targets:
                if lang != question.lang:
                    yield Translated(split, question, lang, settings.max_new_tokens, settings.min_similarity)

    num_wanted = sum(1 for _ in wanted())
    if not num_wanted:
        raise MissingInputError(
            "there is nothing to translate",
            where=settings.input,
            found=f"questions in {', '.join(questions.numbers)}",
            wanted=f"questions in other languages than {', '.join(targets)}",
            todo="name other languages with --to, or give other questions to --input",
        )
    described = {**records.plain(settings), **records.plain(server_settings)}
    with records.run_record(settings.output_dir, "translation", described, identity) as record:
        attempts = Attempts(settings.output_dir / _JOURNAL, num_steps=2)
        num_good = sum(attempts.is_good(item.id) for item in wanted())
        # Back and forth cost about the same.
        most = 2 * server.estimate(item.request(0, []) for item in wanted() if not attempts.is_good(item.id))
        log.info(
            f"{num_wanted - num_good:,} questions to translate there and back with {server.model}"
            + (f", about {most:.2f} at most when each is good at the first attempt" if most else "")
        )
        progress = Progress("translations", num_wanted, "questions", done=num_good)
        ask_until_good(server, wanted, attempts, settings.max_attempts, progress)
        written: Counter[str] = Counter()

        def good() -> Iterator[tuple[Split, Question]]:
            for item in wanted():
                results = attempts.results(item.id)
                if results:
                    written[item.lang] += 1
                    yield item.split, item.made(results, server.model)
                else:
                    tried = f"no good translation in {settings.max_attempts} attempts"
                    failed.add(item.id, f"{tried}; the last: {attempts.last_problem(item.id)}")

        write_questions(good(), settings.output_dir)
        failed.write(settings.output_dir / "failures.jsonl")
        cost, num_attempts = round(attempts.cost, 6), attempts.num_rows
        attempts.close()
        record.finish(
            "finished",
            len(failed),
            asked=num_wanted,
            written=dict(written),
            requests=num_attempts,
            problems=dict(attempts.problems),
            cost=cost,
        )
    log.info(f"{written.total():,} of {num_wanted:,} translations written, {cost:.4f} spent")
    print(settings.output_dir)
    return failed.exit_code
