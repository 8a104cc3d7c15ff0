import numpy as np
import pytest

from equipoise.data.plan import Plan, group_by_tokens

LENGTHS = np.random.default_rng(0).integers(5, 90, 45)


def plan(**changes):
    settings = {"seed": 0, "global_batch_size": 8, "epochs": 2, "tokens_per_micro_batch": 200, **changes}
    return Plan(LENGTHS, **settings)


def rows_of(step):
    return sorted(row for rank in step for micro in rank if micro.weight for row in micro.rows)


def test_every_epoch_visits_every_row_once_and_the_last_batch_is_filled():
    p = plan()
    assert p.n_steps == 12 and p.filled == 6  # 90 rows in batches of 8
    order = np.concatenate([p.batch(s) for s in range(p.n_steps)])
    assert sorted(order[:45]) == list(range(45)) and sorted(order[45:90]) == list(range(45))
    assert len(order) == 96


def test_batches_do_not_depend_on_the_order_they_are_asked_in():
    p, q = plan(), plan()
    backwards = [p.batch(s).tolist() for s in reversed(range(p.n_steps))]
    assert backwards[::-1] == [q.batch(s).tolist() for s in range(q.n_steps)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_hardware_changes_the_grouping_and_never_the_rows(world, budget):
    p = plan(world_size=world, tokens_per_micro_batch=budget)
    for step in range(p.n_steps):
        ranks = p.step(step)
        assert rows_of(ranks) == sorted(p.batch(step).tolist())
        assert len({len(rank) for rank in ranks}) == 1, "ranks with unequal micro-batches hang"
        for micro in (m for rank in ranks for m in rank):
            padded = max(LENGTHS[list(micro.rows)]) * len(micro.rows)
            assert padded <= budget or len(micro.rows) == 1


def test_a_batch_smaller_than_the_ranks_is_filled_up_with_weight_zero():
    ranks = plan(global_batch_size=3, world_size=4).step(0)
    assert [sum(m.weight for m in rank) > 0 for rank in ranks].count(False) == 1
    assert len(ranks) == 4 and len({len(r) for r in ranks}) == 1


def test_fractions_of_an_epoch_and_step_limits():
    assert plan(epochs=0.5).n_steps == 3
    assert plan(max_steps=7).n_steps == 7 and plan(max_steps=7).filled == 0


def test_grouping_keeps_order_and_gives_a_long_row_its_own_micro_batch():
    groups = group_by_tokens([3, 1, 2], [0, 4, 50, 3], budget=10)
    assert [g.rows for g in groups] == [(3, 1), (2,)]
