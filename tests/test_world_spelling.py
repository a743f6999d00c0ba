"""Claims about how questions are written: the published characters, and words."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertrail.core.errors import BadInput
from papertrail.world.cities import cities, stream
from papertrail.world.options import TASKS, Task, World
from papertrail.world.spelling import BOS, CHARACTERS, EOS, PAD, UNK, Spelling, spelling
from papertrail.world.tasks import Examples, draw

SMALL = World(cities=100, unit=2.0, atlantis=20, spelling="words")
PAPER = World(cities=5_075, unit=0.1, atlantis=100, spelling="characters")
PUBLISHED = (
    "!\"#$%&'()*+,-./:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~0123456789"
)
LABELS = ("c_0865", "c_4879", "c_0001", "c_9999", "c_1234", "c_5678")
CHARACTER_SPELLING = Spelling(
    kind="characters", tokens=("<pad>", "<unk>", "<bos>", "<eos>", *PUBLISHED), labels=LABELS
)
WORDS = Spelling(
    kind="words", labels=LABELS,
    tokens=spelling(SMALL).tokens[: -len(cities(SMALL))] + tuple(f" {label}" for label in LABELS),
)  # fmt: skip
GOLDEN = {
    "distance": ((0, 1), 769, "dist(c_0865,c_4879)=769", "distance c_0865 c_4879=769"),
    "trianglearea": (
        (0, 1, 2), 0, "triarea(c_0865,c_4879,c_0001)=0", "trianglearea c_0865 c_4879 c_0001=0"
    ),
    "angle": (
        (5, 4, 3), 180, "angle(c_5678,c_1234,c_9999)=180", "angle c_5678 c_1234 c_9999=180"
    ),
    "compass": ((1, 0), 5, "compass(c_4879,c_0865)=SW", "compass c_4879 c_0865=SW"),
    "inside": (
        (0, 1, 2, 3), 1, "inside(c_0865;c_4879,c_0001,c_9999)=TRUE",
        "inside c_0865 c_4879 c_0001 c_9999=TRUE",
    ),
    "perimeter": ((0, 1), 1010, "perimeter(c_0865,c_4879)=1010", "perimeter c_0865 c_4879=1010"),
    "crossing": (
        (0, 1, 2, 3), 0, "cross(c_0865,c_4879;c_0001,c_9999)=FALSE",
        "crossing c_0865 c_4879 c_0001 c_9999=FALSE",
    ),
}  # fmt: skip


def examples(task: Task, *rows: tuple[tuple[int, ...], int]) -> Examples:
    chosen = [[*members, *[-1] * (6 - len(members))] for members, _ in rows]
    return Examples(
        task=task,
        cities=np.array(chosen, dtype=np.int32),
        answers=np.array([answer for _, answer in rows]),
    )


def encoded(options: World, task: Task, kind: str = "real", rows: int = 20_000) -> np.ndarray:
    drawn = draw(task, cities(options), kind, rows, stream(1, task, kind))
    return spelling(options).encode(drawn)


# Characters


def test_the_characters_are_the_98_ids_of_the_published_tokenizer():
    spelt = spelling(PAPER)
    assert spelt.size == 98 and spelt.tokens[4:] == tuple(PUBLISHED) == CHARACTERS
    assert spelt.tokens[:4] == ("<pad>", "<unk>", "<bos>", "<eos>")
    assert (spelt.equals, spelt.tokens.index("0"), spelt.tokens.index("c")) == (22, 88, 60)


def test_a_row_is_spelt_character_by_character_between_bos_and_eos():
    members, answer, text, _ = GOLDEN["distance"]
    row = CHARACTER_SPELLING.encode(examples("distance", (members, answer)))[0]
    assert row.tolist() == [BOS, *(4 + PUBLISHED.index(c) for c in text), EOS]
    assert row[:12].tolist() == [2, 61, 66, 76, 77, 11, 60, 56, 88, 96, 94, 93]
    assert row.dtype == np.uint8


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_written_as_published_and_in_words(task: Task):
    members, answer, text, words = GOLDEN[task]
    for spelt, expected in ((CHARACTER_SPELLING, text), (WORDS, words)):
        row = spelt.encode(examples(task, (members, answer)))[0]
        assert spelt.text(row) == expected
        assert (row[0], row[-1]) == (BOS, EOS)


LENGTHS = {  # mean, least, most: arXiv 2602.00533's rows, counted
    "distance": (25.4, 23, 26), "trianglearea": (37.4, 33, 39), "angle": (32.1, 31, 33),
    "compass": (26.3, 26, 27), "inside": (50.4, 42, 57), "perimeter": (41.3, 28, 53),
    "crossing": (41.5, 41, 42),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_as_long_as_the_published_ones(task: Task):
    mean, least, most = LENGTHS[task]
    lengths = (encoded(PAPER, task) != PAD).sum(axis=1)
    assert lengths.mean() == pytest.approx(mean, abs=0.2)
    assert least <= lengths.min() and lengths.max() <= most


def test_a_city_is_shown_up_to_what_follows_it_and_read_at_the_published_places():
    published = {
        "distance": (11, 12), "angle": (12, 13), "crossing": (12, 13), "inside": (13, 14),
        "trianglearea": (14, 15), "compass": (14, 15), "perimeter": (16, 17),
    }  # fmt: skip
    for task, places in published.items():
        assert CHARACTER_SPELLING.positions(task) == places
        prompt = CHARACTER_SPELLING.prompt(task, np.array([5, 0]))
        start, delimiter = GOLDEN[task][2].split("(")[0], ";" if task == "inside" else ","
        assert CHARACTER_SPELLING.texts(prompt) == [
            f"{start}(c_5678{delimiter}", f"{start}(c_0865{delimiter}"
        ]  # fmt: skip
        assert [CHARACTER_SPELLING.tokens[id_] for id_ in prompt[0, list(places)]] == [
            "8",
            delimiter,
        ]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", [SMALL, PAPER], ids=["small", "paper"])
def test_a_prompt_is_how_a_row_about_the_city_begins(task: Task, options: World):
    drawn = draw(task, cities(options), "all", 50, stream(1))
    rows = spelling(options).encode(drawn)
    prompts = spelling(options).prompt(task, drawn.cities[:, 0])
    assert (rows[:, : prompts.shape[1]] == prompts).all()


# Words


def test_a_word_is_one_token_and_the_small_world_fits_in_a_byte():
    spelt = spelling(SMALL)
    assert spelt.size == 4 + 7 + 1 + 10 + 8 + 2 + 120 and len(set(spelt.tokens)) == spelt.size
    row = WORDS.encode(examples("compass", ((1, 0), 5)))[0]
    assert [WORDS.tokens[id_] for id_ in row] == [
        "<bos>", "compass", " c_4879", " c_0865", "=", "SW", "<eos>"
    ]  # fmt: skip
    assert WORDS.positions("compass") == (2,)
    assert [WORDS.tokens[id_] for id_ in WORDS.prompt("compass", np.array([1]))[0]] == [
        "<bos>", "compass", " c_4879"
    ]  # fmt: skip


def test_more_words_than_a_byte_counts_are_refused_with_the_largest_number():
    assert spelling(replace(SMALL, cities=204)).size == 256
    message = r"world.cities: 224 have a word, Atlantis among them \(225\)"
    with pytest.raises(BadInput, match=message):
        spelling(replace(SMALL, cities=205))
    with pytest.raises(BadInput, match=r"world\.spelling=characters"):
        spelling(replace(SMALL, cities=205))


# Both


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", [SMALL, PAPER], ids=["small", "paper"])
def test_a_row_can_be_read_and_written_again(task: Task, options: World):
    spelt, rows = spelling(options), encoded(options, task, "atlantis", 100)
    for row, text in zip(rows, spelt.texts(rows), strict=True):
        again = [BOS, *spelt.encode_text(text), EOS]
        assert again + [PAD] * (len(row) - len(again)) == row.tolist()
        assert spelt.text(row) == text


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("options", [SMALL, PAPER], ids=["small", "paper"])
def test_what_a_row_says_is_its_question_and_its_answer(task: Task, options: World):
    drawn = draw(task, cities(options), "all", 200, stream(1))
    for row, answer, text in zip(
        drawn.cities, drawn.answers, spelling(options).texts(spelling(options).encode(drawn)),
        strict=True,
    ):  # fmt: skip
        numbers = [cities(options).number[index] for index in row if index >= 0]
        question, said = text.split("=")
        assert [int(word[:4]) for word in question.split("c_")[1:]] == numbers
        words = {
            "compass": ("E", "NE", "N", "NW", "W", "SW", "S", "SE"),
            "inside": ("FALSE", "TRUE"), "crossing": ("FALSE", "TRUE"),
        }.get(task)  # fmt: skip
        assert said == (words[answer] if words else str(answer))


@pytest.mark.parametrize("spelt", [CHARACTER_SPELLING, WORDS], ids=["characters", "words"])
def test_shorter_rows_are_padded_on_the_right_alone(spelt: Spelling):
    rows = spelt.encode(
        examples("perimeter", ((0, 1, 2, 3, 4), 12), ((0, 1), 0), ((2, 3, 4), 12_345))
    )
    padding = rows == PAD
    assert (np.diff(padding.astype(int), axis=1) >= 0).all()
    assert (padding.sum(axis=1) == 0).tolist().count(True) == 1
    assert [row[(row != PAD)][-1] for row in rows] == [EOS] * 3
    assert [text.split("=")[1] for text in spelt.texts(rows)] == ["12", "0", "12345"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=5))
def test_a_number_is_written_without_leading_zeros(numbers: list[int]):
    rows = [((0, 1, 2), number) for number in numbers]
    for spelt in (CHARACTER_SPELLING, WORDS):
        texts = spelt.texts(spelt.encode(examples("trianglearea", *rows)))
        assert [text.split("=")[1] for text in texts] == [str(number) for number in numbers]


def test_what_is_not_spelt_so_is_unknown():
    assert CHARACTER_SPELLING.encode_text("a ü").tolist() == [4 + PUBLISHED.index("a"), UNK, UNK]
    assert WORDS.encode_text("?").tolist() == [UNK]
    assert CHARACTER_SPELLING.text(np.array([BOS, UNK, PAD, EOS])) == "<unk>"
