"""Reading training files: every container and row shape, hostile bytes, and memory that does not grow."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arena.formats import (
    BadRowError,
    Canonicaliser,
    GeneratorSpec,
    Limits,
    RawRow,
    open_rows,
    read_quest,
    sniff,
)
from realm.errors import RefusedError

CHAT = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
OTHER = {"messages": [{"role": "user", "content": "näh ①?"}, {"role": "assistant", "content": "ja\n[{"}]}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path, name: str | None = None, **limits: int) -> list[RawRow]:
    return list(open_rows(path, name, Limits(**limits)))


def values(path: Path, name: str | None = None) -> list[object]:
    found = rows(path, name)
    assert all(row.reason is None for row in found), found
    return [row.value for row in found]


def reasons(path: Path, **limits: int) -> list[tuple[int, str | None]]:
    return [(row.line, row.reason) for row in rows(path, **limits)]


def refusal(path: Path, name: str | None = None, **limits: int) -> str:
    with pytest.raises(RefusedError) as caught:
        rows(path, name, **limits)
    return caught.value.code


# Containers


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.txt", "noname", "a.weird"])
def test_json_lines_are_known_by_content(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (CHAT, OTHER)))
    assert sniff(path).container == "jsonl"
    assert values(path) == [CHAT, OTHER]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("wrap", [None, "data", "rows", "train"])
def test_json_documents_are_streamed(tmp_path: Path, indent: int | None, wrap: str | None) -> None:
    document: object = [CHAT, OTHER, CHAT]
    if wrap:
        document = {"version": "1", "about": {"data": [1, 2]}, wrap: document, "end": [[], {}, "]}"]}
    path = write(tmp_path, "a.json", json.dumps(document, indent=indent))
    assert sniff(path).container == "json"
    assert values(path) == [CHAT, OTHER, CHAT]


def test_a_document_that_is_one_row(tmp_path: Path) -> None:
    assert values(write(tmp_path, "a.json", json.dumps(CHAT, indent=2))) == [CHAT]
    assert values(write(tmp_path, "b.json", json.dumps(CHAT))) == [CHAT]


def test_rows_of_a_document_that_do_not_parse_spoil_no_other(tmp_path: Path) -> None:
    text = f'[\n{json.dumps(CHAT)},\n{{"a": NaN}},\n{{"a": 1, "a": 2}},\n{{"text": "x" "y"}},\n{json.dumps(OTHER)}\n]'
    path = write(tmp_path, "a.json", text)
    expected = [(2, None), (3, "not_a_number"), (4, "duplicate_key"), (5, "broken_json"), (6, None)]
    assert reasons(path) == expected


@pytest.mark.parametrize("cut", ["]", "", "}", ', {"messages": [', "] extra", "] []"])
def test_a_broken_outline_refuses_the_document(tmp_path: Path, cut: str) -> None:
    path = write(tmp_path, "a.json", f"[{json.dumps(CHAT)}{cut}")
    if cut == "]":
        assert values(path) == [CHAT]
    else:
        assert refusal(path) == "broken_json"


def test_an_oversized_element_is_skipped_and_the_rest_is_read(tmp_path: Path) -> None:
    big = {"text": "x" * 3_000_000 + '\\"]}'}
    path = write(tmp_path, "a.json", json.dumps([CHAT, big, OTHER], indent=1))
    found = rows(path, line_bytes=1 << 20)
    assert [row.reason for row in found] == [None, "row_too_long", None]
    assert found[2].value == OTHER


def test_csv_and_tsv_with_quotes_line_breaks_and_semicolons(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'prompt,completion\r\n"a, ""b""\nc",d\r\n\r\nx,\r\none,two,three\r\n')
    found = rows(path)
    assert [(r.line, r.reason) for r in found] == [(2, None), (5, None), (6, "column_count")]
    assert found[0].value == {"prompt": 'a, "b"\nc', "completion": "d"}
    assert found[1].value == {"prompt": "x", "completion": ""}
    assert values(write(tmp_path, "b.csv", "prompt;completion\n1,5;2\n")) == [{"prompt": "1,5", "completion": "2"}]
    assert values(write(tmp_path, "c.tsv", "question\tanswer\ta\nq\tr\ts\n")) == [
        {"question": "q", "answer": "r", "a": "s"}
    ]


def test_csv_refusals(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "a.csv", "x,y\n1,2\n")) == "bad_header"
    assert refusal(write(tmp_path, "b.csv", "prompt,prompt,completion\n1,2,3\n")) == "bad_header"
    assert refusal(write(tmp_path, "c.csv", 'prompt,completion\n"open,2\n3,4\n')) == "broken_csv"
    endless = 'prompt,completion\n"open,2\n' + "3,4\n" * 1000
    assert refusal(write(tmp_path, "d.csv", endless), line_bytes=500) == "row_too_long"


def test_parquet_with_nested_messages(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"messages": [CHAT["messages"], OTHER["messages"]], "score": [1.0, float("nan")]})
    path = tmp_path / "a.bin"
    pyarrow.parquet.write_table(table, path)
    assert values(path) == [CHAT | {"score": 1.0}, OTHER | {"score": None}]
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(path) == "broken_parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x" * 1000] * 100_000}), path)
    assert refusal(path, free_bytes=1 << 20) == "decompression_bomb"


def test_plain_text_is_cut_at_blank_lines_and_loses_nothing(tmp_path: Path) -> None:
    text = (
        "".join(f"Paragraph {n} äöü ①\r\nwith two lines.\r\n\r\n" for n in range(3000)) + "x" * 200_000 + "é" * 90_001
    )
    path = write(tmp_path, "a.md", text)
    found = rows(path)
    assert "".join(row.value["text"] for row in found) == text.replace("\r\n", "\n")
    assert len(found) > 10
    assert max(len(row.value["text"].encode()) for row in found) < 200_000
    lines = text.split("\n")
    assert all(row.value["text"].startswith(lines[row.line - 1].rstrip("\r")[:10]) for row in found[:10])


def test_bad_bytes_in_plain_text_cost_their_line_only(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"good\n\xff\xfe bad\nnul \0 here\nmore\n")
    assert [(r.line, r.reason, r.value) for r in rows(path)] == [
        (1, None, {"text": "good\n"}),
        (2, "not_utf8", None),
        (3, "nul_byte", None),
        (4, None, {"text": "more\n"}),
    ]


def test_gzip_of_anything_and_its_damage(tmp_path: Path) -> None:
    packed = gzip.compress((json.dumps(CHAT) + "\n").encode() * 50)
    assert len(values(write(tmp_path, "a.jsonl.gz", packed))) == 50
    assert sniff(tmp_path / "a.jsonl.gz").suffix == ".jsonl.gz"
    assert values(write(tmp_path, "b.csv.gz", gzip.compress(b"prompt,completion\n1,2\n")))
    assert refusal(write(tmp_path, "c.jsonl.gz", packed[:-10])) == "broken_gzip"
    assert refusal(write(tmp_path, "d.jsonl.gz", packed[:40] + b"\xff" * 20 + packed[60:])) == "broken_gzip"


def test_a_decompression_bomb_is_stopped_early(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "bomb.jsonl.gz", "wb", 9) as file:
        line = b'{"text": "' + b"a" * 1_000_000 + b'"}\n'
        for _ in range(60):
            file.write(line)
    begin = time.monotonic()
    assert refusal(tmp_path / "bomb.jsonl.gz") == "decompression_bomb"
    assert time.monotonic() - begin < 5
    assert refusal(tmp_path / "bomb.jsonl.gz", expansion=10**6, expanded_bytes=1 << 20) == "decompression_bomb"


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04rest",
        b"\x80\x04\x95",
        b"%PDF-1.7",
        b"\x89PNG\r\n",
        b"GGUF\x03",
        bytes(range(256)) * 20,
        b"\0" * 4096,
    ],
)
def test_foreign_files_are_named_and_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(write(tmp_path, "a.jsonl", content)) == "unknown_format"


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "a.jsonl", "")) == "empty_file"
    assert refusal(write(tmp_path, "a.log", "just words")) == "unknown_format"
    assert refusal(write(tmp_path, "noname", "just words")) == "unknown_format"


# Encodings and hostile lines


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_other_encodings_are_read_and_said(tmp_path: Path, encoding: str, name: str) -> None:
    text = {"a.jsonl": json.dumps(CHAT) + "\n", "a.csv": "prompt,completion\nü,ö\n", "a.txt": "grün\n"}[name]
    path = write(tmp_path, name, text.encode(encoding))
    expected = {"a.jsonl": CHAT, "a.csv": {"prompt": "ü", "completion": "ö"}, "a.txt": {"text": "grün\n"}}[name]
    stream = open_rows(path)
    assert [row.value for row in stream] == [expected]
    assert bool(stream.notes) == (encoding != "utf-8-sig")


def test_latin_1_lines_have_a_reason_each(tmp_path: Path) -> None:
    good = json.dumps(CHAT).encode() + b"\n"
    path = write(tmp_path, "a.jsonl", good + '{"text": "süß"}\n'.encode("latin-1") + good)
    found = rows(path)
    assert [(r.line, r.reason) for r in found] == [(1, None), (2, "not_utf8"), (3, None)]
    assert "0xfc" in found[1].detail


def test_truncated_utf_16_is_refused(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, "a.jsonl", (json.dumps(CHAT) + "\n").encode("utf-16")[:-1])) == "bad_encoding"


def test_hostile_lines_are_rejected_one_by_one(tmp_path: Path) -> None:
    lines = [
        json.dumps(CHAT).encode(),
        b'{"text": "a\0b"}',
        b'{"text": "' + b"x" * 5000 + b'"}',
        b"[" * 100 + b"]" * 100,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"text": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": Infinity}',
        b'{"broken": ',
        b"",
        b'{"text": "' + b"[{" * 200 + b'"}',
        b"   ",
        json.dumps(OTHER).encode() + b"\r",
    ]
    path = write(tmp_path, "a.jsonl", b"\n".join(lines))
    assert reasons(path, line_bytes=40_000)[3:5] == [(4, "too_deep"), (5, "too_deep")]
    assert reasons(path, line_bytes=4096) == [
        (1, None),
        (2, "nul_byte"),
        (3, "line_too_long"),
        (4, "too_deep"),
        (5, "line_too_long"),
        (6, "line_too_long"),
        (7, "duplicate_key"),
        (8, "not_a_number"),
        (9, "broken_json"),
        (11, None),
        (13, None),
    ]


def test_bare_carriage_returns_end_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps(CHAT) + "\r" + json.dumps(OTHER) + "\r")
    stream = open_rows(path)
    assert [(row.line, row.value) for row in stream] == [(1, CHAT), (2, OTHER)]
    assert stream.notes


# Row shapes


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (CHAT, "messages"),
        ({"prompt": "1+1?", "completion": "2"}, "prompt_completion"),
        ({"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, "prompt_completion"),
        ({"prompt": "1+1?", "response": "2"}, "prompt_completion"),
        ({"question": "1+1?", "answer": "2"}, "question_answer"),
        ({"instruction": "1+1?", "input": "", "output": "2"}, "instruction"),
        ({"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]}, "sharegpt"),
        (
            {"messages": [{"role": "User", "content": [{"type": "text", "text": "1+1?"}]}, CHAT["messages"][1]]},
            "messages",
        ),
        (CHAT | {"text": "1+1? 2", "tools": []}, "messages"),
    ],
)
def test_every_shape_becomes_the_same_row(value: dict[str, object], kind: str) -> None:
    assert Canonicaliser().row(value) == (CHAT, kind)


def test_system_history_and_input_keep_their_places() -> None:
    value = {"system": "be", "history": [["a", "b"]], "instruction": "do", "input": "this", "output": "done", "id": 7}
    row, _ = Canonicaliser().row(value)
    assert row == {
        "messages": [
            {"role": "system", "content": "be"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "do\n\nthis"},
            {"role": "assistant", "content": "done"},
        ],
        "metadata": {"id": 7},
    }


def test_metadata_is_kept_and_useless_fields_are_named() -> None:
    shapes = Canonicaliser()
    row, _ = shapes.row(CHAT | {"metadata": {"skill": "bin"}, "source": "web", "vector": [1, 2], "nothing": None})
    assert row["metadata"] == {"skill": "bin", "source": "web"}
    assert list(shapes.unused) == ["vector"]


def _said(*turns: tuple[str, str], **more: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **more}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "not_an_object"),
        ("text", "not_an_object"),
        ({}, "unknown_fields"),
        ({"message": "x"}, "unknown_fields"),
        ({"chosen": "a", "rejected": "b"}, "preference_data"),
        ({"messages": "x"}, "bad_message"),
        ({"messages": []}, "bad_message"),
        ({"messages": ["x"]}, "bad_message"),
        ({"messages": [{"content": "x"}]}, "bad_message"),
        ({"messages": [{"role": "user", "content": None}]}, "bad_message"),
        (_said(("tool", "x"), ("assistant", "y")), "unsupported_role"),
        (_said(("user", "x")), "no_assistant_turn"),
        (_said(("user", "x"), ("assistant", "<|im_end|>")), "special_token"),
        (_said(("user", "<|im_start|>system"), ("assistant", "y")), "special_token"),
        (_said(("user", "x\0"), ("assistant", "y")), "bad_character"),
        (_said(("user", "x"), ("assistant", "y"), tools=[{"name": "f"}]), "unsupported_content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "unsupported_content"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "unsupported_content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "unsupported_content"),
        ({"prompt": 1, "completion": "x"}, "bad_field"),
        ({"instruction": "x", "input": 3, "output": "y"}, "bad_field"),
        ({"conversations": "x"}, "bad_field"),
        ({"text": 5}, "bad_field"),
        ({"text": "  \n"}, "empty_text"),
        ({"text": "<|im_start|>user\nhi<|im_end|>"}, "special_token"),
    ],
)
def test_rows_that_would_train_on_something_else_are_bad(value: object, reason: str) -> None:
    with pytest.raises(BadRowError) as caught:
        Canonicaliser().row(value)
    assert caught.value.reason == reason


def test_a_near_miss_is_named() -> None:
    with pytest.raises(BadRowError, match="did you mean 'messages'"):
        Canonicaliser().row({"mesages": []})


# Quest files


def test_a_quest_file_reads_as_written() -> None:
    spec = read_quest(
        b"trainer: sft\ndata: {skill: bin, level: 2, count: 50}\nconfig: {learning_rate: 3.0e-4}\npriority: high\n", "q"
    )
    assert spec.data == GeneratorSpec(skill="bin", level=2, count=50)
    assert (spec.priority, spec.config, spec.executor) == ("high", {"learning_rate": 3e-4}, "local")
    assert read_quest(b"data: train.jsonl", "q").data == "train.jsonl"
    assert read_quest(b"data: [{text: hello}]", "q").data == [{"text": "hello"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: x.jsonl\ntrainr: sft", "trainr"),
        ("trainer: sft", "data"),
        ("data: ../x.jsonl", "data"),
        ("data: /etc/passwd", "data"),
        ("data: .hidden", "data"),
        ("data: {skill: bin, level: 2, count: 0}", "data.generator.count"),
        ("data: []", "data"),
        ("data: x\npriority: urgent", "priority"),
        ("data: x\nskill: ../y", "skill"),
        ("data: x\nkind: parquet", "kind"),
        ("data: x\nconfig: {when: 2024-01-01}", "config"),
        ("data: x\nconfig: {1: 2}", "config"),
        ("data: x\nconfig: {a: .inf}", "config"),
        ("data: x\ndata: y", "given twice"),
        ("a: &a [1]\ndata: *a", "aliases"),
        ("data: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("data: " + "[" * 30 + "]" * 30, "nests deeper"),
        ("- data", "keys and values"),
        ("data: [", "q.yaml, line"),
        ("data: x\n---\ndata: y", "q.yaml"),
        ("data: \x07", "q.yaml"),
        ("? [1, 2]\n: x", "q.yaml"),
        ("data: x\nlevel: " + "9" * 5000, "q.yaml"),
        ("", "keys and values"),
        ("#" * (2 << 20), "1 MiB"),
    ],
)
def test_quest_errors_name_file_and_key(text: str, said: str) -> None:
    begin = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        read_quest(text.encode(), "q.yaml")
    assert said in caught.value.message
    assert "q.yaml" in caught.value.message
    assert time.monotonic() - begin < 2


def test_a_billion_laughs_is_refused_at_once() -> None:
    laughs = "a: &a [x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(20)
    )
    begin = time.monotonic()
    with pytest.raises(RefusedError, match="aliases"):
        read_quest(laughs.encode(), "q.yaml")
    assert time.monotonic() - begin < 0.5


# Fuzz

_NAMES = st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a", "a.jsonl.gz", "a.parquet", "a.yaml"])
_SEEDS = [
    json.dumps([CHAT, OTHER]).encode(),
    json.dumps({"data": [CHAT, OTHER]}, indent=1).encode(),
    (json.dumps(CHAT) + "\n" + json.dumps(OTHER) + "\n").encode(),
    b'prompt,completion\n"a\nb",c\nd,e\n',
    json.dumps(CHAT).encode("utf-16"),
    gzip.compress((json.dumps(CHAT) + "\n").encode() * 9),
    b"data: x.jsonl\nconfig: {a: [1, 2]}\n",
]


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        action = draw(st.integers(0, 2))
        if action == 0:
            data[at:at] = draw(st.sampled_from([b"\n", b'"', b"{", b"]", b",", b"\\", b"\0", b"\xff", b"NaN", b"\r"]))
        elif action == 1:
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode), _mutated()), name=_NAMES)
def test_any_bytes_end_in_rows_or_a_refusal(tmp_path: Path, content: bytes, name: str) -> None:
    path = write(tmp_path, "fuzz", content)
    shapes = Canonicaliser()
    try:
        for row in open_rows(path, name, Limits(line_bytes=400)):
            assert (row.value is None and row.reason) or row.reason is None
            assert row.line >= 1
            if row.reason is None:
                try:
                    shapes.row(row.value)
                except BadRowError as error:
                    assert error.reason
    except RefusedError as error:
        assert error.code
    try:
        read_quest(content, name)
    except RefusedError as error:
        assert error.code == "bad_quest"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(elements=st.lists(_JSON, max_size=8), indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
def test_a_document_of_any_values_comes_out_as_it_went_in(
    tmp_path: Path, elements: list[object], indent: int | None, ascii_only: bool
) -> None:
    path = write(tmp_path, "a.json", json.dumps(elements, indent=indent, ensure_ascii=ascii_only))
    assert [row.value for row in open_rows(path)] == elements


_CELL = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\r\n\t"), max_size=20)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(_CELL, _CELL), max_size=10),
    delimiter=st.sampled_from(",;\t"),
)
def test_every_csv_row_is_read_or_rejected(tmp_path: Path, cells: list[tuple[str, str]], delimiter: str) -> None:
    import csv

    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "completion"), *cells])
    path = write(tmp_path, "a.csv", out.getvalue().encode("utf-8", "surrogatepass"))
    found = list(open_rows(path))
    assert len(found) == sum(1 for pair in cells if any(cell.strip() for cell in pair))


# Memory

_MEASURE = """
import json, resource, sys
from pathlib import Path
from arena.formats import open_rows
small = Path(sys.argv[1]); big = Path(sys.argv[2])
sum(1 for _ in open_rows(small))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in open_rows(big))
print(json.dumps({"rows": count, "grown_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}))
"""


def _grown(small: Path, big: Path) -> tuple[int, float]:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(small), str(big)],
        capture_output=True, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    return answer["rows"], answer["grown_kib"] / 1024


@pytest.mark.parametrize("container", ["jsonl", "json", "txt", "jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, container: str) -> None:
    line = json.dumps({"text": "lorem ipsum dolor " * 60})
    count = 20_000

    def fill(path: Path, count: int) -> Path:
        opener = gzip.open if container.endswith("gz") else open
        with opener(path, "wt") as file:
            if container == "json":
                file.write("[" + ",\n".join([line] * count) + "]")
            else:
                file.writelines(
                    f"{line}\n{os.urandom(200).hex()}\n" if container == "txt" else line + "\n" for _ in range(count)
                )
        return path

    ratio_safe = fill(tmp_path / f"small.{container}", 200)
    if container == "jsonl.gz":  # keep clear of the guard against bombs
        with gzip.open(tmp_path / "big.jsonl.gz", "wt", 1) as file:
            file.writelines(json.dumps({"text": os.urandom(500).hex()}) + "\n" for _ in range(count))
        big = tmp_path / "big.jsonl.gz"
    else:
        big = fill(tmp_path / f"big.{container}", count)
    rows_read, grown = _grown(ratio_safe, big)
    assert rows_read >= 500
    assert grown < 12, f"{grown:.1f} MiB more for {big.stat().st_size >> 20} MiB"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_over_two_gigabytes(tmp_path: Path) -> None:
    line = (json.dumps({"text": "lorem ipsum dolor " * 200}) + "\n").encode()
    block = line * 1000
    with open(tmp_path / "big.jsonl", "wb") as file:
        for _ in range((2 << 30) // len(block)):
            file.write(block)
    small = write(tmp_path, "small.jsonl", line * 10)
    rows_read, grown = _grown(small, tmp_path / "big.jsonl")
    assert rows_read > 500_000
    assert grown < 16
