"""Run under python: why torch.compile breaks the graph of each objective, as JSON; outside pytest, whose type checks it would trace."""

import json

import torch
from objective_cases import CASES, ROWS, SHAPE, Features, labels_of

from mmclip.objectives import ObjectiveContext


def breaks_of(name: str) -> list[str]:
    torch.manual_seed(0)
    objective = CASES[name].build(SHAPE).double()
    needs, given, taught = objective.needs, Features(0), Features(100)
    outputs = given.outputs(needs, None, needs.pairs, "student")
    momentum = needs.momentum
    context = ObjectiveContext(
        step=1,
        samples_seen=ROWS,
        labels=labels_of(1) if needs.pair_labels else None,
        share=0.5,
        momentum=None if momentum is None else taught.outputs(needs, momentum.views, momentum.pairs, "teacher"),
    )
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda: objective(outputs, context).loss)()
    assert found.graph_count >= 1, f"{name}: nothing was traced"
    return [str(reason.reason) for reason in found.break_reasons]


if __name__ == "__main__":
    print(json.dumps({name: breaks_of(name) for name in CASES}))
