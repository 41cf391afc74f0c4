"""BERT on questions and answers in SQuAD's JSON, pruned and quantized while it trains.

    python tools/recipes/squad.py FOLDER -o bert.onnx --vocabulary vocab.txt [--weights FOLDER]

FOLDER has train.json and dev.json in the format of SQuAD 1.1 (Rajpurkar et al. 2016): data -> paragraphs ->
context, and qas with question, id and answers (text, answer_start). `--weights` is a folder with the
config.json and model.safetensors of a BERT; without it, training starts from random numbers.
"""

from __future__ import annotations

import collections
import json
import re
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path: make `tools` importable
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from tools.recipes.training import Batch, answers, arguments, compress, tell

__all__ = ["Answers", "Questions", "f1", "main"]

LONGEST_ANSWER = 30  # tokens


@dataclass(frozen=True)
class Question:
    """A question about a text, and what counts as its answer: texts, and the first one's place."""

    question: str
    context: str
    texts: Sequence[str]
    start: int


@dataclass(frozen=True)
class Questions:
    """Questions as tokens.

    Args:
        inputs: input_ids, attention_mask and token_type_ids, each of shape (n, tokens).
        target: The first and the last token of the answer; 0, which is [CLS], where it was cut off.
        places: Where each token lies in its context, shape (n, tokens, 2); -1 outside of it.
    """

    questions: Sequence[Question]
    inputs: tuple[Tensor, Tensor, Tensor]
    target: Tensor
    places: Tensor

    @classmethod
    def read(cls, file: Path, tokenizer: Any, tokens: int) -> Questions:
        """Raises ValueError where there are no questions."""
        questions = list(parse(json.loads(file.read_text())))
        if not questions:
            raise ValueError(f"{file}: no questions")
        coded = tokenizer(
            [one.question for one in questions],
            [one.context for one in questions],
            truncation="only_second",
            padding="max_length",
            max_length=tokens,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        inputs = coded["input_ids"], coded["attention_mask"], coded["token_type_ids"]
        in_context = (coded["token_type_ids"] == 1) & (coded["offset_mapping"][..., 1] > 0)
        places = coded["offset_mapping"].masked_fill(~in_context[..., None], -1)
        target = torch.stack([ends(one, where) for one, where in zip(questions, places, strict=True)])
        return cls(questions, inputs, target, places)

    def __len__(self) -> int:
        return len(self.questions)

    def batch(self, chosen: Tensor) -> Batch:
        return Batch(tuple(one[chosen] for one in self.inputs), self.target[chosen])

    def text(self, number: int, logits: np.ndarray) -> str:
        """The answer with the greatest sum of logits; shape (tokens, 2)."""
        places = self.places[number].numpy()
        scores = logits[:, None, 0] + logits[None, :, 1]
        inside = places[:, 0] >= 0
        length = np.arange(len(logits)) - np.arange(len(logits))[:, None]
        allowed = inside[:, None] & inside & (length >= 0) & (length < LONGEST_ANSWER)
        first, last = np.unravel_index(np.where(allowed, scores, -np.inf).argmax(), scores.shape)
        return self.questions[number].context[places[first, 0] : places[last, 1]] if inside.any() else ""


def parse(content: Mapping[str, Any]) -> Iterator[Question]:
    """Questions without an answer (SQuAD 2.0) are left out."""
    for paragraph in (one for article in content["data"] for one in article["paragraphs"]):
        for asked in paragraph["qas"]:
            if asked["answers"]:
                texts = [one["text"] for one in asked["answers"]]
                start = asked["answers"][0]["answer_start"]
                yield Question(asked["question"], paragraph["context"], texts, start)


def ends(question: Question, places: Tensor) -> Tensor:
    """The first and the last token that an answer touches."""
    end = question.start + len(question.texts[0])
    touched = ((places[:, 0] >= 0) & (places[:, 0] < end) & (places[:, 1] > question.start)).nonzero()[:, 0]
    is_whole = len(touched) and int(places[touched[-1], 1]) >= end
    return touched[[0, -1]] if is_whole else torch.zeros(2, dtype=torch.long)


class Answers(nn.Module):
    """Logits of shape (batch, tokens, 2): for the first and for the last token of the answer."""

    def __init__(self, bert: transformers.BertForQuestionAnswering) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, words: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        found = self.bert(input_ids=words, attention_mask=mask, token_type_ids=types)
        return torch.stack([found.start_logits, found.end_logits], 2)


def f1(answer: str, texts: Sequence[str]) -> float:
    """SQuAD's measure: the overlap of words with the best of the right answers."""
    return max(overlap(words(answer), words(text)) for text in texts)


def words(text: str) -> list[str]:
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    common = sum((collections.Counter(one) & collections.Counter(other)).values())
    return 2 * common / (len(one) + len(other)) if one or other else 1.0


def network_of(weights: Path | None, vocabulary: int, layers: int, width: int) -> nn.Module:
    if weights is not None:
        return Answers(transformers.BertForQuestionAnswering.from_pretrained(weights))
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 64, 2),
        intermediate_size=4 * width,
    )
    return Answers(transformers.BertForQuestionAnswering(config))


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__, lr=3e-5, epochs=10, batch=32)
    parser.add_argument("--vocabulary", type=Path, required=True, help="one token of BERT's per line")
    parser.add_argument("--weights", type=Path, help="where training starts")
    parser.add_argument("--tokens", type=int, default=384, help="of a question and its text")
    parser.add_argument("--layers", type=int, default=12, help="without --weights")
    parser.add_argument("--width", type=int, default=768, help="without --weights")
    options = parser.parse_args(given)
    torch.manual_seed(options.seed)
    tokenizer = transformers.BertTokenizer(vocab=str(options.vocabulary))
    train, test = (
        Questions.read(options.data / name, tokenizer, options.tokens) for name in ("train.json", "dev.json")
    )
    network = network_of(options.weights, len(tokenizer), options.layers, options.width)
    report = compress(network, train, options, "adamw")
    found = answers(options.output, test, options.batch)
    scores = [f1(test.text(i, logits), test.questions[i].texts) for i, logits in enumerate(found)]
    tell(report, f"F1 {np.mean(scores):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
