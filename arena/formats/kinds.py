"""Row shapes that people write, and the one shape that the trainers read.

A canonical row is `{"messages": [{"role", "content"}, ...], "metadata": {...}}` with the roles system, user and
assistant, or `{"text": "..."}`. Whatever would train on something else than its author meant is a bad row, never
silently altered: tool calls, images, per-message weights, preference pairs, template markers spelled in content.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Messages = list[dict[str, str]]

MARKERS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Special tokens that content must not spell: they would open or close a turn."""

REASONS = {
    "nul_byte": "it holds a NUL byte",
    "not_utf8": "it is not UTF-8",
    "too_deep": "it nests too deeply",
    "broken_json": "it is not valid JSON",
    "duplicate_key": "a key is given twice",
    "not_a_number": "it holds NaN or an infinity",
    "line_too_long": "the line is too long",
    "row_too_long": "the row is too long",
    "column_count": "it has another number of columns than the header",
    "broken_csv": "its quotes do not match",
    "not_an_object": "it is not a JSON object",
    "unknown_fields": "its fields are not those of a known kind of row",
    "unexpected_kind": "it is of another kind than asked for",
    "preference_data": "it is a preference pair, which is not trained on",
    "bad_message": "a message is not a role with content",
    "bad_field": "a field has the wrong type",
    "unsupported_role": "a message has a role that is not trained on",
    "unsupported_content": "a message holds more than text",
    "too_many_messages": "it has too many messages",
    "no_assistant_turn": "nothing in it is said by the assistant",
    "special_token": "its content spells a marker of the chat template",
    "bad_character": "it holds a NUL or half a surrogate pair",
    "empty_text": "the text is empty",
    "empty_turn": "a turn of the user or the assistant is empty",
    "role_order": "the roles do not take turns",
    "too_long": "it is longer than the model is trained on",
    "tokenizer": "the tokenizer refuses it",
    "duplicate": "the same row came before",
    "withheld": "it is a problem of an evaluation",
}
"""What each reason means, after the words "N rows were turned down because"."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_TOOL_FIELDS = ("tools", "functions", "images", "image", "videos", "audios")


class BadRowError(ValueError):
    """A row that cannot be used; `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Kind:
    """A known kind of row: fields that it must have, that it may have, and how it becomes canonical."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Row], Messages]

    def matches(self, value: Row) -> bool:
        return all(value.get(field) is not None for field in self.required)


class Canonicaliser:
    """Turns values into canonical rows, remembering which fields were of no use."""

    def __init__(self, max_messages: int = 4096) -> None:
        self._max_messages = max_messages
        self.unused: dict[str, None] = {}

    def row(self, value: Any) -> tuple[Row, str]:
        """Return the canonical row and the name of its kind. Raises BadRowError."""
        if type(value) is not dict:
            raise BadRowError("not_an_object", f"it is a {type(value).__name__}")
        kind = _kind_of(value)
        for field in _TOOL_FIELDS:
            if value.get(field):
                raise BadRowError("unsupported_content", f"the field {field!r}")
        if kind.name == "text":
            row: Row = {"text": _text(value)}
        else:
            messages = kind.read(value)
            if len(messages) > self._max_messages:
                raise BadRowError("too_many_messages", f"{len(messages)} messages")
            _check_content(messages)
            row = {"messages": messages}
        metadata = self._metadata(value, kind)
        if metadata:
            row["metadata"] = metadata
        return row, kind.name

    def _metadata(self, value: Row, kind: Kind) -> dict[str, Any]:
        given = value.get("metadata")
        metadata: dict[str, Any] = given if type(given) is dict else {}
        if len(value) == len(kind.required) + ("metadata" in value) and type(given) in (dict, type(None)):
            return metadata
        metadata = dict(metadata)
        for field, item in value.items():
            if field in kind.required or field in kind.optional or field in metadata or item is None:
                continue
            if field == "metadata" and type(item) is dict:
                continue
            if field not in _CONTENT_FIELDS and type(item) in (str, int, float, bool):
                metadata[field] = item
            elif len(self.unused) < 50:
                self.unused[str(field)[:80]] = None
        return metadata


def _kind_of(value: Row) -> Kind:
    for kind in KINDS:
        if kind.matches(value):
            return kind
    if "chosen" in value and "rejected" in value:
        raise BadRowError("preference_data")
    fields = [str(field)[:40] for field in list(value)[:8]]
    close = [near for field in fields for near in difflib.get_close_matches(field, _CONTENT_FIELDS, 1, 0.75)]
    hint = f"; did you mean {close[0]!r}?" if close and close[0] not in fields else ""
    raise BadRowError("unknown_fields", f"{', '.join(map(repr, fields)) or 'no fields'}{hint}")


def _read_messages(value: Row) -> Messages:
    return _messages(value["messages"])


def _read_conversations(value: Row) -> Messages:
    turns = value["conversations"]
    if type(turns) is not list:
        raise BadRowError("bad_field", "'conversations' is not a list")
    said = []
    for turn in turns:
        if type(turn) is dict and "from" in turn and "value" in turn:
            turn = {"role": turn["from"], "content": turn["value"]}
        said.append(turn)
    return _with_system(value, _messages(said))


def _read_pair(question: str, answer: str) -> Callable[[Row], Messages]:
    def read(value: Row) -> Messages:
        messages = _side(value[question], "user", question) + _side(value[answer], "assistant", answer)
        return _with_system(value, messages)

    return read


def _read_instruction(answer: str) -> Callable[[Row], Messages]:
    def read(value: Row) -> Messages:
        instruction, given = value["instruction"], value.get("input")
        if type(instruction) is not str or type(given) not in (str, type(None)):
            raise BadRowError("bad_field", "'instruction' and 'input' must be text")
        asked = f"{instruction}\n\n{given}" if given and given.strip() else instruction
        messages = [{"role": "user", "content": asked}, *_side(value[answer], "assistant", answer)]
        return _with_system(value, _history(value.get("history")) + messages)

    return read


def _history(value: Any) -> Messages:
    """Return earlier turns written as pairs of question and answer."""
    if not value:
        return []
    if type(value) is not list or not all(
        type(p) is list and len(p) == 2 and set(map(type, p)) == {str} for p in value
    ):
        raise BadRowError("bad_field", "'history' must be pairs of texts")
    return [
        message
        for asked, said in value
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": said})
    ]


def _with_system(value: Row, messages: Messages) -> Messages:
    system = value.get("system")
    if not system:
        return messages
    if type(system) is not str:
        raise BadRowError("bad_field", "'system' is not text")
    return [{"role": "system", "content": system}, *messages]


def _side(value: Any, role: str, field: str) -> Messages:
    """Return one side of a pair: a text, or a list of messages."""
    if type(value) is str:
        return [{"role": role, "content": value}]
    if type(value) is list and value:
        return _messages(value)
    raise BadRowError("bad_field", f"{field!r} is neither text nor a list of messages")


def _messages(value: Any) -> Messages:
    if type(value) is not list or not value:
        raise BadRowError("bad_message", "no list of messages")
    messages: Messages = []
    for message in value:
        if type(message) is not dict:
            raise BadRowError("bad_message", f"a {type(message).__name__} instead of a message")
        role, content = message.get("role"), message.get("content")
        if type(role) is not str:
            raise BadRowError("bad_message", "a message without a role")
        known = _ROLES.get(role) or _ROLES.get(role.lower())
        if known is None:
            raise BadRowError("unsupported_role", f"{role!r:.80}")
        if len(message) > 2:
            _check_extras(message)
        if type(content) is not str:
            content = _parts(content)
        if known == "system" and not content.strip():
            continue
        messages.append({"role": known, "content": content})
    return messages


def _check_extras(message: dict[str, Any]) -> None:
    for field, item in message.items():
        if field in ("role", "content", "name", "id") or item is None or item in ([], {}, ""):
            continue
        if field == "weight" and item == 1:
            continue
        raise BadRowError("unsupported_content", f"a message with {field!r:.80}")


def _parts(content: Any) -> str:
    """Join content that comes as a list of text parts."""
    if type(content) is not list or not content:
        raise BadRowError("bad_message", "a message without content")
    for part in content:
        if type(part) is not dict or part.get("type") != "text" or type(part.get("text")) is not str:
            found = part.get("type") if type(part) is dict else type(part).__name__
            raise BadRowError("unsupported_content", f"a part of type {found!r:.80}")
    return "".join(part["text"] for part in content)


def _check_content(messages: Messages) -> None:
    answered = False
    for message in messages:
        content = message["content"]
        answered = answered or message["role"] == "assistant"
        if "<|" in content:
            for marker in MARKERS:
                if marker in content:
                    raise BadRowError("special_token", marker)
        if "\0" in content:
            raise BadRowError("bad_character", "NUL")
    if not answered:
        raise BadRowError("no_assistant_turn")


def _text(value: Row) -> str:
    text = value["text"]
    if type(text) is not str:
        raise BadRowError("bad_field", "'text' is not text")
    if "<|im_start|>" in text or "<|im_end|>" in text:
        raise BadRowError("special_token", "a rendered conversation would be trained whole; drop its messages")
    if "\0" in text:
        raise BadRowError("bad_character", "NUL")
    if not text.strip():
        raise BadRowError("empty_text")
    return text


KINDS = (
    Kind("messages", ("messages",), (), _read_messages),
    Kind("sharegpt", ("conversations",), ("system",), _read_conversations),
    Kind("instruction", ("instruction", "output"), ("input", "system", "history"), _read_instruction("output")),
    Kind("instruction", ("instruction", "response"), ("input", "system", "history"), _read_instruction("response")),
    Kind("prompt_completion", ("prompt", "completion"), ("system",), _read_pair("prompt", "completion")),
    Kind("prompt_completion", ("prompt", "response"), ("system",), _read_pair("prompt", "response")),
    Kind("question_answer", ("question", "answer"), ("system",), _read_pair("question", "answer")),
    Kind("text", ("text",), (), lambda value: []),
)
"""All known kinds; the first that matches is taken."""

KIND_NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))
_CONTENT_FIELDS = tuple(dict.fromkeys(field for kind in KINDS for field in (*kind.required, *kind.optional)))
