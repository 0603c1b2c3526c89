"""Where planted circuits work: the places by hand, and that scores by span find them there."""

from __future__ import annotations

import pytest
import torch

from edge_circuits.benchmarks.planted import planted_task
from edge_circuits.benchmarks.planted.positions import known_places, measured, spanned_pairs
from edge_circuits.graphs.by_span import SpanCircuit

BY_HAND = {
    "ioi": """input->a1.h0<v>@S2 input->a1.h3<v>@S2 a1.h0->a2.h2<q>@end a1.h3->a2.h2<q>@end a1.h0->a2.h5<q>@end
        a1.h3->a2.h5<q>@end input->a2.h2<k>@S1 input->a2.h5<k>@S1 input->a2.h2<v>@IO input->a2.h5<v>@IO a2.h2->logits@end
        a2.h5->logits@end""",
    "greater_than": """input->a0.h2<v>@year input->m0@year input->a1.h1<v>@year m0->a1.h1<v>@year input->a1.h6<v>@year
        m0->a1.h6<v>@year a0.h2->m1@end a1.h1->m1@end a1.h6->m1@end a1.h6->m2@end m1->m2@end m1->logits@end m2->logits@end""",
    "docstring": """input->a0.h5<v>@B_def input->a0.h5<v>@C_def input->a0.h5<v>@B_doc a0.h5->a1.h0<v>@B_def a0.h5->a1.h3<v>@B_def
        input->a1.h4<v>@B_doc a0.h5->a1.h4<v>@B_doc a1.h4->a2.h0<q>@end a1.h4->a2.h6<q>@end a1.h0->a2.h0<k>@C_def
        a1.h3->a2.h0<k>@C_def a1.h0->a2.h6<k>@C_def a1.h3->a2.h6<k>@C_def input->a2.h0<v>@C_def a0.h5->a2.h0<v>@C_def
        input->a2.h6<v>@C_def a0.h5->a2.h6<v>@C_def a2.h0->logits@end a2.h6->logits@end""",
}


@pytest.mark.parametrize("name", BY_HAND)
def test_places_are_those_that_the_causal_model_reads(name: str) -> None:
    planted = planted_task(name)
    pairs = spanned_pairs(planted, 24, seed=1)
    known = known_places(planted, pairs)
    assert set(SpanCircuit(planted.graph, pairs.spans.names, known).edges) == set(BY_HAND[name].split())
    assert torch.equal(known.any(2), planted.circuit.mask)


def test_scores_by_span_find_them() -> None:
    relp, plain = measured("ioi", ("relp",), n=8)
    assert (relp.task, relp.method, relp.n_known, plain.method) == ("ioi", "relp", 12, "relp, no positions")
    assert relp.area > 0.99 and relp.area_of_spans > 0.99 and relp.average_precision > 0.9
    assert plain.area_of_spans == 0.5 and plain.average_precision < 0.4
