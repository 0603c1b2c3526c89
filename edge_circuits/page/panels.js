// What stands beside and below the drawing.
const digits = (value, n = 3) => (value === null || value === undefined ? "–" : (value && Math.abs(value) < 1e-3 ? Number(value.toPrecision(n)).toExponential() : String(Number(value.toPrecision(n)))).replace("-", "−"));
const count = (n) => n.toLocaleString("en");
const effect = ({ score, signed }) => (score === null || !signed ? "" : score < 0 ? "helps" : score > 0 ? "hurts" : "no effect");
const headings = (names) => element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
const cells = (texts) => texts.map((text) => element("td", {}, text));
const section = (id, title, ...children) =>
  document.getElementById(id).replaceChildren(...(children.length ? [element("h2", {}, title), ...children] : []));
const tableOf = (names, rows, caption) => element("div", { class: "scroll" }, element("table", {}, caption ? element("caption", {}, caption) : null,
  element("thead", {}, headings(names)), element("tbody", {}, ...rows)));

// An edge or a node in words, for the pointer and for what is selected.
function words({ edge, node, side }, app) {
  if (edge) {
    const range = edge.low === null ? "" : ` (${digits(edge.low)} to ${digits(edge.high)})`;
    return [
      element("b", {}, edge.name), edge.score !== null && `score ${digits(edge.score)}${range}`,
      edge.exact !== null && `exact effect of cutting it ${digits(edge.exact)}`,
      edge.score && edge.signed && `${effect(edge)}: cutting it ${edge.score < 0 ? "lowers" : "raises"} the metric`,
      edge.stability !== null && `same sign in ${Math.round(100 * edge.stability)} % of other samples of prompts`,
      edge.score !== null && `rank ${count(edge.rank + 1)}`, app.two && app.classOf(edge),
    ].filter(Boolean);
  }
  const shown = app.views.flatMap((view) => (side && view.side !== side ? [] : view.shown)), out = shown.filter((each) => each.source === node);
  const into = shown.filter((each) => each.readers.includes(node)).length, sum = out.reduce((total, each) => total + (each.score ?? 0), 0);
  const { name, told = [] } = app.graph.nodes[node], lines = [element("b", {}, name), ...told, `${count(into)} edges in, ${count(out.length)} out`];
  return sum ? [...lines, `scores of its edges out add up to ${digits(sum)}`] : lines;
}

function drawCurve(curve, app) {
  if (!curve) return;
  const [W, H, L, B, T] = [340, 190, 34, 24, 10], most = Math.max(...curve.k), log = (k) => Math.log(Math.max(1, k));
  const low = Math.max(-0.5, Math.min(0, ...curve.low)), high = Math.min(1.5, Math.max(1.05, ...curve.high));
  const x = (k) => L + ((W - L - 8) * Math.min(1, log(k) / log(most)));
  const y = (share) => H - B - ((H - B - T) * (Math.max(low, Math.min(high, share)) - low)) / (high - low);
  const path = (values) => values.map((share, i) => `${x(curve.k[i]).toFixed(1)},${y(share).toFixed(1)}`);
  const label = (at, text) => element("text", { ...at, class: "axis" }, text);
  const parts = [0, 0.5, 1].flatMap((share) => [element("line", { class: "axis", x1: L, x2: W - 8, y1: y(share), y2: y(share) }),
    label({ x: L - 6, y: y(share) + 4, "text-anchor": "end" }, String(share))]);
  for (let k = 1; k <= most; k *= 10) parts.push(label({ x: x(k), y: H - 8, "text-anchor": "middle" }, count(k)));
  parts.push(element("path", { class: "between", d: `M${path(curve.low).join("L")}L${path(curve.high).reverse().join("L")}Z` }),
    element("path", { class: "line", d: `M${path(curve.faithfulness).join("L")}` }), element("line", { id: "here", y1: T, y2: H - B }));
  curve.k.forEach((k, i) => parts.push(element("circle", { cx: x(k), cy: y(curve.faithfulness[i]), r: 3.5, "data-k": k,
    onclick: () => app.set({ k: Math.min(k, data.most) }) })));
  const about = "Faithfulness over the number of edges; the value at the slider is in words below";
  section("curve", "Faithfulness over edges chosen", element("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": about }, ...parts),
    element("p", { id: "measured" }), element("p", { class: "note" }, curve.note));
  app.markCurve = (chosen) => {
    const far = (k) => Math.abs(log(k) - log(chosen)), k = [...curve.k].sort((one, other) => far(one) - far(other))[0], i = curve.k.indexOf(k);
    for (const end of ["x1", "x2"]) document.getElementById("here").setAttribute(end, x(chosen));
    document.getElementById("measured").textContent = `${k === chosen ? "At" : "Nearest measured: at"} ${count(k)} edges ` +
      `${curve.faithfulness[i].toFixed(3)} (${curve.low[i].toFixed(3)} to ${curve.high[i].toFixed(3)}), ${count(curve.n_edges[i])} of them live.`;
  };
}

