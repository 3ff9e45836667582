"""Images of digits: what is on them, against loops; windows; scores of captions and of attention; baselines."""

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.tasks import DigitCaptions, windows
from rnn_numpy.tasks.digit_captions import CENTRES, COLUMNS, DIGIT_WORDS, ROWS
from rnn_numpy.tasks.digits import load_digits

TASK = DigitCaptions()
CLEAN = DigitCaptions(noise=0.0)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.mark.parametrize("held_out", [False, True])
def test_an_image_holds_the_digits_that_it_names_and_nothing_else(digits, held_out):
    drawn = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
    part = range(1400, 1797) if held_out else range(1400)
    of_part = {digits.images[n].tobytes() for n in part}
    scenes = CLEAN.scenes(300, rng=1, held_out=held_out)
    for n in range(300):
        rest, previous, words = scenes.images[n].copy(), -1, []
        for label, (top, left) in zip(scenes.labels[n], scenes.corners[n], strict=True):
            if label < 0:
                assert (top, left) == (-1, -1)
                continue
            image = rest[top : top + 8, left : left + 8].copy()
            assert drawn[image.tobytes()] == label and image.tobytes() in of_part
            rest[top : top + 8, left : left + 8] = 0
            assert 0 <= top % 10 <= 2 and 0 <= left % 10 <= 2
            cell = 3 * (top // 10) + left // 10
            assert cell > previous, "reading order"
            previous = cell
            words += [DIGIT_WORDS[label], ROWS[top // 10], COLUMNS[left // 10]]
        assert not rest.any() and tuple(words) == scenes.captions[n] and len(words) == 3 * scenes.counts[n]


def test_everything_that_may_be_drawn_is_drawn():
    scenes = TASK.scenes(3000, rng=2)
    there = scenes.labels >= 0
    share = np.bincount(scenes.counts)[1:] / 3000
    assert np.abs(share - 1 / 3).max() < 0.03
    corners = scenes.corners[there]
    cells = np.bincount(3 * (corners[:, 0] // 10) + corners[:, 1] // 10, minlength=9) / len(corners)
    assert np.abs(cells - 1 / 9).max() < 0.015
    moves = np.bincount(3 * (corners[:, 0] % 10) + corners[:, 1] % 10, minlength=9) / len(corners)
    assert np.abs(moves - 1 / 9).max() < 0.015
    assert set(scenes.labels[there]) == {*range(10)}
    assert {len(words) for words in DigitCaptions(most=9).scenes(200, rng=0).captions} == {*range(3, 28, 3)}


def test_noise_lies_over_all_of_it():
    clean, noisy = CLEAN.scenes(200, rng=3), TASK.scenes(200, rng=3)
    assert noisy.captions == clean.captions and np.array_equal(noisy.corners, clean.corners)
    noise = noisy.images - clean.images
    assert noise.std() == pytest.approx(0.05, rel=0.01) and np.abs(noise.mean(axis=0)).max() < 0.05


def test_the_generator_alone_decides():
    rng = np.random.default_rng(4)
    state = rng.bit_generator.state
    first = TASK.draw(5, rng)
    rng.bit_generator.state = state
    again = TASK.draw(5, rng)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(TASK.held_out(5, 4).memory, first.memory)


def test_windows_against_a_loop():
    images = TASK.scenes(3, rng=5).images
    memory = windows(images)
    assert memory.shape == (25, 3, 100)
    for i in range(5):
        for j in range(5):
            expected = images[:, 5 * i : 5 * i + 10, 5 * j : 5 * j + 10].reshape(3, 100)
            assert np.array_equal(memory[5 * i + j], expected)
            assert CENTRES[5 * i + j].tolist() == [5 * i + 5, 5 * j + 5]
    assert np.array_equal(windows(images[1]), memory[:, 1:2])
    assert windows(images.astype(np.float32)).dtype == np.float32
    message = "windows: images must have shape (N, 30, 30) or (30, 30); got (30, 29)"
    assert_raises(ShapeError, message, lambda: windows(np.zeros((30, 29))))


def test_a_batch_is_what_a_model_reads():
    scenes = TASK.scenes(40, rng=6)
    memory, target, lengths = scenes.batch
    assert np.array_equal(memory, windows(scenes.images)) and len(TASK.vocabulary) == 19
    assert target.shape == (10, 40) and np.array_equal(lengths, 3 * scenes.counts + 1)
    for n in range(40):
        assert TASK.vocabulary.decode(target[:, n]) == scenes.captions[n]
        assert target[lengths[n] - 1, n] == 2 and not target[lengths[n] :, n].any()


def test_which_windows_lie_on_a_digit_against_a_loop():
    scenes = TASK.scenes(60, rng=7)
    expected = np.zeros((10, 60, 25), bool)
    for n in range(60):
        for k in range(scenes.counts[n]):
            top, left = scenes.corners[n, k]
            for s in range(25):
                down, right = 5 * (s // 5) + 5, 5 * (s % 5) + 5
                expected[3 * k, n, s] = top <= down <= top + 8 and left <= right <= left + 8
    assert np.array_equal(scenes.on_digit, expected)
    assert (scenes.on_digit.any(axis=2).sum(axis=0) == scenes.counts).all()


def test_uniform_attention_in_closed_form():
    """Over all cells and moves a digit has 13/9 of five centres in each direction."""
    places = [(top, top + 8) for cell in range(3) for top in range(10 * cell, 10 * cell + 3)]
    centres = sum(low <= centre <= high for low, high in places for centre in range(5, 30, 5))
    assert centres == 13
    scenes = TASK.scenes(4000, rng=8)
    score = TASK.attention(scenes, np.full(scenes.on_digit.shape, 1 / 25))
    assert score.mass == pytest.approx(score.uniform, rel=1e-12)
    assert score.uniform == pytest.approx((13 / 9) ** 2 / 25, rel=0.02)


def test_attention_is_scored_where_a_digit_is_named_alone():
    scenes = TASK.scenes(30, rng=9)
    on, named = scenes.on_digit, scenes.on_digit.any(axis=-1)
    right = on / np.maximum(on.sum(axis=-1, keepdims=True), 1)
    wrong = np.where(on, 0, 1.0)
    wrong /= wrong.sum(axis=-1, keepdims=True)
    junk = np.where(named[..., None], right, np.nan)  # what comes at other steps does not count
    assert TASK.attention(scenes, junk)[:2] == (pytest.approx(1.0, rel=1e-12), 1.0)
    assert TASK.attention(scenes, wrong)[:2] == (0.0, 0.0)
    score = TASK.attention(scenes, 0.75 * right + 0.25 * wrong)
    assert score.mass == pytest.approx(0.75, rel=1e-12) and score.pointing == 1.0
    message = f"DigitCaptions.attention: alpha must have shape (T, N, 25) = {on.shape}; got {on[1:].shape}"
    assert_raises(ShapeError, message, lambda: TASK.attention(scenes, right[1:]))


def test_captions_are_scored_word_by_word():
    scenes = TASK.scenes(2, rng=0)
    one, two = scenes.captions
    assert (len(one), len(two)) == (9, 6)
    other = ("nine", *one[1:])
    assert TASK.score(scenes, [one, two]) == (1.0, 1.0)
    assert TASK.score(scenes, [other, two]) == (0.5, 0.8)
    assert TASK.score(scenes, [one[:3], [*two, *two]]) == (0.0, 0.6), "too short, too long"
    assert TASK.score(scenes, [(), ()]) == (0.0, 0.0)
    assert TASK.score(scenes, [one[3:], two]) == (0.5, 0.4), "at the wrong place"
    message = "DigitCaptions.score: captions must be one of each image, N = 2; got 1"
    assert_raises(ShapeError, message, lambda: TASK.score(scenes, [one]))


def test_the_baselines():
    scenes = TASK.scenes(500, rng=10, held_out=True)
    seen = {}
    for words in TASK.scenes(20_000, rng=11).captions:
        seen[words] = seen.get(words, 0) + 1
    assert max(seen.values()) < 1.5 * seen[TASK.majority]
    constant = TASK.score(scenes, [TASK.majority] * 500)
    reader = TASK.score(scenes, TASK.nearest(scenes))
    assert constant.exact < 0.02 < constant.digit_words < 0.1 < TASK.goal < 0.9 < reader.exact < reader.digit_words < 1
    # Where it has seen the digits themselves, it reads them all, and it sees through noise which cells are empty.
    known = TASK.scenes(200, rng=12)
    assert TASK.score(known, TASK.nearest(known)) == (1.0, 1.0)
    noisy = DigitCaptions(noise=0.25).scenes(200, rng=13)
    said = DigitCaptions(noise=0.25).nearest(noisy)
    assert [words[1::3] + words[2::3] for words in said] == [words[1::3] + words[2::3] for words in noisy.captions]


def test_what_is_refused():
    for error, message, call in [
        (OptionError, "DigitCaptions: most must be at least 1; got 0", lambda: DigitCaptions(most=0)),
        (
            OptionError,
            "DigitCaptions: most must be at most 9, a digit in each cell; got 10",
            lambda: DigitCaptions(most=10),
        ),
        (OptionError, "DigitCaptions: noise must be at least 0; got -1.0", lambda: DigitCaptions(noise=-1.0)),
        (OptionError, "DigitCaptions.scenes: batch must be at least 1; got 0", lambda: TASK.scenes(0)),
        (
            DTypeError,
            "DigitCaptions.scenes: held_out must be True or False; got int 1",
            lambda: TASK.scenes(1, held_out=1),
        ),
    ]:
        assert_raises(error, message, call)
