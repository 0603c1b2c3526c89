// Names, order and readers as in graphs/graph.py; which edges are live as in graphs/reachability.py.
const PARTS = ["q", "k", "v"];

// The graph of a model, or one whose nodes, each of which may begin a path, and destinations are given.
function makeGraph(given) {
  const graph = given.nodes ? { ...given, nLayers: given.n_layers, starts: given.nodes.keys() } : layered(given);
  graph.nodes.forEach((node, index) => { node.index = index; });
  return { ...graph, starts: [...(graph.starts ?? [0])], top: graph.nodes.length - 1 };
}

function layered({ n_layers: nLayers, n_heads: nHeads, n_kv_heads: nKvHeads, mlps, parallel }) {
  const nodes = [{ name: "input", kind: "input", layer: null, row: 0 }], destinations = [];
  const rowsPerLayer = mlps && !parallel ? 2 : 1;
  for (let layer = 0; layer < nLayers; layer++) {
    const first = nodes.length, row = 1 + rowsPerLayer * layer;
    for (let head = 0; head < nHeads; head++) nodes.push({ name: `a${layer}.h${head}`, kind: "head", layer, head, row });
    if (mlps) nodes.push({ name: `m${layer}`, kind: "mlp", layer, row: row + rowsPerLayer - 1 });
    for (const part of PARTS) {
      const count = part === "q" ? nHeads : nKvHeads || nHeads, group = nHeads / count;
      for (let j = 0; j < count; j++) {
        const readers = Array.from({ length: group }, (_, i) => first + j * group + i);
        destinations.push({ name: `a${layer}.h${j}<${part}>`, part, layer, readers });
      }
    }
    if (mlps) destinations.push({ name: `m${layer}`, part: "mlp", layer, readers: [first + nHeads] });
  }
  destinations.push({ name: "logits", part: "logits", layer: null, readers: [nodes.length] });
  nodes.push({ name: "logits", kind: "logits", layer: null, row: 1 + rowsPerLayer * nLayers });
  return { nodes, destinations, nLayers, nHeads, mlps };
}

// The edges of one side, the best first; `bySource` is the order in which a model computes their sources.
function makeEdges(graph, side) {
  const edges = side.source.map((source, rank) => {
    const destination = graph.destinations[side.destination[rank]];
    const edge = { rank, source, end: side.destination[rank], readers: destination.readers, part: destination.part, signed: side.signed };
    for (const field of ["score", "low", "high", "stability", "exact", "kept"]) edge[field] = side[field]?.[rank] ?? null;
    edge.name = `${graph.nodes[source].name}->${destination.name}`;
    edge.layers = [graph.nodes[source].layer, destination.layer];
    edge.key = source * graph.destinations.length + edge.end;
    return edge;
  });
  return { edges, bySource: [...edges].sort((a, b) => a.source - b.source || a.end - b.end) };
}

// Edges that some path of the given ones leads to from `starts`; `bySource` is ascending.
function following(bySource, starts) {
  const reached = new Set(starts), found = new Set();
  for (const edge of bySource) {
    if (!reached.has(edge.source)) continue;
    found.add(edge);
    edge.readers.forEach((reader) => reached.add(reader));
  }
  return { edges: found, nodes: reached };
}

// Edges from which some path of the given ones leads on to `ends`.
function leading(bySource, ends) {
  const reached = new Set(ends), found = new Set();
  for (let i = bySource.length - 1; i >= 0; i--) {
    if (!bySource[i].readers.some((reader) => reached.has(reader))) continue;
    found.add(bySource[i]);
    reached.add(bySource[i].source);
  }
  return { edges: found, nodes: reached };
}

// The rule of `prune`: of the chosen edges those on a path from `input`, or from any feature, to `logits`.
function liveEdges(graph, { bySource }, chosen) {
  const some = bySource.filter(chosen);
  const from = following(some, graph.starts).edges, to = leading(some, [graph.top]).edges;
  return some.filter((edge) => from.has(edge) && to.has(edge));
}

// Keys of the edges that lead to and from a node, or through an edge, and their nodes.
function traced(bySource, { node, edge }) {
  const before = leading(bySource, [node ?? edge.source]), after = following(bySource, edge ? edge.readers : [node]);
  const edges = new Set([...before.edges, ...after.edges].map(({ key }) => key).concat(edge ? [edge.key] : []));
  return { edges, nodes: new Set([...before.nodes, ...after.nodes]) };
}
