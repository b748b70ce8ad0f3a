"""Masking of personal data."""

import json
import random
from pathlib import Path

import pytest

from data_collection.selection.personal_data import mask

DOCUMENTS = Path(__file__).parents[2] / "shared" / "data" / "documents"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to jane.doe+x@uni-x.ac.uk.", "Write to <EMAIL>."),
        ("邮箱zhang@163.com联系", "邮箱<EMAIL>联系"),
        ("Call (212) 555-0147 or 212-555-0147.", "Call <PHONE> or <PHONE>."),
        ("Tél. 01 42 34 56 78", "Tél. <PHONE>"),
        ("тел. 8 (495) 123-45-67, +7 916 123 45 67", "тел. <PHONE>, <PHONE>"),
        ("电话13812345678。手机 138-1234-5678", "电话<PHONE>。手机 <PHONE>"),
        ("手機0912345678，傳真：0223456789", "手機<PHONE>，傳真：<PHONE>"),
        ("電話：03-1234-5678、０９０－１２３４－５６７８", "電話：<PHONE>、<PHONE>"),
        ("Teléfono: 912 345 678", "Teléfono: <PHONE>"),
        ("03-1234-5678 03-1234-5679", "<PHONE> <PHONE>"),
        ("身份证号11010519491231002X", "身份证号<ID>"),
        ("DNI 12345678Z, NIE X1234567L", "DNI <ID>, NIE <ID>"),
        ("NIR 2 69 05 49 588 157 80", "NIR <ID>"),
        ("СНИЛС 112-233-445 95; ИНН 7707083893", "СНИЛС <ID>; ИНН <ID>"),
        ("SSN 536-90-4399", "SSN <ID>"),
        ("マイナンバー 1234 5678 9018", "マイナンバー <ID>"),
        ("Aadhaar: 2341 2341 2346", "Aadhaar: <ID>"),
        ("Steuer-ID 36 574 261 809", "Steuer-ID <ID>"),
        ("4111 1111 1111 1111, 378282246310005", "<CARD>, <CARD>"),
    ],
)
def test_personal_data_becomes_marks(text, masked):
    assert mask(text) == (masked, masked.count("<"))


@pytest.mark.parametrize(
    "text",
    [
        "1 000 000 IU twice, then 200 000 to 12 345 678 units; 1,234,567.89 and 3.14159265358979",
        "doi:10.1038/s41586-020-2012-7, 10.1016/j.cell.2019.12.34567890, ISBN 978-3-16-148410-0",
        "2020-01-15 10:30, 03-05-2018, 1990-2000, 2021.03.04-2021.05.06, 01.02.2003 04.05.2006",
        "PMID: 12345678, NCT01234567, EudraCT 2004-000446-20, GSE12345678, MN908947.3, CAS 1605-68-1",
        "chr7:140453136-140453137, rs121913529, BRAF V600E, CD45RA, IL-2, HLA-DRB1*15:01",
        "ICD-10 E11.9, F32.1; EC 3.4.21.4; 120/80 130/85 140/90; 0.5-1.0 mg/kg; 18 21 24 27 30 33 36",
        "12345678901234567890 and 1 2 3 4 5 6 7 8 9 10 11 12",
        "血压120/80mmHg，白细胞12.5×10^9/L，2020年12月31日，100000000个",
    ],
)
def test_medical_numbers_stay(text):
    assert mask(text) == (text, 0)


def luhn_sum(number):
    digits = [int(digit) for digit in reversed(number)]
    return sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])


def test_check_digits_decide():
    draw = random.Random(0)
    for _ in range(200):
        number = "4" + "".join(draw.choice("0123456789") for _ in range(15))
        assert mask(f"no. {number} here")[1] == (luhn_sum(number) % 10 == 0)
        dni = f"{draw.randrange(10**8):08d}"
        letter = "TRWAGMYFPDXBNJZSQVHLCKE"[int(dni) % 23]
        assert mask(f"DNI {dni}{letter}")[0] == "DNI <ID>"
        assert mask(f"DNI {dni}{'A' if letter != 'A' else 'B'}")[1] == 0
        body = (
            f"110105{draw.randrange(1950, 2000)}0{draw.randrange(1, 9)}1{draw.randrange(9)}{draw.randrange(1000):03d}"
        )
        weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
        check = "10X98765432"[sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 11]
        assert mask(f"号{body}{check}。") == ("号<ID>。", 1)


@pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="no ../shared/data")
def test_hardly_a_real_medical_document_is_touched():
    for lang in ("en", "zh", "ja", "fr", "ru", "es"):
        with open(DOCUMENTS / f"{lang}.medical.jsonl", encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
        assert sum(mask(text)[1] > 0 for text in texts) <= 0.005 * len(texts)  # all of them seen, and right
