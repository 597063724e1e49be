"""The teacher is asked once for each example, whatever batch it comes in, and its answers outlive the process."""

from pathlib import Path

import pytest
import torch

from tasks.distill import teacher_cache
from tasks.distill.divergences import TopK
from tasks.distill.teacher_cache import TeacherCache, cache_name, identity


class Teacher:
    """Answers example i with i + 1 positions of its own; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, examples: list[int]) -> "Teacher.Ask":
        return Teacher.Ask(self, examples)

    class Ask:
        def __init__(self, teacher: "Teacher", examples: list[int]) -> None:
            self._teacher, self._examples = teacher, examples

        def __call__(self, places: list[int]) -> list[TopK]:
            chosen = [self._examples[place] for place in places]
            self._teacher.asked += chosen
            return [answer_of(example) for example in chosen]


def answer_of(example: int) -> TopK:
    generator = torch.Generator().manual_seed(example)
    return TopK.of(torch.randn(example + 1, 40, generator=generator), 5, 2.0)


def name(example: int) -> bytes:
    return identity(torch.tensor([example, 1, 2]), 1)


def ask(cache: TeacherCache, teacher: Teacher, examples: list[int]) -> TopK:
    return cache.answer([name(example) for example in examples], teacher(examples))


def test_each_example_is_asked_once_and_answered_in_the_order_of_the_batch(tmp_path: Path) -> None:
    cache, teacher = TeacherCache(tmp_path), Teacher()
    ask(cache, teacher, [0, 1, 2])
    found = ask(cache, teacher, [2, 3, 0])
    assert teacher.asked == [0, 1, 2, 3] and len(cache) == 4
    expected = [answer_of(example) for example in (2, 3, 0)]
    assert torch.equal(found.tokens, torch.cat([row.tokens for row in expected]))
    assert torch.equal(found.log_probabilities, torch.cat([row.log_probabilities for row in expected]))


def test_a_new_process_asks_about_new_rows_only(tmp_path: Path) -> None:
    first, teacher = TeacherCache(tmp_path), Teacher()
    before = ask(first, teacher, [4, 1])
    first.save()
    later = TeacherCache(tmp_path)
    after = ask(later, teacher, [4, 1, 7])
    assert teacher.asked == [4, 1, 7]
    rows = len(before.tokens)
    assert torch.equal(after.tokens[:rows], before.tokens)
    assert torch.equal(after.log_probabilities[:rows], before.log_probabilities)


def test_answers_are_written_in_shards_and_never_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD_EXAMPLES", 2)
    cache, teacher = TeacherCache(tmp_path), Teacher()
    for batch in ([0, 1], [1, 2, 3], [4]):
        ask(cache, teacher, batch)
    assert len(list(tmp_path.iterdir())) == 2
    cache.save()
    cache.save()
    assert len(list(tmp_path.iterdir())) == 3 and len(TeacherCache(tmp_path)) == 5


def test_an_example_is_its_tokens_and_where_its_answer_starts() -> None:
    ids = torch.tensor([5, 6, 7])
    assert identity(ids, 1) == identity(ids.clone(), 1)
    assert len({identity(ids, 1), identity(ids, 2), identity(ids[:2], 1)}) == 3


def test_a_folder_belongs_to_one_way_of_asking() -> None:
    facts = {"teacher": "a", "temperature": 2.0, "cache_top_k": 8, "teacher_bits": 16, "precision": "bf16"}
    others = [facts | {key: "other"} for key in facts]
    assert len({cache_name(**kind) for kind in (facts, *others)}) == 1 + len(facts)
    assert cache_name(**dict(reversed(facts.items()))) == cache_name(**facts)
