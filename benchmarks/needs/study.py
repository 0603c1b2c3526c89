"""What a model of some size needs in memory and arithmetic: `python -m edge_circuits.benchmarks.needs`.

    python -m edge_circuits.benchmarks.needs                                     # the sizes that it knows, in bfloat16
    python -m edge_circuits.benchmarks.needs --sizes DIRECTORY --tokens 4096     # the config.json of a Hugging Face model
    python -m edge_circuits.benchmarks.needs --sizes 170m 600m --measure         # beside what random models of these sizes take here

The formulas are in `edge_circuits.benchmarks.needs.sizes`.
"""

from __future__ import annotations

import argparse

from edge_circuits.benchmarks.needs.sizes import BYTES, SIZES, Size, size_of
from edge_circuits.benchmarks.output.tables import table
from edge_circuits.benchmarks.study import Study, tell

EDGE_COST, TRIED_COST = 0.073, 0.015  # of plain: an exact edge, one tried by ACDC; benchmarks.speed, GPT-2 small's size

HEADINGS = ("", "edges", "weights", "scoring", "circuit", "plain", "scoring / plain", "exact: plain", "ACDC: plain")


def _add(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", default=list(SIZES), help=f"{', '.join(SIZES)} or directories with config.json")
    add("--tokens", type=int, default=2048, help="tokens in a batch (2048)")
    add("--token-chunk", type=int, default=256, help="of eap.score (256)")
    add("--dtype", choices=tuple(BYTES), default="bfloat16", help="of numbers (bfloat16)")
    add("--measure", action="store_true", help="also make Llamas of these sizes with random weights, and measure")


def _work(given: argparse.Namespace) -> None:
    rows = [
        {"size": name, **needs(size_of(name), given.tokens, given.token_chunk, given.dtype)} for name in given.sizes
    ]
    about = f"{given.tokens} tokens in a batch, token_chunk {given.token_chunk}, {given.dtype}"
    told = table(HEADINGS, [[row["size"], *_cells(row)] for row in rows], n_left=1)
    tell(given, "needs", f"{about}; GB, and 10^9 operations a token\n{told}", rows)
    if given.measure:
        from edge_circuits.benchmarks.needs.measured import report

        report({name: size_of(name) for name in given.sizes}, given.tokens, given.token_chunk, given.dtype)


def needs(size: Size, n_tokens: int, token_chunk: int, dtype: str) -> dict[str, float]:
    """What a size needs: bytes, operations a token, and plain passes for all edges."""
    n_edges = size.graph.n_edges
    return {
        "n_edges": n_edges,
        **{f"{name}_bytes": n for name, n in size.bytes_needed(n_tokens, token_chunk, BYTES[dtype]).items()},
        "plain_operations": size.plain_operations,
        "scoring_ratio": size.scoring_operations / size.plain_operations,
        "exact_passes": n_edges * EDGE_COST,
        "acdc_passes": n_edges * TRIED_COST,
    }


def _cells(row: dict[str, float]) -> list[str]:
    giga = [f"{row[name] / 1e9:.2f}" for name in ("weights_bytes", "scoring_bytes", "circuit_bytes")]
    operations = [f"{row['plain_operations'] / 1e9:.1f}", f"{row['scoring_ratio']:.2f}"]
    return [f"{row['n_edges']:,}", *giga, *operations, f"{row['exact_passes']:,.0f}", f"{row['acdc_passes']:,.0f}"]


STUDY = Study("needs", "What scoring a model of some size needs.", ("out",), _add, _work)
main, parser = STUDY.main, STUDY.parser
