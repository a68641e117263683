"""What pyarrow, pandas and Python read from data files: test/fixtures/data, the reference of test/data/.

Run: pip install pyarrow pandas datasets, then python tools/make_data_fixtures.py test/fixtures/data

Parquet in every codec and of every type that pandas and datasets write, with pyarrow's own reading of it in values.json; CSV files as
people have them, with pandas' reading; and what Python's strip, splitlines, isspace and int make of odd texts.
"""
import datetime
import decimal
import io
import json
import sys
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)

rows = {"question": ["What is a?", "ما هو ب؟"], "options": [["x", "y"], ["س", "ص"]], "answer": [1, 0]}
table = pa.table(rows)
for codec in ("none", "snappy", "gzip", "zstd", "brotli", "lz4"):
    pq.write_table(table, out / f"{codec}.parquet", compression=codec)

D = decimal.Decimal
types = {
    "string": pa.array(["a", "ب", None]),
    "large_string": pa.array(["a", "b", None], pa.large_string()),
    "string_view": pa.array(["a", "b", None]).cast(pa.string_view()),
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "bool": pa.array([True, False, None]),
    "int8": pa.array([1, -2, None], pa.int8()),
    "int64": pa.array([1, 2**53 + 2, None], pa.int64()),
    "uint64": pa.array([1, 2**63 + 5, None], pa.uint64()),
    "double": pa.array([1.0, 2.5, None]),
    "half": pa.array([1.5, 2.0, None], pa.float16()),
    "nan": pa.array([float("nan"), 1.0, None]),
    "decimal": pa.array([D("0.57"), D("-0.07"), None], pa.decimal128(10, 2)),
    "timestamp": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5), None, None]),
    "date": pa.array([datetime.date(2020, 1, 2), None, None]),
    "list": pa.array([["x", "y"], [], None]),
    "large_list": pa.array([["x", None], ["z"], None], pa.large_list(pa.string())),
    "fixed_list": pa.array([["x", "y"], ["z", "w"], ["a", "b"]], pa.list_(pa.string(), 2)),
    "struct": pa.array([{"A": "x", "B": None}, {"A": "y", "B": "z"}, None], pa.struct([("A", pa.string()), ("B", pa.string())])),
    "messages": pa.array([[{"role": "user", "content": "a", "weight": None}, {"role": "assistant", "content": "b", "weight": 0}], [], None]),
    "nested": pa.array([[["a"], ["b", "c"]], [[]], None]),
    "null": pa.nulls(3),
}
pq.write_table(pa.table(types), out / "types.parquet")


def as_json(value):
    """As JSON has it: whole numbers that no double holds, and dates, as texts."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, datetime.date):
        return value.isoformat() + "T00:00:00.000Z"
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value]


values = {
    "codecs": [dict(zip(rows, row)) for row in zip(*rows.values())],
    "types": as_json(pq.read_table(out / "types.parquet").to_pylist()),
}

CSV = {
    "quotes": 'question,A,B,answer\n"Which, ""one""?",x,"a\nb",B\n5\' 10" tall,"x",y "z",A\n',
    "crlf and blank lines": "question,A,B,answer\r\n\r\nq,x,y,B\r\n\r\n",
    "only carriage returns": "question,A,B,answer\rq,x,y,B\r",
    "no line end at the end": "question,A,B,answer\nq,x,y,B",
    "spaces after commas": "question,A,B,answer\nq, x,y ,B\n",
    "text after a closing quote": 'question,A,B,answer\n"Seamus "Piobaire" Mac","abc"d,"a\\"b",B\n',
    "empty fields and blank lines": 'question,A,B,answer\n"",,y,\n  \n\nq,x,y,\n',
    "line ends within quotes": 'question,A,B,answer\n"one\r\ntwo",x,y,B\n',
}
values["csv"] = {
    name: {"text": text, "rows": pandas.read_csv(io.BytesIO(text.encode()), dtype=str, keep_default_na=False).to_dict("records")}
    for name, text in CSV.items()
}
# Lists in a cell, as pandas writes them.
cells = [["x", "it's"], ['say "no"', "y"], ["a\nb", "\u0633"], ["\\n", "1"]]
frame = pandas.DataFrame({"question": [f"q{i}?" for i in range(len(cells))], "options": cells, "answer": 1})
values["cells"] = {"text": frame.to_csv(index=False), "options": cells}

ODD = ["\ufeffa\ufeff", "\x1ca\x1f", "\x85 a\u2003\u3000", "\u200ba", "\u180ea", "\xa0\u202f", ""]
values["text"] = {
    "spaces": "".join(chr(point) for point in range(0x10000) if chr(point).isspace()),
    "strip": [[text, text.strip(), text.rstrip()] for text in ODD],
    "splitlines": [[text, text.splitlines()] for text in ["a\r\nb\rc\n", "a\x0bb\x1cc\x85d\u2028e", "", "\n", "a\n\nb"]],
    "int": [[text, int(text)] for text in ["0", "12", "١", "٢٣", "۴", "𝟗𝟐", "３"]],
}
(out / "values.json").write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
