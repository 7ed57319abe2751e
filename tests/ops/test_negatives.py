from __future__ import annotations

import pytest
import torch

from detfuse.ops.negatives import Sampler, choose_negatives

PLACES = 200


@pytest.mark.parametrize(
    ("sampler", "compiled"), [("random", False), ("bootstrap", False), ("mixture", False), ("mixture", True)]
)
def test_as_many_negatives_as_wanted_in_each_image(sampler: Sampler, compiled: bool) -> None:
    choose = torch.compile(choose_negatives, fullgraph=True, backend="eager") if compiled else choose_negatives
    torch.manual_seed(0)
    hardness = torch.rand(5, PLACES)
    negative = torch.rand(5, PLACES) < 0.5
    negative[3] = False
    wanted = torch.tensor([[0.0], [7.0], [6.5], [9.0], [1000.0]])
    chosen = choose(negative, hardness, wanted, sampler)
    assert not (chosen & ~negative).any()
    assert chosen.sum(1).tolist() == [0, 7, 7, 0, int(negative[4].sum())]


def test_the_strategies_differ_in_how_hard_their_negatives_are() -> None:
    """Of 20 negatives: bootstrap the 20 hardest, mixture the 10 hardest and 10 others, random any."""
    torch.manual_seed(0)
    negative = torch.ones(400, PLACES, dtype=torch.bool)
    hardness = torch.arange(PLACES).expand(400, PLACES).float()
    wanted = torch.full((400, 1), 20)
    random, bootstrap, mixture = (
        choose_negatives(negative, hardness, wanted, sampler) for sampler in ("random", "bootstrap", "mixture")
    )
    assert torch.equal(bootstrap, hardness >= PLACES - 20)
    assert mixture[:, -10:].all()
    # each place as often as chance has it: 20 of 200, and 10 of the other 190
    torch.testing.assert_close(random.float().mean(0), torch.full((PLACES,), 0.1), rtol=0, atol=0.06)
    torch.testing.assert_close(mixture[:, :-10].float().mean(0), torch.full((190,), 10 / 190), rtol=0, atol=0.06)
    assert len({tuple(row) for row in random.tolist()}) == 400


def test_of_an_odd_number_one_more_is_hard() -> None:
    negative = torch.ones(1, PLACES, dtype=torch.bool)
    hardness = torch.arange(PLACES)[None].float()
    for wanted, hard in ((1, 1), (5, 3), (4.5, 3)):
        chosen = choose_negatives(negative, hardness, torch.tensor([[wanted]]), "mixture")
        assert chosen[0, -hard:].all()
        assert chosen.sum() == torch.tensor(wanted).ceil()
