"""How often one may ask, and how a mistake is told."""

import pytest
from demo_server import demo_module

from flm.errors import InputError

gr = pytest.importorskip("gradio", reason="Gradio is not installed")

limits = demo_module("limits")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def count_taken(rate, client: str, tries: int) -> int:
    taken = 0
    for _ in range(tries):
        try:
            rate.take(client)
        except InputError:
            continue
        taken += 1
    return taken


def test_so_many_a_minute_for_each_client():
    clock = Clock()
    rate = limits.RateLimit(6, clock)
    assert count_taken(rate, "a", 20) == 6
    assert count_taken(rate, "b", 20) == 6
    clock.now_s = 10.5
    assert count_taken(rate, "a", 20) == 1
    clock.now_s = 1000
    assert count_taken(rate, "a", 20) == 6


def test_the_wait_is_told():
    rate = limits.RateLimit(6, Clock())
    count_taken(rate, "a", 6)
    with pytest.raises(InputError, match="wait 10 s"):
        rate.take("a")


def test_no_limit():
    assert count_taken(limits.RateLimit(0), "a", 1000) == 1000


def test_clients_are_not_remembered_without_end():
    rate = limits.RateLimit(6, Clock())
    for number in range(limits.MOST_CLIENTS + 50):
        rate.take(str(number))
    assert len(rate._left) == limits.MOST_CLIENTS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the file is empty; choose another", "The file is empty; choose another."),
        ("/tmp/flm-ab/upload.png: damaged", "A file of this server: damaged."),
        ("https://a.org/b/c.png: answers 404", "https://a.org/b/c.png: answers 404."),
        ("a <script> & more", "A &lt;script&gt; &amp; more."),
        ("two\nlines", "Two lines."),
    ],
)
def test_a_mistake_as_the_page_says_it(text, told):
    assert limits.sentence(InputError(text)) == told


def test_what_nobody_thought_of_is_a_sentence_too(capsys):
    @limits.told
    def handler():
        raise KeyError("secret")

    with pytest.raises(gr.Error) as caught:
        handler()
    assert caught.value.message == limits.SORRY
    assert "secret" in capsys.readouterr().err  # the log has it
