// Places: rows from `input` at the bottom to `logits` at the top. The order inside of a row is found once, from all edges
// that the page has, by the mean place of a node's neighbours weighted by |score|; so nodes make room when k grows, and
// never change places.
const SWEEPS = 12, GUTTER = 58, MARGIN = 26;

function orderRows(graph, sides) {
  const rows = [], neighbours = graph.nodes.map(() => []);
  graph.nodes.forEach((node) => (rows[node.row] ??= []).push(node));
  for (const { edges } of sides) {
    for (const edge of edges.slice(0, 3000)) {
      const weight = edge.score === null ? 1 : Math.abs(edge.score) + 1e-12;
      for (const reader of edge.readers) {
        neighbours[edge.source].push([reader, weight]);
        neighbours[reader].push([edge.source, weight]);
      }
    }
  }
  const spread = (row) => row.forEach((node, i) => { node.at = (i + 0.5) / row.length; });
  rows.forEach(spread);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (const row of sweep % 2 ? [...rows].reverse() : rows) {
      for (const node of row) {
        let sum = 0, total = 0;
        for (const [other, weight] of neighbours[node.index]) {
          sum += weight * graph.nodes[other].at;
          total += weight;
        }
        node.mean = total ? sum / total : node.at;
      }
      row.sort((a, b) => (a.column ?? 0) - (b.column ?? 0) || a.mean - b.mean || a.index - b.index);
      spread(row);
    }
  }
  return rows;
}

// Pixels of the nodes shown; rows without any take no room. Rows of one or two nodes are set aside in turn, so that edges
// that pass them are seen beside them.
const ASIDE = [-1, 0.6, -0.3, 1];
function placed(rows, shown, width, height) {
  const used = rows.map((row) => row.filter((node) => shown.has(node.index))).filter((row) => row.length);
  const least = Math.max(...used.map((row) => row.length * (row[0].wide ?? 17))) + GUTTER + 12;
  const step = Math.max(38, Math.min(92, (height - 2 * MARGIN) / Math.max(1, used.length - 1)));
  const size = { width: Math.max(width, least), height: 2 * MARGIN + step * (used.length - 1) };
  const span = size.width - GUTTER - 12, places = new Map(), bands = new Map();
  used.forEach((row, number) => {
    const gap = Math.min(span / row.length, 132), start = GUTTER + (span - gap * row.length) / 2, y = size.height - MARGIN - step * number;
    row.forEach((node, i) => {
      const way = node.layer === null || node.wide || row.length > 2 ? 0 : ASIDE[node.layer % 4] * (node.kind === "mlp" ? 1 : -1) / row.length;
      places.set(node.index, { x: start + gap * (i + 0.5) + way * Math.min(span / 5, 130), y, gap });
      if (node.layer !== null) bands.set(node.layer, [bands.get(node.layer)?.[0] ?? y, y]);
    });
  });
  return { places, size, bands };
}
