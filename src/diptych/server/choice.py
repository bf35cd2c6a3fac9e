"""One sequence on its way to the client: tokens in, text, log-probabilities and the end out.

Knows: detokenising, stop strings, echo, why an output ended. Does not know: HTTP, JSON, other sequences.
Synchronous and without a clock: unary answers and streams are made of the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from diptych.domain.errors import Bug
from diptych.domain.ids import RequestId, TokenId
from diptych.domain.lifecycle import State
from diptych.domain.report import RequestReport
from diptych.domain.request import FinishReason, Logprob, PromptLogprobs, TokenOut
from diptych.server.openai.ask import OutputWishes, PromptTokens
from diptych.server.text.detokenize import Detokenizer
from diptych.server.text.stop import StopMatcher
from diptych.server.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class TokenRecord:
    """One token of the answer. ``text_offset``: where its text begins, in characters of the choice's text."""

    token_id: TokenId
    logprob: Logprob | None
    text_offset: int
    of_prompt: bool = False
    """Echoed, not generated."""


@dataclass
class Piece:
    """What has become certain since the last piece."""

    text: str = ""
    records: list[TokenRecord] = field(default_factory=list)

    def add(self, other: Piece) -> None:
        """Put ``other`` behind this."""
        self.text += other.text
        self.records += other.records


class Choice:
    """One sequence of a call. ``index`` is its place in the answer."""

    def __init__(
        self,
        index: int,
        request_id: RequestId,
        prompt: PromptTokens,
        wishes: OutputWishes,
        tokenizer: TextTokenizer,
    ) -> None:
        self.index = index
        self.request_id = request_id
        self.prompt = prompt
        self.wishes = wishes
        self.report: RequestReport | None = None
        self.token_ids: list[TokenId] = []
        """Output tokens that count: up to the one that completed a stop string."""
        self.stop_string: str | None = None
        self.prompt_logprobs: list[Logprob | None] = [None] * len(prompt.token_ids)
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(
            tokenizer, prompt.token_ids, skip_special_tokens=wishes.skip_special_tokens
        )
        self._matcher = StopMatcher(wishes.stops, include=wishes.include_stop)
        self._decoded_characters = 0
        self._sent_characters = 0
        self._finish_reason: FinishReason | None = None
        self._stop_token_id: TokenId | None = None
        self._waiting: list[TokenRecord] = []  # their text is not out yet
        self._begun = False

    # ------------------------------------------------------------ in

    def feed(self, items: Iterable[TokenOut | PromptLogprobs | RequestReport]) -> Piece | None:
        """Take all that has come. A piece for every token but the last, also while its text is held back
        (half a character, or what may become a stop string): clients time tokens by the chunks they see."""
        piece = Piece()
        known = len(self.token_ids)
        for item in sorted(items, key=_logprobs_first):
            match item:
                case PromptLogprobs():
                    self.prompt_logprobs[item.start : item.start + len(item.entries)] = item.entries
                case TokenOut():
                    self._take(item, piece)
                case RequestReport():
                    self.report = item
        goes_on = len(self.token_ids) > known and self._finish_reason is None and self.stop_string is None
        if not (piece.text or goes_on or known == 0 < len(self.token_ids)):
            return None
        self._sent_characters += len(piece.text)
        out = sum(record.text_offset < self._sent_characters for record in self._waiting)
        piece.records, self._waiting = self._waiting[:out], self._waiting[out:]
        return piece

    def end(self) -> Piece:
        """What was held back, once no token can follow."""
        rest = Piece()
        if self.stop_string is None:
            self._put(self._detokenizer.finish(), rest, look=True)
            rest.text += self._matcher.finish()
        rest.records, self._waiting = self._waiting, []
        return rest

    # ------------------------------------------------------------ out

    @property
    def ended(self) -> bool:
        """Whether the report has come."""
        return self.report is not None

    @property
    def complete(self) -> bool:
        """Whether the output is whole: then no failure of the cluster matters to the client."""
        done = self.report is not None and self.report.state is State.FINISHED
        return done or self.stop_string is not None

    @property
    def must_stop(self) -> bool:
        """Whether the cluster still generates beyond a stop string."""
        return self.stop_string is not None and self._finish_reason is None and not self.ended

    @property
    def finish_reason(self) -> str:
        """`stop` or `length`. Raises `Bug` before the end."""
        if self.stop_string is not None:
            return FinishReason.STOP.value
        reason = self._finish_reason or (self.report.finish_reason if self.report else None)
        if reason is None:
            raise Bug(f"{self.request_id} has no finish reason")
        return reason.value

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string, or the stop token that the client had named; None for EOS and for length."""
        listed = self._stop_token_id in self.wishes.listed_stop_ids
        return self.stop_string if self.stop_string is not None else self._stop_token_id if listed else None

    # ------------------------------------------------------------ inside

    def _take(self, token: TokenOut, piece: Piece) -> None:
        if self.stop_string is not None:
            return  # came before the cluster heard of the stop
        if token.index != len(self.token_ids):
            raise Bug(f"{self.request_id}: token {token.index} came, {len(self.token_ids)} was due")
        if not self._begun:
            self._begin(piece)
        self.token_ids.append(token.token_id)
        self._waiting.append(TokenRecord(token.token_id, token.logprob, self._decoded_characters))
        self._finish_reason, self._stop_token_id = token.finish_reason, token.stop_token_id
        if token.stop_token_id is None or self.wishes.include_stop:
            look = len(self.token_ids) >= self.wishes.min_tokens
            self._put(self._detokenizer.step(token.token_id), piece, look=look)

    def _put(self, text: str, piece: Piece, *, look: bool) -> None:
        self._decoded_characters += len(text)
        piece.text += self._matcher.feed(text, look=look)
        self.stop_string = self._matcher.matched

    def _begin(self, piece: Piece) -> None:
        """The prompt in front of the output, if it is to be echoed."""
        self._begun = True
        if not self.wishes.echo:
            return
        ids = self.prompt.token_ids
        texts = _texts(self._tokenizer, ids, skip_special_tokens=self.wishes.skip_special_tokens)
        for token_id, logprob, text in zip(ids, self.prompt_logprobs, texts, strict=True):
            self._waiting.append(TokenRecord(token_id, logprob, self._decoded_characters, of_prompt=True))
            self._decoded_characters += len(text)
        echoed = "".join(texts) if self.prompt.text is None else self.prompt.text
        self._decoded_characters = len(echoed)
        piece.text += echoed


def _logprobs_first(item: object) -> int:
    """An echo needs the prompt's log-probabilities when the first token is taken."""
    return 0 if isinstance(item, PromptLogprobs) else 1


def _texts(tokenizer: TextTokenizer, token_ids: Sequence[TokenId], *, skip_special_tokens: bool) -> list[str]:
    """The text that each token adds."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    texts = [detokenizer.step(token_id) for token_id in token_ids]
    texts[-1] += detokenizer.finish()
    return texts
