"""Text to windows: what is read, how it is split, how it is encoded, what a training step sees."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, ArgumentParser
from transformers import AutoTokenizer

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import connect
from papertrail.data import enwik8
from papertrail.data.card import CorpusCard
from papertrail.data.config import CORPUS, CorpusConfig, Data
from papertrail.data.corpus import build, train_bpe
from papertrail.data.splits import SPLITS, split_of
from papertrail.data.text import LONGEST_PIECE, SHORTEST_PIECE, digest, documents, pieces
from papertrail.data.windows import Corpus, TokenizedSplit

WORDS = [
    "the",
    "a",
    "river",
    "town",
    "was",
    "old",
    "and",
    "near",
    "people",
    "made",
    "bread",
    "rain",
]
UNICODE = st.text(max_size=300)
slow_fixtures = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def story(seed: int, num_words: int = 120) -> str:
    random = np.random.default_rng(seed)
    return f"Story {seed}. " + " ".join(random.choice(WORDS, num_words)) + " — the end.\n"


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(120):
        (folder / f"{number:03}.txt").write_text(story(number), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(text_folder: Path) -> Data:
    return Data(text=str(text_folder), vocab_size=320, val_fraction=0.2, test_fraction=0.2)


@pytest.fixture(scope="module")
def corpus(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    build(data, folder)
    return Corpus.open(folder)


def read(source: Path | str, megabytes: float = 1.0) -> list[str]:
    return list(documents(str(source), megabytes, "main"))


# -- text: one option, four kinds of source ---------------------------------------------------


def test_a_folder_is_read_in_the_order_of_its_paths_hidden_files_left_out(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "b" / "2.md").write_text("second")
    (tmp_path / "a.TXT").write_text("first")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n\n{"id": 1, "text": "fourth\\n"}\n')
    (tmp_path / "b" / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    assert read(tmp_path) == ["first", "second", "third", "fourth\n"]


@given(st.lists(st.sampled_from(["word " * 300, "\n", "\n\n", "x" * 4000, " \n \t\n", "é"])))
def test_the_pieces_of_a_long_file_are_the_file(parts):
    text = "".join(parts)
    found = list(pieces(text))
    assert "".join(found) == text
    assert all(SHORTEST_PIECE < len(piece) <= LONGEST_PIECE for piece in found[:-1])


def test_a_long_file_is_cut_at_blank_lines(tmp_path):
    paragraphs = [f"{number} " + "word " * 300 + "\n\n" for number in range(40)]
    (tmp_path / "book.txt").write_text("".join(paragraphs))
    found = read(tmp_path / "book.txt")
    assert len(found) == 10 and all(document.endswith("\n\n") for document in found)


@given(st.lists(st.integers(0, 9_000), max_size=12), st.floats(0.001, 0.08))
@slow_fixtures
def test_a_smaller_cap_reads_a_prefix_of_what_a_larger_one_reads(tmp_path_factory, sizes, cap):
    folder = tmp_path_factory.mktemp("cap")
    book = "".join(f"{size} " + "wörd " * (size // 5) + "\n\n" for size in sizes)
    (folder / "1.txt").write_text(book + "end", encoding="utf-8")
    (folder / "2.jsonl").write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in sizes))
    whole = read(folder, 10.0)
    try:
        part = read(folder, cap)
    except BadInput as error:
        assert "not one document in the first" in str(error)
    else:
        assert part == whole[: len(part)]
        assert sum(len(text.encode()) for text in part) <= math.ceil(cap * 1e6)


def test_the_digest_is_of_the_content_wherever_and_however_it_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "1.txt").write_text("one")
    (folder / "2.txt").write_text("two")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.txt").write_text("one")
    (tmp_path / "copy" / "z.txt").write_text("two")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [folder, "texts", "./texts/", "texts/../texts", "link", "~/texts", "copy"]
    assert len({digest(str(name), "main") for name in names}) == 1


def test_the_digest_changes_with_content_order_and_kind(tmp_path):
    file = tmp_path / "1.txt"
    (tmp_path / "2.txt").write_text("two")
    found = []
    for content in ("one", "One"):
        file.write_text(content)
        found.append(digest(str(tmp_path), "main"))
    file.rename(tmp_path / "3.txt")
    found.append(digest(str(tmp_path), "main"))
    (tmp_path / "3.txt").rename(tmp_path / "3.jsonl")
    found.append(digest(str(tmp_path), "main"))
    assert len(set(found)) == 4


def test_a_hub_dataset_is_identified_by_id_and_revision_without_the_hub():
    assert digest("monology/pile-uncopyrighted", "abc") == "hub:monology/pile-uncopyrighted@abc"


def test_a_hub_dataset_is_streamed_up_to_the_cap(tmp_path, monkeypatch):
    # The library's own reading of a dataset repository, from a local one of the same layout.
    import datasets

    repository = tmp_path / "repo"
    repository.mkdir()
    rows = [{"text": "x" * 100, "id": n} for n in range(50)]
    (repository / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    real = datasets.load_dataset

    def nearby(name, **options):
        assert (name, options.pop("revision")) == ("owner/name", "v1")
        return real(str(repository), **options)

    monkeypatch.setattr(datasets, "load_dataset", nearby)
    assert list(documents("owner/name", 0.00105, "v1")) == ["x" * 100] * 10
    (repository / "train.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(BadInput, match=r'no "text" column \(owner/name: body\)'):
        list(documents("owner/name", 1.0, "v1"))


def test_a_hub_that_cannot_be_reached_is_one_line():
    code = (
        "from papertrail.data.text import documents\n"
        "try: next(documents('owner/name', 1.0, 'main'))\n"
        "except LookupError as error: print(error)"
    )
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "src"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=offline)
    assert done.stdout.startswith("data.text: neither a file or folder here nor a dataset the hub")
    assert "(owner/name@main: " in done.stdout and done.stdout.count("\n") == 1, done.stderr


def refusal(source: object) -> str:
    with pytest.raises(BadInput) as found:
        digest(str(source), "main")
        list(documents(str(source), 1.0, "main"))
    line = str(found.value)
    assert "\n" not in line and line.startswith("data.text: ")
    return line


def test_a_wrong_path_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts", "novel.txt").write_text("x")
    assert "no such file or folder ('text'); did you mean texts?" in refusal("text")
    assert "did you mean texts/novel.txt?" in refusal("texts/novels.txt")
    assert "did you mean texts/novel.txt?" in refusal("texts/novel")  # not taken for a hub id
    assert "did you mean enwik8?" in refusal("enwiki8")
    assert "give 'enwik8', a text file" in refusal("elsewhere/file.txt")
    assert "give 'enwik8', a text file" in refusal("")
    assert "cannot be read" in refusal("x" * 300)


def test_no_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "folder").mkdir()
    assert f"empty ({tmp_path / 'empty.txt'})" in refusal(tmp_path / "empty.txt")
    assert "not one document in the first 1 MB" in refusal(tmp_path / "blank.txt")
    assert "no .txt, .md, .jsonl file in the folder" in refusal(tmp_path / "folder")


def test_bytes_that_are_not_utf8_are_refused_by_file_and_offset(tmp_path):
    bad = tmp_path / "latin1.txt"
    bad.write_bytes("ab é".encode() + "é".encode("latin1"))
    assert f"not UTF-8 ({bad}: byte 0xe9 at offset 5)" in refusal(bad)


def test_a_character_that_only_the_cap_cuts_is_no_error(tmp_path):
    (tmp_path / "book.txt").write_text("é" * 20_000, encoding="utf-8")
    assert read(tmp_path, 0.030001) == ["é" * LONGEST_PIECE]


@pytest.mark.parametrize("line", ["{", "[1]", '{"body": 1}', '{"text": 3}', '{"text": "\\ud800"}'])
def test_a_line_of_json_without_text_is_refused_by_number(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    assert f"({tmp_path / 'rows.jsonl'}, line 2)" in refusal(tmp_path)


# -- enwik8 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''it''", "Bold and it"),
        ("a [[town|Town]] and [[city]]s", "a Town and citys"),
        ("x {{a|{{b}}|c}} y", "x y"),
        ("x [[Image:a.png|thumb|a [[b|c]] d]]y[[de:Haus]][[Category:H]]", "x y"),
        ("x\n{|a\n|-\n|{| b\n|}\n|}\ny", "x\n\ny"),
        ("x<ref name=a>[http://a b]</ref>, y<ref name=a/>", "x, y"),
        ("see [http://a.b/c the page] now", "see the page now"),
        ("==Life==\nborn\n== See also ==\n* [[x]]\n==Work==\ndone", "Life\n\nborn\n\nWork\n\ndone"),
        ("* one\n## two\n:three", "one\ntwo\nthree"),
        ("Athens ({{polytonic|x}}) &ndash; a&nbsp;city", "Athens – a city"),
        ("if a &lt;b&gt; c<br/>d <math>x^2</math>.", "if a <b> c\nd."),
        ("open {{never closed and [[also not", "open {{never closed and [[also not"),
    ],
)  # fmt: skip
def test_wiki_markup_becomes_the_text_a_reader_saw(markup, text):
    assert enwik8.plain(markup) == text


@given(st.text(alphabet="{}[]|=<>'&;# \nab", max_size=200))
def test_any_nesting_of_marks_is_stripped_without_an_error(markup):
    enwik8.plain(markup)


def page(title: str, text: str) -> str:
    revision = f'<id>1</id><text xml:space="preserve">{text}</text>'
    return f"<page><title>{title}</title>{revision}</page>\n"


def test_only_whole_articles_of_some_length_are_kept_of_a_dump():
    body = "&lt;b&gt;word&lt;/b&gt; &amp;mdash; " * 100
    dump = (
        page("Wikipedia:Rules", body)
        + page("User talk:Someone", body)
        + page("Old name", "#REDIRECT [[New name]] " + body)
        + page("Short", "a" * 599)
        + page("Long enough", "b" * 600)
        + page("Batman: Year One", body)
        + "<page><title>No text</title></page>\n"
        + page("Last", body)[:-20]
    )
    assert list(enwik8.articles_of(dump)) == ["b" * 600, ("word — " * 100).strip()]


def test_enwik8_gives_clean_articles_only():
    cache = Path(os.environ.get("PAPERTRAIL_CACHE") or "~/.cache/papertrail").expanduser()
    try:
        found = list(enwik8.articles(2.0))
    except Missing as error:
        assert not (cache / enwik8.ASSET.filename).is_file()
        pytest.skip(f"enwik8 is neither cached nor to be had: {error}")
    assert len(found) == 116
    assert found[0].startswith("Anarchism originated as a term of abuse first used against early")
    assert min(map(len, found)) >= enwik8.SHORTEST_ARTICLE
    text = "".join(found)
    marks = Counter(
        {mark: text.count(mark) for mark in ("[[", "{{", "'''", "<ref", "&nbsp;", "{|")}
    )
    assert marks.total() < 10


# -- split ------------------------------------------------------------------------------------


@given(st.lists(st.binary(), unique=True), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_the_test_split_does_not_move_when_the_validation_share_does(texts, val, other):
    def held_out(share: float) -> list[bytes]:
        return [text for text in texts if split_of(text, share, 0.3) == "test"]

    assert held_out(val) == held_out(other)


def test_shares_of_the_splits_are_as_asked():
    found = Counter(split_of(str(n).encode(), 0.2, 0.1) for n in range(20_000))
    assert {name: round(found[name] / 20_000, 2) for name in SPLITS} == {
        "train": 0.7, "val": 0.2, "test": 0.1,
    }  # fmt: skip


def decoded(corpus: Corpus, name: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(corpus.tokenizer_folder)
    return [tokenizer.decode(ids) for ids in corpus.documents(name, 10**6)]


def test_splits_partition_the_documents_and_equal_documents_share_one(tmp_path, data, corpus):
    everything = Counter(text for name in SPLITS for text in decoded(corpus, name))
    assert everything == Counter(read(data.text))

    rows = [json.dumps({"text": text}) for text in [*everything, *everything]]
    (tmp_path / "twice.jsonl").write_text("\n".join(rows))
    again = Data(text=str(tmp_path / "twice.jsonl"), vocab_size=320, val_fraction=0.2,
                 test_fraction=0.2)  # fmt: skip
    build(again, tmp_path / "corpus")
    doubled = Corpus.open(tmp_path / "corpus")
    for name in SPLITS:
        assert Counter(decoded(doubled, name)) == Counter(decoded(corpus, name) * 2)


def test_neither_order_nor_cap_moves_a_document(tmp_path, data, corpus):
    texts = read(data.text)[::-1]
    rows = "\n".join(json.dumps({"text": text}) for text in texts)
    (tmp_path / "turned.jsonl").write_text(rows)
    turned = Data(text=str(tmp_path / "turned.jsonl"), vocab_size=320, val_fraction=0.2,
                  test_fraction=0.2, megabytes=len(rows) * 0.6e-6)  # fmt: skip
    build(turned, tmp_path / "corpus")
    part = Corpus.open(tmp_path / "corpus")
    assert 0 < part.card.splits["val"].documents < corpus.card.splits["val"].documents
    for name in SPLITS:
        assert set(decoded(part, name)) <= set(decoded(corpus, name))


def test_a_split_without_a_document_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("one document only")
    with pytest.raises(BadInput, match=r"^data.text: no document fell into the \w+ split \(1 doc"):
        build(Data(text=str(tmp_path / "short.txt")), tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "corpus.json").exists()


# -- tokenizer --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus):
    return AutoTokenizer.from_pretrained(corpus.tokenizer_folder)


@given(UNICODE)
@example("spaces , before marks . don 't  move\r\n")
@slow_fixtures
def test_any_text_survives_encoding_and_decoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_end_of_text_is_id_0_and_nothing_pads(tokenizer):
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert tokenizer.pad_token_id is None
    assert tokenizer.encode("a") == tokenizer.encode("a", add_special_tokens=False)


def test_the_tokenizer_never_sees_what_is_held_out(tmp_path, data):
    def merges(folder: Path, held_out_words: str) -> str:
        folder.mkdir()
        for number in range(60):
            text = story(number)
            split = split_of(text.encode(), data.val_fraction, data.test_fraction)
            # An addition that keeps a held-out document held out, by trying a counter behind it.
            if split != "train" and held_out_words:
                text = next(
                    longer
                    for tries in range(1000)
                    if split_of((longer := f"{text}{held_out_words}{tries}").encode(), 0.2, 0.2)
                    == split
                )
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
        build(Data(text=str(folder), vocab_size=300, val_fraction=0.2, test_fraction=0.2),
              folder / "corpus")  # fmt: skip
        return (folder / "corpus" / "tokenizer" / "tokenizer.json").read_text()

    assert merges(tmp_path / "a", "") == merges(tmp_path / "b", "zyxwv zyxwv " * 100)


def test_training_the_tokenizer_twice_gives_the_same_one_in_any_order():
    texts = [story(number) for number in range(50)]
    one, other = train_bpe(texts, 320), train_bpe(texts[::-1], 320)
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_a_small_text_gives_a_smaller_vocabulary_than_asked(tmp_path, text_folder):
    card = build(Data(text=str(text_folder), vocab_size=70_000, val_fraction=0.2), tmp_path)
    assert card["vocab_size"] < 1000 and card["dtype"] == "uint16"


def test_another_tokenizer_can_be_named_by_its_folder(tmp_path, data, corpus):
    folder = corpus.tokenizer_folder
    card = build(Data(text=data.text, tokenizer=str(folder), val_fraction=0.2), tmp_path)
    assert card["vocab_size"] == corpus.vocab_size
    fingerprint = CORPUS.data(CorpusConfig(data=Data(text=data.text, tokenizer=str(folder))))
    assert fingerprint["data.tokenizer"].startswith("tokenizer:")


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path, data, monkeypatch):
    (tmp_path / "folder").mkdir()
    wrong = Data(text=data.text, tokenizer=str(tmp_path / "folder"), val_fraction=0.2)
    with pytest.raises(BadInput, match=r"^data.tokenizer: cannot be loaded \([^\n]*$"):
        build(wrong, tmp_path / "corpus")


# -- corpus folder ----------------------------------------------------------------------------


def test_the_card_counts_what_lies_in_the_folder(data, corpus):
    texts = {name: decoded(corpus, name) for name in SPLITS}
    num_tokens = num_bytes = 0
    for name, card in corpus.card.splits.items():
        split = corpus.split(name)
        assert card.documents == len(texts[name]) == len(split.num_bytes)
        assert card.tokens == len(split.ids) == split.offsets[-1]
        assert split.num_bytes.tolist() == [len(text.encode()) for text in texts[name]]
        assert card.bytes == split.num_bytes.sum()
        num_tokens += card.tokens - card.documents
        num_bytes += card.bytes
    assert corpus.card.bytes_per_token == pytest.approx(num_bytes / num_tokens)
    assert corpus.card.text == digest(data.text, "main")


def test_every_document_and_only_a_document_ends_with_end_of_text(corpus):
    for name in SPLITS:
        split = corpus.split(name)
        ends = np.flatnonzero(split.ids == corpus.eos_id)
        assert ends.tolist() == (split.offsets[1:] - 1).tolist()


def test_the_name_of_the_end_of_text_token_in_a_text_is_only_text(tmp_path):
    texts = [f"{story(n)}<|endoftext|> not the end" for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    build(Data(text=str(tmp_path / "rows.jsonl"), vocab_size=300, val_fraction=0.2,
               test_fraction=0.2), tmp_path / "corpus")  # fmt: skip
    corpus = Corpus.open(tmp_path / "corpus")
    assert (corpus.split("train").ids == 0).sum() == corpus.card.splits["train"].documents
    assert set(decoded(corpus, "val")) <= set(texts)


def test_the_unigram_baseline_is_the_add_one_estimate_of_the_train_split(corpus):
    counts = Counter(corpus.split("train").ids.tolist())
    total = sum(counts.values()) + corpus.vocab_size
    held_out = corpus.split("val").ids.tolist()
    nats = -sum(math.log((counts[token] + 1) / total) for token in held_out)
    card = corpus.card.splits["val"]
    assert card.unigram_perplexity == pytest.approx(math.exp(nats / len(held_out)))
    assert card.unigram_bits_per_byte == pytest.approx(nats / math.log(2) / card.bytes)


def test_building_twice_gives_the_same_bytes(tmp_path, data, corpus):
    seen: list[float] = []
    assert CorpusCard(**build(data, tmp_path, seen.append)) == corpus.card  # digests included
    assert seen == sorted(seen) and seen[-1] == 1.0
    leftover = {path.name for path in tmp_path.iterdir()} - {"tokenizer", "corpus.json"}
    assert leftover == {f"{n}.{kind}" for n in SPLITS for kind in ("bin", "offsets.npy", "bytes.npy")}  # fmt: skip  # noqa: E501


def test_a_folder_that_is_not_whole_is_missing(tmp_path, data):
    with pytest.raises(Missing, match=r"^corpus: not one that can be read"):
        Corpus.open(tmp_path)
    build(data, tmp_path)
    with (tmp_path / "val.bin").open("ab") as ids:
        ids.write(b"xx")
    with pytest.raises(Missing, match=r"val.bin has \d+ bytes instead of \d+; build it again"):
        Corpus.open(tmp_path)


# -- windows ----------------------------------------------------------------------------------


def counting(corpus: Corpus, num_tokens: int) -> Corpus:
    """A corpus whose token at position i is i, so that a window shows where it was taken."""
    none = np.zeros(0, dtype=np.int64)
    ids = np.arange(num_tokens, dtype=np.uint32)
    split = TokenizedSplit(ids, none, np.zeros(1, dtype=np.int64))
    return replace(corpus, splits={"train": split, "val": split, "test": split})


@given(st.data(), st.integers(1, 50), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2))
@slow_fixtures
def test_an_epoch_shows_every_window_exactly_once(corpus, drawn, window, batch_size, seed, epoch):
    num_tokens = drawn.draw(st.integers(window, 2_000))
    numbers = counting(corpus, num_tokens)
    num_windows = max(1, num_tokens // window - 1)
    first, last = epoch * num_windows, (epoch + 1) * num_windows  # samples of this epoch
    steps = range(first // batch_size, -(-last // batch_size))
    batches = [numbers.training_batch(step, batch_size, window, seed) for step in steps]
    shown = np.concatenate(batches)[first - steps[0] * batch_size :][:num_windows]
    starts = np.sort(shown[:, 0])
    assert (shown == shown[:, :1] + np.arange(window)).all()
    assert (np.diff(starts) == window).all() and len(starts) == num_windows


def test_every_token_is_sometimes_predicted_although_the_first_of_a_window_never_is(corpus):
    numbers = counting(corpus, 1000)
    epochs = [numbers.training_batch(epoch, 99, 10, seed=0) for epoch in range(20)]
    seen = set(np.concatenate(epochs)[:, 1:].ravel().tolist())
    assert seen == set(range(1, 1000))


def test_the_order_of_the_data_is_the_one_that_earlier_runs_saw(corpus):
    starts = counting(corpus, 1000).training_batch(7, 5, 10, seed=3)[:, 0]
    assert starts.tolist() == [948, 608, 158, 48, 568]


def test_epochs_differ_in_order_and_in_where_windows_begin(corpus):
    window = 32
    num_windows = len(corpus.split("train").ids) // window - 1
    epochs = [corpus.training_batch(epoch, num_windows, window, seed=0) for epoch in range(4)]
    for one, other in pairwise(epochs):
        assert not (one == other).all()
    assert len({frozenset(map(tuple, epoch.tolist())) for epoch in epochs}) == 4


def test_a_step_is_a_pure_function_of_seed_and_step(corpus):
    forward = [corpus.training_batch(step, 8, 16, seed=1) for step in range(60)]
    again = Corpus.open(corpus.folder)
    for step in reversed(range(60)):
        assert (again.training_batch(step, 8, 16, seed=1) == forward[step]).all()
    assert not (corpus.training_batch(0, 8, 16, seed=2) == forward[0]).all()


def test_a_step_of_two_small_batches_is_a_step_of_the_large_one(corpus):
    large = corpus.training_batch(3, 8, 16, seed=0).tolist()
    small = [row for step in (6, 7) for row in corpus.training_batch(step, 4, 16, 0).tolist()]
    assert small == large


@given(st.integers(1, 300), st.integers(1, 60))
@slow_fixtures
def test_validation_windows_are_disjoint_and_spread_over_the_split(corpus, window, num):
    ids = corpus.split("val").ids
    found = corpus.validation_windows("val", window, num).numpy()
    rows = ids[: len(ids) // window * window].reshape(-1, window)
    expected = np.arange(len(found)) * len(rows) // len(found)
    assert len(found) == min(num, len(rows)) == len(set(expected))
    assert (found == rows[expected]).all()


def test_chosen_documents_are_spread_and_end_before_end_of_text(corpus):
    total = corpus.card.splits["val"].documents
    assert corpus.split("val").chosen(4).tolist() == [i * total // 4 for i in range(4)]
    assert len(corpus.documents("val", 10**6)) == total
    assert all(corpus.eos_id not in ids and len(ids) for ids in corpus.documents("val", total))


def test_a_split_shorter_than_a_window_is_refused(corpus):
    num = len(corpus.split("val").ids)
    line = (
        rf"^data.text: the val split holds {num} tokens, less than one window \({num + 1}\); give"
    )
    with pytest.raises(BadInput, match=line):
        corpus.validation_windows("val", num + 1, 1)
    with pytest.raises(BadInput, match="the train split holds"):
        corpus.training_batch(0, 1, 10**6, 0)
    assert corpus.validation_windows("val", num, 3).shape == (1, num)


# -- options ----------------------------------------------------------------------------------


def test_a_corpus_is_identified_by_its_text_and_not_by_where_it_lies(tmp_path, text_folder):
    (tmp_path / "link").symlink_to(text_folder)
    one, other = (CorpusConfig(data=Data(text=str(p))) for p in (text_folder, tmp_path / "link"))
    assert identify(CORPUS, one) == identify(CORPUS, other)
    assert identify(CORPUS, one) != identify(CORPUS, CorpusConfig())


@pytest.mark.parametrize(
    "option", ["data.val_fraction=0.5", "data.test_fraction=0", "data.vocab_size=256",
               "data.megabytes=0"]
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(option):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CORPUS.schema)
    parser.parse_args(["--data.val_fraction=0.4", "--data.vocab_size=257", "--data.megabytes=1"])
    with pytest.raises(ArgumentError, match=option.partition("=")[0]):
        parser.parse_args([f"--{option}"])


def test_options_are_known_without_loading_torch_or_mlflow():
    code = (
        "import sys; from papertrail.data.config import CORPUS, CorpusConfig\n"
        "CORPUS.data(CorpusConfig())\n"
        "print(sorted({'torch', 'mlflow', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": "src"})  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # MLflow's own
def test_a_run_of_the_corpus_experiment_holds_the_corpus(store_uri, data, corpus):
    run = require(CORPUS, CorpusConfig(data=data), store=connect(store_uri))
    assert (
        Corpus.open(run.artifact("corpus")).card == corpus.card == CorpusCard(**run.json("corpus"))
    )
    assert run.metrics["val/unigram_perplexity"] == corpus.card.splits["val"].unigram_perplexity
