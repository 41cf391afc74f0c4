"""Each recipe trains and lowers on a few samples in the file format that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from tools.recipes import cifar10, training

BRIEF = ["--epochs", "5", "--batch", "4", "--lr", "0.01"]


def cifar_folder(folder: Path, records: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = rng.integers(0, 10, (records, 1), dtype=np.uint8)
        pixels = rng.integers(0, 256, (records, 3072), dtype=np.uint8)
        np.concatenate([labels, pixels], 1).tofile(folder / name)
    return folder


def stored_integers(path: Path) -> int:
    """Weights that are integers in the file."""
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    return sum(len(one.dims) > 1 and one.data_type in kinds for one in onnx.load(path).graph.initializer)


@pytest.mark.parametrize(("network", "layers"), [("resnet20", 22), ("vgg7", 8)])
def test_cifar10(network: str, layers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.onnx"
    given = [str(cifar_folder(tmp_path)), "-o", str(output), "--network", network, "--width", "8"]
    assert cifar10.main([*given, *BRIEF]) == 0
    said = capsys.readouterr().out
    assert "accuracy 0." in said and "BOPs" in said
    assert stored_integers(output) == layers


def test_records_are_a_class_and_three_planes(tmp_path: Path) -> None:
    record = np.zeros((1, 3073), np.uint8)
    record[0, 0], record[0, 1], record[0, 1 + 1024 + 33] = 7, 255, 255  # red's first, green's (1, 1)
    record.tofile(tmp_path / "one.bin")
    found = cifar10.Cifar10.read([tmp_path / "one.bin"])
    assert found.labels.tolist() == [7]
    assert found.images.nonzero().tolist() == [[0, 0, 0, 0], [0, 1, 1, 1]]
    white = found.batch(torch.tensor([0])).inputs[0][0, 0, 0, 0]
    assert float(white) == pytest.approx((1 - 0.4914) / 0.2470)


def test_refuses_a_file_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "bad.bin").write_bytes(bytes(3072))
    with pytest.raises(ValueError, match="not whole records of 3073"):
        cifar10.Cifar10.read([tmp_path / "bad.bin"])


def test_varied_images_are_moved_and_mirrored() -> None:
    torch.manual_seed(0)
    image = torch.arange(2 * 32 * 32).float().reshape(1, 2, 32, 32).expand(64, -1, -1, -1)
    moved = cifar10.vary(image)
    assert moved.shape == image.shape and not torch.equal(moved, image)
    padded = torch.nn.functional.pad(image[0], [4] * 4)
    crops = padded.unfold(1, 32, 1).unfold(2, 32, 1).movedim(0, 2).reshape(-1, 2, 32, 32)
    for one in moved[:8]:
        assert any(torch.equal(one, crop) or torch.equal(one.flip(2), crop) for crop in crops)


def test_refuses_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    given = [str(cifar_folder(tmp_path, 1)), "-o", str(tmp_path / "net.onnx"), "--batch", "6"]
    with pytest.raises(ValueError, match="5 samples are less than one batch of 6"):
        cifar10.main(given)


def test_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    from tools.recipes import imagenet

    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (40 + i, 48) if i == 0 else (40 + i, 48, 3)  # some are grey
                image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{i}.JPEG")
    output = tmp_path / "net.onnx"
    sizes = ["--image", "32", "--blocks", "1", "1", "--channels", "8"]
    assert imagenet.main([str(tmp_path), "-o", str(output), *sizes, *BRIEF, "--batch", "2"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert stored_integers(output) == 10

    found = imagenet.Folder.read(tmp_path / "val", 32)
    batch = found.batch(torch.arange(4))
    assert batch.inputs[0].shape == (4, 3, 32, 32) and batch.target.tolist() == [0, 0, 1, 1]
    assert found.batch(torch.tensor([2])).inputs[0].equal(batch.inputs[0][2:3])  # nothing is random here
    with pytest.raises(ValueError, match="no folders with images"):
        imagenet.Folder.read(tmp_path / "val" / "n01440764", 32)


CONTEXT = "The king lived in a red house . He ate green apples in the garden ."
ASKED = [("where did the king live ?", "red house", 20), ("what did he eat ?", "green apples", 39)]


def squad(path: Path, copies: int) -> None:
    asked = [
        {"id": str(i), "question": q, "answers": [{"text": text, "answer_start": start}]}
        for i, (q, text, start) in enumerate(ASKED * copies)
    ]
    asked.append({"id": "none", "question": "why ?", "answers": []})
    content = {"version": "1.1", "data": [{"title": "", "paragraphs": [{"context": CONTEXT, "qas": asked}]}]}
    path.write_text(json.dumps(content))


def test_squad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    from tools.recipes import squad as recipe

    words = sorted({*CONTEXT.lower().split(), *" ".join(q for q, _, _ in ASKED).split()})
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    squad(tmp_path / "train.json", 4)
    squad(tmp_path / "dev.json", 1)

    tokenizer = transformers.BertTokenizer(vocab=str(vocabulary))
    found = recipe.Questions.read(tmp_path / "dev.json", tokenizer, 32)
    assert len(found) == 2  # the one without an answer is left out
    for number, (_, text, _) in enumerate(ASKED):
        logits = np.zeros((32, 2), np.float32)
        first, last = found.target[number].tolist()
        logits[first, 0] = logits[last, 1] = 1
        assert found.text(number, logits) == text
    cut = recipe.Questions.read(tmp_path / "dev.json", tokenizer, 14)
    assert cut.target.tolist() == [[0, 0], [0, 0]]  # the answers were cut off

    output = tmp_path / "bert.onnx"
    given = [str(tmp_path), "-o", str(output), "--vocabulary", str(vocabulary)]
    sizes = ["--tokens", "32", "--layers", "1", "--width", "32", "--activation-bits", "8", "8"]
    assert recipe.main([*given, *sizes, *BRIEF, "--batch", "2"]) == 0
    assert "F1" in capsys.readouterr().out
    assert stored_integers(output) >= 6


def test_f1_is_the_overlap_of_words_with_the_best_answer() -> None:
    pytest.importorskip("transformers")
    from tools.recipes.squad import f1

    assert f1("the Red house!", ["red house"]) == 1
    assert f1("red house", ["green apples", "house"]) == pytest.approx(2 / 3)
    assert f1("", ["house"]) == 0


def test_options_are_those_of_geta() -> None:
    options = training.arguments("", lr=0.1, epochs=3, batch=8).parse_args(
        ["data", "-o", "net.onnx", "--weight-bits", "2", "4"]
    )
    assert options.weight_bits == [2, 4] and tuple(options.activation_bits) == (8, 8)
    assert (options.lr, options.epochs, options.batch) == (0.1, 3, 8)
