"""How a conversation is written down: the turn marks and the template.

Knows the marks only. A turn is its mark, its text and the end mark; nothing is put before the first turn.
"""

from dataclasses import dataclass

SYSTEM, USER, ASSISTANT, END, PAD = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
MARKS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{ raise_exception('A turn must be of the system, the user or the assistant.') }}"
    "{%- endif -%}"
    "{%- if message['content'] is string -%}"
    "{%- set text = message['content'] -%}"
    "{%- else -%}"
    "{%- set text = message['content'] | selectattr('type', 'equalto', 'text')"
    " | map(attribute='text') | join('') -%}"
    "{%- endif -%}"
    "{{- '<|' + message['role'] + '|>' + text + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; the role `tale` is bare text without any turn mark."""

    role: str
    text: str

    @property
    def mark(self) -> str:
        """The token that opens the turn."""
        return MARKS.get(self.role, "")

    @property
    def learnt(self) -> bool:
        """True when the model is to produce this text itself."""
        return self.role in ("assistant", "tale")


Document = list[Turn]


def exchange(ask: str, answer: str) -> Document:
    """One question and its answer."""
    return [Turn("user", ask), Turn("assistant", answer)]


def render(document: Document) -> str:
    """The document as the model reads it."""
    return "".join(f"{turn.mark}{turn.text}{END}" for turn in document)
