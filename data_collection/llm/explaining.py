"""The work of rationales.py: what a server is asked, what its answer must be, and the attempts until it is.

MMedBench's rationales were written by GPT-4, which was given the question and its right answer, and a part of them was
checked by people. The checks here are those that a program can make before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from configs import records
from configs.errors import FailedItems
from configs.files import fingerprint
from configs.progress import Progress, log
from data_collection.llm.asking import LATER_TEMPERATURE, Attempts, ask_until_good, model_of_finished, sampling
from data_collection.llm.replies import CUT, ECHO, MAX_ECHOED, REFUSAL, refuses, share_echoed, text_problem
from data_collection.llm.server_settings import ServerSettings
from data_collection.llm.servers import Request, Server
from data_collection.questions.answers import parse_answer, split_answer
from data_collection.questions.question import Question
from data_collection.questions.question_files import QuestionFiles, write_questions

_JOURNAL = "attempts.jsonl"
_ANSWER = "### Answer:"

# What is asked, in the question's own language; {letters} are the right options'.
_INSTRUCTIONS = {
    "en": (
        "The right answer to this medical question is {letters}. Explain in English, step by step, why it is right and "
        "why the other options are not. Do not doubt the given answer. End with the line “{answer} {letters}”."
    ),
    "zh": (
        "这道医学题的正确答案是 {letters}。请用中文逐步说明它为什么正确，其他选项为什么不正确。"
        "不要质疑给定的答案。最后一行写“{answer} {letters}”。"
    ),
    "ja": (
        "この医学の問題の正解は {letters} です。なぜそれが正しく、ほかの選択肢が正しくないのかを、"
        "日本語で順を追って説明してください。与えられた正解を疑わないでください。"
        "最後の行に「{answer} {letters}」と書いてください。"
    ),
    "fr": (
        "La bonne réponse à cette question de médecine est {letters}. Expliquez en français, pas à pas, pourquoi elle "
        "est juste et pourquoi les autres options ne le sont pas. Ne mettez pas en doute la réponse donnée. Terminez "
        "par la ligne « {answer} {letters} »."
    ),
    "ru": (
        "Правильный ответ на этот медицинский вопрос — {letters}. Объясните по-русски, шаг за шагом, почему он верен "
        "и почему другие варианты неверны. Не подвергайте данный ответ сомнению. Закончите строкой "
        "«{answer} {letters}»."
    ),
    "es": (
        "La respuesta correcta a esta pregunta de medicina es {letters}. Explique en español, paso a paso, por qué es "
        "correcta y por qué las demás opciones no lo son. No ponga en duda la respuesta dada. Termine con la línea "
        "«{answer} {letters}»."
    ),
    "ar": (
        "الإجابة الصحيحة عن هذا السؤال الطبي هي {letters}. اشرح بالعربية خطوة بخطوة لماذا هي صحيحة ولماذا الخيارات "
        "الأخرى غير صحيحة. لا تشكك في الإجابة المعطاة. اختم بالسطر «{answer} {letters}»."
    ),
    "hi": (
        "इस चिकित्सा प्रश्न का सही उत्तर {letters} है। हिन्दी में क्रमशः समझाइए कि यह सही क्यों है और अन्य विकल्प सही क्यों "
        "नहीं हैं। दिए गए उत्तर पर संदेह न करें। अंत में यह पंक्ति लिखिए: “{answer} {letters}”।"
    ),
    "de": (
        "Die richtige Antwort auf diese medizinische Frage ist {letters}. Erklären Sie auf Deutsch Schritt für "
        "Schritt, warum sie richtig ist und die anderen Optionen nicht. Zweifeln Sie die gegebene Antwort nicht an. "
        "Schließen Sie mit der Zeile „{answer} {letters}“."
    ),
}


def rationale_request(question: Question, max_new_tokens: int, attempt: int) -> Request:
    """What is asked for a question's rationale; later attempts are sampled, each with a seed of its own."""
    letters = ", ".join(question.answers)
    instruction = _INSTRUCTIONS[question.lang].format(letters=letters, answer=_ANSWER)
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    message = {"role": "user", "content": f"{question.question}\n{options}\n\n{instruction}"}
    return Request(question.id, [message], max_new_tokens, sampling(attempt))


