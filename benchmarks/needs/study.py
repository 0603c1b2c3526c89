"""What a model of some size needs in memory and arithmetic: `python -m edge_circuits.benchmarks.needs`.

    python -m edge_circuits.benchmarks.needs                                     # the sizes that it knows, in bfloat16
    python -m edge_circuits.benchmarks.needs --sizes DIRECTORY --tokens 4096     # the config.json of a Hugging Face model
    python -m edge_circuits.benchmarks.needs --sizes 170m 600m --measure         # beside what random models of these sizes take here

The formulas are in `edge_circuits.benchmarks.needs.sizes`.
"""

from __future__ import annotations

import argparse

from edge_circuits.benchmarks.needs.sizes import BYTES, SIZES, size_of

EDGE_COST, TRIED_COST = (
    0.073,
    0.015,
)  # of plain: an exact edge, an edge tried by ACDC; edge_circuits.benchmarks.speed, GPT-2 small's size


def text(name: str, n_tokens: int, token_chunk: int, dtype: str) -> str:
    """What a size needs, on a line."""
    size, width = size_of(name), BYTES[dtype]
    gigabytes = (
        width * size.weights,
        size.scoring_bytes(n_tokens, token_chunk, width),
        size.circuit_bytes(n_tokens, width),
    )
    figures = "".join(f"{each / 1e9:12.2f}" for each in gigabytes)
    operations = f"{size.plain_operations / 1e9:12.1f}{size.scoring_operations / size.plain_operations:10.2f}"
    passes = f"{size.graph.n_edges * EDGE_COST:14,.0f}{size.graph.n_edges * TRIED_COST:12,.0f}"
    return f"{name:16}{size.graph.n_edges:12,}{figures}{operations}{passes}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_circuits.benchmarks.needs", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--sizes", nargs="+", default=list(SIZES), help=f"{', '.join(SIZES)} or directories with config.json"
    )
    parser.add_argument("--tokens", type=int, default=2048, help="tokens in a batch (2048)")
    parser.add_argument("--token-chunk", type=int, default=256, help="of eap.score (256)")
    parser.add_argument("--dtype", choices=tuple(BYTES), default="bfloat16")
    parser.add_argument(
        "--measure", action="store_true", help="also make Llamas of these sizes with random weights, and measure"
    )
    given = parser.parse_args(arguments)
    print(
        f"{given.tokens} tokens in a batch, token_chunk {given.token_chunk}, {given.dtype}; GB, and 10^9 operations a token"
    )
    heads = ("weights", "scoring", "circuit", "plain", "scoring /", "exact: plain", "ACDC: plain")
    print(f"{'':16}{'edges':>12}" + "".join(f"{head:>{n}}" for head, n in zip(heads, (12, 12, 12, 12, 10, 14, 12))))
    for name in given.sizes:
        print(text(name, given.tokens, given.token_chunk, given.dtype))
    if given.measure:
        from edge_circuits.benchmarks.needs.measured import report

        report({name: size_of(name) for name in given.sizes}, given.tokens, given.token_chunk, given.dtype)
