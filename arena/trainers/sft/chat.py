"""Chat rows to token ids and a loss mask: only what the assistant says carries loss, in every turn.

`ChatTokenizer` stands on `tokenizers` alone (no torch, no transformers), so that the gatekeepers can show what will be
trained in a light process. It reads `tokenizer.json`, the special tokens and the chat template of a model folder.

How the mask is made: the row is rendered to text, the text becomes ids, and the ids are scanned for the assistant's
header (`<|im_start|>assistant\\n`); from there up to and including the end of the turn carries loss. The scan looks at
ids, not at positions of a first turn, so it holds for every turn and for every row of a packed sequence.

A template that renders plain ChatML is replaced by a string join, 50 times faster than rendering; that both give the
same text is checked on the data at hand (`encode`) and in tests/arena/trainers/test_chat.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from realm.errors import ConfigError, CorruptFileError, NotFoundError, RefusedError

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
MAX_TEMPLATE_BYTES = 64 * 1024
MAX_RENDERED_BYTES = 16 * 1024 * 1024
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
"""What is copied from a model folder into each checkpoint made of it."""


@dataclass(frozen=True)
class Encoded:
    """Rows as flat arrays. Row i is `ids[offsets[i]:offsets[i + 1]]`, `mask` is 1 where a token carries loss.

    ids int32, mask uint8, offsets int64 of length rows + 1, hashes uint64 (identity of each row's content).
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of some rows without looking at the others."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, mask) of one row."""
        begin, end = self.offsets[index], self.offsets[index + 1]
        return self.ids[begin:end], self.mask[begin:end]

    def select(self, rows: np.ndarray) -> Encoded:
        """Return the given rows, in the given order."""
        lengths = self.lengths_of(rows)
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        where = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Encoded(self.ids[where], self.mask[where], offsets, self.hashes[rows])


class ChatTokenizer:
    """The tokenizer and chat template of a model folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise NotFoundError(f"{folder} has no tokenizer.json.", hint="A fast tokenizer is needed.", path=str(path))
        self.files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
        try:
            self.backend = Tokenizer.from_str(self.files["tokenizer.json"].decode())
        except Exception as error:  # the library raises nothing more special
            raise CorruptFileError(f"{path} is not a tokenizer: {error}.", path=str(path)) from error
        self.backend.no_padding()
        self.backend.no_truncation()
        settings = json.loads(self.files.get("tokenizer_config.json", b"{}"))
        self.template_text = _template_text(settings, self.files.get("chat_template.jinja"))
        self.turn_start = self._id(TURN_START)
        self.turn_end = self._id(TURN_END)
        self.eos = self.backend.token_to_id(_content(settings.get("eos_token"))) if settings.get("eos_token") else None
        pad = self.backend.token_to_id(_content(settings.get("pad_token"))) if settings.get("pad_token") else None
        self.pad = pad if pad is not None else (self.eos if self.eos is not None else 0)
        self.special = tuple(
            token.content for token in self.backend.get_added_tokens_decoder().values() if token.special
        )
        self.fingerprint = hashlib.sha256(b"\0".join(self.files[name] for name in sorted(self.files))).hexdigest()
        """Names the tokenizer and template, for caches."""
        self.header = self._ids("assistant\n")
        self.template = _compile(self.template_text) if self.template_text else None
        self.is_plain_chatml = self._renders_plain_chatml()

    def render(self, messages: Sequence[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """Render a conversation through the model's own template, sandboxed. Raises ConfigError, RefusedError."""
        if self.template is None:
            raise ConfigError(f"{self.folder} has no chat template.", hint="Put chat_template.jinja beside it.")
        try:
            text = self.template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, tools=None, documents=None
            )
        except jinja2.TemplateError as error:
            raise RefusedError(f"The chat template refuses this conversation: {error}.", code="template") from error
        if len(text) > MAX_RENDERED_BYTES:
            raise RefusedError("The rendered conversation is too long.", code="template")
        return text

    def text_of(self, row: dict[str, Any]) -> str:
        """Return the text that a canonical row trains on, special tokens spelled out."""
        if "messages" in row:
            return plain_chatml(row["messages"]) if self.is_plain_chatml else self.render(row["messages"])
        return str(row["text"])

    def encode(self, rows: Sequence[dict[str, Any]], *, max_length: int | None = None) -> Encoded:
        """Turn canonical rows into ids and masks. A text longer than `max_length` is cut up, a chat row is not.

        Raises RefusedError, with the row's number, where the content spells a special token, where a chat row trains
        nothing, or where the template's text is not what the mask needs.
        """
        texts = [self.text_of(row) for row in rows]
        self._check_sample(rows, texts)
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        ids_of = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids_of), dtype=np.int64, count=len(ids_of))
        offsets = np.zeros(len(ids_of) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        ids = np.fromiter((i for row in ids_of for i in row), dtype=np.int32, count=int(offsets[-1]))
        hashes = row_hashes(texts)
        is_text = np.fromiter(("messages" not in row for row in rows), dtype=bool, count=len(ids_of))
        mask = self._assistant_mask(ids, offsets, is_text)
        self._check_turns(rows, ids, offsets, is_text)
        encoded = Encoded(ids, mask, offsets, hashes)
        return self._finish_texts(encoded, is_text, max_length) if is_text.any() else encoded

    def encode_prompt(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Return the ids of a conversation up to where the assistant speaks next."""
        if self.is_plain_chatml:
            text = plain_chatml(messages) + f"{TURN_START}assistant\n"
        else:
            text = self.render(messages, add_generation_prompt=True)
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return str(self.backend.decode(list(map(int, ids)), skip_special_tokens=skip_special_tokens))

    def preview(self, row: dict[str, Any]) -> list[tuple[str, bool]]:
        """Return (text, trained) of every token of a row, in order; the texts joined are the row's text.

        A character spread over several tokens shows at its last one; the tokens before it show as empty text.
        """
        text = self.text_of(row)
        encoded = self.encode([row])
        encoding = self.backend.encode(text, add_special_tokens=False)
        shown: list[tuple[str, bool]] = []
        done = 0
        for (_, end), trained in zip(encoding.offsets, encoded.mask, strict=False):
            piece = text[done:end] if end > done else ""
            done = max(done, end)
            shown.append((piece, bool(trained)))
        shown += [(self.backend.id_to_token(int(i)), True) for i in encoded.ids[len(shown) :]]
        return shown

    # The mask

    def _assistant_mask(self, ids: np.ndarray, offsets: np.ndarray, is_text: np.ndarray) -> np.ndarray:
        """Mark everything from behind an assistant's header up to its end of turn, in every turn of every row."""
        width = len(self.header)
        starts = np.flatnonzero(ids == self.turn_start)
        starts = starts[starts + width < len(ids)]
        for place, token in enumerate(self.header, start=1):
            starts = starts[ids[starts + place] == token]
        starts = starts + 1 + width
        ends = np.flatnonzero(ids == self.turn_end)
        after = np.searchsorted(ends, starts)
        row_end = offsets[np.searchsorted(offsets, starts, side="right")] if len(starts) else starts
        closing = np.append(ends, len(ids))[after]
        stops = np.minimum(closing + 1, row_end)
        edges = np.zeros(len(ids) + 1, dtype=np.int32)
        np.add.at(edges, starts, 1)
        np.add.at(edges, stops, -1)
        mask = (np.cumsum(edges[:-1]) > 0).astype(np.uint8)
        if is_text.any():
            mask[np.repeat(is_text, np.diff(offsets))] = 1
        return mask

    def _check_turns(
        self, rows: Sequence[dict[str, Any]], ids: np.ndarray, offsets: np.ndarray, is_text: np.ndarray
    ) -> None:
        """Each turn must begin and end with its own marker and no content may spell one."""
        begins = np.add.reduceat(np.append(ids == self.turn_start, 0).astype(np.int64), offsets[:-1])
        ends = np.add.reduceat(np.append(ids == self.turn_end, 0).astype(np.int64), offsets[:-1])
        turns = np.fromiter((len(row.get("messages", ())) for row in rows), dtype=np.int64, count=len(rows))
        empty = np.diff(offsets) == 0
        spelled = np.zeros(len(rows), dtype=bool)
        if not self.is_plain_chatml:  # a template may add turns of its own, so counting them is not enough
            said = ("".join(str(m["content"]) for m in row.get("messages", ())) for row in rows)
            spelled = np.fromiter(
                (TURN_START in text or TURN_END in text for text in said), dtype=bool, count=len(rows)
            )
        wrong = (begins != ends) | (begins < turns) | ((begins != turns) & self.is_plain_chatml) | empty | spelled
        wrong &= ~is_text
        for index in np.flatnonzero(wrong)[:1]:
            raise RefusedError(
                f"Row {int(index) + 1} renders {int(begins[index])} turn starts and {int(ends[index])} turn ends for "
                f"{int(turns[index])} messages.",
                hint="Content must not spell the markers of the chat template.",
                code="special_token_in_content",
                row=int(index) + 1,
            )
        for index in np.flatnonzero(is_text & empty)[:1]:
            raise RefusedError(f"Row {int(index) + 1} is an empty text.", code="empty_row", row=int(index) + 1)

    def _finish_texts(self, encoded: Encoded, is_text: np.ndarray, max_length: int | None) -> Encoded:
        """End each plain text with the end-of-sequence token and cut what is too long into pieces."""
        ids: list[np.ndarray] = []
        mask: list[np.ndarray] = []
        hashes: list[int] = []
        for index in range(len(encoded)):
            row_ids, row_mask = encoded.row(index)
            if is_text[index] and self.eos is not None:
                row_ids = np.append(row_ids, np.int32(self.eos))
                row_mask = np.append(row_mask, np.uint8(1))
            step = max_length if is_text[index] and max_length else max(1, len(row_ids))
            for piece, begin in enumerate(range(0, len(row_ids), step)):
                if piece and len(row_ids) - begin < 2:
                    continue  # a single token predicts nothing
                ids.append(row_ids[begin : begin + step])
                mask.append(row_mask[begin : begin + step])
                hashes.append((int(encoded.hashes[index]) + piece * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF)
        offsets = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in ids], out=offsets[1:])
        return Encoded(np.concatenate(ids), np.concatenate(mask), offsets, np.array(hashes, dtype=np.uint64))

    # Plain ChatML

    def _renders_plain_chatml(self) -> bool:
        """Tell whether the template writes nothing but ChatML, judged by conversations of every shape."""
        if self.template is None:
            return False
        probes = [
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b \n"}],
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "x\n\n<think>y</think>"},
                {"role": "assistant", "content": "<think>\nq\n</think>\n\nz"},
                {"role": "user", "content": ""},
                {"role": "assistant", "content": "w"},
            ],
            [{"role": "user", "content": "{{ 1 }}"}],
        ]
        try:
            return all(self.render(probe) == plain_chatml(probe) for probe in probes)
        except RefusedError:
            return False

    def _check_sample(self, rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> None:
        """Hold the string join against the template on a few of the rows in hand."""
        if not self.is_plain_chatml or not rows:
            return
        for index in range(0, len(rows), -(-len(rows) // 8)):
            if "messages" in rows[index] and self.render(rows[index]["messages"]) != texts[index]:
                self.is_plain_chatml = False
                raise RefusedError(
                    f"The chat template renders row {index + 1} differently from plain ChatML.",
                    hint="Keep to the roles system, user and assistant with plain text.",
                    code="template",
                    row=index + 1,
                )

    def _id(self, token: str) -> int:
        number = self.backend.token_to_id(token)
        if number is None:
            raise ConfigError(
                f"The tokenizer of {self.folder} has no {token}.",
                hint="Only models that speak ChatML can be fine-tuned on conversations.",
            )
        return int(number)

    def _ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)


def plain_chatml(messages: Sequence[dict[str, Any]]) -> str:
    """Return a conversation as ChatML."""
    return "".join(f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in messages)


def row_hashes(texts: Sequence[str]) -> np.ndarray:
    """Return a 64-bit identity of each text, uint64; equal texts have equal identities."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8")


class _GenerationTag(Extension):
    """Lets templates mark the assistant's part with `{% generation %}`; the mask does not depend on it."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Any) -> str:
        return str(caller())


def _compile(text: str) -> jinja2.Template:
    """Compile a chat template in a sandbox. Raises ConfigError."""
    if len(text.encode()) > MAX_TEMPLATE_BYTES:
        raise ConfigError(f"The chat template is longer than {MAX_TEMPLATE_BYTES} bytes.")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise
    try:
        return environment.from_string(text)
    except jinja2.TemplateError as error:
        raise ConfigError(f"The chat template cannot be read: {error}.") from error


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _template_text(settings: dict[str, Any], file: bytes | None) -> str | None:
    """Return the chat template's text from its own file or from the tokenizer's settings."""
    if file is not None:
        return file.decode()
    value = settings.get("chat_template")
    if isinstance(value, list):
        value = next((item.get("template") for item in value if item.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _content(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else str(token)