def check_rationale(text: str, hit_limit: bool, question: Question) -> tuple[str, str]:
    """The rationale in what a server wrote, and what is wrong with it ("" for nothing).

    Wrong is: cut at the limit; a refusal; mostly the question and the instructions again; no answer at the end, or
    another one than the question's; too short or full of repetitions (`quality.problem`); in another language; broken
    off.
    """
    if hit_limit:
        return "", CUT
    rationale = split_answer(text)[0].strip("*#“«「 \n")
    if refuses(text):
        return rationale, REFUSAL
    asked = rationale_request(question, 0, 0).messages[0]["content"]
    if share_echoed(rationale, asked, question.lang) > MAX_ECHOED:
        return rationale, ECHO
    answer = parse_answer(text, question.options)
    if answer is None:
        return rationale, "does not end with an answer"
    if answer != question.answers:
        return rationale, f"argues for {', '.join(answer)} instead of {', '.join(question.answers)}"
    return rationale, text_problem(rationale, question.lang)


@dataclass(frozen=True)
class _Explained:
    """A question as something to ask a rationale for (`asking.Item`)."""

    question: Question
    max_new_tokens: int

    @property
    def id(self) -> str:
        return self.question.id

    def request(self, attempt: int, earlier: list[Any]) -> Request:
        return rationale_request(self.question, self.max_new_tokens, attempt)

    def check(self, text: str, hit_limit: bool, earlier: list[Any]) -> tuple[str, str]:
        return check_rationale(text, hit_limit, self.question)


def write_rationales(settings: Any, server_settings: ServerSettings) -> int:
    """Ask, check, ask again, write; returns the exit code (5: some questions have no good rationale)."""
    failed = FailedItems()
    questions = QuestionFiles(settings.input, settings.languages, failed, settings.output_dir)
    server = None
    model = model_of_finished(settings.output_dir, server_settings.server_model)
    if model is None:
        server = Server(server_settings)
        model = server.model
    identity = {
        "questions": questions.identity,
        "prompts": fingerprint([_INSTRUCTIONS, LATER_TEMPERATURE]),
        **server_settings.identity(model),
        **{name: getattr(settings, name) for name in ("max_new_tokens", "max_attempts", "replace")},
    }
    done = records.already_done(settings.output_dir, identity)
    if done:
        log.info(f"already done: {settings.output_dir}")
        return records.exit_code(done)
    server = server or Server(server_settings)
    described = {**records.plain(settings), **records.plain(server_settings)}

    def wanted() -> Iterator[_Explained]:
        for _, question in questions.read():
            if settings.replace or not question.rationale:
                yield _Explained(question, settings.max_new_tokens)

    with records.run_record(settings.output_dir, "rationales", described, identity) as record:
        attempts = Attempts(settings.output_dir / _JOURNAL)
        num_wanted = sum(1 for _ in wanted())
        num_good = sum(attempts.is_good(item.id) for item in wanted())
        most = server.estimate(item.request(0, []) for item in wanted() if not attempts.is_good(item.id))
        log.info(
            f"{num_wanted - num_good:,} rationales to write with {server.model}"
            + (f", about {most:.2f} at most when each is good at the first attempt" if most else "")
        )
        progress = Progress("rationales", num_wanted, "questions", done=num_good)
        ask_until_good(server, wanted, attempts, settings.max_attempts, progress)
        for item in wanted():
            if not attempts.is_good(item.id):
                tried = f"no good rationale in {settings.max_attempts} attempts"
                failed.add(item.id, f"{tried}; the last: {attempts.last_problem(item.id)}")
        write_questions(
            ((split, _explained(question, attempts, server.model)) for split, question in questions.read()),
            settings.output_dir,
        )
        failed.write(settings.output_dir / "failures.jsonl")
        num_good = sum(attempts.is_good(item.id) for item in wanted())
        figures = {"asked": num_wanted, "written": num_good, "attempts": attempts.num_rows}
        cost = round(attempts.cost, 6)
        attempts.close()
        record.finish(
            "finished", len(failed), model=server.model, problems=dict(attempts.problems), cost=cost, **figures
        )
    log.info(f"{num_good:,} of {num_wanted:,} rationales written, {cost:.4f} spent")
    print(settings.output_dir)
    return failed.exit_code


def _explained(question: Question, attempts: Attempts, model: str) -> Question:
    """The question with its new rationale, or as it was where it has none."""
    results = attempts.results(question.id)
    if not results:
        return question
    checked = {"human_checked": False, "human_check_passed": False}
    return replace(question, rationale=results[-1], meta={**question.meta, "rationale_model": model}, **checked)