// What the edges out of a head or MLP add up to, layer by head.
function drawGrid(app, shown) {
  if (!app.graph.nHeads) return;
  const { graph, state } = app, sums = new Map(), signed = shown.some(effect);
  for (const edge of shown) sums.set(edge.source, (sums.get(edge.source) ?? 0) + (edge.score ?? 1));
  const most = Math.max(...[...sums].filter(([index]) => index).map(([, sum]) => Math.abs(sum)));
  const cell = ({ index, name }) => {
    const sum = sums.get(index), text = sum === undefined ? `${name}: no edge out` : `${name}: ${digits(sum)}`;
    const tone = `${signed ? (sum > 0 ? "hurts" : "helps") : "plain"}${state.node === index ? " selected" : ""}`;
    const strength = sum === undefined ? 0 : 0.12 + 0.88 * (Math.abs(sum) / (most || 1)) ** 0.6;
    return element("td", {}, element("button", { type: "button", tabindex: -1, title: text, "aria-label": text, class: tone,
      style: `--strength:${strength.toFixed(3)}`, onclick: () => app.select({ node: index }) }));
  };
  const rows = Array.from({ length: graph.nLayers }, (_, layer) => element("tr", {}, element("th", { scope: "row" }, String(layer)),
    ...graph.nodes.filter((node) => node.layer === layer).map(cell))).reverse();
  const every = graph.nHeads > 16 ? 4 : 1, heads = Array.from({ length: graph.nHeads }, (_, head) => (head % every ? "" : String(head)));
  const table = element("table", {}, element("thead", {}, headings(["", ...heads, ...(graph.mlps ? ["m"] : [])])), element("tbody", {}, ...rows));
  const key = signed ? ["helps", "hurts"].map((tone) => element("span", { class: `${tone} key` }, tone)) : [];
  section("grid", "Layers and heads", table, element("p", { class: "note" },
    `Scores of the edges${app.two ? ` of ${app.views[0].side.name}` : ""} that leave a node, added up `, ...key));
}

function drawTable(app, rows, most) {
  const has = (field) => rows.some(({ edge }) => edge[field] !== null), columns = [];
  const column = (name, value, there = true) => { if (there) columns.push([name, value]); };
  column("rank", ({ edge }) => count(edge.rank + 1), has("score"));
  column("edge", ({ edge }) => element("button", { type: "button", onclick: () => app.select({ edge }) }, edge.name));
  column("score", ({ here, edge }) => digits((app.two ? here : edge)?.score), has("score"));
  column("score there", ({ there }) => digits(there?.score), app.two && has("score"));
  column("where", ({ edge }) => app.classOf(edge), app.two);
  column("95 % interval", ({ edge }) => `${digits(edge.low)} to ${digits(edge.high)}`, has("low"));
  column("same sign", ({ edge }) => `${Math.round(100 * edge.stability)} %`, has("stability"));
  column("exact effect", ({ edge }) => digits(edge.exact), has("exact"));
  column("effect", ({ edge }) => effect(edge), rows.some(({ edge }) => effect(edge)));
  const lines = rows.slice(0, most).map((row) => element("tr", { "data-edge": row.edge.name }, ...cells(columns.map(([, value]) => value(row)))));
  const caption = `${count(rows.length)} edges shown${has("score") ? ", the largest |score| first" : ""}`;
  const table = tableOf(columns.map(([name]) => name), lines, caption);
  const all = () => element("button", { type: "button", id: "more", onclick: () => app.set({ rows: rows.length }) }, `Show all ${count(rows.length)}`);
  section("table", "Edges", table, ...(rows.length > most ? [all()] : []));
}

function drawChecks(checks) {
  if (!checks) return;
  const failed = checks.filter((check) => !check.passed).length;
  const lines = checks.map(({ passed, name, value, at_most: atMost, limit, reason }) => element("li", { class: passed ? "ok" : "failed" },
    element("b", {}, passed ? "ok" : "failed"), ` ${name}: ${digits(value)} (at ${atMost ? "most" : "least"} ${digits(limit)})${reason && `; ${reason}`}`));
  const verdict = failed ? `${failed} of ${checks.length} checks failed.` : `All ${checks.length} checks passed.`;
  section("checks", "Checks", element("p", {}, verdict), element("ul", {}, ...lines));
}

function drawPrompts(prompts) {
  if (!prompts) return;
  const text = (one, other) => element("td", { class: "prompt" }, ...one.map((token, i) => (token === other[i] ? token : element("mark", {}, token))));
  const rows = prompts.rows.map((row) => element("tr", {}, text(row.clean, row.corrupted), text(row.corrupted, row.clean),
    ...cells([row.answers.join(", "), row.wrong.join(", "), digits(row.model), digits(row.circuit), digits(row.cut)])));
  const names = ["clean prompt", "corrupted prompt", "answer", "wrong", "whole model", "circuit", "all cut"];
  section("prompts", "Prompts", element("p", { class: "note" }, prompts.note), tableOf(names, rows));
}

function drawAbout(about) {
  const lines = Object.entries(about).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]);
  if (lines.length) section("about", "How this was made", element("dl", {}, ...lines));
}
