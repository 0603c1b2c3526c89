"""What single edges cost: exact patching and ACDC on a model of GPT-2 small's size, as ratios to the bare passes.

    python -m edge_circuits.benchmarks.speed exact                       # a sample of destinations, extrapolated to all edges
    python -m edge_circuits.benchmarks.speed acdc --threshold 1e-3       # a whole sweep, layer by layer
    python -m edge_circuits.benchmarks.speed planted                     # whole sweeps of the planted models

"Plain" is two forward passes and one backward pass of the Hugging Face model (`edge_circuits.benchmarks.speed`), measured before and
after. The weights are random, so nothing is downloaded; the threshold then says how many edges stay.

Peers for comparison, in plain's unit on one CPU thread at 8 x 16 tokens: one exact edge costs EAP-IG 5.6 (a forward pass with
split inputs); a whole ACDC sweep took its original 39 hours and AutoCircuit 20, when plain took 2.0 seconds.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from edge_circuits import acdc
from edge_circuits.acdc.algorithm import EdgeSweep
from edge_circuits.acdc.search import Search
from edge_circuits.benchmarks import planted
from edge_circuits.benchmarks.speed.setup import Setup, make_setup, plain_passes
from edge_circuits.eap.methods.exact import STACKED_TOKENS
from edge_circuits.graphs import Graph, metrics
from edge_circuits.graphs.metrics import logit_difference
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.running.cached_run import CachedRun
from edge_circuits.graphs.running.incremental import run_candidates
from edge_circuits.graphs.running.patching import cut_values

PEER_EXACT = 5.6  # of plain, one edge
PEER_SWEEP = 39 * 3600 / 2.0  # of plain, all edges
LAYERS = (0, 2, 5, 8, 11)  # where exact patching is sampled
ROUNDS = 3


def plain_seconds(setup: Setup) -> float:
    """Median seconds of the bare passes."""
    return statistics.median(_seconds(plain_passes(setup)) for _ in range(ROUNDS + 1))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@torch.no_grad()
def exact_seconds(setup: Setup) -> dict[str, dict[int, float]]:
    """Seconds an edge, by kind of destination and layer: one stacked call each, the median of some."""
    transformer = adapt(setup.model)
    graph, batch = transformer.graph, setup.pairs
    cached = CachedRun(transformer, graph.edge_mask, batch, cut_values(transformer, [batch], "patching")(batch))
    n_stacked = max(1, STACKED_TOKENS // cached.cut.embed.shape[:2].numel())
    seconds: dict[str, dict[int, float]] = {}
    places = [(kind, layer, _destination(graph, kind, layer)) for layer in LAYERS for kind in ("q", "k", "v", "mlp")]
    for kind, layer, destination in tqdm(
        [*places, ("logits", graph.n_layers, graph.n_destinations - 1)], unit="destination", leave=False
    ):
        n = min(n_stacked, int(graph.n_visible[destination]))
        kept = graph.edge_mask[:, destination].repeat(n, 1)
        kept[torch.arange(n), torch.arange(n)] = False
        taken = [
            _seconds(lambda: [logit_difference(each, batch) for each in run_candidates(cached, destination, kept)])
            for _ in range(ROUNDS)
        ]
        seconds.setdefault(kind, {})[layer] = statistics.median(taken) / n
    return seconds


def _destination(graph: Graph, kind: str, layer: int) -> int:
    return graph.mlp_destination(layer) if kind == "mlp" else graph.part_destinations(layer, kind).start + 1


def extrapolated(graph: Graph, seconds: dict[str, dict[int, float]]) -> float:
    """Seconds for all edges, straight lines between the layers that were measured."""
    total = seconds["logits"][graph.n_layers] * graph.n_sources
    for layer in range(graph.n_layers):
        for kind in ("q", "k", "v", "mlp"):
            destination = _destination(graph, kind, layer)
            n_edges = int(graph.n_visible[destination]) * (1 if kind == "mlp" else graph.n_parts[kind])
            total += n_edges * _between(seconds[kind], layer)
    return total


def _between(known: dict[int, float], layer: int) -> float:
    below, above = max(at for at in known if at <= layer), min(at for at in known if at >= layer)
    share = 0.0 if below == above else (layer - below) / (above - below)
    return known[below] + share * (known[above] - known[below])


def report_exact(shape: str, alike: int = 0) -> None:
    """Measure and print exact patching at one shape."""
    setup = make_setup(shape, alike=alike)
    graph = adapt(setup.model).graph
    before = plain_seconds(setup)
    seconds = exact_seconds(setup)
    plain = statistics.mean((before, plain_seconds(setup)))
    print(
        f"\nexact patching, {shape} tokens, {alike} alike: plain {plain:.2f} s; seconds an edge by layer of the destination"
    )
    for kind, by_layer in seconds.items():
        print(f"  {kind:7}" + "".join(f"  {layer:3}: {value:.4f}" for layer, value in by_layer.items()))
    total = extrapolated(graph, seconds)
    each = total / graph.n_edges / plain
    print(
        f"  all {graph.n_edges:,} edges, extrapolated: {total / 3600:.2f} hours; an edge costs {each:.3f} times plain,"
    )
    print(
        f"  {PEER_EXACT / each:.0f} times less than a forward pass with split inputs ({PEER_EXACT} times plain at 8 x 16 tokens)"
    )


def report_acdc(shape: str, threshold: float, minutes: float) -> None:
    """Sweep with KL, and print what a tried edge costs, layer by layer."""
    setup = make_setup(shape)
    plain, began = plain_seconds(setup), time.perf_counter()
    edge_sweep = EdgeSweep(Search(setup.model, setup.pairs, "kl"), threshold)
    spent: dict[str, list[float]] = {}
    with tqdm(total=len(edge_sweep.search.order), unit="edge") as bar:
        while not edge_sweep.complete and time.perf_counter() - began < 60 * minutes:
            place = edge_sweep.search.graph.destinations[edge_sweep.search.order[len(edge_sweep.kept)][1]]
            n_before, start = len(edge_sweep._tried), time.perf_counter()
            edge_sweep.advance(bar)
            entry = spent.setdefault(place.split(".")[0].lstrip("am") or place, [0, 0.0])
            entry[0] += len(edge_sweep._tried) - n_before
            entry[1] += time.perf_counter() - start
    _tell_sweep(edge_sweep, spent, plain, time.perf_counter() - began)


def _tell_sweep(edge_sweep: EdgeSweep, spent: dict[str, list[float]], plain: float, seconds: float) -> None:
    trace = edge_sweep.trace
    print(f"\nACDC, KL, threshold {trace.threshold:g}: plain {plain:.2f} s")
    for layer, (n_tried, taken) in spent.items():
        each = f"{taken / n_tried:.4f} s each, {taken / n_tried / plain:.3f} times plain" if n_tried else "none tried"
        print(f"  layer {layer:>6}: {int(n_tried):6,} tried, {taken:7.1f} s, {each}")
    n_edges = len(edge_sweep.search.order)
    end = "" if trace.complete else f" (stopped; {len(trace.edges):,} of {n_edges:,} edges decided)"
    print(
        f"  {edge_sweep.search.n_evaluated:,} candidates evaluated, {trace.n_tried / edge_sweep.search.n_evaluated:.0%} of them decisions"
    )
    print(f"  {trace.n_tried:,} edges tried, {trace.n_kept:,} kept, {len(trace.near_ties)} near ties{end}")
    print(f"  {seconds / 60:.1f} minutes = {seconds / plain:,.0f} times plain; peak memory {_peak_gigabytes():.1f} GB")
    if trace.complete:
        print(f"  {PEER_SWEEP * plain / seconds:.0f} times less than the original's sweep, scaled by plain")


def _peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report_planted(n_prompts: int = 64, threshold: float = 0.01) -> None:
    """Whole sweeps of the planted models, whose circuits are sparse."""
    for name in planted.PAPERS:
        model, circuit, task = planted.load(name)
        pairs = task.pairs(n_prompts)
        for metric in ("kl", metrics.load(task.task.metric)):
            start = time.perf_counter()
            trace = acdc.discover(model, pairs, metric, threshold, quiet=True).trace
            seconds, live = time.perf_counter() - start, trace.circuit.live()
            called = metric if metric == "kl" else task.task.metric
            print(
                f"{name}, {called}, threshold {threshold:g}, {n_prompts} prompts: {trace.n_tried} of {len(trace.edges)} edges tried, "
                f"{live.n_edges} live edges left ({len(live & circuit)} of the circuit's {circuit.n_edges}), {seconds:.1f} s"
            )
